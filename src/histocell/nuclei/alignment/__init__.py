"""Alignment of nuclei with an image: contrast maps, correlation over shifts, competing maps, verdict."""
