"""Outlines of one slide as they are drawn: in micrometres, with their image and the view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histocell._core import keys
from histocell._core.arguments import check_positive
from histocell._core.errors import listing
from histocell.images.slide_image import open_image
from histocell.images.transformations import matrix_to_image
from histocell.nuclei.measuring.outlines import Outlines
from histocell.tables.nuclei import nucleus_shapes, rows_of_shapes, table_of_shapes, with_shapes
from histocell.tables.slides import region_image, region_thumbnail

if TYPE_CHECKING:
    from collections.abc import Sequence

    import geopandas as gpd
    from anndata import AnnData
    from numpy.typing import NDArray

    from histocell._core.types import Floats, Ints
    from histocell.images.slide_image import SlideImage

WINDOW_UM = 300.0  # around a centre, where no size is given
IMAGE_PX = 1600


@dataclass(frozen=True)
class Placed:
    """Outlines of one slide.

    Attributes
    ----------
    name, shapes
        Their name, and the element.
    table, places
        The table that annotates them, rows of it, and the position of the shape of each row.
    outlines
        In px of the image.
    mpp
        um per px, `None` where it is unknown: all is drawn in px then.
    image
        The image, if there is one.
    """

    name: str
    shapes: gpd.GeoDataFrame
    table: AnnData | None
    places: tuple[Ints, Ints]
    outlines: Outlines
    mpp: float | None
    image: SlideImage | None

    @property
    def unit(self) -> float:
        """The unit of the axes, um where they are known, per px."""
        return self.mpp or 1.0

    @property
    def extent(self) -> Floats:
        """The corners of all outlines, ``[[x0, y0], [x1, y1]]``."""
        bounds = self.outlines.bounds[self.outlines.known] * self.unit
        return np.stack([bounds[:, :2].min(axis=0), bounds[:, 2:].max(axis=0)])

    def view(self, center_um: Sequence[float] | None, size_um: float | Sequence[float] | None) -> Floats:
        """The window to draw, ``[[x0, y0], [x1, y1]]``: around a centre, else all outlines with a margin."""
        if center_um is None and size_um is not None:
            msg = "size_um= needs center_um=, the middle of what to draw"
            raise ValueError(msg)
        if center_um is not None:
            if self.mpp is None:
                msg = f"the resolution of the image of {self.name!r} is unknown, so center_um= cannot be found on it; give mpp="
                raise ValueError(msg)
            center = np.asarray(center_um, dtype=np.float64)
            if center.shape != (2,) or not np.isfinite(center).all():
                msg = f"center_um must be x and y in um, not {center_um!r}"
                raise ValueError(msg)
            sizes = np.broadcast_to(np.asarray(WINDOW_UM if size_um is None else size_um), (2,))
            half = np.array([check_positive(float(each), "size_um") for each in sizes]) / 2
            return np.stack([center - half, center + half])
        first, last = self.extent
        margin = 0.03 * (last - first).max()
        low, high = first - margin, last + margin
        if self.image is not None:
            edge = np.array(self.image.shape[::-1]) * self.unit
            low, high = np.maximum(low, np.minimum(0, first)), np.minimum(high, np.maximum(edge, last))
        return np.stack([low, high])

    def within(self, view: Floats) -> NDArray[np.intp]:
        """Positions of the outlines that reach into a view."""
        (x0, y0), (x1, y1) = view
        bounds = self.outlines.bounds * self.unit
        with np.errstate(invalid="ignore"):
            inside = (bounds[:, 0] < x1) & (bounds[:, 1] < y1) & (bounds[:, 2] > x0) & (bounds[:, 3] > y0)
        found = np.flatnonzero(inside)
        if len(found) == 0:
            (x0, y0), (x1, y1) = self.extent
            msg = f"no outline of {self.name!r} lies in the view; they lie at x {x0:.0f} to {x1:.0f}, y {y0:.0f} to {y1:.0f} um"
            raise ValueError(msg)
        return found

    def pixels(self, view: Floats) -> NDArray[np.uint8] | None:
        """The image in a view, white beyond its borders."""
        if self.image is None:
            return None
        (x0, y0), (x1, y1) = view / self.unit
        shrink = IMAGE_PX / max(x1 - x0, y1 - y0)
        shape = (max(1, round((y1 - y0) * shrink)), max(1, round((x1 - x0) * shrink)))
        return self.image.read(y0, x0, y1, x1, out_shape=shape, fill=(255, 255, 255))


def place(
    data: object,
    verb: str,
    shapes_key: str,
    *,
    image_key: str | None,
    mpp: float | None,
    table_key: str | None,
) -> Placed:
    """The outlines of one slide; the slide's thumbnail will do where the slide is not there."""
    sdata = with_shapes(data, verb)
    names = nucleus_shapes(sdata, shapes_key, image_key)
    if len(names) > 1:
        msg = f"there are {shapes_key} of several slides: {listing(names)}; choose one with shapes_key={names[0]!r}"
        raise ValueError(msg)
    shapes = sdata.shapes[names[0]]
    key = image_key or region_image(sdata, names[0]) or region_thumbnail(sdata, names[0])
    image = None if key is None else open_image(sdata.images[key], mpp=mpp)
    matrix = None if key is None else matrix_to_image(shapes, sdata.images[key])
    if key is not None and matrix is None:
        msg = f"shapes {names[0]!r} and image {key!r} share no coordinate system, so nuclei cannot be placed on it"
        raise ValueError(msg)
    table_name = table_of_shapes(sdata, names[0], table_key)
    table = None if table_name is None else sdata.tables[table_name]
    none = np.zeros(0, dtype=np.intp)
    places = (none, none) if table is None else rows_of_shapes(table, names[0], shapes)
    resolution = mpp if image is None else image.mpp
    if resolution is None and table is not None and keys.MPP in table.obs and image is None:
        recorded = np.unique(table.obs[keys.MPP].to_numpy()[places[0]])
        resolution = float(recorded[0]) if len(recorded) == 1 else None
    radius = shapes["radius"].to_numpy(dtype=np.float64) if "radius" in shapes else None
    outlines = Outlines.read(shapes.geometry.to_numpy(), radius=radius, matrix=matrix)
    if not outlines.known.any():
        msg = f"shapes {names[0]!r} hold no outline to draw"
        raise ValueError(msg)
    return Placed(names[0], shapes, table, places, outlines, resolution, image)
