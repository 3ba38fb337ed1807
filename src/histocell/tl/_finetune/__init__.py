"""Training of encoders by expression."""
