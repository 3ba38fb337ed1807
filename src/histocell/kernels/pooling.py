"""Sums of grid cells over discs and rings."""

from __future__ import annotations

import numpy as np
from numba import njit, prange


@njit(nogil=True, cache=True, parallel=True)
def pool_rings(grid: np.ndarray, centers: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Sum a grid over the disc and the rings around each centre.

    Parameters
    ----------
    grid
        Shape (rows, columns, k), float32.
    centers
        Shape (n, 2), float64: (y, x) in cells, a cell's middle at +0.5.
    radii
        Shape (r,), float64, increasing, in cells: the first is a disc, the others are rings around the one before.

    Returns
    -------
    Shape (n, r, k), float64. Cells belong to the ring that holds their middle; those outside of the grid count 0.
    """
    n, n_radii, k = centers.shape[0], radii.size, grid.shape[2]
    out = np.zeros((n, n_radii, k))
    squares = radii * radii
    for i in prange(n):
        cy, cx, reach = centers[i, 0], centers[i, 1], radii[n_radii - 1]
        for y in range(max(int(cy - reach) - 1, 0), min(int(cy + reach) + 2, grid.shape[0])):
            for x in range(max(int(cx - reach) - 1, 0), min(int(cx + reach) + 2, grid.shape[1])):
                square = (y + 0.5 - cy) ** 2 + (x + 0.5 - cx) ** 2
                if square > squares[n_radii - 1]:
                    continue
                ring = 0
                while square > squares[ring]:
                    ring += 1
                target = out[i, ring]
                for f in range(k):
                    target[f] += grid[y, x, f]
    return out
