"""Encoders of gene expression."""
