"""Outlines and labels of objects as runs of px, and what is measured on them."""
