"""Embeddings of gene expression."""
