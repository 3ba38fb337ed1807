"""Outlines of objects as arrays: repaired, counted where they are odd, and their shape."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import shapely

from histocell._core.errors import listing
from histocell.images.transformations import transform_points
from histocell.kernels.outlines.shapes import ellipses, outline_moments

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histocell._core.types import Bools, Floats

_POLYGONS = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)
_MANY_CORNERS = 8  # of an upright outline that runs along px; a square bin or a drawn rectangle has 4
_CUT = 1 - np.sqrt(0.5)  # what a corner of px loses, in edges, where the line goes through the middles of the edges


@dataclass(frozen=True)
class Outlines:
    """Outlines in px of an image.

    Attributes
    ----------
    geometry
        Polygons and multipolygons, valid; `None` where there is none, shape (n,).
    repaired
        Whether an outline crossed itself and was made valid, shape (n,).
    xy, rings, objects, holes
        Their corners, as in `histocell.kernels.outlines`.
    """

    geometry: NDArray[np.object_]
    repaired: Bools
    xy: Floats
    rings: NDArray[np.int64]
    objects: NDArray[np.int64]
    holes: Bools

    @classmethod
    def read(
        cls, geometry: NDArray[np.object_], *, radius: Floats | None = None, matrix: Floats | None = None
    ) -> Outlines:
        """Outlines of any geometries.

        Parameters
        ----------
        geometry
            Polygons, multipolygons, or points, which are circles; shape (n,).
        radius
            Of the circles.
        matrix
            Shape (3, 3): from the coordinates of the geometries to px.

        Raises
        ------
        ValueError
            When there are lines or the like, or points without a radius.
        """
        geometry = geometry.copy()
        kinds = shapely.get_type_id(geometry)
        points = kinds == shapely.GeometryType.POINT
        if points.any() and radius is not None:
            geometry[points] = shapely.buffer(geometry[points], radius[points], quad_segs=16)
            kinds = shapely.get_type_id(geometry)
        there = ~(shapely.is_missing(geometry) | shapely.is_empty(geometry))
        odd = there & ~np.isin(kinds, _POLYGONS)
        if odd.any():
            found = listing(sorted({each.geom_type for each in geometry[odd]}))
            msg = f"{odd.sum()} of {len(geometry)} shapes are no polygons but of type {found}; nuclei are polygons, or circles: points with a column radius"
            raise ValueError(msg)
        there &= _finite(geometry)
        if matrix is not None and not np.array_equal(matrix, np.eye(3)):
            geometry[there] = shapely.transform(geometry[there], lambda xy: transform_points(xy, matrix))
        crossed = np.zeros(len(geometry), dtype=bool)
        crossed[there] = ~shapely.is_valid(geometry[there])
        geometry[crossed] = _repair(geometry[crossed])
        there &= ~(shapely.is_missing(geometry) | shapely.is_empty(geometry))
        geometry[~there] = None
        return cls(geometry, crossed & there, *_ragged(geometry, there))

    def __len__(self) -> int:
        return len(self.geometry)

    @cached_property
    def known(self) -> Bools:
        """Which outlines there are, shape (n,)."""
        return np.diff(self.objects) > 0

    @cached_property
    def parts(self) -> NDArray[np.intp]:
        """Number of separate parts of each, shape (n,)."""
        outer = np.concatenate([[0], np.cumsum(~self.holes)])
        return np.diff(outer[self.objects])

    @cached_property
    def bounds(self) -> Floats:
        """x0, y0, x1, y1, shape (n, 4); NaN where there is none."""
        return shapely.bounds(self.geometry)

    @cached_property
    def centroids(self) -> Floats:
        """X and y, shape (n, 2); NaN where there is none."""
        points = shapely.centroid(self.geometry)
        return np.column_stack([shapely.get_x(points), shapely.get_y(points)])

    def shapes(self, mpp: float) -> Floats:
        """Area, perimeter, axes, eccentricity, solidity and orientation, shape (n, 7): lengths in um."""
        moments = outline_moments(self.xy, self.rings, self.objects, self.holes)
        area = shapely.area(self.geometry)
        perimeter = shapely.length(self.geometry)
        perimeter = np.where(moments[:, 3] > _MANY_CORNERS, perimeter - _CUT * moments[:, 3] * moments[:, 4], perimeter)
        hull = shapely.area(shapely.convex_hull(self.geometry))
        axes = ellipses(moments)
        with np.errstate(invalid="ignore"):
            solidity = np.minimum(area / hull, 1)
        lengths = (area * mpp**2, perimeter * mpp, axes[:, 0] * mpp, axes[:, 1] * mpp)
        out = np.column_stack([*lengths, axes[:, 2], solidity, axes[:, 3]])
        out[~self.known] = np.nan
        return out


def _finite(geometry: NDArray[np.object_]) -> Bools:
    """Whether all coordinates are numbers."""
    xy, index = shapely.get_coordinates(geometry, return_index=True)
    out = np.ones(len(geometry), dtype=bool)
    out[index[~np.isfinite(xy).all(axis=1)]] = False
    return out


def _repair(crossed: NDArray[np.object_]) -> NDArray[np.object_]:
    """What an outline that crosses itself surrounds; `None` where that is no area."""
    out = np.empty(len(crossed), dtype=object)
    for row, whole in enumerate(shapely.make_valid(crossed, method="structure", keep_collapsed=False)):
        parts = shapely.get_parts(whole)
        parts = parts[shapely.get_dimensions(parts) == 2]
        out[row] = None if len(parts) == 0 else shapely.union_all(parts)
    return out


def _ragged(geometry: NDArray[np.object_], there: Bools) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64], Bools]:
    """Corners, where rings and objects begin, and which rings are holes."""
    objects = np.zeros(len(geometry) + 1, dtype=np.int64)
    if not there.any():
        return np.empty((0, 2)), np.zeros(1, dtype=np.int64), objects, np.zeros(0, dtype=bool)
    kind, xy, offsets = shapely.to_ragged_array(geometry[there], include_z=False)
    rings, polygons = offsets[0].astype(np.int64), offsets[1].astype(np.int64)
    first = polygons if kind == shapely.GeometryType.POLYGON else polygons[offsets[2]]
    objects[1:][there] = np.diff(first)
    holes = np.ones(len(rings) - 1, dtype=bool)
    holes[polygons[:-1]] = False
    return np.ascontiguousarray(xy), rings, np.cumsum(objects), holes
