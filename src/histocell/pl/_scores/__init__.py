"""Plots of how well models predict, and of what they cost."""
