"""Polygons as GeoJSON, as QuPath and cell segmenters exchange them."""
