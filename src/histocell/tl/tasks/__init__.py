"""Tasks that protocols outside of the package predict and score."""
