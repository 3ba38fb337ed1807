"""Nuclei and cells on their slide."""
