"""Holes of labels, and sums over their pixels."""

from __future__ import annotations

import numpy as np

from histocell.kernels.compiled import njit


@njit(nogil=True, cache=True)
def fill_holes(labels: np.ndarray, largest: int) -> None:
    """Fill, in place, the holes that lie inside one label, are not larger than `largest` px and not at the border."""
    height, width = labels.shape
    seen = np.zeros((height, width), np.bool_)
    stack = np.empty(height * width, np.int32)
    for start in range(height * width):
        y, x = start // width, start % width
        if labels[y, x] or seen[y, x]:
            continue
        stack[0] = start
        seen[y, x] = True
        done, n, owner = 0, 1, 0  # pixels stay on the stack, so that they are known at the end
        while done < n:
            y, x = stack[done] // width, stack[done] % width
            done += 1
            for k in range(4):
                v, u = y + (k == 3) - (k == 0), x + (k == 2) - (k == 1)
                if v < 0 or v >= height or u < 0 or u >= width:
                    owner = -1
                elif labels[v, u]:
                    if owner == 0:
                        owner = labels[v, u]
                    elif owner != labels[v, u]:
                        owner = -1
                elif not seen[v, u]:
                    seen[v, u] = True
                    stack[n] = v * width + u
                    n += 1
        if owner > 0 and n <= largest:
            for k in range(n):
                labels[stack[k] // width, stack[k] % width] = owner


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
