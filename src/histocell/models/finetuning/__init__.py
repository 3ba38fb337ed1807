"""Training of an image encoder by expression: settings, losses, the two stages and their checkpoints; arrays only."""
