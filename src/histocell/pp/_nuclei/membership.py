"""Points in the windows or shapes of the rows of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from histocell.images.transformations import transform_points

if TYPE_CHECKING:
    import geopandas as gpd
    from numpy.typing import NDArray

    from histocell._core.types import Floats

_AT_ONCE = 50_000  # rows whose points are listed at a time


def in_windows(points: Floats, windows: NDArray[np.integer]) -> csr_array:
    """Which points (x, y), shape (m, 2), lie in which windows (y0, x0, y1, x1), shape (n, 4); y1 and x1 lie outside.

    Returns
    -------
    Shape (n, m): 1 where a window holds a point.
    """
    low, high = windows[:, [1, 0]].astype(np.float64), windows[:, [3, 2]].astype(np.float64)
    found = _near(points, (low + high) / 2, (high - low).max(axis=1, initial=0) / 2, p=np.inf)
    rows, columns = found
    inside = ((points[columns] >= low[rows]) & (points[columns] < high[rows])).all(axis=1)
    return _matrix(rows[inside], columns[inside], len(windows), len(points))


def in_shapes(points: Floats, shapes: gpd.GeoDataFrame, matrix: Floats) -> csr_array:
    """Which points, shape (m, 2), lie in which circles or polygons; `matrix` brings these to the px of the points."""
    geometry = shapes.geometry.to_numpy()
    if "radius" in shapes:
        scale = float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))
        centers = transform_points(shapely.get_coordinates(geometry), matrix)
        rows, columns = _near(points, centers, shapes["radius"].to_numpy(dtype=np.float64) * scale, p=2)
    else:
        outlines = shapely.transform(geometry, lambda xy: transform_points(xy, matrix))
        rows, columns = shapely.STRtree(shapely.points(points)).query(outlines, predicate="intersects")
    return _matrix(rows, columns, len(shapes), len(points))


def _near(points: Floats, centers: Floats, radius: Floats, *, p: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs of a centre and a point within its radius, by the p-norm."""
    tree = cKDTree(points)
    rows, columns = [np.zeros(0, np.intp)], [np.zeros(0, np.intp)]
    for start in range(0, len(centers), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        found = tree.query_ball_point(centers[part], radius[part], p=p, return_sorted=True)
        numbers = np.array([len(each) for each in found], dtype=np.intp)
        rows.append(start + np.repeat(np.arange(len(numbers)), numbers))
        columns.append(np.concatenate([np.zeros(0, np.intp), *(np.asarray(each, np.intp) for each in found if each)]))
    return np.concatenate(rows), np.concatenate(columns)


def _matrix(rows: NDArray[np.intp], columns: NDArray[np.intp], n: int, m: int) -> csr_array:
    return csr_array((np.ones(len(rows)), (rows, columns)), shape=(n, m))
