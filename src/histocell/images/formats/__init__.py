"""Image formats: a reader for each library, and colours, orientation and damage, which they share."""
