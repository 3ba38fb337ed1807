"""Bivariate Moran's R of cell types."""
