"""Image and genes of cells in one space: fit, apply, evaluate."""
