"""Image formats, one file for each library that reads them."""
