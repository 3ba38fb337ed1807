"""Settings, errors, keys and geometry, which every other package uses; importing them is cheap."""
