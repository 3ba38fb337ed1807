"""Measurements of outlines on a slide, and of a label image."""
