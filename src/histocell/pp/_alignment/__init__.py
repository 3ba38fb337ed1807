"""Whether nuclei lie on their H&E image, and moving them there."""
