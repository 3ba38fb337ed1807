"""The built-in encoder: colour, texture, nuclei and architecture, measured."""
