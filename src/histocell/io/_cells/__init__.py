"""Readers of platforms with single cells, and what places their cells on an H&E image."""
