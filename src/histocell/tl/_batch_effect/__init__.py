"""How much an embedding shows of the scanner or site, beside how much of biology."""
