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
    """A component tree: each entry is a node, a connected part of a level set, {map >= level}; children come before parents.

    Attributes
    ----------
    levels
        Shape of the map with a frame of one pixel, flat, int16: level of each pixel, -1 below the floor, -2 in the frame.
    heights
        The map with the frame, flat, float32.
    order
        Flat positions, with the frame, of all pixels above the floor; those of a node come one after the other.
    stops
        Shape (n,): where in the order the pixels of each node end. The last of them has the level of the node.
    parents
        Shape (n,): the smallest node that holds each node, the node itself at a root.
    sums
        Shape (n, 8): number of pixels, y, x, y², x², xy, number of edges to pixels outside, and the sum of the steps
        of the map over these edges.
    """

    levels: np.ndarray
    heights: np.ndarray
    order: np.ndarray
    stops: np.ndarray
    parents: np.ndarray
    sums: np.ndarray


def component_tree(surface: np.ndarray, floor: float, step: float, least: float = 1) -> Tree:
    """The tree of the level sets floor, floor + step, floor + 2 step, ... of a map (h, w), float32.

    Nodes of less than `least` pixels are left out. The map is flooded from top to top, which stays near in memory, and
    nodes close when the flood leaves them.

    References
    ----------
    Nistér and Stewénius (2008), Linear time maximally stable extremal regions.
    """
    # arrays of an image are made here and not in compiled code: numpy asks for large pages, which are faster
    row = surface.shape[1] + 2
    levels = np.empty((surface.shape[0] + 2) * row, np.int16)
    heights, following = np.empty(levels.size, np.float32), np.empty(levels.size, np.int32)
    n = _to_levels(surface, floor, step, levels, heights)
    order, stops, parents = np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.int32)
    tree = Tree(levels, heights, order, stops, parents, np.empty((n, _N_SUMS)))
    n = _flood(tree, levels.copy(), following, row, least)
    return tree._replace(stops=stops[:n], parents=parents[:n], sums=tree.sums[:n])


@njit(nogil=True, cache=True)
def _to_levels(surface: np.ndarray, floor: float, step: float, levels: np.ndarray, heights: np.ndarray) -> int:
    """Fill in the levels and the heights of a tree; returns the number of pixels above the floor."""
    row = surface.shape[1] + 2
    levels[:row] = levels[-row:] = FRAME
    n = 0
    for y in range(surface.shape[0]):
        start = (y + 1) * row
        here, there = surface[y], levels[start + 1 : start + row - 1]
        heights[start + 1 : start + row - 1] = here
        levels[start] = levels[start + row - 1] = FRAME
        for x in range(here.size):
            above = here[x] >= floor
            there[x] = min(int((here[x] - floor) / step), N_LEVELS - 1) if above else -1
            n += above
    return n


@njit(nogil=True, cache=True)
def _flood(tree: Tree, waiting: np.ndarray, following: np.ndarray, row: int, least: float) -> int:
    """Fill in the nodes of a tree; returns their number.

    `waiting` starts as the levels and becomes -2 where the flood has been; `following` is the next of the pixels that
    wait at a level.
    """
    levels, per_row = tree.levels, 1 / row
    first = np.full(N_LEVELS, -1, np.int32)
    # nodes not yet closed, each inside the one before: their level, last child, and the sums before their first pixel
    open_nodes = np.empty((N_LEVELS + 1, 2), np.int32)
    before = np.empty((N_LEVELS + 1, _N_SUMS))
    sums = np.zeros(_N_SUMS)
    n = done = 0
    for start in range(row, levels.size - row):
        if waiting[start] < 0:
            continue
        p = higher = start
        level = top = -1
        sums[:] = 0
        while True:
            if higher >= 0:
                p, level = higher, levels[higher]
                waiting[p] = FRAME
                top += 1
                open_nodes[top, 0], open_nodes[top, 1] = level, -1
                for k in range(_N_SUMS):
                    before[top, k] = sums[k]
                higher = -1
            for d in (-row, -1, 1, row):
                other = waiting[p + d]
                if other > level:
                    higher = p + d
                    break
                if other >= 0:
                    q = p + d
                    waiting[q] = FRAME
                    following[q] = first[other]
                    first[other] = q
            if higher >= 0:
                following[p] = first[level]
                first[level] = p
                continue
            tree.order[done] = p
            done += 1
            _add_pixel(sums, tree, p, row, per_row)
            lower = level
            while lower >= 0 and first[lower] < 0:
                lower -= 1
            if lower < level:
                top, n = _close(open_nodes, before, sums, top, lower, done, tree, n, least)
                level = lower
            if lower < 0:
                break
            p = first[lower]
            first[lower] = following[p]
    return n


