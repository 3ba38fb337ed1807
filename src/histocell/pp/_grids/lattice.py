"""Points between those of a grid, hexagonal or square, as weighted means of its points."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import Delaunay, QhullError, cKDTree

from histocell._core.geometry import spot_pitch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histocell._core.types import Floats, Ints

EDGE = 1.25  # neighbours are nearer than this, in units of the pitch; the next ones of a square grid are at 1.41
TRIANGLE = (
    1.6  # longest edge of a triangle of neighbours: the diagonal of a square grid, not the 1.73 of a hexagonal one
)
TOGETHER = 0.5  # points nearer than this are no neighbours, but one place


def between(xy: Floats, factor: int) -> tuple[Ints, Floats]:
    """The points that make a grid `factor` times as dense, where neighbours lie on both sides.

    Each edge between neighbours is parted into `factor` equal parts, and so is each triangle of neighbours; two triangles
    make the square of a square grid. What the grid lacks stays empty.

    Parameters
    ----------
    xy
        Points of a grid, shape ``(n, 2)``.
    factor
        Number of parts of an edge.

    Returns
    -------
    For each new point the points that it lies between, shape ``(m, 3)``, and their weights, which add up to 1; where it
    lies on an edge the last weight is 0.
    """
    pitch = spot_pitch(xy)
    edges = cKDTree(xy).query_pairs(EDGE * pitch, output_type="ndarray")
    edges = edges[_lengths(xy, edges) > TOGETHER * pitch]
    steps = np.arange(1, factor)
    parts = [_spread(edges, np.column_stack([factor - steps, steps]))]
    triangles = _triangles(xy, pitch)
    i, j = (each.ravel() for each in np.meshgrid(np.arange(factor + 1), np.arange(factor + 1)))
    corners = np.column_stack([i, j, factor - i - j])
    inside = (corners >= 0).all(axis=1) & (corners < factor).all(axis=1)
    parts.append(_spread(triangles, corners[inside]))
    found = np.unique(np.concatenate(parts), axis=0)  # an edge belongs to two triangles
    return np.maximum(found[:, :3], 0), found[:, 3:] / factor


def _triangles(xy: Floats, pitch: float) -> NDArray[np.intp]:
    """Three neighbours each, shape ``(t, 3)``."""
    try:
        triangles = Delaunay(xy).simplices.astype(np.intp)
    except (QhullError, ValueError):  # fewer than three points, or all on one line
        return np.empty((0, 3), dtype=np.intp)
    lengths = np.column_stack([_lengths(xy, triangles[:, pair]) for pair in ([0, 1], [1, 2], [2, 0])])
    return triangles[(lengths < TRIANGLE * pitch).all(axis=1) & (lengths > TOGETHER * pitch).all(axis=1)]


def _lengths(xy: Floats, pairs: NDArray[np.intp]) -> Floats:
    return np.hypot(*(xy[pairs[:, 0]] - xy[pairs[:, 1]]).T)


def _spread(simplices: NDArray[np.intp], weights: NDArray[np.intp]) -> NDArray[np.intp]:
    """Every simplex with every row of weights: three points, -1 without weight, and three weights; the points in order."""
    points = np.repeat(simplices, len(weights), axis=0)
    shares = np.tile(weights, (len(simplices), 1))
    if points.shape[1] == 2:
        points, shares = (np.column_stack([each, np.zeros(len(each), dtype=np.intp)]) for each in (points, shares))
    points = np.where(shares > 0, points, -1)
    order = np.argsort(-points, axis=1, kind="stable")
    return np.hstack([np.take_along_axis(each, order, axis=1) for each in (points, shares)])
