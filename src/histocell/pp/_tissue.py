"""Outline of the tissue, and quality of patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from histocell._core import keys
from histocell._core.arguments import check_amount
from histocell._core.errors import warn
from histocell._core.settings import logger, progress_bar
from histocell.images.tissue import background_fraction, find_tissue, focus, mean_edges, tissue_fraction
from histocell.images.transformations import transformations
from histocell.tables.access import get_obsm
from histocell.tables.sections import Sections
from histocell.tables.slides import beside_image, open_slide, tissue_outlines
from histocell.tables.windows import check_patches

if TYPE_CHECKING:
    from collections.abc import Mapping

    import geopandas as gpd
    import pandas as pd
    from anndata import AnnData
    from spatialdata import SpatialData

    from histocell.images.slide_image import ImageSource

EDGE_THRESHOLD = 15.0  # of the tiler that Hist2Cell used, on patches of 224 px
QC_PX = 224


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
        The image, where there are several slides.
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
        One row for each piece, with ``area_um2``; in the coordinate systems of the image. :func:`histocell.pp.tiles`
        reads it. The tissue of an image ``he-C2`` is called ``tissue-C2``, that of one of several slides of other names
        ``tissue-<image>``.

    Raises
    ------
    ValueError
        When no tissue is found or the resolution is unknown.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600)
    >>> hc.pp.tissue_mask(sdata)
    >>> bool((sdata["tissue"]["area_um2"] > 20_000).all())
    True
    """
    import geopandas as gpd
    import shapely
    from spatialdata.models import ShapesModel

    slide = open_slide(data, "tissue_mask", image_key, mpp)
    corner = slide.image.shape[::-1]  # a px of the mask may reach over the border
    polygons = find_tissue(slide.image, min_area_um2=check_amount(min_area_um2, "min_area_um2")).polygons()
    outlines = shapely.transform(np.array(polygons, dtype=object), lambda xy: np.minimum(xy, corner))
    if len(outlines) == 0:
        msg = f"no tissue found on image {slide.key!r}; look at it, or lower min_area_um2 (now {min_area_um2:g})"
        raise ValueError(msg)
    frame = gpd.GeoDataFrame({"area_um2": shapely.area(outlines) * slide.mpp**2}, geometry=outlines)
    shapes = ShapesModel.parse(frame, transformations=dict(transformations(slide.element)))
    if not inplace:
        return shapes
    data.shapes[beside_image(data, key_added, slide.key)] = shapes
    return None


def patch_qc(
    data: AnnData | SpatialData,
    *,
    rule: Literal["rgb", "edge"] = "rgb",
    image: ImageSource | Mapping[str, ImageSource] | None = None,
    image_key: str | Mapping[str, str] | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    inplace: bool = True,
) -> pd.DataFrame | None:
    """How much tissue a patch holds and how sharp it is; flags background, drops nothing.

    Parameters
    ----------
    data
        Reads ``obsm["patches"]``, the images and, as :func:`histocell.pp.tiles` does, ``shapes["tissue"]`` where it is
        there.
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
        Share of the patch inside of the tissue: of ``shapes["tissue"]``, else as `tissue_mask` finds it by default.
    ``obs["focus"]`` : float64
        Log variance of the Laplacian of the grey image at 0.5 um per px; low when blurred.
    ``obs["patch_background"]`` : bool
        Whether `rule` calls the patch background. Their number is logged.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600)
    >>> hc.pp.patches(sdata, size_um=56)
    >>> hc.pp.patch_qc(sdata)
    >>> sdata["table"].obs.columns.intersection(["tissue_fraction", "focus", "patch_background"]).size
    3
    """
    import pandas as pd

    if rule not in {"rgb", "edge"}:
        msg = f"rule must be 'rgb' or 'edge', not {rule!r}"
        raise ValueError(msg)
    sections = Sections(data, table_key=table_key, library_key=library_key)
    table = sections.table
    windows = np.asarray(get_obsm(table, keys.PATCHES, "Run hc.pp.patches(data) first."))
    tissue, sharpness = np.full(table.n_obs, np.nan), np.full(table.n_obs, np.nan)
    background = np.zeros(table.n_obs, dtype=bool)
    regions = sections.regions(image=image, image_key=image_key)
    check_patches(table, regions)
    with progress_bar(total=table.n_obs, desc="patch quality", unit="patch") as bar:
        for region in regions:
            if region.image is None:
                continue
            outlines = tissue_outlines(data, region.key)
            tissue[region.rows] = tissue_fraction(region.image, outlines, windows[region.rows])
            for row in region.rows:
                patch = region.image.read(*windows[row], out_shape=(QC_PX, QC_PX))
                sharpness[row] = focus(patch)
                background[row] = (
                    background_fraction(patch) > 0.5 if rule == "rgb" else mean_edges(patch) <= EDGE_THRESHOLD
                )
                bar.update()
    flagged = int(background.sum())
    logger.info("%d of %d patches are background by the %s rule", flagged, table.n_obs, rule)
    if flagged == table.n_obs:
        warn(f"the {rule} rule calls all {flagged} patches background: are the coordinates those of this image?")
    columns = {keys.TISSUE_FRACTION: tissue, keys.FOCUS: sharpness, "patch_background": background}
    if not inplace:
        return pd.DataFrame(columns, index=table.obs_names)
    for name, values in columns.items():
        table.obs[name] = values
    return None
