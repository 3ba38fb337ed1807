"""Outlines drawn as paths where they are few, painted into an image where they are many."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely
from matplotlib.collections import PathCollection
from matplotlib.path import Path

from histocell.kernels.outlines.runs import fill, paint
from histocell.pl._points import MANY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from histocell._core.types import Floats, Ints

MOST_PATHS = 20_000  # beyond, paths take seconds and are smaller than what a figure shows
MOST_PX = 2400  # longer side of a painted image


def draw_paths(
    ax: Axes, geometry: NDArray[np.object_], rgba: Floats, *, filled: bool, alpha: float, linewidth: float
) -> None:
    """Outlines as paths, holes left out of their fill."""
    paths = [_path(each) for each in shapely.orient_polygons(geometry)]
    edges = rgba.copy()
    if filled:
        edges[:, :3] *= 0.6  # a darker border tells neighbours of one type apart
    faces = rgba * [1, 1, 1, alpha]
    shapes = PathCollection(paths, facecolors=faces if filled else "none", edgecolors=edges, linewidths=linewidth)
    shapes.set_rasterized(len(paths) > MANY)
    shapes.set_zorder(1)
    ax.add_collection(shapes, autolim=False)


def _path(polygon: shapely.Geometry) -> Path:
    _, xy, offsets = shapely.to_ragged_array([polygon], include_z=False)
    codes = np.full(len(xy), Path.LINETO, dtype=Path.code_type)
    codes[offsets[0][:-1]] = Path.MOVETO
    codes[offsets[0][1:] - 1] = Path.CLOSEPOLY
    return Path(xy, codes)


def draw_painted(ax: Axes, geometry: NDArray[np.object_], rgba: Floats, view: Floats, *, alpha: float) -> None:
    """Outlines filled, in an image of the view; each is at least one px. Their borders would be finer than a px."""
    (x0, y0), (x1, y1) = view
    scale = MOST_PX / max(x1 - x0, y1 - y0)
    shape = (max(1, round((y1 - y0) * scale)), max(1, round((x1 - x0) * scale)))
    owner = _owners(geometry, np.array([x0, y0]), scale, shape)
    table = np.vstack([np.zeros(4), rgba * [1, 1, 1, alpha]])
    pixels = (table * 255 + 0.5).astype(np.uint8)[owner]
    ax.imshow(pixels, extent=(x0, x1, y1, y0), interpolation="antialiased", zorder=1)


def _owners(geometry: NDArray[np.object_], corner: Floats, scale: float, shape: tuple[int, int]) -> Ints:
    """For each px the outline that holds it, from 1; 0 where none does."""
    kind, xy, offsets = shapely.to_ragged_array(geometry, include_z=False)
    rings, polygons = offsets[0].astype(np.int64), offsets[1].astype(np.int64)
    objects = polygons if kind == shapely.GeometryType.POLYGON else polygons[offsets[2]]
    n = len(geometry)
    owner = np.zeros(shape, np.int32)
    points = shapely.centroid(geometry)
    column, row = (((each - low) * scale).astype(np.int64) for each, low in _xy(points, corner))
    inside = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
    owner[row[inside], column[inside]] = np.flatnonzero(inside) + 1
    window = (0, 0, *shape)
    starts, runs = fill(np.ascontiguousarray(xy - corner), rings, objects.astype(np.int64), np.arange(n), scale, window)
    paint(starts, runs, np.arange(1, n + 1, dtype=np.int32), owner)
    return owner.astype(np.intp)


def _xy(points: NDArray[np.object_], corner: Floats) -> list[tuple[Floats, float]]:
    return [(shapely.get_x(points), float(corner[0])), (shapely.get_y(points), float(corner[1]))]
