"""Numba on arrays."""
