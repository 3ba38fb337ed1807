"""A slide as a lazy image: formats, levels, resolution, resampling, patches."""
