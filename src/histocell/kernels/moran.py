"""Bivariate Moran's R of all pairs of variables: spatial lags, moments of the weights, sums of products.

With standardised columns Z, weights W that sum to n, and U = W Z: ``R = Z' U / n``, so that the second variable of
a pair is the lagged one. W is never stored where it is a function of distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numba import prange
from scipy.sparse import csr_array, diags_array

from histocell.kernels.compiled import parallel_njit
from histocell.kernels.neighbors import CHUNK, RBF, REACH, CellLists, rbf_cells, rbf_neighbors, run_bounds

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Lag:
    """Spatial lags and the moments of the weights that made them, all for weights that sum to n.

    Attributes
    ----------
    values
        ``W Z``, shape ``(n, k)``.
    rows
        Sum of the weights of each point, shape ``(n,)``.
    squares
        Sum of the squared weights of each point, shape ``(n,)``.
    trace
        Sum of the weights of the points with themselves.
    mutual
        Sum of ``w_ij w_ji``.
    cross
        Sum over points of row sum times column sum.
    symmetric
        Whether ``W = W'``.
    """

    values: NDArray[np.floating]
    rows: NDArray[np.float64]
    squares: NDArray[np.float64]
    trace: float
    mutual: float
    cross: float
    symmetric: bool

    @property
    def analytic_variance(self) -> float:
        """Variance of R where all n! arrangements of values that do not depend on each other are alike (SpatialDM)."""
        n = len(self.rows)
        return (n**2 * self.mutual - 2 * n * self.cross + n**2) / (n**2 * (n - 1) ** 2)


def standardize(values: ArrayLike) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Columns of mean 0 and population variance 1, and which columns are constant (they become 0).

    float32 stays float32, everything else becomes float64; sums are float64.
    """
    values = np.asarray(values)
    values = values if values.dtype == np.float32 else values.astype(np.float64)
    mean = values.mean(axis=0, dtype=np.float64)
    centered = values - mean.astype(values.dtype)
    # a second pass: the mean of large float32 numbers is not one of them
    centered -= centered.mean(axis=0, dtype=np.float64).astype(values.dtype)
    spread = np.sqrt(np.einsum("ij,ij->j", centered, centered, dtype=np.float64) / len(values))
    constant = ~(spread > 1e-7 * np.abs(mean)) if values.dtype == np.float32 else ~(spread > 1e-13 * np.abs(mean))
    centered /= np.where(constant, 1, spread).astype(values.dtype)
    centered[:, constant] = 0
    return centered, constant


@parallel_njit(fastmath={"contract", "reassoc"})
def _rbf_lag(
    cells: CellLists, rbf: RBF, values: np.ndarray, lag: np.ndarray, rows: np.ndarray, squares: np.ndarray
) -> None:
    """One pass over the cell lists; `values` are sorted, `lag`, `rows` and `squares` in the original order."""
    xy, cell, start, columns = cells.xy, cells.cell, cells.start, cells.columns
    n, k = values.shape
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        index, weight = np.empty(rbf.buffer, np.int32), np.empty(rbf.buffer)
        total, four = np.empty(k), np.empty(4, values.dtype)
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            total[:] = 0
            row_sum, row_square = 0.0, 0.0
            for row in range(cell[i, 0] - REACH, cell[i, 0] + REACH + 1):
                first, last = run_bounds(row, cell[i, 1], start, columns)
                count = rbf_neighbors(i, first, last, xy, rbf, index, weight)
                for m in range(count):
                    row_sum += weight[m]
                    row_square += weight[m] * weight[m]
                m = 0
                while m + 4 <= count:  # four products in the type of the values, then one float64 sum
                    four[0], four[1], four[2], four[3] = weight[m], weight[m + 1], weight[m + 2], weight[m + 3]
                    a, b, c, d = four[0], four[1], four[2], four[3]
                    va, vb = values[index[m]], values[index[m + 1]]
                    vc, vd = values[index[m + 2]], values[index[m + 3]]
                    for v in range(k):
                        total[v] += (a * va[v] + b * vb[v]) + (c * vc[v] + d * vd[v])
                    m += 4
                while m < count:
                    va = values[index[m]]
                    for v in range(k):
                        total[v] += weight[m] * va[v]
                    m += 1
            point = cells.order[i]
            for v in range(k):
                lag[point, v] = total[v]
            rows[point], squares[point] = row_sum, row_square


