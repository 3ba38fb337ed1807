"""Rows of a table: section, replicate, resolution, coordinates and image."""
