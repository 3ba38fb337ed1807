"""Segmentation and measurement of nuclei."""
