"""Holes of labels, and sums over their pixels."""

from __future__ import annotations

import numpy as np

from histocell.kernels.compiled import njit
from histocell.kernels.level_sets.tree import find_root


@njit(nogil=True, cache=True)
def fill_holes(labels: np.ndarray, largest: int) -> None:
    """Fill, in place, the holes that lie inside one label, are not larger than `largest` px and not at the border."""
    height, width = labels.shape
    n_most = height * (width // 2 + 1)
    # runs of pixels of no label in a row: flat positions of the first and after the last; connected ones get one root
    runs, roots = np.empty((n_most, 2), np.int32), np.empty(n_most, np.int32)
    n = previous = 0
    for y in range(height):
        k, previous = previous, n  # runs of the row above
        x = 0
        while x < width:
            if labels[y, x]:
                x += 1
                continue
            start = y * width + x
            while x < width and labels[y, x] == 0:
                x += 1
            stop = y * width + x
            runs[n, 0], runs[n, 1], roots[n] = start, stop, n
            while k < previous and runs[k, 0] + width < stop:
                if runs[k, 1] + width > start:
                    _join(roots, k, n)
                if runs[k, 1] + width > stop:
                    break  # it reaches the next run, too
                k += 1
            n += 1
    owners, sizes = np.zeros(n, np.int32), np.zeros(n, np.int64)
    for k in range(n):
        root = find_root(roots, k)
        sizes[root] += runs[k, 1] - runs[k, 0]
        if owners[root] >= 0 and sizes[root] <= largest:
            owners[root] = _owner(labels, runs[k, 0], runs[k, 1], owners[root])
    for k in range(n):
        root = find_root(roots, k)
        if owners[root] > 0 and sizes[root] <= largest:
            y = runs[k, 0] // width
            labels[y, runs[k, 0] - y * width : runs[k, 1] - y * width] = owners[root]


@njit(nogil=True, cache=True)
def _join(roots: np.ndarray, a: int, b: int) -> None:
    a, b = find_root(roots, a), find_root(roots, b)
    roots[max(a, b)] = min(a, b)


@njit(nogil=True, cache=True)
def _owner(labels: np.ndarray, start: int, stop: int, owner: int) -> int:
    """The only label around a run and what is known of its hole, -1 if there are several or it is at the border."""
    height, width = labels.shape
    y = start // width
    left, right = start - y * width - 1, stop - y * width
    if left < 0 or right == width or y == 0 or y == height - 1:
        return -1
    around = owner if owner else labels[y, left]
    if labels[y, left] != around or labels[y, right] != around:
        return -1
    for x in range(left + 1, right):
        for v in (y - 1, y + 1):
            if labels[v, x] and labels[v, x] != around:
                return -1
    return around


@njit(nogil=True, cache=True)
def label_sums(labels: np.ndarray, n: int, surface: np.ndarray, rgb: np.ndarray, density: np.ndarray) -> np.ndarray:
    """Number of pixels of each label, and sums of a map and of the optical density of R, G, B over them.

    Parameters
    ----------
    labels, n
        Shape (h, w), int32, 1 to `n`.
    surface
        Shape (h, w), float32.
    rgb
        Shape (h, w, 3), uint8.
    density
        Shape (256, 3), float32: optical density of each value of each channel.

    Returns
    -------
    Shape (n + 1, 5), float64; the first row, of no label, is 0.
    """
    sums = np.zeros((n + 1, 5))
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            label = labels[y, x]
            if label:
                row = sums[label]
                row[0] += 1
                row[1] += surface[y, x]
                for k in range(3):
                    row[2 + k] += density[rgb[y, x, k], k]
    return sums
