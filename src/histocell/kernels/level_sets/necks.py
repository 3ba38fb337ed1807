"""Objects with a neck cut in two."""

from __future__ import annotations

import numpy as np

from histocell.kernels.compiled import njit
from histocell.kernels.level_sets.tree import find_root

# Lengths of steps to the side and along a diagonal that estimate distances to within 4 % (Borgefors 1986).
_SIDE, _DIAGONAL = np.float32(0.955), np.float32(1.369)
_HALF = np.float32(0.5)
FAR = np.float32(1e6)
_HIGHEST, _BINS_PER_UNIT, _N_BINS = 6.0, 400.0, 4096  # of heights, for sorting


@njit(nogil=True, cache=True)
def inner_distance(labels: np.ndarray) -> np.ndarray:
    """Distance in px of the centre of each pixel to the edge of its label, 0 outside of labels.

    The border of the image is no edge: what it cuts goes on behind it.

    References
    ----------
    Borgefors (1986), Distance transformations in digital images.
    """
    height, width = labels.shape
    out = np.zeros((height, width), np.float32)
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label == 0:
                continue
            up, left = max(y - 1, 0), max(x - 1, 0)
            down, right = min(y + 1, height - 1), min(x + 1, width - 1)
            if (labels[up, x] != label) | (labels[down, x] != label) | (labels[y, left] != label):
                out[y, x] = _HALF
            elif labels[y, right] != label:
                out[y, x] = _HALF
            else:
                near = min(out[up, x] if y else FAR, out[y, left] if x else FAR) + _SIDE
                if y and x and labels[up, left] == label:
                    near = min(near, out[up, left] + _DIAGONAL)
                if y and x < right and labels[up, right] == label:
                    near = min(near, out[up, right] + _DIAGONAL)
                out[y, x] = near
    for y in range(height - 1, -1, -1):
        for x in range(width - 1, -1, -1):
            if out[y, x] <= _HALF:
                continue
            label, near = labels[y, x], out[y, x]
            if y < height - 1:
                near = min(near, out[y + 1, x] + _SIDE)
                if x and labels[y + 1, x - 1] == label:
                    near = min(near, out[y + 1, x - 1] + _DIAGONAL)
                if x < width - 1 and labels[y + 1, x + 1] == label:
                    near = min(near, out[y + 1, x + 1] + _DIAGONAL)
            if x < width - 1:
                near = min(near, out[y, x + 1] + _SIDE)
            out[y, x] = near
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