@njit(nogil=True, cache=True)
def _add_pixel(sums: np.ndarray, tree: Tree, p: int, row: int, per_row: float) -> None:
    levels, heights = tree.levels, tree.heights
    y = int((p + 0.5) * per_row)  # p // row is slow
    x = p - y * row
    level, here, edges, steps = levels[p], heights[p], 0, 0.0
    for d in (-row, -1, 1, row):
        other = levels[p + d]
        inside = other != FRAME
        edges += inside * ((other < level) - (other > level))  # edges to higher pixels are now inside
        steps += float(here - heights[p + d]) if inside and other != level else 0.0
    sums[0] += 1
    sums[1] += y
    sums[2] += x
    sums[3] += y * y
    sums[4] += x * x
    sums[5] += y * x
    sums[6] += edges
    sums[7] += steps


@njit(nogil=True, cache=True)
def _close(
    open_nodes: np.ndarray,
    before: np.ndarray,
    sums: np.ndarray,
    top: int,
    level: int,
    done: int,
    tree: Tree,
    n: int,
    least: float,
) -> tuple[int, int]:
    """Close all open nodes above a level; returns the last that is open, and the number of closed ones.

    Until a parent is closed, `parents` links its children, each to the one before.
    """
    while top >= 0 and open_nodes[top, 0] > level:
        node = -1
        if sums[0] - before[top, 0] >= least:
            node = n
            n += 1
            tree.stops[node] = done
            for k in range(_N_SUMS):
                tree.sums[node, k] = sums[k] - before[top, k]
            child = open_nodes[top, 1]
            while child >= 0:
                previous = tree.parents[child]
                tree.parents[child] = node
                child = previous
        if top > 0 and open_nodes[top - 1, 0] >= level:
            top -= 1
            if node >= 0:
                tree.parents[node] = open_nodes[top, 1]
                open_nodes[top, 1] = node
        elif level >= 0:
            open_nodes[top, 0] = level
            if node >= 0:
                tree.parents[node] = -1
                open_nodes[top, 1] = node
        else:
            top -= 1
            if node >= 0:
                tree.parents[node] = node
    return top, n


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


def choose_nodes(
    tree: Tree,
    areas: tuple[float, float, float],
    slopes: tuple[float, float],
    fills: tuple[float, float],
    lump: float,
) -> tuple[np.ndarray, np.ndarray]:
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
    The chosen nodes, and which of them each pixel lies in, from 1 (0 outside of them), flat with the frame.
    """
    marks = np.zeros(tree.levels.size, np.int32)
    return _choose_nodes(tree, areas, slopes, fills, lump, marks), marks


@njit(nogil=True, cache=True)
def _choose_nodes(
    tree: Tree,
    areas: tuple[float, float, float],
    slopes: tuple[float, float],
    fills: tuple[float, float],
    lump: float,
    marks: np.ndarray,
) -> np.ndarray:
    order, stops, parents, sums = tree.order, tree.stops, tree.parents, tree.sums
    n = stops.size
    inner = np.zeros(n)  # sum of the scores of the best choice below a node
    chosen = np.zeros(n, np.bool_)
    for t in range(n):
        score = 0.0
        area, edges = sums[t, 0], sums[t, 6]
        if areas[0] <= area <= areas[1] and edges > 0:
            steep = (sums[t, 7] / edges - slopes[0]) / (slopes[1] - slopes[0])
            full = (ellipse_fill(sums[t]) - fills[0]) / (fills[1] - fills[0])
            score = min(max(steep, 0.0), 1.5) * min(max(full, 0.0), 1.0) * min(area / areas[2], 1.0)
        chosen[t] = score > 0 and lump * score >= inner[t]
        if parents[t] != t:
            inner[parents[t]] += score if chosen[t] else inner[t]
    nodes = [0 for _ in range(0)]
    for t in range(n - 1, -1, -1):
        if chosen[t] and marks[order[stops[t] - 1]] == 0:  # not inside another
            nodes.append(t)
            for k in range(stops[t] - int(sums[t, 0]), stops[t]):
                marks[order[k]] = len(nodes)
    return np.array(nodes, np.int64)
