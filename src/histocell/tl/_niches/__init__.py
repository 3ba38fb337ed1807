"""Niches: clusters of cells, and the types of cells that are enriched in them."""
