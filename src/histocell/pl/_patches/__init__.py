"""Patches of tissue, drawn side by side."""
