"""Plots of predicted types of cells."""
