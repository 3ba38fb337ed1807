"""Neighbours of points within a radius, by square bins, and their Gaussian (RBF) weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import prange
from scipy.sparse import coo_array, csr_array
from scipy.spatial import cKDTree

from histocell._core.arguments import check_share
from histocell.kernels.compiled import njit, parallel_njit

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

REACH = 2  # bins per radius: finer bins hold fewer points that are too far, and more runs to visit
CHUNK = 256  # points that one thread takes at a time; sums are made per chunk, so they do not depend on the threads
_REGULAR = 0.01  # of the pitch: points of a regular grid are as far apart, but for rounding to pixels


class CellLists(NamedTuple):
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


class RBF(NamedTuple):
    """The weights ``exp(-d^2 / 2 l^2)`` as compiled code reads them.

    Attributes
    ----------
    decay
        ``-1 / 2 l^2``.
    limit
        Logarithm of the cutoff.
    include_self
        Whether a point is its own neighbour.
    buffer
        Length of the buffers for the neighbours in a row of bins.
    """

    decay: float
    limit: float
    include_self: bool
    buffer: int


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
    n = len(xy)
    low = xy.min(axis=0)
    extent = xy.max(axis=0) - low
    # with outliers far away most bins would be empty; never make more than a few per point
    side = max(radius / REACH, float(np.sqrt(extent.prod() / (4 * n + 64))), float(extent.max()) / 1e6)
    cell = ((xy - low) / side).astype(np.int32)[:, ::-1]
    rows, columns = (int(size) + 1 for size in cell.max(axis=0))
    flat = cell[:, 0].astype(np.int64) * columns + cell[:, 1]
    # scipy's conversion to rows is a counting sort
    members = coo_array((np.ones(n, dtype=np.int8), (flat, np.arange(n))), shape=(rows * columns, n)).tocsr()
    order = members.indices.astype(np.intp)
    return CellLists(order, xy[order], np.ascontiguousarray(cell[order]), members.indptr.astype(np.int64), columns)


def rbf_radius(length_scale: float, cutoff: float) -> float:
    """Distance at which ``exp(-d^2 / 2 l^2)`` falls to the cutoff."""
    if not (np.isfinite(length_scale) and length_scale > 0):
        msg = f"the length scale must be a positive number, not {length_scale}"
        raise ValueError(msg)
    check_share(cutoff, "the cutoff on the weight", ends="()")
    return float(length_scale * np.sqrt(-2 * np.log(cutoff)))


@njit(nogil=True, cache=True)
def run_bounds(row: int, column: int, start: np.ndarray, columns: int) -> tuple[int, int]:
    """First and last sorted point of the bins of one row around a column; empty outside of the grid."""
    if row < 0 or (row + 1) * columns >= start.size:
        return 0, 0
    return start[row * columns + max(column - REACH, 0)], start[row * columns + min(column + REACH, columns - 1) + 1]


@njit(nogil=True, cache=True, fastmath={"contract"})
def rbf_neighbors(
    i: int, first: int, last: int, xy: np.ndarray, rbf: RBF, index: np.ndarray, weight: np.ndarray
) -> int:
    """Neighbours of point i in a run of sorted points, written to `index` and `weight`; returns how many.

    Coincident points have the weight 1.
    """
    x, y = xy[i, 0], xy[i, 1]
    count = 0
    for j in range(first, last):  # no branch to mispredict: a point that is too far is overwritten
        dx, dy = xy[j, 0] - x, xy[j, 1] - y
        exponent = (dx * dx + dy * dy) * rbf.decay
        index[count] = j
        weight[count] = exponent
        count += (exponent >= rbf.limit) & (rbf.include_self | (j != i))
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


@parallel_njit()
def _fill_rows(cells: CellLists, rbf: RBF, indptr: np.ndarray, indices: np.ndarray, data: np.ndarray) -> None:
    """Count the neighbours of each point into `indptr` where `indices` is empty, else write them."""
    xy, cell, start, columns = cells.xy, cells.cell, cells.start, cells.columns
    n = len(xy)
    counting = indices.size == 0
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        index, weight = np.empty(rbf.buffer, np.int32), np.empty(rbf.buffer)
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            filled = 0
            for row in range(cell[i, 0] - REACH, cell[i, 0] + REACH + 1):
                first, last = run_bounds(row, cell[i, 1], start, columns)
                count = rbf_neighbors(i, first, last, xy, rbf, index, weight)
                if not counting:
                    for m in range(count):
                        indices[indptr[i] + filled + m] = index[m]
                        data[indptr[i] + filled + m] = weight[m]
                filled += count
            if counting:
                indptr[i + 1] = filled


def rbf_cells(xy: ArrayLike, *, length_scale: float, cutoff: float, include_self: bool) -> tuple[CellLists, RBF]:
    """Points in bins, and the weights between them, for a pass over all neighbours."""
    cells = bin_points(xy, rbf_radius(length_scale, cutoff))
    limit = float(np.log(cutoff)) * (1 + 1e-12)  # a weight that equals the cutoff but for rounding is kept
    most = min(len(cells.xy), (2 * REACH + 1) * int(np.diff(cells.start).max()))  # points in a row of bins
    # one more: the entry after the last neighbour is written, too, and not read
    return cells, RBF(-0.5 / length_scale**2, limit, bool(include_self), most + 1)


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
    cells, rbf = rbf_cells(xy, length_scale=length_scale, cutoff=cutoff, include_self=include_self)
    n = len(cells.xy)
    indptr = np.zeros(n + 1, dtype=np.int64)
    indices, data = np.empty(0, dtype=np.int32), np.empty(0)
    _fill_rows(cells, rbf, indptr, indices, data)
    np.cumsum(indptr, out=indptr)
    if indptr[-1] == 0:
        return csr_array((n, n))
    indices, data = np.empty(indptr[-1], dtype=np.int32), np.empty(indptr[-1])
    _fill_rows(cells, rbf, indptr, indices, data)
    sorted_weights = csr_array((data, indices, indptr), shape=(n, n))
    back = np.argsort(cells.order)
    weights = sorted_weights[back][:, back]
    weights.sort_indices()
    return weights


def typical_spacing(xy: ArrayLike, *, irregular: bool, rng: np.random.Generator, n_sample: int = 2000) -> float:
    """Distance between neighbouring points: spots of a grid, or cells that lie anywhere.

    On a regular grid, of tiles or of spots, it is the pitch, however ragged the tissue.

    Parameters
    ----------
    xy
        Coordinates, shape ``(n, 2)``.
    irregular
        For spots (`False`) the mean distance to the nearest four, in the median; the nearest one alone is too near where
        spots are a little off the grid. For cells (`True`) the pitch of the hexagonal grid that would be as dense, by the
        median distance to the 18th neighbour; holes and margins hardly touch a median.
    rng
        For a sample of the points.
    n_sample
        Its size.
    """
    xy = np.asarray(xy, dtype=np.float64)
    n_neighbors = min(18 if irregular else 4, len(xy) - 1)
    sample = xy if len(xy) <= n_sample else xy[rng.choice(len(xy), n_sample, replace=False)]
    distance = cKDTree(xy).query(sample, k=n_neighbors + 1)[0][:, 1:]
    pitch = float(np.median(distance[:, 0]))
    if pitch > 0 and np.mean(np.abs(distance[:, 0] - pitch) <= _REGULAR * pitch) > 0.95:
        return pitch
    if not irregular:
        return float(np.median(distance.mean(axis=1)))
    inside = n_neighbors - 1 / 3  # of a disc up to the median distance to the k-th of random points
    return float(np.sqrt(2 / np.sqrt(3) * np.pi / inside) * np.median(distance[:, -1]))
