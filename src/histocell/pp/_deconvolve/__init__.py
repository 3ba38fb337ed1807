"""Deconvolution of spots: the verb, its inputs, and the packages that it can call."""