@parallel_njit()
def _rbf_label_lag(
    cells: CellLists, rbf: RBF, labels: np.ndarray, lag: np.ndarray, rows: np.ndarray, squares: np.ndarray
) -> None:
    """As `_rbf_lag`, of indicator variables: each neighbour adds its weight to the column of its label."""
    xy, cell, start, columns = cells.xy, cells.cell, cells.start, cells.columns
    n = labels.size
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        index, weight = np.empty(rbf.buffer, np.int32), np.empty(rbf.buffer)
        total = np.empty(lag.shape[1])
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            total[:] = 0
            row_sum, row_square = 0.0, 0.0
            for row in range(cell[i, 0] - REACH, cell[i, 0] + REACH + 1):
                first, last = run_bounds(row, cell[i, 1], start, columns)
                count = rbf_neighbors(i, first, last, xy, rbf, index, weight)
                for m in range(count):
                    total[labels[index[m]]] += weight[m]
                    row_sum += weight[m]
                    row_square += weight[m] * weight[m]
            point = cells.order[i]
            lag[point] = total
            rows[point], squares[point] = row_sum, row_square


def _normalized(
    values: NDArray[np.floating], rows: NDArray[np.float64], squares: NDArray[np.float64], trace: float
) -> Lag:
    """A lag of symmetric weights, scaled so that they sum to n."""
    n, total = len(rows), float(rows.sum())
    if total == 0:
        return Lag(values, rows, squares, 0.0, 0.0, 0.0, symmetric=True)
    scale = n / total
    values *= values.dtype.type(scale)
    rows, squares = rows * scale, squares * scale**2
    return Lag(values, rows, squares, trace * scale, float(squares.sum()), float(np.square(rows).sum()), symmetric=True)


def rbf_lag(
    xy: ArrayLike, values: NDArray[np.floating], *, length_scale: float, cutoff: float = 0.2, include_self: bool = True
) -> Lag:
    """Lags under the weights ``exp(-d^2 / 2 l^2)``, in one pass that stores no weight.

    Parameters
    ----------
    xy
        Coordinates, shape ``(n, 2)``.
    values
        Shape ``(n, k)``, float32 or float64; sums are float64, lags have the type of the values.
    length_scale
        The length l, in the unit of `xy`.
    cutoff
        Weights below this are 0.
    include_self
        Whether a point is its own neighbour, with the weight 1.
    """
    cells, rbf = rbf_cells(xy, length_scale=length_scale, cutoff=cutoff, include_self=include_self)
    n = len(values)
    lag, rows, squares = np.empty_like(values, order="C"), np.empty(n), np.empty(n)
    _rbf_lag(cells, rbf, values[cells.order], lag, rows, squares)
    return _normalized(lag, rows, squares, float(n * include_self))


def rbf_label_lag(
    xy: ArrayLike,
    labels: NDArray[np.integer],
    n_labels: int,
    *,
    length_scale: float,
    cutoff: float = 0.2,
    include_self: bool = False,
) -> Lag:
    """Lags of the standardised indicators of categories, at a cost per neighbour that does not depend on their number.

    Parameters
    ----------
    xy
        Coordinates, shape ``(n, 2)``.
    labels
        Category of each point, shape ``(n,)``, from 0.
    n_labels
        Number of categories.
    length_scale, cutoff, include_self
        As in :func:`rbf_lag`.

    Returns
    -------
    The same as :func:`rbf_lag` of ``indicators(labels, n_labels)``; values are float32.
    """
    cells, rbf = rbf_cells(xy, length_scale=length_scale, cutoff=cutoff, include_self=include_self)
    n = len(labels)
    lag, rows, squares = np.empty((n, n_labels), dtype=np.float32), np.empty(n), np.empty(n)
    labels = np.asarray(labels, dtype=np.int64)[cells.order]
    _rbf_label_lag(cells, rbf, labels, lag, rows, squares)
    share = np.bincount(labels, minlength=n_labels) / n
    spread = np.sqrt(share * (1 - share))
    safe = np.where(spread > 0, spread, 1)
    for v in range(n_labels):
        lag[:, v] = (lag[:, v] - share[v] * rows) / safe[v] if spread[v] > 0 else 0
    return _normalized(lag, rows, squares, float(n * include_self))


