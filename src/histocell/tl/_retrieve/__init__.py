"""Search among images by gene, signature or cell."""
