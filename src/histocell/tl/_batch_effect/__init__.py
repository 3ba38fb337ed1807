"""Scores of what an embedding shows of the scanner or site, beside what it shows of biology."""
