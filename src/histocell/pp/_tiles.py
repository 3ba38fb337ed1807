"""Tiles of a slide: a grid over its tissue, or what another tool laid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from histocell._core import geometry, keys
from histocell._core.errors import missing_key
from histocell.images.tissue import find_tissue
from histocell.io.tile_table import TILE_ID, tile_table, tile_windows
from histocell.tables.access import is_spatialdata
from histocell.tables.regions import slide_image

if TYPE_CHECKING:
    import geopandas as gpd
    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData

MIN_TILE_PX = 8


def tiles(
    data: SpatialData,
    *,
    size_um: float = 112.0,
    overlap: float = 0.0,
    min_tissue: float = 0.3,
    mpp: float | None = None,
    image_key: str | None = None,
    inplace: bool = True,
) -> SpatialData | None:
    """A regular grid of square tiles over the tissue of a slide, for slides without spots.

    Parameters
    ----------
    data
        SpatialData with an image. Tissue is found as in :func:`histocell.pp.tissue_mask`.
    size_um
        Edge of a tile in um.
    overlap
        Share of the edge that neighbouring tiles have in common, from 0 to below 1.
    min_tissue
        Smallest share of tissue that a tile is kept with.
    mpp
        Micrometres per full-resolution px, where the image does not say it.
    image_key
        The image, where there are several.
    inplace
        Whether to write the result; else it is returned.

    Returns
    -------
    `None`, or with ``inplace=False`` a SpatialData with the two new elements. Writes:

    ``shapes["tiles"]`` : polygons
        Column ``tile_id``; in the coordinate systems of the image.
    ``tables["tile_table"]`` : AnnData without variables
        ``obsm["spatial"]`` centres, ``obsm["patches"]``, ``obs["patch_inside"]``, ``obs["tissue_fraction"]``,
        ``obs["mpp"]``: all that :func:`histocell.pp.embed_image` reads.

    Raises
    ------
    ValueError
        When no tile holds enough tissue, tiles would be smaller than a few px, or the resolution is unknown.
    """
    if not is_spatialdata(data):
        msg = "hc.pp.tiles takes a SpatialData; hc.io.slide(path) makes one from a slide"
        raise TypeError(msg)
    if not 0 <= overlap < 1:
        msg = f"overlap must be at least 0 and below 1, not {overlap}"
        raise ValueError(msg)
    key, picture = slide_image(data, image_key, mpp)
    size_px = size_um / picture.mpp
    if not size_px >= MIN_TILE_PX:
        msg = f"tiles of size_um={size_um:g} are {size_px:.3g} px at {picture.mpp:g} um per px; at least {MIN_TILE_PX} px hold a picture"
        raise ValueError(msg)
    mask = find_tissue(picture)
    step = size_px * (1 - overlap)
    height, width = picture.shape
    x, y = np.meshgrid(np.arange(size_px / 2, width, step), np.arange(size_px / 2, height, step))
    centers = np.column_stack([x.ravel(), y.ravel()])
    windows = geometry.square_windows(centers, size_px)
    share = mask.fraction(windows)
    kept = share >= min_tissue
    if not kept.any():
        msg = (
            f"no tile of {size_um:g} um holds {min_tissue:.0%} tissue (the most is {share.max(initial=0):.0%}); look at "
            "hc.pp.tissue_mask(data), or lower min_tissue or size_um"
        )
        raise ValueError(msg)
    shapes = _tile_shapes(data.images[key], windows[kept], share[kept])
    table = tile_table(
        shapes,
        keys.TILES,
        windows[kept],
        shape=picture.shape,
        mpp=picture.mpp,
        size_um=size_um,
        centers=centers[kept],
    )
    if not inplace:
        from spatialdata import SpatialData

        return SpatialData(shapes={keys.TILES: shapes}, tables={keys.TILE_TABLE: table})
    data.shapes[keys.TILES] = shapes
    data.tables[keys.TILE_TABLE] = table
    return None


def _tile_shapes(image: Any, windows: NDArray[np.int32], share: NDArray[np.float64]) -> gpd.GeoDataFrame:
    """Tiles as polygons in the coordinate systems of the image."""
    import geopandas as gpd
    import shapely
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import get_transformation

    ids = [f"tile_{i}" for i in range(len(windows))]
    boxes = shapely.box(windows[:, 1], windows[:, 0], windows[:, 3], windows[:, 2])
    frame = gpd.GeoDataFrame({TILE_ID: ids, keys.TISSUE_FRACTION: share}, geometry=boxes, index=ids)
    return ShapesModel.parse(frame, transformations=dict(get_transformation(image, get_all=True)))


def tiles_from_shapes(
    data: SpatialData,
    shapes: str = keys.TILES,
    *,
    mpp: float | None = None,
    image_key: str | None = None,
    inplace: bool = True,
) -> AnnData | None:
    """Take the tiles that another tool laid: squidpy's ``make_tiles``, LazySlide, or squares of your own.

    Parameters
    ----------
    data
        SpatialData with an image and the tiles.
    shapes
        Name of the shapes: upright squares of one size. The patch of a tile that the border of the image cuts is completed
        into the image. Their column ``tile_id``, or else their index, names the rows.
    mpp
        Micrometres per full-resolution px, where the image does not say it.
    image_key
        The image, where there are several.
    inplace
        Whether to write the result; else it is returned.

    Returns
    -------
    `None`, or with ``inplace=False`` the table. Writes:

    ``tables["tile_table"]`` : AnnData without variables
        The columns of the shapes, ``obs["tile_id"]``, ``obs["mpp"]``, ``obs["patch_inside"]``, ``obsm["spatial"]``
        centres and ``obsm["patches"]``: all that :func:`histocell.pp.embed_image` reads.

    Raises
    ------
    KeyError
        When there are no such shapes.
    ValueError
        When they are no squares of one size, lie beside the image, or the resolution is unknown.
    """
    if not is_spatialdata(data):
        msg = "hc.pp.tiles_from_shapes takes a SpatialData with an image and the shapes of tiles"
        raise TypeError(msg)
    if shapes not in data.shapes:
        raise missing_key("shapes", shapes, data.shapes, "hc.pp.tiles(data) lays tiles over the tissue.")
    key, picture = slide_image(data, image_key, mpp)
    frame = data.shapes[shapes]
    windows = tile_windows(frame, shapes, picture.shape, image=data.images[key])
    size_um = float(windows[0, 2] - windows[0, 0]) * picture.mpp
    table = tile_table(frame, shapes, windows, shape=picture.shape, mpp=picture.mpp, size_um=size_um)
    if not inplace:
        return table
    data.tables[keys.TILE_TABLE] = table
    return None
