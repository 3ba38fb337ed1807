"""Runs of px of objects: outlines are filled by scan lines, labels are cut into runs.

Objects are two arrays: `starts`, shape (n + 1,), and `runs`, shape (k, 3), int32, whose rows ``starts[i]`` to
``starts[i + 1]`` are the runs of object i: row y and columns x0 to x1, x1 not included; by row, then by column.
"""

from __future__ import annotations

import math

import numpy as np

from histocell.kernels.compiled import njit


@njit(nogil=True, cache=True)
def fill(
    xy: np.ndarray,
    rings: np.ndarray,
    objects: np.ndarray,
    chosen: np.ndarray,
    scale: float,
    window: tuple[int, int, int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Runs of the px whose centre lies in an outline, by the even-odd rule, as far as they lie in a window.

    A centre on the common edge of two outlines belongs to one of them.

    Parameters
    ----------
    xy
        Corners of all rings, shape (m, 2), float64.
    rings
        Shape (r + 1,): ring j has the corners ``rings[j]`` to ``rings[j + 1]``, the last the same as the first.
    objects
        Shape (n + 1,): object i has the rings ``objects[i]`` to ``objects[i + 1]``.
    chosen
        Which objects, shape (c,).
    scale
        px per unit of `xy`.
    window
        y0, x0, y1, x1 in px. Runs are in px of the window.

    Returns
    -------
    `starts`, shape (c + 1,), and `runs`.
    """
    y0, x0, y1, x1 = window
    starts = np.zeros(chosen.size + 1, np.int64)
    runs = np.empty((max(16, 16 * chosen.size), 3), np.int32)
    n = 0
    for k in range(chosen.size):
        first, last = rings[objects[chosen[k]]], rings[objects[chosen[k] + 1]]
        low, high = np.inf, -np.inf
        for p in range(first, last):
            low, high = min(low, xy[p, 1]), max(high, xy[p, 1])
        top, bottom = y0, y0
        if high > low:
            top, bottom = max(y0, math.ceil(low * scale - 0.5)), min(y1, math.ceil(high * scale - 0.5))
        if bottom > top:
            crossings, begins = _crossings(xy, rings, objects[chosen[k]], objects[chosen[k] + 1], scale, top, bottom)
            if n + crossings.size > runs.shape[0]:
                larger = np.empty((2 * runs.shape[0] + crossings.size, 3), np.int32)
                larger[:n] = runs[:n]
                runs = larger
            for y in range(top, bottom):
                for c in range(begins[y - top], begins[y - top + 1] - 1, 2):
                    left = max(x0, math.ceil(crossings[c] - 0.5))
                    right = min(x1, math.ceil(crossings[c + 1] - 0.5))
                    if right > left:
                        runs[n, 0], runs[n, 1], runs[n, 2] = y - y0, left - x0, right - x0
                        n += 1
        starts[k + 1] = n
    return starts, runs[:n].copy()


@njit(nogil=True, cache=True)
def _crossings(
    xy: np.ndarray, rings: np.ndarray, first: int, last: int, scale: float, top: int, bottom: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where the edges of some rings cross the middles of rows `top` to `bottom`: x, ascending in each row; row begins."""
    begins = np.zeros(bottom - top + 1, np.int64)
    for fills in range(2):  # first counted, then filled in
        if fills == 0:
            crossings = np.empty(0)
            place = begins[:-1].copy()
        else:
            for y in range(bottom - top):
                begins[y + 1] += begins[y]
            crossings = np.empty(begins[-1])
            place = begins[:-1].copy()
        for ring in range(first, last):
            for p in range(rings[ring], rings[ring + 1] - 1):
                ya, yb = xy[p, 1] * scale, xy[p + 1, 1] * scale
                if ya == yb:
                    continue
                low, high = min(ya, yb), max(ya, yb)
                for y in range(max(top, math.ceil(low - 0.5)), min(bottom, math.ceil(high - 0.5))):
                    if fills == 0:
                        begins[y - top + 1] += 1
                    else:
                        share = (y + 0.5 - ya) / (yb - ya)
                        crossings[place[y - top]] = xy[p, 0] * scale * (1 - share) + xy[p + 1, 0] * scale * share
                        place[y - top] += 1
    for y in range(bottom - top):  # few in a row
        for i in range(begins[y] + 1, begins[y + 1]):
            here, j = crossings[i], i
            while j > begins[y] and crossings[j - 1] > here:
                crossings[j] = crossings[j - 1]
                j -= 1
            crossings[j] = here
    return crossings, begins


@njit(nogil=True, cache=True)
def runs_of_labels(labels: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Runs of each label of an image.

    Parameters
    ----------
    labels
        Shape (h, w), int32, 1 to `n`; 0 is none.

    Returns
    -------
    `starts`, shape (n + 1,), and `runs`.
    """
    height, width = labels.shape
    starts = np.zeros(n + 1, np.int64)
    for y in range(height):
        before = 0
        for x in range(width):
            label = labels[y, x]
            if label and label != before:
                starts[label] += 1
            before = label
    for i in range(n):
        starts[i + 1] += starts[i]
    place = starts[:-1].copy()
    runs = np.empty((starts[n], 3), np.int32)
    for y in range(height):
        before = 0
        for x in range(width):
            label = labels[y, x]
            if label:
                if label != before:
                    run = place[label - 1]
                    runs[run, 0], runs[run, 1] = y, x
                    place[label - 1] += 1
                runs[place[label - 1] - 1, 2] = x + 1
            before = label
    return starts, runs


@njit(nogil=True, cache=True)
def count(runs: np.ndarray, out: np.ndarray) -> None:
    """Add to each px of `out`, shape (h, w), uint8, the number of runs that hold it, 255 at most."""
    for k in range(runs.shape[0]):
        y = runs[k, 0]
        for x in range(runs[k, 1], runs[k, 2]):
            if out[y, x] < 255:
                out[y, x] += 1


@njit(nogil=True, cache=True)
def paint(starts: np.ndarray, runs: np.ndarray, values: np.ndarray, out: np.ndarray) -> None:
    """Write the value of each object, shape (n,), into its px of `out`, shape (h, w); later objects over earlier ones."""
    for i in range(starts.size - 1):
        for k in range(starts[i], starts[i + 1]):
            for x in range(runs[k, 1], runs[k, 2]):
                out[runs[k, 0], x] = values[i]
