"""Plots of co-localization: the matrix of all pairs, their network, and one pair on the tissue."""
