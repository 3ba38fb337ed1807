"""Denser grids of spots."""
