"""Kernels on points of a tissue: means over discs, and shifts of labels."""
