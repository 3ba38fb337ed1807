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
_POSITION = 2**32 - 1
_NOWHERE = 2**62
_MARGIN = 0.01  # heights of one bin are not told apart


def inner_distance(labels: np.ndarray) -> np.ndarray:
    """Distance in px of the centre of each pixel to the edge of its label, 0 outside of labels.

    The border of the image is no edge: what it cuts goes on behind it.

    References
    ----------
    Borgefors (1986), Distance transformations in digital images.
    """
    out = np.empty(labels.shape, np.float32)
    _inner_distance(labels, out)
    return out


@njit(nogil=True, cache=True)
def _inner_distance(labels: np.ndarray, out: np.ndarray) -> None:
    height, width = labels.shape
    out[:] = 0
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


@njit(nogil=True, cache=True)
def cut_necks(labels: np.ndarray, heights: np.ndarray, depth: float, least: float) -> int:
    """Split labels, in place, between the peaks of a map.

    Parameters
    ----------
    labels
        Shape (h, w), int32; all pixels of a label are connected. The parts of a label get numbers above the largest,
        and its own is free.
    heights
        Shape (h, w), float32: the logarithm of the distance to the edge, so that differences are ratios.
    depth
        Least height of a peak above the pass to a higher one of the same label.
    least
        Least height of a peak.

    Returns
    -------
    The largest label.
    """
    last = labels.max() if labels.size else 0
    peaks, highest = _peaks(labels, heights, last + 1, least - _MARGIN)
    stack = np.empty(labels.size, np.int32)
    is_cut = np.zeros(last + 1, np.bool_)
    for peak in peaks:
        label = labels[peak // labels.shape[1], peak % labels.shape[1]]
        if not is_cut[label]:
            is_cut[label] = _is_part(labels, heights, peak, highest[label], depth - _MARGIN, stack)
    for label in range(1, is_cut.size):
        if is_cut[label]:
            n = _take(labels, label, highest[label] & _POSITION, stack)
            pixels = np.empty(n, np.int64)
            for k in range(n):
                pixels[k] = _place(heights[stack[k] // labels.shape[1], stack[k] % labels.shape[1]], stack[k])
            pixels.sort()
            last = _cut_label(labels, heights, pixels, last, depth, least)
    return last


@njit(nogil=True, cache=True)
def _place(height: float, p: int) -> int:
    """Place of a pixel in the order from the highest to the lowest; the lower bits are its position."""
    k = min(max(int((_HIGHEST - height) * _BINS_PER_UNIT), 0), _N_BINS - 1)
    return k << 32 | p


@njit(nogil=True, cache=True)
def _peaks(labels: np.ndarray, heights: np.ndarray, n: int, least: float) -> tuple[list, np.ndarray]:
    """Positions of the peaks of at least a height, and the place of the highest pixel of each of `n` labels."""
    height, width = labels.shape
    highest = np.full(n, _NOWHERE, np.int64)
    peaks = [0 for _ in range(0)]
    for y in range(height):
        for x in range(width):
            label, here = labels[y, x], heights[y, x]
            if label == 0:
                continue
            place = _place(here, y * width + x)
            highest[label] = min(highest[label], place)
            up, down, left, right = max(y - 1, 0), min(y + 1, height - 1), max(x - 1, 0), min(x + 1, width - 1)
            clearly = here + np.float32(_MARGIN)
            is_higher = (heights[up, x] > clearly) & (labels[up, x] == label)
            is_higher |= (heights[down, x] > clearly) & (labels[down, x] == label)
            is_higher |= (heights[y, left] > clearly) & (labels[y, left] == label)
            is_higher |= (heights[y, right] > clearly) & (labels[y, right] == label)
            if here >= least and not is_higher and _is_peak(labels, heights, y, x, place):
                peaks.append(y * width + x)
    return peaks, highest


@njit(nogil=True, cache=True)
def _is_peak(labels: np.ndarray, heights: np.ndarray, y: int, x: int, place: int) -> bool:
    height, width = labels.shape
    label, lowest = labels[y, x], heights[y, x] - np.float32(_MARGIN)  # what is lower comes after it
    for v in range(max(y - 1, 0), min(y + 2, height)):
        for u in range(max(x - 1, 0), min(x + 2, width)):
            if heights[v, u] >= lowest and labels[v, u] == label and _place(heights[v, u], v * width + u) < place:
                return False
    return True


@njit(nogil=True, cache=True)
def _is_part(labels: np.ndarray, heights: np.ndarray, peak: int, highest: int, depth: float, stack: np.ndarray) -> bool:
    """Whether a peak is not the highest of its label, and no way from it to a higher pixel stays within a depth."""
    height, width = labels.shape
    y, x = peak // width, peak % width
    label, place, lowest = labels[y, x], _place(heights[y, x], peak), heights[y, x] - depth
    is_part = place != highest
    labels[y, x] = -1  # seen
    stack[0] = peak
    done, n = 0, 1
    while done < n and is_part:
        y, x = stack[done] // width, stack[done] % width
        done += 1
        for v in range(max(y - 1, 0), min(y + 2, height)):
            for u in range(max(x - 1, 0), min(x + 2, width)):
                if labels[v, u] == label and heights[v, u] >= lowest:
                    is_part &= _place(heights[v, u], v * width + u) > place
                    labels[v, u] = -1
                    stack[n] = v * width + u
                    n += 1
    for p in stack[:n]:
        labels[p // width, p % width] = label
    return is_part


@njit(nogil=True, cache=True)
def _take(labels: np.ndarray, label: int, start: int, stack: np.ndarray) -> int:
    """Put the pixels of a label on a stack, and -1 in their place; returns their number."""
    height, width = labels.shape
    stack[0] = start
    labels[start // width, start % width] = -1
    done, n = 0, 1
    while done < n:
        y, x = stack[done] // width, stack[done] % width
        done += 1
        for v in range(max(y - 1, 0), min(y + 2, height)):
            for u in range(max(x - 1, 0), min(x + 2, width)):
                if labels[v, u] == label:
                    labels[v, u] = -1
                    stack[n] = v * width + u
                    n += 1
    return n


@njit(nogil=True, cache=True)
def _cut_label(
    labels: np.ndarray, heights: np.ndarray, pixels: np.ndarray, last: int, depth: float, least: float
) -> int:
    """Flood one label from its highest to its lowest pixel; its parts get numbers above `last`. Returns the last of them."""
    height, width = labels.shape
    first = last + 1
    roots, peaks = np.empty(pixels.size, np.int32), np.empty(pixels.size, np.float32)
    n = 0
    for place in pixels:
        p = place & _POSITION
        y, x = p // width, p % width
        here, best = heights[y, x], -1
        for v in range(max(y - 1, 0), min(y + 2, height)):
            for u in range(max(x - 1, 0), min(x + 2, width)):
                if labels[v, u] < first:
                    continue
                other = find_root(roots, labels[v, u] - first)
                if best < 0 or other == best:
                    best = other
                    continue
                if peaks[other] > peaks[best]:
                    best, other = other, best
                if peaks[other] - here < depth or peaks[other] < least:
                    roots[other] = best
        if best < 0:
            best = n
            roots[best], peaks[best] = best, here
            n += 1
        labels[y, x] = first + best
    number = np.full(n, -1, np.int32)
    for place in pixels:
        p = place & _POSITION
        y, x = p // width, p % width
        root = find_root(roots, labels[y, x] - first)
        if number[root] < 0:
            last += 1
            number[root] = last
        labels[y, x] = number[root]
    return last
