"""Models that bring two views of the same cells, image and genes, into one space."""
