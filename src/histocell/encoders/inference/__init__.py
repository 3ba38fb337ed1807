"""Patches of slides through a network: batches, devices, stores, tokens of nuclei."""
