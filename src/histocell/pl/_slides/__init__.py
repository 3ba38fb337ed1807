"""Plots of slide-level models."""
