"""Plots of niches and their cell types."""
