"""Synthetic sections in the file formats of single-cell platforms."""
