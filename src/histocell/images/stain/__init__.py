"""Stains of a slide: estimated, and normalised to those of another."""
