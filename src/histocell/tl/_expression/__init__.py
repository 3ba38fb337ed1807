"""Expression of genes: fit, predict, evaluate."""
