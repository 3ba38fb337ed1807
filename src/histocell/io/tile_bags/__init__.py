"""Tiles of slides as bags, and tables of slides."""
