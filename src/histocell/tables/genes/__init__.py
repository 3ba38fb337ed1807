"""Counts of genes: their normalisation, and the neighbours of spots that they are averaged with."""
