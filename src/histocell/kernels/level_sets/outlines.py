"""Outlines of objects chosen in a tree: each grows to the level at which its edge is steepest."""

from __future__ import annotations

import numpy as np

from histocell.kernels.compiled import njit
from histocell.kernels.level_sets.tree import N_LEVELS, Tree

_LEAST_EDGES = 4


@njit(nogil=True, cache=True)
def grow(tree: Tree, marks: np.ndarray, n: int, surface: np.ndarray, size_weight: float, largest: float) -> np.ndarray:
    """Labels of objects that have grown from their marks.

    All marks are flooded from high to low, which shares out the pixels above the floor. In its basin, the outline of
    an object is the level set around its mark with the largest product of mean step along the edge and area to the
    power of `size_weight`; edges between basins do not count.

    Parameters
    ----------
    tree
        From :func:`histocell.kernels.level_sets.tree.component_tree`.
    marks, n
        From :func:`histocell.kernels.level_sets.tree.choose_nodes`.
    surface
        Shape (h, w), float32: the map of the tree.
    size_weight
        Power of the area.
    largest
        Area in px that no level set may exceed.

    Returns
    -------
    Shape (h, w), int32, 1 to n, 0 outside.
    """
    height, width = surface.shape
    basins = _flood(tree, marks, width + 2)
    highest = np.full(n + 1, N_LEVELS, np.int32)  # not above the mark
    for t in range(tree.pixels.size):
        highest[marks[t]] = min(highest[marks[t]], tree.levels[tree.pixels[t]])
    best = _steepest_levels(basins, tree.levels, surface, highest, size_weight, largest)
    return _cut(tree, marks, basins, best, width + 2).reshape(height + 2, width + 2)[1:-1, 1:-1].copy()


@njit(nogil=True, cache=True)
def _flood(tree: Tree, marks: np.ndarray, row: int) -> np.ndarray:
    """The mark that reaches each pixel first, flat with a frame; one queue for each level."""
    levels = tree.levels
    labels = np.zeros(levels.size, np.int32)
    following = np.full(levels.size, -1, np.int32)
    first, last = np.full(N_LEVELS, -1, np.int32), np.full(N_LEVELS, -1, np.int32)
    for t in range(marks.size):
        if marks[t]:
            p, level = tree.pixels[t], levels[tree.pixels[t]]
            labels[p] = marks[t]
            if first[level] < 0:
                first[level] = p
            else:
                following[last[level]] = p
            last[level] = p
    level = N_LEVELS - 1
    while level >= 0:
        p = first[level]
        if p < 0:
            level -= 1
            continue
        first[level] = following[p]
        for d in (-row, -1, 1, row):
            q = p + d
            if labels[q] == 0 and levels[q] >= 0:
                labels[q] = labels[p]
                k = min(levels[q], level)
                if first[k] < 0:
                    first[k] = q
                else:
                    following[last[k]] = q
                last[k] = q
    return labels


@njit(nogil=True, cache=True)
def _steepest_levels(
    basins: np.ndarray,
    levels: np.ndarray,
    surface: np.ndarray,
    highest: np.ndarray,
    size_weight: float,
    largest: float,
) -> np.ndarray:
    """The level of the outline in each basin.

    The edge between two pixels is part of the outlines at all levels between them: it is entered at the first and
    taken out after the last, and running sums over the levels give the number of edges and their steps.
    """
    height, width = surface.shape
    row = width + 2
    area = np.zeros((highest.size, N_LEVELS), np.float32)
    edges = np.zeros((highest.size, N_LEVELS + 1), np.float32)
    steps = np.zeros((highest.size, N_LEVELS + 1), np.float32)
    for y in range(height):
        for x in range(width):
            p = (y + 1) * row + x + 1
            label = basins[p]
            if label == 0:
                continue
            area[label, levels[p]] += 1
            for k in range(4):
                v, u = y + (k == 3) - (k == 0), x + (k == 2) - (k == 1)
                if v < 0 or v >= height or u < 0 or u >= width:
                    continue
                q = (v + 1) * row + u + 1
                if levels[q] < levels[p] and (basins[q] == label or basins[q] == 0):
                    step = abs(surface[y, x] - surface[v, u])
                    edges[label, levels[q] + 1] += 1
                    edges[label, levels[p] + 1] -= 1
                    steps[label, levels[q] + 1] += step
                    steps[label, levels[p] + 1] -= step
    best = np.zeros(highest.size, np.int32)
    for label in range(1, highest.size):
        for level in range(1, N_LEVELS):
            edges[label, level] += edges[label, level - 1]
            steps[label, level] += steps[label, level - 1]
        best[label] = highest[label]
        top, inside = 0.0, 0.0
        for level in range(N_LEVELS - 1, -1, -1):
            inside += area[label, level]
            if inside > largest:
                break
            if level <= highest[label] and edges[label, level] >= _LEAST_EDGES:
                value = steps[label, level] / edges[label, level] * inside**size_weight
                if value > top:
                    top, best[label] = value, level
    return best


@njit(nogil=True, cache=True)
def _cut(tree: Tree, marks: np.ndarray, basins: np.ndarray, best: np.ndarray, row: int) -> np.ndarray:
    """The part of each basin at or above its level that is connected to its mark."""
    labels = np.zeros(basins.size, np.int32)
    stack = np.empty(basins.size, np.int32)
    n = 0
    for t in range(marks.size):
        if marks[t]:
            labels[tree.pixels[t]] = marks[t]
            stack[n] = tree.pixels[t]
            n += 1
    while n:
        n -= 1
        p = stack[n]
        for d in (-row, -1, 1, row):
            q = p + d
            if labels[q] == 0 and basins[q] == labels[p] and tree.levels[q] >= best[labels[p]]:
                labels[q] = labels[p]
                stack[n] = q
                n += 1
    return labels
