"""Nuclei of a whole slide: blocks, methods, store, seams, shapes and table."""
