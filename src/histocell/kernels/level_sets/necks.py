"""Objects with a neck cut in two."""

from __future__ import annotations

import math

import numpy as np

from histocell.kernels.compiled import njit
from histocell.kernels.level_sets.tree import find_root

# Half of the neighbours at a distance below 2.3 px: those before a pixel in the order of reading.
_BEFORE_Y = np.array([0, -1, -1, -1, -1, -1, -2, -2])
_BEFORE_X = np.array([-1, -1, 0, 1, -2, 2, -1, 1])
_BEFORE_FAR = np.array([1, math.sqrt(2), 1, math.sqrt(2), math.sqrt(5), math.sqrt(5), math.sqrt(5), math.sqrt(5)])

_HIGHEST, _BINS_PER_UNIT, _N_BINS = 6.0, 400.0, 4096  # of heights, for sorting


@njit(nogil=True, cache=True)
def inner_distance(labels: np.ndarray) -> np.ndarray:
    """Distance in px of each pixel to the edge of its label, by steps to neighbours: up to 2 % too far.

    The border of the image is no edge: what it cuts goes on behind it.
    """
    height, width = labels.shape
    out = np.zeros((height, width), np.float32)
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label:
                out[y, x] = 1e6
                for k in range(4):
                    v, u = y + (k == 3) - (k == 0), x + (k == 2) - (k == 1)
                    if 0 <= v < height and 0 <= u < width and labels[v, u] != label:
                        out[y, x] = 0.5
    for sign in (1, -1):
        for i in range(height):
            for j in range(width):
                y, x = (i, j) if sign > 0 else (height - 1 - i, width - 1 - j)
                if out[y, x] <= 0.5:
                    continue
                for k in range(8):
                    v, u = y + sign * _BEFORE_Y[k], x + sign * _BEFORE_X[k]
                    if 0 <= v < height and 0 <= u < width and labels[v, u] == labels[y, x]:
                        out[y, x] = min(out[y, x], out[v, u] + _BEFORE_FAR[k])
    return out


@njit(nogil=True, cache=True)
def cut_necks(labels: np.ndarray, heights: np.ndarray, depth: float, least: float) -> tuple[np.ndarray, int]:
    """Split labels between the peaks of a map.

    Parameters
    ----------
    labels
        Shape (h, w), int32.
    heights
        Shape (h, w), float32: the logarithm of the distance to the edge, so that differences are ratios.
    depth
        Least height of a peak above the pass to a higher one of the same label.
    least
        Least height of a peak.

    Returns
    -------
    Labels and their number.
    """
    height, width = labels.shape
    order = _from_highest(labels, heights)
    parts = np.zeros((height, width), np.int32)
    roots = np.empty(order.size + 1, np.int32)
    peaks = np.empty(order.size + 1, np.float32)
    n_parts = 0
    for p in order:
        y, x = p // width, p % width
        here, best = heights[y, x], 0
        for v in range(max(y - 1, 0), min(y + 2, height)):
            for u in range(max(x - 1, 0), min(x + 2, width)):
                if parts[v, u] == 0 or labels[v, u] != labels[y, x]:
                    continue
                other = find_root(roots, parts[v, u])
                if best == 0 or other == best:
                    best = other
                    continue
                if peaks[other] > peaks[best]:
                    best, other = other, best
                if peaks[other] - here < depth or peaks[other] < least:
                    roots[other] = best
        if best == 0:
            n_parts += 1
            best = n_parts
            roots[best], peaks[best] = best, here
        parts[y, x] = best
    number = np.zeros(n_parts + 1, np.int32)
    n = 0
    for p in order:
        y, x = p // width, p % width
        root = find_root(roots, parts[y, x])
        if number[root] == 0:
            n += 1
            number[root] = n
        parts[y, x] = number[root]
    return parts, n


@njit(nogil=True, cache=True)
def _from_highest(labels: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """Flat positions of the labelled pixels from the highest to the lowest, by counting."""
    height, width = labels.shape
    starts = np.zeros(_N_BINS + 1, np.int64)
    for y in range(height):
        for x in range(width):
            if labels[y, x]:
                starts[_bin(heights[y, x]) + 1] += 1
    starts = np.cumsum(starts)
    order = np.empty(starts[-1], np.int32)
    for y in range(height):
        for x in range(width):
            if labels[y, x]:
                k = _bin(heights[y, x])
                order[starts[k]] = y * width + x
                starts[k] += 1
    return order


@njit(nogil=True, cache=True)
def _bin(value: float) -> int:
    return min(max(int((_HIGHEST - value) * _BINS_PER_UNIT), 0), _N_BINS - 1)
