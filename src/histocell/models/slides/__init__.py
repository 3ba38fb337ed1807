"""Models of whole slides: a slide is a bag of tiles."""
