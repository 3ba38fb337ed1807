"""Fit, predict and evaluate, for every task."""
