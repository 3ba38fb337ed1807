"""Null distributions by resampling: permutations of the points, and rigid shifts of whole fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numba import prange
from scipy import fft

from histocell.kernels.compiled import parallel_njit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray
    from scipy.sparse import csr_array

BATCH = 32  # permutations held at a time
TIE = 1e-12  # statistics that differ by rounding are equal


@dataclass(frozen=True)
class Draws:
    """How a null distribution is drawn.

    Attributes
    ----------
    count
        Number of draws.
    rng
        Generator of the permutations or shifts.
    progress
        Wraps the loop over draws, or over batches of them.
    """

    count: int
    rng: np.random.Generator
    progress: Callable[[Iterable[int]], Iterable[int]] = iter


@dataclass(frozen=True)
class Resampled:
    """Result of resampling for each pair, arrays of shape ``(k, k)``.

    Attributes
    ----------
    upper, lower
        ``(1 + number at least as high, or low) / (1 + number of draws)``.
    mean, sd
        Of the statistic over the draws.
    """

    upper: NDArray[np.float64]
    lower: NDArray[np.float64]
    mean: NDArray[np.float64]
    sd: NDArray[np.float64]


def summarize(observed: NDArray[np.float64], draws: Iterable[NDArray[np.float64]]) -> Resampled:
    """Compare a statistic with its draws, which are not kept."""
    above, below = np.ones(observed.shape), np.ones(observed.shape)
    total, square, count = np.zeros(observed.shape), np.zeros(observed.shape), 0
    for draw in draws:
        above += draw >= observed - TIE
        below += draw <= observed + TIE
        total += draw
        square += draw**2
        count += 1
    if count < 2:
        msg = f"a null distribution needs at least two draws, not {count}"
        raise ValueError(msg)
    mean = total / count
    sd = np.sqrt(np.maximum(square - count * mean**2, 0) / (count - 1))
    return Resampled(above / (count + 1), below / (count + 1), mean, sd)


@parallel_njit(fastmath={"contract"})
def _permuted_r(
    indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, values: np.ndarray, orders: np.ndarray, out: np.ndarray
) -> None:
    """R under each permutation; one thread takes one whole permutation."""
    n, k = values.shape
    for draw in prange(len(orders)):
        order, products = orders[draw], out[draw]
        total = np.empty(k)
        for i in range(n):
            total[:] = 0
            for m in range(indptr[i], indptr[i + 1]):
                weight = data[m]
                row = values[order[indices[m]]]
                for v in range(k):
                    total[v] += weight * row[v]
            own = values[order[i]]
            for u in range(k):
                x = float(own[u])
                for v in range(k):
                    products[u, v] += x * total[v]
        products /= n


@parallel_njit(fastmath={"contract"})
def _permuted_products(first: np.ndarray, second: np.ndarray, orders: np.ndarray, out: np.ndarray) -> None:
    """``first' second[order] / n`` for each permutation."""
    n, k = first.shape
    for draw in prange(len(orders)):
        order, products = orders[draw], out[draw]
        for i in range(n):
            own, other = first[i], second[order[i]]
            for u in range(k):
                x = float(own[u])
                for v in range(k):
                    products[u, v] += x * other[v]
        products /= n


def _permuted(kernel: Callable[..., None], arguments: tuple[NDArray[np.generic], ...], draws: Draws) -> Resampled:
    """Run a kernel over permutations, a batch at a time; its last argument is permuted."""
    n, k = arguments[-1].shape

    def run(orders: NDArray[np.int32]) -> NDArray[np.float64]:
        out = np.zeros((len(orders), k, k))
        kernel(*arguments, orders, out)
        return out

    def drawn() -> Iterable[NDArray[np.float64]]:
        for start in draws.progress(range(0, draws.count, BATCH)):
            count = min(BATCH, draws.count - start)
            yield from run(np.stack([draws.rng.permutation(n) for _ in range(count)]).astype(np.int32))

    return summarize(run(np.arange(n, dtype=np.int32)[None])[0], drawn())


def permute_points(weights: csr_array, z: NDArray[np.floating], draws: Draws) -> Resampled:
    """Put all variables of the points on other points, jointly, as SpatialDM does.

    Keeps the correlation within points; destroys the smoothness of every field.

    Parameters
    ----------
    weights
        Shape ``(n, n)``, summing to n.
    z
        Standardised variables, shape ``(n, k)``.
    draws
        Number of permutations, and their generator.
    """
    arguments = (weights.indptr, weights.indices, weights.data, np.ascontiguousarray(z))
    return _permuted(_permuted_r, arguments, draws)


