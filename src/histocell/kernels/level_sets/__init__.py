"""Segmentation by the level sets of a map: their tree, the objects chosen in it, and their outlines."""
