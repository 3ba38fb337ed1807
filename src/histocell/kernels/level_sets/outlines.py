"""Outlines of objects chosen in a tree: each grows to the level at which its edge is steepest."""

from __future__ import annotations

import numpy as np

from histocell.kernels.compiled import njit
from histocell.kernels.level_sets.tree import FRAME, N_LEVELS, Tree

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
        From :func:`histocell.kernels.level_sets.tree.choose_nodes`; the marks grow in place.
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
    row = width + 2
    highest = np.full(n + 1, N_LEVELS, np.int32)  # not above the mark
    groups = np.zeros(n + 1, np.int32)  # marks of one root
    roots = np.empty(tree.parents.size, np.int32)
    n_groups = 0
    for t in range(roots.size - 1, -1, -1):
        if tree.parents[t] == t:
            n_groups += 1
            roots[t] = n_groups
        else:
            roots[t] = roots[tree.parents[t]]
        mark = marks[tree.pixels[t]]
        groups[mark] = roots[t]
        highest[mark] = min(highest[mark], tree.levels[tree.pixels[t]])
    basins = _flood(tree.levels, marks, groups, n_groups, row)
    best = _steepest_levels(basins, tree.levels, surface, highest, size_weight, largest)
    _cut(tree.levels, marks, basins, best, row)
    return marks.reshape(height + 2, row)[1:-1, 1:-1].copy()


@njit(nogil=True, cache=True)
def _flood(levels: np.ndarray, marks: np.ndarray, groups: np.ndarray, n_groups: int, row: int) -> np.ndarray:
    """The mark that reaches each pixel first, flat with a frame; one queue for each level.

    One group of marks comes after the other, which stays near in memory: no pixel is in reach of two groups.
    """
    labels = marks.copy()
    starts = np.zeros(n_groups + 2, np.int64)
    edge = np.empty(marks.size, np.int32)  # pixels of marks from which others are reached
    n_edge = 0
    for p in range(row, marks.size - row):
        if marks[p]:
            for d in (-row, -1, 1, row):
                if marks[p + d] == 0 and levels[p + d] >= 0:
                    edge[n_edge] = p
                    n_edge += 1
                    starts[groups[marks[p]] + 1] += 1
                    break
    starts = np.cumsum(starts)
    seeds = np.empty(n_edge, np.int32)
    for k in range(n_edge):
        group = groups[marks[edge[k]]]
        seeds[starts[group]] = edge[k]
        starts[group] += 1  # in the end, where the next group starts
    first, last = np.full(N_LEVELS, -1, np.int32), np.full(N_LEVELS, -1, np.int32)
    for group in range(1, n_groups + 1):
        _flood_group(labels, levels, seeds[starts[group - 1] : starts[group]], (first, last, edge), row)
    return labels


@njit(nogil=True, cache=True)
def _flood_group(
    labels: np.ndarray,
    levels: np.ndarray,
    seeds: np.ndarray,
    queues: tuple[np.ndarray, np.ndarray, np.ndarray],
    row: int,
) -> None:
    """Flood from the seeds. Queues are the first and the last pixel of each level, and the one that follows each pixel."""
    first, last, following = queues
    level = -1
    for p in seeds:
        level = max(level, levels[p])
        _enqueue(queues, p, levels[p])
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
                _enqueue(queues, q, min(levels[q], level))


@njit(nogil=True, cache=True)
def _enqueue(queues: tuple[np.ndarray, np.ndarray, np.ndarray], p: int, level: int) -> None:
    first, last, following = queues
    if first[level] < 0:
        first[level] = p
    else:
        following[last[level]] = p
    last[level] = p
    following[p] = -1


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
    edges = np.zeros((highest.size, N_LEVELS + 1, 2), np.float32)  # number, sum of steps
    heights, around, beside = surface.ravel(), np.array([-row, -1, 1, row]), np.array([-width, -1, 1, width])
    for y in range(height):
        for x in range(width):
            p, here = (y + 1) * row + x + 1, y * width + x
            label, level = basins[p], levels[p]
            if label == 0:
                continue
            area[label, level] += 1
            for k in range(4):
                q = p + around[k]
                other = levels[q]
                if FRAME < other < level and (basins[q] == label or basins[q] == 0):
                    step = abs(heights[here] - heights[here + beside[k]])
                    edges[label, other + 1, 0] += 1
                    edges[label, other + 1, 1] += step
                    edges[label, level + 1, 0] -= 1
                    edges[label, level + 1, 1] -= step
    weights = np.arange(int(largest) + 1) ** size_weight
    best = np.zeros(highest.size, np.int32)
    for label in range(1, highest.size):
        for level in range(1, N_LEVELS):
            edges[label, level, 0] += edges[label, level - 1, 0]
            edges[label, level, 1] += edges[label, level - 1, 1]
        best[label] = highest[label]
        top, inside = 0.0, 0.0
        for level in range(N_LEVELS - 1, -1, -1):
            inside += area[label, level]
            if inside > largest:
                break
            if level <= highest[label] and edges[label, level, 0] >= _LEAST_EDGES:
                value = edges[label, level, 1] / edges[label, level, 0] * weights[int(inside)]
                if value > top:
                    top, best[label] = value, level
    return best


@njit(nogil=True, cache=True)
def _cut(levels: np.ndarray, marks: np.ndarray, basins: np.ndarray, best: np.ndarray, row: int) -> None:
    """Extend each mark, in place, to the part of its basin at or above its level that is connected to it."""
    stack = np.empty(basins.size, np.int32)
    around = np.array([-row, -1, 1, row])
    for start in range(row, marks.size - row):
        label = marks[start]
        if label == 0:
            continue
        p, n = start, 0
        while True:
            for k in range(4):
                q = p + around[k]
                if marks[q] == 0 and basins[q] == label and levels[q] >= best[label]:
                    marks[q] = label
                    stack[n] = q
                    n += 1
            if n == 0:
                break
            n -= 1
            p = stack[n]