def permute_second(weights: csr_array, z: NDArray[np.floating], draws: Draws) -> Resampled:
    """Permute the second, lagged variable only, as esda does.

    ``z_a' W P z_b = (W' z_a)' P z_b``: the lags are computed once. Parameters as in :func:`permute_points`.
    """
    back = (weights.T @ z).astype(z.dtype)
    arguments = (np.ascontiguousarray(back), np.ascontiguousarray(z))
    return _permuted(_permuted_products, arguments, draws)


def shift_fields(
    xy: NDArray[np.float64],
    z: NDArray[np.floating],
    lag: NDArray[np.floating],
    draws: Draws,
    *,
    pixel: float,
    min_overlap: float = 0.5,
) -> Resampled:
    """Turn, mirror and shift all lagged fields rigidly against the fields, and compare where they overlap.

    Keeps the smoothness of both. Products on the overlap are multiplied by the root of its share of the tissue, because
    those on small overlaps vary more. Somewhat liberal (8 % for 5 %) where fields are smooth over a fifth of the tissue.

    Parameters
    ----------
    xy
        Coordinates, shape ``(n, 2)``.
    z, lag
        Standardised variables and their spatial lags, shape ``(n, k)``.
    draws
        Number of shifts, and their generator.
    pixel
        Edge of the pixels on which fields are averaged, in the unit of `xy`.
    min_overlap
        Smallest share of the tissue that must overlap.

    References
    ----------
    Mrkvička, Dvořák, González and Mateu, Spatial Statistics 42 (2021): variance correction.
    """
    pixels = np.rint((xy - xy.min(axis=0)) / pixel).astype(np.int64)
    shape = tuple(int(size) for size in pixels.max(axis=0) + 1)
    flat = pixels[:, 0] * shape[1] + pixels[:, 1]
    k = z.shape[1]
    counts = np.bincount(flat, minlength=shape[0] * shape[1]).astype(np.float64)

    def means(values: NDArray[np.floating]) -> NDArray[np.float64]:
        sums = np.stack([np.bincount(flat, weights=values[:, v], minlength=len(counts)) for v in range(k)], axis=1)
        return (sums / np.maximum(counts, 1)[:, None]).reshape(*shape, k)

    fixed, moving, mass = means(z), means(lag), counts.reshape(shape)

    def statistic(turned: NDArray[np.float64], weight: NDArray[np.float64], dy: int, dx: int) -> NDArray[np.float64]:
        here = tuple(
            slice(max(0, d), min(size, other + d)) for d, size, other in zip((dy, dx), shape, weight.shape, strict=True)
        )
        there = tuple(slice(s.start - d, s.stop - d) for d, s in zip((dy, dx), here, strict=True))
        both = np.sqrt(mass[here] * weight[there])
        inside = both > 0
        w = both[inside]
        products = fixed[here][inside].T @ (turned[there][inside] * w[:, None])
        return products / np.sqrt(w.sum() * mass.sum())

    turns = [_turn(moving, mass, index) for index in range(8)]
    options = [_overlapping_shifts(mass, weight, min_overlap) for _, weight in turns]

    def drawn() -> Iterable[NDArray[np.float64]]:
        for _ in draws.progress(range(draws.count)):
            index = int(draws.rng.integers(8))
            while not len(options[index]):
                index = int(draws.rng.integers(8))
            dy, dx = options[index][draws.rng.integers(len(options[index]))]
            yield statistic(*turns[index], int(dy), int(dx))

    if sum(len(option) for option in options) < 20:
        msg = f"the tissue is only {shape[0]} x {shape[1]} length scales wide: too small to shift fields on it"
        raise ValueError(msg)
    return summarize(statistic(moving, mass, 0, 0), drawn())


def _turn(
    values: NDArray[np.float64], mass: NDArray[np.float64], index: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One of the eight orientations of a rectangle: quarter turns, mirrored or not."""
    if index >= 4:
        values, mass = values[:, ::-1], mass[:, ::-1]
    return np.rot90(values, index % 4), np.rot90(mass, index % 4)


def _overlapping_shifts(mass: NDArray[np.float64], other: NDArray[np.float64], min_overlap: float) -> NDArray[np.int64]:
    """Displacements (rows, columns) of `other` at which it covers enough of the tissue; not the null displacement."""
    padded = tuple(fft.next_fast_len(a + b - 1, real=True) for a, b in zip(mass.shape, other.shape, strict=True))
    covered = fft.irfft2(
        fft.rfft2((mass > 0).astype(float), s=padded) * np.conj(fft.rfft2((other > 0).astype(float), s=padded)),
        s=padded,
    )
    rows, columns = np.nonzero(covered >= min_overlap * (mass > 0).sum())
    shifts = np.stack([rows, columns], axis=1)
    for axis in range(2):
        shifts[:, axis] -= np.where(shifts[:, axis] >= mass.shape[axis], padded[axis], 0)
    return shifts[(shifts != 0).any(axis=1)]
