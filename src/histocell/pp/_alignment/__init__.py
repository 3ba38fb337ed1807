"""Check of nuclei against their H&E image, and moving them there."""
