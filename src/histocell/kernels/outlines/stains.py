"""Stain and texture of the px of objects, and of a ring around each."""

from __future__ import annotations

import math

import numpy as np

from histocell.kernels.compiled import njit

N_BINS = 32  # of the histogram of haematoxylin
BIN = 0.0625  # their width, in units of the slide's strength: they end at 2
PIXEL_MEASURES = ("n_px", "h_mean", "h_sd", "e_mean", "e_sd", "contrast", "correlation", "entropy")


@njit(nogil=True, cache=True)
def pixel_measures(starts: np.ndarray, runs: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Mean, spread and texture of two maps over the px of each object.

    Parameters
    ----------
    starts, runs
        The objects, as in :mod:`histocell.kernels.outlines.runs`.
    maps
        Shape (2 or more, h, w), float32: haematoxylin, eosin.

    Returns
    -------
    Shape (n, 8), float64, columns :data:`PIXEL_MEASURES`: number of px; mean and standard deviation of either map; over
    the pairs of px that share an edge, both in the object, the mean squared difference of haematoxylin and its
    correlation; entropy of its histogram in bits. NaN where there is no px, or no pair.

    References
    ----------
    Haralick, Shanmugam and Dinstein (1973), Textural features for image classification, f2 and f3, of a symmetric
    co-occurrence matrix at a distance of 1 px, without grey levels.
    """
    out = np.full((starts.size - 1, 8), np.nan)
    bins = np.zeros(N_BINS)
    for i in range(starts.size - 1):
        n = 0
        h_sum = e_sum = 0.0
        for k in range(starts[i], starts[i + 1]):
            for x in range(runs[k, 1], runs[k, 2]):
                h_sum += maps[0, runs[k, 0], x]
                e_sum += maps[1, runs[k, 0], x]
            n += runs[k, 2] - runs[k, 1]
        out[i, 0] = n
        if n == 0:
            continue
        h_mean, e_mean = h_sum / n, e_sum / n
        h_square = e_square = entropy = 0.0
        bins[:] = 0
        for k in range(starts[i], starts[i + 1]):
            for x in range(runs[k, 1], runs[k, 2]):
                h = maps[0, runs[k, 0], x]
                h_square += (h - h_mean) ** 2
                e_square += (maps[1, runs[k, 0], x] - e_mean) ** 2
                bins[min(int(h / BIN), N_BINS - 1)] += 1
        for number in bins:
            if number > 0:
                entropy -= number / n * math.log2(number / n)
        out[i, 1], out[i, 2] = h_mean, math.sqrt(h_square / n)
        out[i, 3], out[i, 4] = e_mean, math.sqrt(e_square / n)
        out[i, 5], out[i, 6] = _pairs(starts[i], starts[i + 1], runs, maps[0], h_mean)
        out[i, 7] = entropy
    return out


@njit(nogil=True, cache=True)
def _pairs(first: int, last: int, runs: np.ndarray, image: np.ndarray, middle: float) -> tuple[float, float]:
    """Mean squared difference and correlation of the px of an object that share an edge; NaN where none do."""
    n = 0
    total = squares = differences = 0.0
    for k in range(first, last):
        y, x0, x1 = runs[k, 0], runs[k, 1], runs[k, 2]
        for x in range(x0, x1 - 1):
            a, b = image[y, x] - middle, image[y, x + 1] - middle
            total += a + b
            squares += a * a + b * b
            differences += (a - b) ** 2
        n += x1 - x0 - 1
        for below in range(k + 1, last):
            if runs[below, 0] > y + 1:
                break
            if runs[below, 0] == y:
                continue
            start, end = max(x0, runs[below, 1]), min(x1, runs[below, 2])
            for x in range(start, end):
                a, b = image[y, x] - middle, image[y + 1, x] - middle
                total += a + b
                squares += a * a + b * b
                differences += (a - b) ** 2
            n += max(0, end - start)
    if n == 0:
        return np.nan, np.nan
    variance = squares / (2 * n) - (total / (2 * n)) ** 2
    contrast = differences / n
    return contrast, 1 - contrast / (2 * variance) if variance > 1e-12 else np.nan


@njit(nogil=True, cache=True)
def ring_means(
    starts: np.ndarray, runs: np.ndarray, maps: np.ndarray, occupied: np.ndarray, radius: float
) -> np.ndarray:
    """Mean of two maps over the free px around each object.

    Parameters
    ----------
    starts, runs
        The objects.
    maps
        Shape (2 or more, h, w), float32.
    occupied
        Shape (h, w), uint8: not 0 in any object; all others are free.
    radius
        Farthest that the centre of a px may be from that of the nearest px of the object, in px.

    Returns
    -------
    Shape (n, 2), float64; NaN where no px is free.
    """
    height, width = occupied.shape
    reach = int(radius)
    half = np.array([int(math.sqrt(radius * radius - d * d)) for d in range(reach + 1)])
    out = np.full((starts.size - 1, 2), np.nan)
    for i in range(starts.size - 1):
        if starts[i] == starts[i + 1]:
            continue
        own = runs[starts[i] : starts[i + 1]]
        top, bottom = max(0, own[0, 0] - reach), min(height, own[-1, 0] + reach + 1)
        left, right = max(0, own[:, 1].min() - reach), min(width, own[:, 2].max() + reach)
        # in each row +1 where the px of a run begin to be near, -1 where they end
        steps = np.zeros((bottom - top, right - left + 1), np.int32)
        for k in range(own.shape[0]):
            y, x0, x1 = own[k, 0], own[k, 1], own[k, 2]
            for row in range(max(top, y - reach), min(bottom, y + reach + 1)):
                wide = half[abs(row - y)]
                steps[row - top, max(left, x0 - wide) - left] += 1
                steps[row - top, min(right, x1 + wide) - left] -= 1
        n = 0
        h = e = 0.0
        for y in range(top, bottom):
            near = 0
            for x in range(left, right):
                near += steps[y - top, x - left]
                if near and occupied[y, x] == 0:
                    n += 1
                    h += maps[0, y, x]
                    e += maps[1, y, x]
        if n:
            out[i, 0], out[i, 1] = h / n, e / n
    return out


@njit(nogil=True, cache=True)
def shared(starts: np.ndarray, runs: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Share of the px of each object that lie in another one, too.

    Parameters
    ----------
    times
        Shape (h, w), uint8: how many objects hold a px.
    """
    out = np.zeros(starts.size - 1)
    for i in range(starts.size - 1):
        n = several = 0
        for k in range(starts[i], starts[i + 1]):
            for x in range(runs[k, 1], runs[k, 2]):
                n += 1
                several += times[runs[k, 0], x] > 1
        if n:
            out[i] = several / n
    return out
