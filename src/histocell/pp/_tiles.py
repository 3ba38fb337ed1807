"""A grid of tiles over the tissue of a slide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histocell._core import geometry, keys
from histocell._core.access import is_spatialdata
from histocell.pp._tissue import find_tissue, slide_image

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from histocell._core.images import SlideImage


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
        When no tile holds enough tissue, or the resolution is unknown.
    """
    if not is_spatialdata(data):
        msg = "hc.pp.tiles takes a SpatialData; hc.io.slide(path) makes one from a slide"
        raise TypeError(msg)
    if not 0 <= overlap < 1:
        msg = f"overlap must be at least 0 and below 1, not {overlap}"
        raise ValueError(msg)
    key, picture = slide_image(data, image_key, mpp)
    mask = find_tissue(picture)
    size_px = size_um / picture.mpp
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
    elements = _tile_elements(data, key, picture, centers[kept], windows[kept], share[kept], size_um)
    if not inplace:
        return elements
    data.shapes[keys.TILES] = elements.shapes[keys.TILES]
    data.tables[keys.TILE_TABLE] = elements.tables[keys.TILE_TABLE]
    return None


def _tile_elements(
    sdata: SpatialData,
    image_key: str,
    picture: SlideImage,
    centers: NDArray[np.float64],
    windows: NDArray[np.int32],
    share: NDArray[np.float64],
    size_um: float,
) -> SpatialData:
    """Tiles as shapes and as a table that annotates them."""
    import geopandas as gpd
    import pandas as pd
    import shapely
    from anndata import AnnData
    from spatialdata import SpatialData
    from spatialdata.models import ShapesModel, TableModel
    from spatialdata.transformations import get_transformation

    ids = [f"tile_{i}" for i in range(len(windows))]
    boxes = shapely.box(windows[:, 1], windows[:, 0], windows[:, 3], windows[:, 2])
    frame = gpd.GeoDataFrame({"tile_id": ids}, geometry=boxes, index=ids)
    shapes = ShapesModel.parse(frame, transformations=dict(get_transformation(sdata.images[image_key], get_all=True)))
    obs = pd.DataFrame(
        {
            keys.REGION: pd.Categorical([keys.TILES] * len(ids)),
            "tile_id": ids,
            keys.INSIDE: geometry.windows_inside(windows, picture.shape),
            keys.TISSUE_FRACTION: share,
            keys.MPP: float(picture.mpp or np.nan),
        },
        index=ids,
    )
    table = AnnData(obs=obs)
    table.obsm[keys.SPATIAL] = centers
    table.obsm[keys.PATCHES] = windows
    keys.write_provenance(table, keys.PATCHES, size_um=float(size_um))
    parsed = TableModel.parse(table, region=keys.TILES, region_key=keys.REGION, instance_key="tile_id")
    return SpatialData(shapes={keys.TILES: shapes}, tables={keys.TILE_TABLE: parsed})
