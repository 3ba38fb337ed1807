"""Models that tell the type of a cell from its expression, its image and its place."""
