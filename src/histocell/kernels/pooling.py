"""Weighted sums of grid cells around points."""

from __future__ import annotations

import math

import numpy as np

from histocell.kernels.compiled import njit


@njit(nogil=True, cache=True)
def pool_gaussian(grid: np.ndarray, centers: np.ndarray, sigma: float, reach: float) -> np.ndarray:
    """Gaussian-weighted mean of the cells around each centre.

    Parameters
    ----------
    grid
        Shape (rows, columns, k), float32.
    centers
        Shape (n, 2), float64: (y, x) in cells; the middle of the first cell is at (0.5, 0.5).
    sigma
        Standard deviation in cells.
    reach
        Cells further than this from the centre have no weight, in cells.

    Returns
    -------
    Shape (n, k), float64. Cells outside of the grid count as missing; 0 where all are.
    """
    n, k = centers.shape[0], grid.shape[2]
    out = np.zeros((n, k))
    for i in range(n):
        cy, cx = centers[i, 0], centers[i, 1]
        total = 0.0
        for y in range(max(math.floor(cy - reach), 0), min(math.ceil(cy + reach), grid.shape[0])):
            for x in range(max(math.floor(cx - reach), 0), min(math.ceil(cx + reach), grid.shape[1])):
                square = (y + 0.5 - cy) ** 2 + (x + 0.5 - cx) ** 2
                if square > reach * reach:
                    continue
                weight = math.exp(-0.5 * square / (sigma * sigma))
                total += weight
                cell = grid[y, x]
                for f in range(k):
                    out[i, f] += weight * cell[f]
        if total > 0:
            for f in range(k):
                out[i, f] /= total
    return out


@njit(nogil=True, cache=True)
def scatter(grid: np.ndarray, rows: np.ndarray, columns: np.ndarray, values: np.ndarray) -> None:
    """Add values, shape (n, channels), to the cells of a grid, shape (h, w, channels), in place."""
    for i in range(rows.size):
        cell = grid[rows[i], columns[i]]
        for k in range(values.shape[1]):
            cell[k] += values[i, k]
