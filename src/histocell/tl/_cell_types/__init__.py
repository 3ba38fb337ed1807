"""Types of cells: fit, predict, evaluate."""
