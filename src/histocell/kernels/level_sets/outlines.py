"""Outlines of objects chosen in a tree: each grows to the level at which its edge is steepest."""

from __future__ import annotations

import numpy as np

from histocell.kernels.compiled import njit
from histocell.kernels.level_sets.tree import FRAME, N_LEVELS, Tree

_LEAST_EDGES = 4
_NEVER = FRAME - 1


def grow(
    tree: Tree, nodes: np.ndarray, marks: np.ndarray, shape: tuple[int, int], size_weight: float, largest: float
) -> np.ndarray:
    """Labels of objects that have grown from their marks.

    All marks are flooded from high to low, which shares out the pixels above the floor. In its basin, the outline of
    an object is the level set around its mark with the largest product of mean step along the edge and area to the
    power of `size_weight`; edges between basins do not count.

    Parameters
    ----------
    tree
        From :func:`histocell.kernels.level_sets.tree.component_tree`.
    nodes, marks
        From :func:`histocell.kernels.level_sets.tree.choose_nodes`; the marks become the basins, in place.
    shape
        Height and width of the map of the tree.
    size_weight
        Power of the area.
    largest
        Area in px that no level set may exceed.

    Returns
    -------
    Shape (h, w), int32, from 1 in the order of the nodes, 0 outside.
    """
    row = shape[1] + 2
    highest = np.concatenate([[-1], tree.levels[tree.order[tree.stops[nodes] - 1]]]).astype(np.int32)
    reached = tree.levels.copy()
    _flood(tree.levels, marks, reached, np.empty(marks.size, np.int32), _groups(tree.parents, nodes), row)
    best = _steepest_levels(tree, marks, highest, row, size_weight, largest)
    out = np.empty(shape, np.int32)
    _cut(marks, reached, best, out)
    return out


@njit(nogil=True, cache=True)
def _cut(basins: np.ndarray, reached: np.ndarray, best: np.ndarray, out: np.ndarray) -> None:
    """Write what is reached from each mark without going below its best level."""
    height, width = out.shape
    for y in range(height):
        inner = slice((y + 1) * (width + 2) + 1, (y + 2) * (width + 2) - 1)
        labels, lowest, there = basins[inner], reached[inner], out[y]
        for x in range(width):
            there[x] = labels[x] if _NEVER - lowest[x] >= best[labels[x]] else 0


@njit(nogil=True, cache=True)
def _groups(parents: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """Number of the root, from 1, that holds each node, after a 0 for none; nodes come from the last to the first."""
    groups = np.zeros(nodes.size + 1, np.int32)
    n = k = 0
    for t in range(parents.size - 1, -1, -1):
        n += parents[t] == t
        if k < nodes.size and nodes[k] == t:
            k += 1
            groups[k] = n
    return groups


@njit(nogil=True, cache=True)
def _flood(
    levels: np.ndarray, marks: np.ndarray, reached: np.ndarray, edge: np.ndarray, groups: np.ndarray, row: int
) -> None:
    """Give each pixel the mark that reaches it first, in place; one queue for each level.

    One group of marks comes after the other, which stays near in memory: no pixel is in reach of two groups. `reached`
    starts as the levels and becomes, in place, `_NEVER` less the lowest level on the way from the mark to each pixel,
    which is negative. `edge` holds pixels of marks from which others are reached, then the queues.
    """
    n_groups = groups.max()
    starts = np.zeros(n_groups + 2, np.int64)
    for p in range(marks.size):
        reached[p] = _NEVER - N_LEVELS if marks[p] else reached[p]
    n_edge = 0
    for p in range(row, marks.size - row):
        if marks[p] and max(reached[p - row], reached[p - 1], reached[p + 1], reached[p + row]) >= 0:
            edge[n_edge] = p
            n_edge += 1
            starts[groups[marks[p]] + 1] += 1
    starts = np.cumsum(starts)
    seeds = np.empty(n_edge, np.int32)
    for k in range(n_edge):
        group = groups[marks[edge[k]]]
        seeds[starts[group]] = edge[k]
        starts[group] += 1  # in the end, where the next group starts
    first, last = np.full(N_LEVELS, -1, np.int32), np.full(N_LEVELS, -1, np.int32)
    for group in range(1, n_groups + 1):
        level = -1
        for p in seeds[starts[group - 1] : starts[group]]:
            level = max(level, levels[p])
            _enqueue(first, last, edge, p, levels[p])
        _flood_group(marks, reached, level, (first, last, edge), row)


@njit(nogil=True, cache=True)
def _flood_group(
    marks: np.ndarray,
    reached: np.ndarray,
    level: int,
    queues: tuple[np.ndarray, np.ndarray, np.ndarray],
    row: int,
) -> None:
    """Flood down from a level. Queues are the first and the last pixel of each level, and the one that follows each pixel."""
    first, last, following = queues
    while level >= 0:
        p = first[level]
        if p < 0:
            level -= 1
            continue
        first[level] = following[p]
        for d in (-row, -1, 1, row):
            q = p + d
            if reached[q] >= 0:
                lowest = min(reached[q], level)
                reached[q] = _NEVER - lowest
                marks[q] = marks[p]
                _enqueue(first, last, following, q, lowest)


@njit(nogil=True, cache=True)
def _enqueue(first: np.ndarray, last: np.ndarray, following: np.ndarray, p: int, level: int) -> None:
    if first[level] < 0:
        first[level] = p
    else:
        following[last[level]] = p
    last[level] = p
    following[p] = -1


@njit(nogil=True, cache=True)
def _steepest_levels(
    tree: Tree, basins: np.ndarray, highest: np.ndarray, row: int, size_weight: float, largest: float
) -> np.ndarray:
    """The level of the outline in each basin.

    The edge between two pixels is part of the outlines at all levels between them: it is entered at the first and
    taken out after the last, and running sums over the levels give the number of edges and their steps.
    """
    levels, heights = tree.levels, tree.heights
    offsets = np.cumsum(highest + 2) - 1  # of the levels of each basin, up to its highest
    area = np.zeros(offsets[-1] + 1, np.float32)
    edges = np.zeros((offsets[-1] + 1, 2), np.float32)  # number, sum of steps
    offsets -= highest
    for p in range(row, levels.size - row):
        label = basins[p]
        if label == 0:
            continue
        at, top, level = offsets[label], highest[label], levels[p]
        inner = min(level, top)
        area[at + inner] += 1
        for d in (-row, -1, 1, row):
            other = levels[p + d]
            if FRAME < other < inner and (basins[p + d] == label or basins[p + d] == 0):
                step = abs(heights[p] - heights[p + d])
                edges[at + other + 1, 0] += 1
                edges[at + other + 1, 1] += step
                if level < top:
                    edges[at + level + 1, 0] -= 1
                    edges[at + level + 1, 1] -= step
    weights = np.arange(int(largest) + 1) ** size_weight
    best = highest.copy()
    for label in range(1, highest.size):
        at = offsets[label]
        for k in range(at + 1, at + highest[label] + 1):
            edges[k, 0] += edges[k - 1, 0]
            edges[k, 1] += edges[k - 1, 1]
        top, inside = 0.0, 0.0
        for level in range(highest[label], -1, -1):
            inside += area[at + level]
            if inside > largest:
                break
            if edges[at + level, 0] >= _LEAST_EDGES:
                value = edges[at + level, 1] / edges[at + level, 0] * weights[int(inside)]
                if value > top:
                    top, best[label] = value, level
    return best
