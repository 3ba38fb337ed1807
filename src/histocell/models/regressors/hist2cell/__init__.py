"""Hist2Cell: graph attention, a transformer over the spots, and four heads."""
