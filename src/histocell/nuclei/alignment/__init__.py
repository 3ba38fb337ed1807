"""Whether nuclei lie on an image: contrast maps, correlation over shifts, competing maps, verdict."""
