"""Points in square bins, sorted so that all neighbours of a point lie in a few runs of memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit, prange

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from scipy.sparse import csr_array

REACH = 2  # bins per radius: finer bins hold fewer points that are too far, and more runs to visit
CHUNK = 256  # points that one thread takes at a time; sums are made per chunk, so they do not depend on the threads


@dataclass(frozen=True)
class CellLists:
    """Points sorted by the bin they lie in, bins row by row.

    Attributes
    ----------
    order
        Original position of each sorted point, shape ``(n,)``.
    xy
        Sorted coordinates, shape ``(n, 2)``, float64.
    cell
        Bin of each sorted point, shape ``(n, 2)``, int32: row, column.
    start
        First sorted point of each bin and the end of the last one, shape ``(rows * columns + 1,)``.
    columns
        Number of bins in a row.
    """

    order: NDArray[np.intp]
    xy: NDArray[np.float64]
    cell: NDArray[np.int32]
    start: NDArray[np.int64]
    columns: int


def bin_points(xy: ArrayLike, radius: float) -> CellLists:
    """Sort points into square bins of half the radius, or of more where the points are spread thinly.

    Parameters
    ----------
    xy
        Coordinates, shape ``(n, 2)``.
    radius
        Distance up to which points will be neighbours, in the unit of `xy`.
    """
    xy = np.asarray(xy, dtype=np.float64)
    if not (np.isfinite(radius) and radius > 0):
        msg = f"the radius must be a positive number, not {radius}"
        raise ValueError(msg)
    low = xy.min(axis=0)
    extent = xy.max(axis=0) - low
    # with outliers far away most bins would be empty; never make more than a few per point
    side = max(radius / REACH, float(np.sqrt(extent.prod() / (4 * len(xy) + 64))), float(extent.max()) / 1e6)
    place = ((xy - low) / side).astype(np.int32)
    rows, columns = int(place[:, 1].max()) + 1, int(place[:, 0].max()) + 1
    start = np.zeros(rows * columns + 1, dtype=np.int64)
    order = _counting_sort(place, columns, start)
    return CellLists(order, xy[order], np.ascontiguousarray(place[order, ::-1]), start, columns)


@njit(nogil=True, cache=True)
def _counting_sort(place: np.ndarray, columns: int, start: np.ndarray) -> np.ndarray:
    """Stable order of the points by bin; fills `start`, which is zero."""
    n = len(place)
    for i in range(n):
        start[place[i, 1] * columns + place[i, 0] + 1] += 1
    for b in range(1, start.size):
        start[b] += start[b - 1]
    free = start[:-1].copy()
    order = np.empty(n, np.intp)
    for i in range(n):
        b = place[i, 1] * columns + place[i, 0]
        order[free[b]] = i
        free[b] += 1
    return order


def rbf_radius(length_scale: float, cutoff: float) -> float:
    """Distance at which ``exp(-d^2 / 2 l^2)`` falls to the cutoff."""
    if not (np.isfinite(length_scale) and length_scale > 0):
        msg = f"the length scale must be a positive number, not {length_scale}"
        raise ValueError(msg)
    if not 0 < cutoff < 1:
        msg = f"the cutoff on the weight must lie between 0 and 1, not at {cutoff}"
        raise ValueError(msg)
    return float(length_scale * np.sqrt(-2 * np.log(cutoff)))


@njit(nogil=True, cache=True, fastmath={"contract"})
def rbf_neighbors(
    i: int,
    run_start: int,
    run_end: int,
    xy: np.ndarray,
    decay: float,
    limit: float,
    include_self: bool,
    found: np.ndarray,
    weight: np.ndarray,
) -> int:
    """Neighbours of point i in one run of sorted points, written to `found` and `weight`; returns how many.

    ``decay = -1 / 2 l^2``; `limit` is the logarithm of the cutoff. Coincident points have the weight 1.
    """
    x, y = xy[i, 0], xy[i, 1]
    count = 0
    for j in range(run_start, run_end):  # no branch to mispredict: a point that is too far is overwritten
        dx, dy = xy[j, 0] - x, xy[j, 1] - y
        exponent = (dx * dx + dy * dy) * decay
        found[count] = j
        weight[count] = exponent
        count += (exponent >= limit) & (include_self | (j != i))
    for m in range(count):  # exp(x) = exp(x / 256)^256: a loop that vectorises, to 14 digits
        t = weight[m] * (1 / 256)
        p = 1 + t * (1 / 6) * (1 + t * (1 / 7))
        p = 1 + t * (1 / 4) * (1 + t * (1 / 5) * p)
        p = 1 + t * (1 + t * (1 / 2) * (1 + t * (1 / 3) * p))
        p *= p
        p *= p
        p *= p
        p *= p
        p *= p
        p *= p
        p *= p
        weight[m] = p * p
    return count


@njit(nogil=True, cache=True)
def run_bounds(row: int, column: int, start: np.ndarray, columns: int) -> tuple[int, int]:
    """First and last sorted point of the bins of one row around a column; empty outside of the grid."""
    if row < 0 or (row + 1) * columns >= start.size:
        return 0, 0
    return start[row * columns + max(column - REACH, 0)], start[row * columns + min(column + REACH, columns - 1) + 1]


@njit(nogil=True, cache=True)
def longest_run(start: np.ndarray, columns: int) -> int:
    """Most points in any run."""
    longest = 0
    for row in range((start.size - 1) // columns):
        for column in range(columns):
            first, last = run_bounds(row, column, start, columns)
            longest = max(longest, last - first)
    return longest


@njit(nogil=True, cache=True, parallel=True)
def _fill_rows(
    xy: np.ndarray,
    cell: np.ndarray,
    start: np.ndarray,
    columns: int,
    decay: float,
    limit: float,
    include_self: bool,
    buffer: int,
    indptr: np.ndarray,
    indices: np.ndarray,
    data: np.ndarray,
) -> None:
    """Count the neighbours of each point into `indptr` where `indices` is empty, else write them."""
    n = len(xy)
    counting = indices.size == 0
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        found = np.empty(buffer, np.int32)
        weight = np.empty(buffer)
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            filled = 0
            for row in range(cell[i, 0] - REACH, cell[i, 0] + REACH + 1):
                first, last = run_bounds(row, cell[i, 1], start, columns)
                count = rbf_neighbors(i, first, last, xy, decay, limit, include_self, found, weight)
                if not counting:
                    for m in range(count):
                        indices[indptr[i] + filled + m] = found[m]
                        data[indptr[i] + filled + m] = weight[m]
                filled += count
            if counting:
                indptr[i + 1] = filled


def rbf_arguments(
    xy: ArrayLike, *, length_scale: float, cutoff: float, include_self: bool
) -> tuple[CellLists, tuple[Any, ...]]:
    """Points in bins, and what every pass over RBF neighbours takes first."""
    cells = bin_points(xy, rbf_radius(length_scale, cutoff))
    limit = float(np.log(cutoff)) * (1 + 1e-12)  # a weight that equals the cutoff but for rounding is kept
    buffer = longest_run(cells.start, cells.columns) + 1  # the one after the last is written, too, and not read
    decay = -0.5 / length_scale**2
    return cells, (cells.xy, cells.cell, cells.start, cells.columns, decay, limit, include_self, buffer)


def rbf_weights(xy: ArrayLike, *, length_scale: float, cutoff: float = 0.2, include_self: bool = True) -> csr_array:
    """The weights ``exp(-d^2 / 2 l^2)`` as a sparse matrix, not normalised.

    Parameters
    ----------
    xy
        Coordinates, shape ``(n, 2)``.
    length_scale
        The length l, in the unit of `xy`.
    cutoff
        Weights below this are 0.
    include_self
        Whether a point is its own neighbour, with the weight 1.

    Returns
    -------
    Shape ``(n, n)``, symmetric. Coincident points have the weight 1.
    """
    from scipy.sparse import csr_array

    cells, arguments = rbf_arguments(xy, length_scale=length_scale, cutoff=cutoff, include_self=include_self)
    n = len(cells.xy)
    indptr = np.zeros(n + 1, dtype=np.int64)
    indices, data = np.empty(0, dtype=np.int32), np.empty(0)
    _fill_rows(*arguments, indptr, indices, data)  # type: ignore[call-arg]
    np.cumsum(indptr, out=indptr)
    if indptr[-1] == 0:
        return csr_array((n, n))
    indices, data = np.empty(indptr[-1], dtype=np.int32), np.empty(indptr[-1])
    _fill_rows(*arguments, indptr, indices, data)  # type: ignore[call-arg]
    sorted_weights = csr_array((data, indices, indptr), shape=(n, n))
    back = np.argsort(cells.order)
    weights = sorted_weights[back][:, back]
    weights.sort_indices()
    return weights


def _neighbor_distances(
    xy: NDArray[np.float64], n_neighbors: int, *, rng: np.random.Generator, n_sample: int
) -> NDArray[np.float64]:
    """Distances of a sample of the points to their nearest other points, shape ``(sample, n_neighbors)``."""
    from scipy.spatial import cKDTree

    sample = xy if len(xy) <= n_sample else xy[rng.choice(len(xy), n_sample, replace=False)]
    return cKDTree(xy).query(sample, k=n_neighbors + 1)[0][:, 1:]


def grid_pitch(xy: ArrayLike, *, rng: np.random.Generator, n_sample: int = 2000) -> float:
    """Distance between neighbouring spots of a square or hexagonal grid: the mean to the nearest four, in the median.

    The nearest one alone is too near where spots are a little off the grid.

    Parameters
    ----------
    xy
        Coordinates, shape ``(n, 2)``.
    rng
        For a sample of the points.
    n_sample
        Its size.
    """
    xy = np.asarray(xy, dtype=np.float64)
    distance = _neighbor_distances(xy, min(4, len(xy) - 1), rng=rng, n_sample=n_sample)
    return float(np.median(distance.mean(axis=1)))


def typical_spacing(xy: ArrayLike, *, rng: np.random.Generator, n_sample: int = 2000) -> float:
    """Pitch of the hexagonal grid that would hold irregular points as densely as they lie.

    From the median distance to the 18th neighbour; holes and margins hardly touch a median. Parameters as in
    :func:`grid_pitch`.
    """
    xy = np.asarray(xy, dtype=np.float64)
    n_neighbors = min(18, len(xy) - 1)
    distance = _neighbor_distances(xy, n_neighbors, rng=rng, n_sample=n_sample)[:, -1]
    inside = n_neighbors - 1 / 3  # of a disc up to the median distance to the k-th of random points
    return float(np.sqrt(2 / np.sqrt(3) * np.pi / inside) * np.median(distance))
