"""Nearest neighbour and local density of points."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from histocell._core.types import Floats

DENSITY_UM = 50.0
_CHORDS = 64


def surroundings(points: Floats, size: tuple[float, float]) -> Floats:
    """Distance to the nearest other point, and points per mm2 within 50 um.

    Parameters
    ----------
    points
        x and y in um, shape (n, 2); rows that are NaN do not count.
    size
        Width and height of the image in um: a circle is divided by its area within the image.

    Returns
    -------
    Shape (n, 2); NaN of rows that are NaN, and the distance of a point that is alone.
    """
    out = np.full((len(points), 2), np.nan)
    known = np.flatnonzero(np.isfinite(points).all(axis=1))
    if len(known) == 0:
        return out
    tree = cKDTree(points[known])
    if len(known) > 1:
        out[known, 0] = tree.query(points[known], k=[2], workers=-1)[0][:, 0]
    number = tree.query_ball_point(points[known], DENSITY_UM, return_length=True, workers=-1)
    area = circle_in_rectangle(points[known], DENSITY_UM, size)
    with np.errstate(divide="ignore"):
        out[known, 1] = np.where(area > 0, number / area * 1e6, np.nan)
    return out


def circle_in_rectangle(points: Floats, radius: float, size: tuple[float, float]) -> Floats:
    """Area of a circle around each point, shape (n, 2), that lies within 0 to `size` (width, height)."""
    out = np.full(len(points), np.pi * radius**2)
    low, high = points - radius, points + radius
    cut = np.flatnonzero((low < 0).any(axis=1) | (high > size).any(axis=1))
    angles = (np.arange(_CHORDS) + 0.5) * np.pi / _CHORDS  # chords at -r cos, so that the ends are fine
    offsets, half = -radius * np.cos(angles), radius * np.sin(angles)
    y = points[cut, 1, None] + offsets
    x0, x1 = np.maximum(points[cut, 0, None] - half, 0), np.minimum(points[cut, 0, None] + half, size[0])
    inside = (y >= 0) & (y <= size[1]) & (x1 > x0)
    widths = half * np.pi / _CHORDS  # dy = r sin(angle) d angle
    out[cut] = (np.where(inside, x1 - x0, 0) * widths).sum(axis=1)
    return out
