"""Tree of the connected parts of all level sets of a map, and the parts in it that look like nuclei."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from histocell.kernels.compiled import njit

N_LEVELS = 160
FRAME = -2  # level of the frame around a map
_N_SUMS = 8


class Tree(NamedTuple):
    """A component tree: each entry is a pixel above the floor, from the highest to the lowest.

    A node of the tree is a connected part of a level set, {map >= level}. It is stood for by the last of its pixels of
    its own level; all others of that level are its children, as are the nodes of higher levels that it holds.

    Attributes
    ----------
    pixels
        Shape (n,): flat positions in an array with a frame of one pixel.
    levels
        Shape of that array, flat, int16: level of each pixel, -1 below the floor, -2 in the frame.
    parents
        Shape (n,): the parent of each entry, the entry itself at a root.
    sums
        Shape (n, 8): number of pixels, y, x, y², x², xy, number of edges to pixels outside, and the sum of the steps
        of the map over these edges.
    """

    pixels: np.ndarray
    levels: np.ndarray
    parents: np.ndarray
    sums: np.ndarray


@njit(nogil=True, cache=True)
def component_tree(surface: np.ndarray, floor: float, step: float) -> Tree:
    """The tree of the level sets floor, floor + step, floor + 2 step, ... of a map (h, w), float32.

    References
    ----------
    Berger et al. (2007), Effective component tree computation with application to pattern recognition in astronomical
    imaging.
    """
    height, width = surface.shape
    row = width + 2
    levels = np.full((height + 2) * row, FRAME, np.int16)
    heights = np.zeros(levels.size, np.float32)
    starts = np.zeros(N_LEVELS + 1, np.int64)
    for y in range(height):
        for x in range(width):
            p, here = (y + 1) * row + x + 1, surface[y, x]
            levels[p], heights[p] = -1, here
            if here >= floor:
                level = min(int((here - floor) / step), N_LEVELS - 1)
                levels[p] = level
                starts[N_LEVELS - level] += 1
    starts = np.cumsum(starts)
    pixels = np.empty(starts[-1], np.int32)
    for p in range(row, levels.size - row):
        if levels[p] >= 0:
            rank = N_LEVELS - 1 - levels[p]
            pixels[starts[rank]] = p
            starts[rank] += 1
    parents, sums = _join(heights, pixels, levels, row)
    return Tree(pixels, levels, parents, sums)


@njit(nogil=True, cache=True)
def _join(heights: np.ndarray, pixels: np.ndarray, levels: np.ndarray, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Parents and sums of a tree whose pixels are sorted."""
    n = pixels.size
    entry = np.full(levels.size, -1, np.int32)
    parents, roots = np.empty(n, np.int32), np.empty(n, np.int32)
    sums = np.empty((n, _N_SUMS))
    around = np.array([-row, -1, 1, row])
    for t in range(n):
        p = pixels[t]
        here = heights[p]
        parents[t] = roots[t] = t
        edges, steps = 0, np.float32(0)
        for k in range(4):
            q = p + around[k]
            if levels[q] == FRAME:
                continue
            gap = abs(here - heights[q])
            if entry[q] >= 0:  # higher: the edge between the two is now inside
                root = find_root(roots, entry[q])
                if root != t:
                    parents[root] = roots[root] = t
                edges -= 1
                steps -= gap
            else:
                edges += 1
                steps += gap
        entry[p] = t
        y = p // row
        x = p - y * row
        own = sums[t]
        own[0], own[1], own[2], own[3], own[4], own[5] = 1, y, x, y * y, x * x, y * x
        own[6], own[7] = edges, steps
    for t in range(n - 1, -1, -1):
        parent = parents[t]
        if levels[pixels[parents[parent]]] == levels[pixels[parent]]:
            parents[t] = parents[parent]
    for t in range(n):
        parent = parents[t]
        if parent != t:
            for k in range(_N_SUMS):
                sums[parent, k] += sums[t, k]
    return parents, sums


@njit(nogil=True, cache=True)
def find_root(roots: np.ndarray, node: int) -> int:
    """The root of a node of a forest; halves the path to it."""
    while roots[node] != node:
        roots[node] = roots[roots[node]]
        node = roots[node]
    return node


@njit(nogil=True, cache=True)
def ellipse_fill(sums: np.ndarray) -> float:
    """Area over that of the ellipse with the same moments, from the sums of :class:`Tree`: 1 for an ellipse."""
    area = sums[0]
    y, x = sums[1] / area, sums[2] / area
    vy, vx, c = sums[3] / area - y * y + 1 / 12, sums[4] / area - x * x + 1 / 12, sums[5] / area - y * x
    return area / (4 * math.pi * math.sqrt(max(vy * vx - c * c, 1e-6)))


@njit(nogil=True, cache=True)
def choose_nodes(
    tree: Tree,
    areas: tuple[float, float, float],
    slopes: tuple[float, float],
    fills: tuple[float, float],
    lump: float,
) -> tuple[np.ndarray, int]:
    """The nodes that look most like nuclei, none inside another.

    The score of a node is the product of three ramps: how steep the map is along its outline, how well it fills an
    ellipse and how large it is. Of a node and the best choice within it, the one with the larger sum of scores is
    taken.

    Parameters
    ----------
    tree
        From :func:`component_tree`.
    areas
        In px: smallest and largest node, and the area from which the score does not grow any more.
    slopes
        Mean step per px along the outline at which the score starts to grow, and at which it is 1; it ends at 1.5.
    fills
        The same for :func:`ellipse_fill`; it ends at 1.
    lump
        Factor of the score of a node when it is compared with the choice within it.

    Returns
    -------
    The chosen node that each entry of the tree lies in, from 1 (0 outside of them), and their number.
    """
    pixels, levels, parents, sums = tree
    n = pixels.size
    inner = np.zeros(n)  # sum of the scores of the best choice below a node
    chosen = np.zeros(n, np.bool_)
    for t in range(n):
        parent = parents[t]
        if parent != t and levels[pixels[parent]] == levels[pixels[t]]:
            continue
        score = 0.0
        area, edges = sums[t, 0], sums[t, 6]
        if areas[0] <= area <= areas[1] and edges > 0:
            steep = (sums[t, 7] / edges - slopes[0]) / (slopes[1] - slopes[0])
            full = (ellipse_fill(sums[t]) - fills[0]) / (fills[1] - fills[0])
            score = min(max(steep, 0.0), 1.5) * min(max(full, 0.0), 1.0) * min(area / areas[2], 1.0)
        chosen[t] = score > 0 and lump * score >= inner[t]
        if parent != t:
            inner[parent] += score if chosen[t] else inner[t]
    labels = np.zeros(n, np.int32)
    count = 0
    for t in range(n - 1, -1, -1):
        parent = parents[t]
        if parent != t and (labels[parent] > 0 or levels[pixels[parent]] == levels[pixels[t]]):
            labels[t] = labels[parent]
        elif chosen[t]:
            count += 1
            labels[t] = count
    return labels, count
