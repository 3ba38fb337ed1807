"""Square tiles of a slide: their windows and the table that annotates them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import shapely
from anndata import AnnData
from spatialdata.models import ShapesModel, TableModel

from histocell._core import keys
from histocell._core.errors import listing
from histocell._core.geometry import check_inside, windows_inside
from histocell.images.transformations import matrix_to_image, transform_points, transformations

if TYPE_CHECKING:
    from collections.abc import Mapping

    import geopandas as gpd
    from numpy.typing import NDArray
    from spatialdata.transformations import BaseTransformation
    from xarray import DataArray, DataTree

TILE_ID = "tile_id"


def tile_ids(shapes: gpd.GeoDataFrame, name: str) -> pd.Index:
    """Column ``tile_id`` of shapes, else their index; an error where two are the same."""
    ids = pd.Index(shapes[TILE_ID] if TILE_ID in shapes else shapes.index)
    if not ids.is_unique:
        msg = f"tiles {name!r} hold ids more than once: {listing(ids[ids.duplicated()].unique(), 5)}"
        raise ValueError(msg)
    return ids


def tile_windows(
    shapes: gpd.GeoDataFrame, name: str, shape: tuple[int, int], *, image: DataArray | DataTree | None = None
) -> NDArray[np.int32]:
    """Windows (n, 4) of square tiles: y0, x0, y1, x1 in px of the image.

    All have to be of one size: a tile that the tiler cut at the border of the image is completed into the image, so that
    it overlaps its neighbour.

    Parameters
    ----------
    shapes
        Polygons.
    name
        What they are called in messages.
    shape
        Height and width of the image.
    image
        The image element, whose place among the coordinate systems counts; without it the polygons are in its px.
    """
    if len(shapes) == 0:
        msg = f"shapes {name!r} hold no tile"
        raise ValueError(msg)
    polygons = shapes.geometry.to_numpy()
    if (shapely.get_dimensions(polygons) != 2).any():
        msg = f"shapes {name!r} are no polygons but points; for the patches around points run hc.pp.patches(data)"
        raise ValueError(msg)
    if image is not None:
        matrix = matrix_to_image(shapes, image)
        if matrix is None:
            systems = "; ".join(listing(transformations(element)) for element in (shapes, image))
            msg = f"shapes {name!r} and the image share no coordinate system: {systems}"
            raise ValueError(msg)
        polygons = shapely.transform(polygons, lambda xy: transform_points(xy, matrix))
    if shapely.is_empty(polygons).any() or shapely.is_missing(polygons).any():
        msg = f"shapes {name!r} hold empty geometries, so they are no tiles; drop them"
        raise ValueError(msg)
    x0, y0, x1, y1 = shapely.bounds(polygons).T
    skewed = shapely.area(polygons) < 0.99 * (x1 - x0) * (y1 - y0)
    if skewed.any():
        msg = f"{skewed.sum()} of {len(polygons)} shapes of {name!r} are no upright rectangles, so they are no tiles"
        raise ValueError(msg)
    size = max((x1 - x0).max(), (y1 - y0).max())
    starts = [
        _complete(low, high, size, length, name) for low, high, length in ((y0, y1, shape[0]), (x0, x1, shape[1]))
    ]
    start = np.rint(np.column_stack(starts))
    check_inside(start[:, ::-1] + size / 2, shape, name)
    return np.hstack([start, start + round(size)]).astype(np.int32)


def _complete(
    low: NDArray[np.float64], high: NDArray[np.float64], size: float, length: int, name: str
) -> NDArray[np.float64]:
    """Where tiles of `size` px start along one axis; what the far border cut starts earlier."""
    cut = high - low < size - 1
    wrong = cut & (low > 0.5) & (high < length - 0.5)
    if wrong.any():
        msg = (
            f"tiles {name!r} must be squares of one size: {wrong.sum()} of {len(low)} have an edge of "
            f"{(high - low)[wrong].min():g} px where others have {size:g}"
        )
        raise ValueError(msg)
    return np.where(cut & (low > 0.5), high - size, low)


def tile_shapes(
    windows: NDArray[np.int32], share: NDArray[np.float64], systems: Mapping[str, BaseTransformation]
) -> gpd.GeoDataFrame:
    """Tiles as polygons with their share of tissue, in the coordinate systems of the image."""
    import geopandas as gpd

    ids = [f"tile_{i}" for i in range(len(windows))]
    boxes = shapely.box(windows[:, 1], windows[:, 0], windows[:, 3], windows[:, 2])
    frame = gpd.GeoDataFrame({TILE_ID: ids, keys.TISSUE_FRACTION: share}, geometry=boxes, index=ids)
    return ShapesModel.parse(frame, transformations=dict(systems))


def tile_table(
    shapes: gpd.GeoDataFrame,
    name: str,
    windows: NDArray[np.int32],
    *,
    shape: tuple[int, int],
    mpp: float,
    section: str,
    size_um: float | None = None,
    centers: NDArray[np.float64] | None = None,
) -> AnnData:
    """The table that annotates tiles: ``obsm["patches"]``, ``obsm["spatial"]`` and columns of ``obs``.

    Parameters
    ----------
    shapes
        The tiles. Their columns go along.
    name
        Name of the element.
    windows
        Their windows (n, 4) in px of the image.
    shape
        Height and width of the image.
    mpp, size_um
        Micrometres per px of the image; edge of the tiles in micrometres, by default that of the windows.
    section
        Label of the slide for ``obs["section"]``, where the shapes have no such column of their own.
    centers
        Exact centres (x, y) in px, where the windows were rounded.
    """
    ids = tile_ids(shapes, name)
    size_um = float(windows[0, 2] - windows[0, 0]) * mpp if size_um is None else float(size_um)
    obs = pd.DataFrame(shapes.drop(columns=shapes.geometry.name))
    obs[keys.REGION] = pd.Categorical([name] * len(ids))
    obs[TILE_ID] = ids.to_numpy()
    obs[keys.INSIDE] = windows_inside(windows, shape)
    obs[keys.MPP] = mpp
    if keys.SECTION not in obs:
        obs[keys.SECTION] = pd.Categorical([section] * len(ids))
    instance_key = TILE_ID
    if not ids.equals(shapes.index):  # what links a table to shapes is their index
        instance_key = "instance_id"
        obs[instance_key] = shapes.index.to_numpy()
    table = AnnData(obs=obs.set_index(pd.Index(ids.astype(str).to_numpy())))
    table.obsm[keys.SPATIAL] = windows.reshape(-1, 2, 2).mean(axis=1)[:, ::-1] if centers is None else centers
    table.obsm[keys.PATCHES] = windows
    keys.write_provenance(table, keys.PATCHES, size_um=size_um)
    return TableModel.parse(table, region=name, region_key=keys.REGION, instance_key=instance_key)
