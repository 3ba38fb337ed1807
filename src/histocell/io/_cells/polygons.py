"""Outlines of cells and nuclei: polygons out of tables of vertices, valid and single."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import shapely

from histocell._core import keys
from histocell._core.errors import warn

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_POLYGON, _COLLECTIONS = 3, (6, 7)
_RADIUS_UM = 5.0  # of a cell without an outline whose area is unknown, too


def rings(ids: NDArray[np.generic], xy: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.object_]]:
    """Polygons of a table of vertices.

    Rows of one id that come one after the other are a ring, closed or not. Where a ring closes and rows of its id follow,
    these are another ring, as Xenium 2.0 writes cells with several nuclei. Rings of fewer than three vertices are left out.

    Parameters
    ----------
    ids, xy
        Id (n,) and place (n, 2) of each vertex.

    Returns
    -------
    For each polygon the row of its first vertex, and the polygon.
    """
    n = len(ids)
    if n == 0:
        return np.empty(0, dtype=np.intp), np.empty(0, dtype=object)
    starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
    while True:
        owner = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, n)))
        closes = (xy == xy[starts[owner]]).all(axis=1)
        closes[starts] = False
        ends = np.flatnonzero(closes)
        _, first = np.unique(owner[ends], return_index=True)
        more = np.setdiff1d(ends[first] + 1, np.append(starts, n))
        if len(more) == 0:
            break
        starts = np.sort(np.append(starts, more))
    length = np.diff(np.append(starts, n))
    is_closed = (xy[starts] == xy[starts + length - 1]).all(axis=1) & (length > 1)
    whole = length - is_closed >= 3
    rows = np.repeat(whole, length)
    owner = np.repeat(np.arange(whole.sum()), length[whole])
    return starts[whole], shapely.polygons(shapely.linearrings(xy[rows], indices=owner))


def single_polygons(shapes: NDArray[np.object_]) -> tuple[NDArray[np.object_], NDArray[np.bool_]]:
    """Each shape as one valid polygon, the largest part of it; `None` where nothing with an area is left.

    Returns
    -------
    The polygons, and which of them had to be repaired.
    """
    shapes = np.array(shapes, dtype=object)
    absent = shapely.is_missing(shapes)
    wrong = ~shapely.is_valid(shapes) & ~absent
    shapes[wrong] = shapely.make_valid(shapes[wrong])
    several = np.flatnonzero(np.isin(shapely.get_type_id(shapes), _COLLECTIONS))
    if len(several):
        parts, owner = shapely.get_parts(shapes[several], return_index=True)
        more, again = shapely.get_parts(parts, return_index=True)  # collections may hold multipolygons
        parts, owner = more, owner[again]
        order = np.lexsort((-shapely.area(parts), owner))
        first = order[np.flatnonzero(np.diff(owner[order], prepend=-1))]
        shapes[several] = None
        shapes[several[owner[first]]] = parts[first]
    empty = (shapely.get_type_id(shapes) != _POLYGON) | ~(shapely.area(shapes) > 0)
    shapes[empty] = None
    return shapes, (wrong | np.isin(np.arange(len(shapes)), several)) & ~empty


def largest_first(owner: pd.Series, polygons: NDArray[np.object_]) -> pd.Index:
    """A name for each polygon: that of its cell for the largest of it, ``<cell>.2`` and so on for others."""
    order = np.lexsort((-shapely.area(polygons), pd.factorize(owner)[0]))
    ranked = owner.iloc[order].groupby(owner.iloc[order].to_numpy(), sort=False).cumcount().to_numpy() + 1
    rank = np.empty(len(owner), dtype=np.int64)
    rank[order] = ranked
    names = owner.astype(str).to_numpy(dtype=object)
    extra = rank > 1
    names[extra] = [f"{name}.{number}" for name, number in zip(names[extra], rank[extra], strict=True)]
    return pd.Index(names)


def cell_polygons(
    outlines: pd.DataFrame | None,
    cells: pd.Index,
    area_um2: pd.Series | None,
    centers: NDArray[np.float64],
    folder: Path,
) -> NDArray[np.object_]:
    """One outline for each cell: the largest of its polygons, or a circle of its area around its centre, all in um.

    Parameters
    ----------
    outlines
        Polygons in ``polygon`` and the cell of each in ``cell_id``; `None` where the platform wrote none.
    cells, area_um2, centers
        Names, areas (`None` where they are unknown) and centres (n, 2) of all cells.
    folder
        What is read, for the warning.
    """
    area = np.full(len(cells), np.nan) if area_um2 is None else area_um2.to_numpy(dtype=np.float64)
    radius = np.where(area > 0, np.sqrt(np.where(area > 0, area, 0.0) / np.pi), _RADIUS_UM)
    polygons = np.full(len(cells), None, dtype=object)
    if outlines is not None:
        found = outlines["polygon"].to_numpy()
        place = pd.Index(largest_first(outlines[keys.CELL_ID], found)).get_indexer(cells)
        polygons[place >= 0] = found[place[place >= 0]]
    absent = shapely.is_missing(polygons)
    if absent.any():
        polygons[absent] = shapely.buffer(shapely.points(centers[absent]), radius[absent], quad_segs=6)
        if outlines is not None:
            warn(f"{absent.sum()} of {len(cells)} cells of {folder} have no outline; they are circles of their area")
    return polygons
