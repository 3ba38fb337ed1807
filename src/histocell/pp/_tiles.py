"""Tiles of a slide: a grid over its tissue, or what another tool laid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histocell._core import geometry, keys
from histocell._core.arguments import check_positive, check_share
from histocell._core.errors import missing_key
from histocell.images.tissue import tissue_fraction
from histocell.images.transformations import transformations
from histocell.io.tile_table import tile_shapes, tile_table, tile_windows
from histocell.pp._slide_tables import TILES, add_rows, shapes_name
from histocell.tables.slides import beside_image, open_slide, tissue_outlines

if TYPE_CHECKING:
    from anndata import AnnData
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
    overwrite: bool = False,
    inplace: bool = True,
) -> SpatialData | None:
    """A regular grid of square tiles over the tissue of a slide, for slides without spots.

    Parameters
    ----------
    data
        SpatialData with an image. Reads ``shapes["tissue"]`` (``tissue-<section>`` for the image ``he-<section>``) where
        it is there: of :func:`histocell.pp.tissue_mask`, edited by hand or drawn by another tool. Without it, tissue is
        found as `tissue_mask` finds it by default.
    size_um
        Edge of a tile in um.
    overlap
        Share of the edge that neighbouring tiles have in common, from 0 to below 1.
    min_tissue
        Smallest share of tissue that a tile is kept with.
    mpp
        Micrometres per full-resolution px, where the image does not say it.
    image_key
        The image, where there are several slides.
    overwrite
        Whether to lay other tiles on a slide although embeddings and the like of its tiles are lost. The same tiles change
        nothing.
    inplace
        Whether to write the result; else it is returned.

    Returns
    -------
    `None`, or with ``inplace=False`` a SpatialData with the two new elements. Writes:

    ``shapes["tiles"]`` : polygons
        Column ``tile_id``; in the coordinate systems of the image. Those of an image ``he-C2`` are ``tiles-C2``, beside
        one of several slides of other names ``tiles-<image>``.
    ``tables["tile_table"]`` : AnnData without variables
        One table for all slides, whose column ``region`` names the shapes of each row; it is extended slide by slide.
        ``obsm["spatial"]`` centres, ``obsm["patches"]``, ``obs["patch_inside"]``, ``obs["tissue_fraction"]``,
        ``obs["section"]`` (as :func:`histocell.io.slide` recorded it, else by the name of the image), ``obs["mpp"]``: all that :func:`histocell.pp.embed_image` reads.

    Raises
    ------
    ValueError
        When no tile holds enough tissue, tiles would be smaller than a few px or larger than the slide, the resolution is
        unknown, the slide is there as a thumbnail only, tiles of other slides have another size, or embeddings would be lost.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600)
    >>> hc.pp.tissue_mask(sdata)
    >>> hc.pp.tiles(sdata, size_um=56)
    >>> sdata["tile_table"].obs["section"].cat.categories.tolist()
    ['he']
    """
    check_share(overlap, "overlap", ends="[)")
    check_share(min_tissue, "min_tissue")
    size_um = check_positive(size_um, "size_um")
    slide = open_slide(data, "tiles", image_key, mpp)
    size_px = size_um / slide.mpp
    if not size_px >= MIN_TILE_PX:
        msg = f"tiles of size_um={size_um:g} are {size_px:.3g} px at {slide.mpp:g} um per px; they need at least {MIN_TILE_PX} px"
        raise ValueError(msg)
    geometry.check_patch_size(size_um, mpp=slide.mpp, shape=slide.image.shape, name=slide.section)
    step = size_px * (1 - overlap)
    height, width = slide.image.shape
    x, y = np.meshgrid(np.arange(size_px / 2, width, step), np.arange(size_px / 2, height, step))
    centers = np.column_stack([x.ravel(), y.ravel()])
    windows = geometry.square_windows(centers, size_px)
    outlines = tissue_outlines(data, slide.key)
    share = tissue_fraction(slide.image, outlines, windows)
    kept = share >= min_tissue
    if not kept.any():
        tissue = (
            "hc.pp.tissue_mask(data)" if outlines is None else f'shapes["{beside_image(data, keys.TISSUE, slide.key)}"]'
        )
        msg = (
            f"no tile of {size_um:g} um holds {min_tissue:.0%} tissue (the most is {share.max(initial=0):.0%}); look at "
            f"{tissue}, or lower min_tissue or size_um"
        )
        raise ValueError(msg)
    shapes = tile_shapes(windows[kept], share[kept], transformations(slide.element))
    name = shapes_name(data, slide, TILES)
    table = tile_table(
        shapes,
        name,
        windows[kept],
        shape=slide.image.shape,
        mpp=slide.mpp,
        section=slide.section,
        size_um=size_um,
        centers=centers[kept],
    )
    if not inplace:
        from spatialdata import SpatialData

        return SpatialData(shapes={name: shapes}, tables={keys.TILE_TABLE: table})
    add_rows(data, name, table, slide, TILES, overwrite=overwrite)
    data.shapes[name] = shapes
    return None


def tiles_from_shapes(
    data: SpatialData,
    shapes: str = keys.TILES,
    *,
    mpp: float | None = None,
    image_key: str | None = None,
    overwrite: bool = False,
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
        The image, where there are several slides.
    overwrite
        Whether to lay other tiles on a slide although embeddings and the like of its tiles are lost. The same tiles change
        nothing.
    inplace
        Whether to write the result; else it is returned.

    Returns
    -------
    `None`, or with ``inplace=False`` the table. Writes:

    ``tables["tile_table"]`` : AnnData without variables
        One table for all slides, extended shapes by shapes. The columns of the shapes, ``obs["tile_id"]``, ``obs["section"]``, ``obs["mpp"]``, ``obs["patch_inside"]``, ``obsm["spatial"]``
        centres and ``obsm["patches"]``: all that :func:`histocell.pp.embed_image` reads.

    Raises
    ------
    KeyError
        When there are no such shapes.
    ValueError
        When they are no squares of one size, lie beside the image, the resolution is unknown, tiles of other slides have
        another size, or embeddings would be lost.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600)
    >>> hc.pp.tiles(sdata, size_um=56)  # or sq.experimental.im.make_tiles(sdata, "he")
    >>> table = hc.pp.tiles_from_shapes(sdata, "tiles", inplace=False)
    >>> table.n_obs == len(sdata["tiles"])
    True
    """
    slide = open_slide(data, "tiles_from_shapes", image_key, mpp)
    if shapes not in data.shapes:
        hint = "Name the tiles that are there, or lay some with hc.pp.tiles(data)."
        raise missing_key("shapes", shapes, data.shapes, hint)
    frame = data.shapes[shapes]
    windows = tile_windows(frame, shapes, slide.image.shape, image=slide.element)
    table = tile_table(frame, shapes, windows, shape=slide.image.shape, mpp=slide.mpp, section=slide.section)
    if not inplace:
        return table
    add_rows(data, shapes, table, slide, TILES, overwrite=overwrite)
    return None
