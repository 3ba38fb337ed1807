"""Plots of the alignment of image and genes."""
