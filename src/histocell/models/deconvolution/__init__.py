"""Models of spots as mixtures of cell types."""
