"""Labels of cells: from marker genes, from references, from a column."""
