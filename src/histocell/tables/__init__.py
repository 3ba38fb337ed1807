"""What a table says of its rows: section, replicate, resolution, coordinates and image."""
