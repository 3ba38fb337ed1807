"""Many slides, each a task of its own: from files to results on disk, in turn or on the workers of dask."""
