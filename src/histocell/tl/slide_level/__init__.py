"""Outcomes of slides: fit, predict, evaluate."""
