"""Flooding of a haematoxylin map into nuclei, their moments and their surroundings."""

from __future__ import annotations

import math

import numpy as np

from histocell.kernels.compiled import njit

N_LEVELS = 1024
MEASURES = ("y", "x", "area", "elongation", "fill", "h_mean", "h_sd", "e_mean", "cos2", "sin2")


def flood(surface: np.ndarray, mask: np.ndarray, depth: float) -> tuple[np.ndarray, int]:
    """Split a mask into the basins around the peaks of a surface.

    Pixels are visited from the highest to the lowest. A pixel joins the neighbouring basin with the highest peak; two
    basins that meet become one unless both rise by more than `depth` above the pass between them (Vincent and Soille's
    flooding with peaks selected by their dynamics).

    Parameters
    ----------
    surface
        Shape (h, w), float32, about 0 to 2.
    mask
        Shape (h, w), bool.
    depth
        Least height of a peak above the pass to a higher one.

    Returns
    -------
    Labels, shape (h, w), int32 from 1 (0 outside of the mask), and their number.
    """
    labels, n = _basins(*_from_highest(surface, mask), (surface.shape[0] + 2, surface.shape[1] + 2), depth)
    return np.ascontiguousarray(labels[1:-1, 1:-1]), n


@njit(nogil=True, cache=True)
def _from_highest(surface: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of a mask from the highest to the lowest, and their heights; a counting sort, faster than numpy's.

    Pixels are flat positions in an array with a frame of one pixel, so that each has 8 neighbours.
    """
    height, width = surface.shape
    levels = np.empty(surface.shape, np.int16)
    starts = np.zeros(N_LEVELS + 1, np.int64)
    for y in range(height):
        for x in range(width):
            if mask[y, x]:
                levels[y, x] = N_LEVELS - 1 - min(max(int(surface[y, x] * (N_LEVELS / 2)), 0), N_LEVELS - 1)
                starts[levels[y, x] + 1] += 1
    starts = np.cumsum(starts)
    order = np.empty(starts[-1], np.int64)
    heights = np.empty(starts[-1], np.float32)
    for y in range(height):
        for x in range(width):
            if mask[y, x]:
                rank = starts[levels[y, x]]
                starts[levels[y, x]] += 1
                order[rank], heights[rank] = (y + 1) * (width + 2) + x + 1, surface[y, x]
    return order, heights


@njit(nogil=True, cache=True)
def _root(parent: np.ndarray, node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@njit(nogil=True, cache=True)
def _basins(order: np.ndarray, heights: np.ndarray, shape: tuple[int, int], depth: float) -> tuple[np.ndarray, int]:
    """Basin of each pixel of an array, 0 where there is none, and the number of basins.

    Parameters
    ----------
    order, heights
        Flat positions of the pixels, from the highest to the lowest, and how high they are. None lies at the border.
    shape
        Shape of the array.
    depth
        As in :func:`flood`.
    """
    width = shape[1]
    around = np.array([-width - 1, -width, -width + 1, -1, 1, width - 1, width, width + 1])
    labels = np.zeros(shape[0] * width, np.int32)
    parent = np.empty(order.size + 1, np.int32)
    peak = np.empty(order.size + 1, np.float32)
    met = np.empty(8, np.int32)
    n_basins = 0
    for t in range(order.size):
        p, here = order[t], heights[t]
        best = last = n_met = 0
        for k in range(8):
            label = labels[p + around[k]]
            if label and label != last:
                last = label
                root = _root(parent, label)
                if root != best:
                    if best == 0 or peak[root] > peak[best]:
                        best = root
                    met[n_met] = root
                    n_met += 1
        # Only basins that meet the one this pixel joins: else the two would not be connected.
        for k in range(n_met):
            if met[k] != best and peak[met[k]] - here < depth:
                parent[met[k]] = best
        if best == 0:
            n_basins += 1
            best = n_basins
            parent[best] = best
            peak[best] = here
        labels[p] = best
    number = np.zeros(n_basins + 1, np.int32)
    n = 0
    for basin in range(1, n_basins + 1):
        if parent[basin] == basin:
            n += 1
            number[basin] = n
    for basin in range(1, n_basins + 1):
        number[basin] = number[_root(parent, basin)]
    for p in order:
        labels[p] = number[labels[p]]
    return labels.reshape(shape), n


@njit(nogil=True, cache=True)
def measure(labels: np.ndarray, n: int, maps: np.ndarray) -> np.ndarray:
    """Position, shape and stain of each label.

    Parameters
    ----------
    labels
        Shape (h, w), int32, 1 to `n`.
    n
        Number of labels.
    maps
        Shape (2 or more, h, w), float32: haematoxylin, eosin.

    Returns
    -------
    Shape (n, 10), float64, columns :data:`MEASURES`: centroid and area in px, axis ratio >= 1 of the ellipse with the
    same moments, area over the area of that ellipse, mean and standard deviation of haematoxylin, mean eosin, and the
    cosine and sine of twice the angle of the long axis.
    """
    sums = np.zeros((n, 9))
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            label = labels[y, x]
            if label:
                row = sums[label - 1]
                h = maps[0, y, x]
                row[0] += 1
                row[1] += y
                row[2] += x
                row[3] += y * y
                row[4] += x * x
                row[5] += y * x
                row[6] += h
                row[7] += h * h
                row[8] += maps[1, y, x]
    out = np.zeros((n, 10))
    for i in range(n):
        area = sums[i, 0]
        if area == 0:
            continue
        y, x = sums[i, 1] / area, sums[i, 2] / area
        # a pixel is a unit square: 1/12 is its own variance
        vy = sums[i, 3] / area - y * y + 1 / 12
        vx = sums[i, 4] / area - x * x + 1 / 12
        c = sums[i, 5] / area - y * x
        half, root = 0.5 * (vx + vy), math.sqrt(0.25 * (vx - vy) ** 2 + c * c)
        small = max(half - root, 1 / 12)
        large = max(half + root, small)
        angle = math.atan2(2 * c, vx - vy) if root > 0 else 0.0
        h = sums[i, 6] / area
        out[i, 0], out[i, 1], out[i, 2] = y, x, area
        out[i, 3] = math.sqrt(large / small)
        out[i, 4] = area / (4 * math.pi * math.sqrt(large * small))
        out[i, 5] = h
        out[i, 6] = math.sqrt(max(sums[i, 7] / area - h * h, 0.0))
        out[i, 7] = sums[i, 8] / area
        out[i, 8], out[i, 9] = math.cos(angle), math.sin(angle)
    return out


@njit(nogil=True, cache=True)
def surround(labels: np.ndarray, maps: np.ndarray, centers: np.ndarray, radius: int) -> np.ndarray:
    """Mean of two maps over the unlabelled pixels of a square window around each centre.

    Parameters
    ----------
    labels
        Shape (h, w), int32, 0 where unlabelled.
    maps
        Shape (2 or more, h, w), float32.
    centers
        Shape (n, 2): y, x in px.
    radius
        Half width of the window in px.

    Returns
    -------
    Shape (n, 2), float64; 0 where the window holds labels only.
    """
    height, width = labels.shape
    out = np.zeros((centers.shape[0], 2))
    for i in range(centers.shape[0]):
        y, x = int(round(centers[i, 0])), int(round(centers[i, 1]))
        count = 0
        for yy in range(max(y - radius, 0), min(y + radius + 1, height)):
            for xx in range(max(x - radius, 0), min(x + radius + 1, width)):
                if labels[yy, xx] == 0:
                    count += 1
                    out[i, 0] += maps[0, yy, xx]
                    out[i, 1] += maps[1, yy, xx]
        if count:
            out[i, 0] /= count
            out[i, 1] /= count
    return out