def indicators(labels: NDArray[np.integer], n_labels: int) -> NDArray[np.float32]:
    """One column per category, 1 where the point belongs to it."""
    out = np.zeros((len(labels), n_labels), dtype=np.float32)
    out[np.arange(len(labels)), labels] = 1
    return out


def normalize_weights(weights: csr_array, *, row_standardize: bool = False) -> csr_array:
    """Weights that sum to n; with `row_standardize` those of each point sum to 1 first. Without any, they stay 0."""
    weights = csr_array(weights, dtype=np.float64)
    if row_standardize:
        sums = weights.sum(axis=1)
        weights = csr_array(diags_array(1 / np.where(sums == 0, 1, sums)) @ weights)
    total = float(weights.sum())
    return weights * (weights.shape[0] / total) if total else weights


def sparse_lag(weights: csr_array, values: NDArray[np.floating], *, row_standardize: bool = False) -> Lag:
    """Lags under given weights, which are scaled to sum to n.

    Parameters
    ----------
    weights
        Shape ``(n, n)``; row i holds the weights with which others enter the lag of point i.
    values
        Shape ``(n, k)``.
    row_standardize
        Whether the weights of each point are first made to sum to 1, as esda does; points without neighbours keep 0.
    """
    n = len(values)
    weights = normalize_weights(weights, row_standardize=row_standardize)
    if weights.shape != (n, n):
        msg = f"weights have shape {weights.shape}, the variables {n} rows"
        raise ValueError(msg)
    difference = weights - weights.T
    return Lag(
        values=(weights @ values).astype(values.dtype),
        rows=weights.sum(axis=1),
        squares=weights.multiply(weights).sum(axis=1),
        trace=float(weights.diagonal().sum()),
        mutual=float(weights.multiply(weights.T).sum()),
        cross=float(weights.sum(axis=1) @ weights.sum(axis=0)),
        symmetric=difference.nnz == 0 or float(abs(difference).max()) < 1e-12,
    )


@parallel_njit(fastmath={"contract"})
def _products(a: np.ndarray, b: np.ndarray, partial: np.ndarray) -> None:
    n, k = a.shape
    size = (n + len(partial) - 1) // len(partial)
    for chunk in prange(len(partial)):
        total = partial[chunk]
        own, other = np.zeros((4, k)), np.zeros((4, b.shape[1]))
        end = min(n, (chunk + 1) * size)
        for start in range(chunk * size, end, 4):  # four rows at a time, those past the end are 0
            for m in range(4):
                if start + m < end:
                    own[m], other[m] = a[start + m], b[start + m]
                else:
                    own[m], other[m] = 0, 0
            first, second, third, fourth = other[0], other[1], other[2], other[3]
            for u in range(k):
                w, x, y, z = own[0, u], own[1, u], own[2, u], own[3, u]
                row = total[u]
                for v in range(b.shape[1]):
                    row[v] += (w * first[v] + x * second[v]) + (y * third[v] + z * fourth[v])


def mean_products(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """``a' b / n`` with float64 sums in an order that does not depend on the number of threads.

    Parameters
    ----------
    a, b
        Shapes ``(n, k)`` and ``(n, m)``.
    """
    partial = np.zeros((min(64, len(a) // 128 + 1), a.shape[1], b.shape[1]))
    _products(np.ascontiguousarray(a), np.ascontiguousarray(b), partial)
    return partial.sum(axis=0) / len(a)
