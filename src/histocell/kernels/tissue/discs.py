"""Means of any number of variables over the points within a radius of each point."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import prange

from histocell.kernels.compiled import parallel_njit
from histocell.kernels.neighbors import CHUNK, REACH, CellLists, bin_points, run_bounds

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@parallel_njit()
def _sum_discs(cells: CellLists, values: np.ndarray, limit: float, out: np.ndarray) -> None:
    """Means of the sorted rows of `values` over discs of the squared radius `limit`."""
    xy, cell, start, columns = cells.xy, cells.cell, cells.start, cells.columns
    n, width = values.shape
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        total = np.empty(width)
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            total[:] = 0.0
            count = 0
            for row in range(cell[i, 0] - REACH, cell[i, 0] + REACH + 1):
                first, last = run_bounds(row, cell[i, 1], start, columns)
                for j in range(first, last):
                    dx, dy = xy[j, 0] - xy[i, 0], xy[j, 1] - xy[i, 1]
                    if dx * dx + dy * dy <= limit:
                        count += 1
                        for v in range(width):
                            total[v] += values[j, v]
            for v in range(width):
                out[i, v] = total[v] / count


def disc_means(xy: ArrayLike, values: ArrayLike, radius: float) -> NDArray[np.float32]:
    """Mean of the rows of `values` whose points lie within `radius` of each point, itself among them.

    Parameters
    ----------
    xy
        Coordinates, shape ``(n, 2)``.
    values
        Shape ``(n, k)``.
    radius
        In the unit of `xy`; a point at this very distance counts.

    Returns
    -------
    Shape ``(n, k)``. No matrix of neighbours is made.
    """
    cells = bin_points(xy, radius)
    ordered = np.ascontiguousarray(np.asarray(values, dtype=np.float32)[cells.order])
    means = np.empty_like(ordered)
    _sum_discs(cells, ordered, radius * radius * (1 + 1e-12), means)
    out = np.empty_like(means)
    out[cells.order] = means
    return out
