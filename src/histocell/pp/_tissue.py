"""Where the tissue is, and which patches are worth embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from histocell._core import keys
from histocell._core.errors import warn
from histocell._core.settings import logger, progress_bar
from histocell.images.quality import background_fraction, focus, mean_edges
from histocell.images.tissue import find_tissue
from histocell.tables.access import get_obsm, get_table, is_spatialdata
from histocell.tables.regions import slide_image
from histocell.tables.sections import Sections

if TYPE_CHECKING:
    from collections.abc import Mapping

    import geopandas as gpd
    import pandas as pd
    from anndata import AnnData
    from spatialdata import SpatialData


EDGE_THRESHOLD = 15.0  # of the tiler that Hist2Cell used, on patches of 224 px
QC_PX, QC_MPP = 224, 0.5


def _beside(image_key: str, name: str) -> str:
    """Name of an element that belongs to an image: ``he-C2`` and ``tissue`` give ``tissue-C2``."""
    return name + image_key.removeprefix(keys.IMAGE) if image_key.startswith(f"{keys.IMAGE}-") else name


def tissue_mask(
    data: SpatialData,
    *,
    image_key: str | None = None,
    mpp: float | None = None,
    min_area_um2: float = 20_000.0,
    key_added: str = keys.TISSUE,
    inplace: bool = True,
) -> gpd.GeoDataFrame | None:
    """Outline of the tissue on a slide.

    Parameters
    ----------
    data
        SpatialData with an image.
    image_key
        The image, where there are several.
    mpp
        Micrometres per full-resolution px, where the image does not say it.
    min_area_um2
        Smaller pieces are dropped and smaller holes are filled, in um2.
    key_added
        Name of the new shapes.
    inplace
        Whether to write the result; else it is returned.

    Returns
    -------
    `None`, or with ``inplace=False`` the GeoDataFrame. Writes:

    ``shapes["tissue"]`` : polygons
        One row for each piece, with ``area_um2``; in the coordinate systems of the image.

    Raises
    ------
    ValueError
        When no tissue is found or the resolution is unknown.
    """
    import geopandas as gpd
    import shapely
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import get_transformation

    if not is_spatialdata(data):
        msg = "hc.pp.tissue_mask takes a SpatialData; hc.io.slide(path) makes one from a slide"
        raise TypeError(msg)
    key, picture = slide_image(data, image_key, mpp)
    corner = picture.shape[::-1]  # a px of the mask may reach over the border
    found = find_tissue(picture, min_area_um2=min_area_um2).polygons()
    outlines = [shapely.transform(outline, lambda xy: np.minimum(xy, corner)) for outline in found]
    if not outlines:
        msg = f"no tissue found on image {key!r}; look at it, or lower min_area_um2 (now {min_area_um2:g})"
        raise ValueError(msg)
    frame = gpd.GeoDataFrame({"area_um2": [outline.area * picture.mpp**2 for outline in outlines]}, geometry=outlines)
    shapes = ShapesModel.parse(frame, transformations=dict(get_transformation(data.images[key], get_all=True)))
    if not inplace:
        return shapes
    data.shapes[_beside(key, key_added)] = shapes
    return None


def patch_qc(
    data: AnnData | SpatialData,
    *,
    rule: Literal["rgb", "edge"] = "rgb",
    image: Any = None,
    image_key: str | Mapping[str, str] | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    inplace: bool = True,
) -> pd.DataFrame | None:
    """How much tissue a patch holds and how sharp it is; flags background, drops nothing.

    Parameters
    ----------
    data
        Reads ``obsm["patches"]`` and the images.
    rule
        What counts as a background patch. ``"rgb"``: more than half of the px are near white (smallest channel above 220)
        or black (largest channel below 20). ``"edge"``: the rule of the tiler that Hist2Cell used, a mean response of a 3 x 3
        edge filter of at most 15 on 224 px.
    image, image_key, library_key, table_key
        As in :func:`histocell.pp.patches`.
    inplace
        Whether to write the result; else it is returned.

    Returns
    -------
    `None`, or with ``inplace=False`` a DataFrame of the same columns. Writes:

    ``obs["tissue_fraction"]`` : float64
        Share of the patch inside of the slide's tissue mask.
    ``obs["focus"]`` : float64
        Log variance of the Laplacian of the grey image at 0.5 um per px; low when blurred.
    ``obs["patch_background"]`` : bool
        Whether `rule` calls the patch background. Their number is logged.
    """
    import pandas as pd

    if rule not in {"rgb", "edge"}:
        msg = f"rule must be 'rgb' or 'edge', not {rule!r}"
        raise ValueError(msg)
    table = get_table(data, table_key)
    windows = np.asarray(get_obsm(table, keys.PATCHES, "Run hc.pp.patches(data) first."))
    found = Sections(data, table_key=table_key, library_key=library_key).regions(image=image, image_key=image_key)
    frame = pd.DataFrame(
        {keys.TISSUE_FRACTION: np.nan, keys.FOCUS: np.nan, "patch_background": False}, index=table.obs_names
    )
    with progress_bar(total=table.n_obs, desc="patch quality", unit="patch") as bar:
        for region in found:
            picture: Any = region.image
            frame.iloc[region.rows, 0] = find_tissue(picture).fraction(windows[region.rows])
            for row in region.rows:
                patch = picture.read(*windows[row], out_shape=(QC_PX, QC_PX))
                frame.iloc[row, 1] = focus(patch)
                frame.iloc[row, 2] = (
                    background_fraction(patch) > 0.5 if rule == "rgb" else mean_edges(patch) <= EDGE_THRESHOLD
                )
                bar.update()
    flagged = int(frame["patch_background"].sum())
    logger.info("%d of %d patches are background by the %s rule", flagged, table.n_obs, rule)
    if flagged == table.n_obs:
        warn(f"the {rule} rule calls all {flagged} patches background: are the coordinates those of this image?")
    if not inplace:
        return frame
    for name in frame:
        table.obs[name] = frame[name]
    return None
