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

    from histocell._core.types import Floats, Ints
    from histocell.nuclei.measuring.outlines import Outlines
    from histocell.pl._nuclei.place import Placed

MOST_PATHS = 20_000  # beyond, paths take seconds and are smaller than what a figure shows
MOST_PX = 2400  # longer side of a painted image


def draw_paths(
    ax: Axes, placed: Placed, rows: Ints, rgba: Floats, *, filled: bool, alpha: float, linewidth: float
) -> None:
    """Outlines as paths, holes left out of their fill."""
    geometry = shapely.transform(placed.outlines.geometry[rows], lambda xy: xy * placed.unit)
    paths = [_path(each) for each in shapely.orient_polygons(geometry)]
    edges = rgba.copy()
    if filled:
        edges[:, :3] *= 0.6  # a darker border tells neighbours of one type apart
    faces = rgba * [1, 1, 1, alpha]
    shapes = PathCollection(paths, facecolors=faces if filled else "none", edgecolors=edges, linewidths=linewidth)
    shapes.set_rasterized(len(paths) > MANY)
    shapes.set_zorder(1)
    ax.add_collection(shapes, autolim=False)


def draw_painted(ax: Axes, placed: Placed, rows: Ints, rgba: Floats, view: Floats, *, alpha: float) -> None:
    """Outlines filled, in an image of the view; each is at least one px. Their borders would be finer than a px."""
    (x0, y0), (x1, y1) = view
    scale = MOST_PX / max(x1 - x0, y1 - y0)
    shape = (max(1, round((y1 - y0) * scale)), max(1, round((x1 - x0) * scale)))
    owner = _owners(placed.outlines, rows, view[0] / placed.unit, scale * placed.unit, shape)
    table = np.vstack([np.zeros(4), rgba * [1, 1, 1, alpha]])
    pixels = (table * 255 + 0.5).astype(np.uint8)[owner]
    ax.imshow(pixels, extent=(x0, x1, y1, y0), interpolation="antialiased", zorder=1)


def _owners(outlines: Outlines, rows: Ints, corner: Floats, scale: float, shape: tuple[int, int]) -> Ints:
    """For each px the one of `rows` whose outline holds it, from 1; 0 where none does."""
    owner = np.zeros(shape, np.int32)
    column, row = ((outlines.centroids[rows] - corner) * scale).astype(np.int64).T
    inside = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
    owner[row[inside], column[inside]] = np.flatnonzero(inside) + 1
    xy, window = outlines.xy - corner, (0, 0, *shape)
    starts, runs = fill(xy, outlines.rings, outlines.objects, rows, scale, window)
    paint(starts, runs, np.arange(1, len(rows) + 1, dtype=np.int32), owner)
    return owner.astype(np.intp)


def _path(polygon: shapely.Geometry) -> Path:
    _, xy, offsets = shapely.to_ragged_array([polygon], include_z=False)
    codes = np.full(len(xy), Path.LINETO, dtype=Path.code_type)
    codes[offsets[0][:-1]] = Path.MOVETO
    codes[offsets[0][1:] - 1] = Path.CLOSEPOLY
    return Path(xy, codes)
