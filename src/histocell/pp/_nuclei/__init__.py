"""Nuclei measured, and brought to the spots and tiles that they lie in."""
