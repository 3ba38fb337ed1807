"""Nuclei of a slide into shapes and a table."""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numba
import numpy as np
import shapely

from histocell._core import keys
from histocell._core.arguments import check_count, check_switch
from histocell._core.errors import listing, missing_key, warn
from histocell._core.settings import progress_bar
from histocell.images.identity import image_checksum
from histocell.images.tissue import find_tissue
from histocell.pp._nuclei.measure import measure_nuclei
from histocell.pp._segment_nuclei.blocks import Grid, plan_blocks
from histocell.pp._segment_nuclei.elements import nucleus_shapes, nucleus_table
from histocell.pp._segment_nuclei.found import union
from histocell.pp._segment_nuclei.methods import Method, resolve_method
from histocell.pp._segment_nuclei.run import SlideRun
from histocell.pp._segment_nuclei.store import NucleusStore
from histocell.pp._slide_tables import NUCLEI, add_rows, shapes_name
from histocell.tables.slides import Slide, beside_image, open_slide, tissue_outlines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from os import PathLike

    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from histocell.pp._segment_nuclei.blocks import Block
    from histocell.pp._segment_nuclei.found import Found

_BLOCK_PX = 2048
_LEAST_BLOCK_PX = 64
_COARSE_MPP = 0.6  # coarser than what a 20x objective gives
_COARSEST_MPP = 2.0  # a nucleus of 6 um has 3 px
_BYTES_PER_PX = 80  # of a window: pixels, maps of stains and labels in float32 and int64
_MIN_TISSUE_UM2 = 20_000.0  # as hc.pp.tissue_mask finds it by default


def segment_nuclei(
    data: SpatialData,
    *,
    method: str | Callable[[NDArray[np.uint8], float], object] = "unet",
    settings: Mapping[str, object] | None = None,
    weights: str | PathLike[str] | None = None,
    trust_code: bool = False,
    region: str | None = keys.TISSUE,
    mpp: float | None = None,
    method_mpp: float | None = None,
    halo_um: float | None = None,
    block_px: int | None = None,
    image_key: str | None = None,
    store: str | PathLike[str] | None = None,
    measure: bool = True,
    device: str | None = None,
    overwrite: bool = False,
    inplace: bool = True,
) -> SpatialData | None:
    """Find the nuclei of a slide, of any size: outlines, and a table of them.

    The slide is read once, in blocks with a margin, at the resolution that the method wants. A nucleus belongs to the
    block whose core holds its centre, so that it is there once, whole, wherever the borders lie. Its outline runs through
    the middles of the pixel edges around it: the area of the polygon is that of its px less one half.

    Parameters
    ----------
    data
        SpatialData with an image. Reads ``shapes["tissue"]`` (``tissue-<section>`` for the image ``he-<section>``) where
        it is there; without it, tissue is found as :func:`histocell.pp.tissue_mask` finds it.
    method
        ``"unet"`` and the faster ``"watershed"`` (both built in), ``"instanseg"`` (with `weights`), ``"lazyslide:<model>"``,
        or a function ``(image, mpp) -> labels`` from uint8 (h, w, 3) to whole numbers (h, w), 0 outside of nuclei. A function
        may have the attributes ``mpp`` and ``halo_um``; it sees one block at a time.
    settings
        Settings of a method by name.
    weights
        The TorchScript file of ``"instanseg"``, or a file for a model of lazyslide-models that takes one.
    trust_code
        Whether the code in a TorchScript file may run.
    region
        Name of the shapes whose nuclei are wanted: those centred in one of the polygons. `None` for the whole image.
    mpp
        Micrometres per full-resolution px, where the image does not say it.
    method_mpp
        Micrometres per px of what the method sees; by default what it asks for, 0.5 for functions. Whole full-resolution
        px are taken where they come within a tenth of it, and the px of a coarser slide as they are, unless a number is
        given here or the method is a network that knows one resolution.
    halo_um
        How far a px is influenced by its surroundings, in um; by default what the method says, 20 for functions.
    block_px
        Edge of a block, in px of what the method sees; 2048 by default. Networks that want images of one size have
        blocks of their own.
    image_key
        The image, where there are several slides.
    store
        A folder into which nuclei are written block by block. A run that was killed and is started again resumes from it,
        with the same result. Image, tissue, method and settings must be those of the run before.
    measure
        Whether to run :func:`histocell.pp.measure_nuclei` with its defaults on what was found.
    device
        Torch device of networks; by default the best there is.
    overwrite
        Whether to put other nuclei in place of those of a slide although what was computed of them is lost.
    inplace
        Whether to write the result; else it is returned.

    Returns
    -------
    `None`, or with ``inplace=False`` a SpatialData with the two new elements. Writes:

    ``shapes["nuclei"]`` : polygons
        In full-resolution px, in the coordinate systems of the image; index ``nucleus_id``, from 0, by rows and columns.
        Those of an image ``he-C2`` are ``nuclei-C2``.
    ``tables["nucleus_table"]`` : AnnData without variables
        One table for all slides, extended slide by slide: ``obs["region"]``, ``obs["nucleus_id"]``, ``obs["section"]``,
        ``obs["mpp"]``, ``obsm["spatial"]`` (centroids, x and y in px), how they were found in ``uns["histocell"]``, and with
        `measure` ``obsm["nucleus_measurements"]``.

    Raises
    ------
    KeyError
        When there are no such shapes, or no such method.
    ValueError
        When no tissue or no nucleus is found, the resolution is unknown or too coarse, blocks would not fit into the
        memory, `store` holds nuclei of other settings, or what was computed of other nuclei would be lost.
    TypeError
        When a function gives something else than whole numbers.
    OSError
        When the slide is damaged, or the disk of `store` is full.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600)
    >>> hc.pp.segment_nuclei(sdata)
    >>> sdata["nucleus_table"].n_obs == len(sdata["nuclei"])
    True
    """
    check_switch(trust_code, "trust_code")
    check_switch(measure, "measure")
    slide = open_slide(data, "segment_nuclei", image_key, mpp)
    _check_resolution(slide)
    name = shapes_name(data, slide, NUCLEI)
    if inplace and not overwrite:
        _check_own(data, name)
    chosen = resolve_method(
        method,
        settings=settings,
        weights=weights,
        trust_code=trust_code,
        method_mpp=method_mpp,
        halo_um=halo_um,
        device=device,
    )
    tissue = _tissue(data, slide, region)
    grid = Grid.of_slide(slide.image.shape, mpp=slide.mpp, wanted=chosen.mpp, enlarges=chosen.enlarges)
    _warn_of_blur(slide, chosen)
    blocks, edge = _plan(grid, chosen, block_px, tissue)
    facts = {**chosen.definition, "mpp": grid.mpp, "block_px": edge, "region": region}
    found = _segment(slide, grid, chosen, tissue, blocks, store=store, facts=facts)
    _check_any(found, slide, chosen, region)
    shapes = nucleus_shapes(found.polygons(grid.scale), slide)
    table = nucleus_table(shapes, name, slide, **facts)
    from spatialdata import SpatialData

    if inplace:
        renewed = (keys.MEASUREMENTS,) if measure else ()
        add_rows(data, name, table, slide, NUCLEI, overwrite=overwrite, renewed=renewed)
        data.shapes[name] = shapes
    result = (
        data
        if inplace
        else SpatialData({slide.key: slide.element}, shapes={name: shapes}, tables={keys.NUCLEUS_TABLE: table})
    )
    if measure:
        measure_nuclei(result, name, mpp=slide.mpp, image_key=slide.key, table_key=keys.NUCLEUS_TABLE)
    if inplace:
        return None
    del result.images[slide.key]
    return result


def _segment(
    slide: Slide,
    grid: Grid,
    method: Method,
    tissue: shapely.Geometry | None,
    blocks: list[Block],
    *,
    store: str | PathLike[str] | None,
    facts: Mapping[str, object],
) -> Found:
    """The nuclei of all blocks, each once."""
    run = SlideRun(slide.image, grid, method, tissue)
    manifest = None
    if store is not None:
        facts = {**facts, "code": method.code(), "image": image_checksum(slide.image, px=grid.scale)}
        manifest = {**facts, "tissue": _checksum(tissue)}
    with (
        nullcontext() if manifest is None or store is None else NucleusStore(store, manifest) as on_disk,
        progress_bar(total=len(blocks), desc=f"segmenting nuclei with {method.name}", unit="block") as bar,
    ):
        return union(run.blocks(blocks, store=on_disk, progress=bar))


def _checksum(tissue: shapely.Geometry | None) -> str | None:
    return None if tissue is None else hashlib.sha256(shapely.to_wkb(tissue)).hexdigest()[:16]


def _check_any(found: Found, slide: Slide, method: Method, region: str | None) -> None:
    if not len(found):
        msg = (
            f"method {method.name!r} found no nucleus on image {slide.key!r}; look at the image, its resolution "
            f"({slide.mpp:g} um per px) and region={region!r}"
        )
        raise ValueError(msg)


def _check_own(data: SpatialData, name: str) -> None:
    """Refuse to replace nuclei of another origin, such as those of a Xenium."""
    table = data.tables.get(keys.NUCLEUS_TABLE)
    known = table is not None and keys.REGION in table.obs and (table.obs[keys.REGION] == name).any()
    if name in data.shapes and not known:
        msg = (
            f"shapes {name!r} are there already and not of hc.pp.segment_nuclei; keep them under another name "
            f'(sdata.shapes["measured_nuclei"] = sdata.shapes.pop("{name}")), replace them with overwrite=True, or get the '
            "new ones with inplace=False"
        )
        raise ValueError(msg)


def _check_resolution(slide: Slide) -> None:
    if slide.mpp > _COARSEST_MPP:
        msg = (
            f"image {slide.key!r} has {slide.mpp:.3g} um per px, and a nucleus of 6 um {6 / slide.mpp:.1f} px: that is too coarse "
            f"to segment nuclei on, which takes at most {_COARSEST_MPP:g} um per px. Is it a thumbnail, or mpp= wrong?"
        )
        raise ValueError(msg)


def _warn_of_blur(slide: Slide, method: Method) -> None:
    if slide.mpp > max(1.5 * method.mpp, _COARSE_MPP):
        warn(
            f"method {method.name!r} works best at {method.mpp:g} um per px and image {slide.key!r} has {slide.mpp:g}: small or "
            "crowded nuclei may be missed"
        )


def _tissue(data: SpatialData, slide: Slide, region: str | None) -> shapely.Geometry | None:
    """The polygons whose nuclei are wanted, as one geometry in px of the image; `None` for all of the image."""
    if region is None:
        return None
    name = beside_image(data, region, slide.key)
    name = name if name in data.shapes else region
    if name in data.shapes:
        outlines = tissue_outlines(data, slide.key, shapes_key=name)
        if outlines is None:
            msg = f"shapes {name!r} and image {slide.key!r} share no coordinate system"
            raise ValueError(msg)
    elif region == keys.TISSUE:
        area = np.prod(slide.image.shape) * slide.mpp**2
        found = find_tissue(slide.image, min_area_um2=min(_MIN_TISSUE_UM2, 0.02 * area))
        outlines = np.array(found.polygons(), dtype=object)
    else:
        raise missing_key("shapes", region, data.shapes, "region=None takes the whole image.")
    tissue = shapely.union_all(shapely.make_valid(outlines))
    if shapely.area(tissue) == 0:
        msg = f"no tissue on image {slide.key!r}; look at it, draw some into shapes {beside_image(data, region, slide.key)!r}, or take all with region=None"
        raise ValueError(msg)
    return tissue


def _plan(grid: Grid, method: Method, block_px: int | None, tissue: shapely.Geometry | None) -> tuple[list[Block], int]:
    """The blocks, and their edge."""
    margin = int(np.ceil(method.margin_um / grid.mpp))
    if grid_px := round(method.grid_um / grid.mpp):
        margin = -(-margin // grid_px) * grid_px
    if method.window_px is not None:
        edge = method.window_px - 2 * margin
        if block_px not in {None, edge}:
            msg = f"method {method.name!r} sees images of {method.window_px} px, so its blocks are of {edge} px; leave out block_px"
            raise ValueError(msg)
        if edge < _LEAST_BLOCK_PX:
            msg = f"images of {method.window_px} px hold no block with a margin of {margin} px on each side; give a smaller halo_um="
            raise ValueError(msg)
    else:
        edge = check_count(_BLOCK_PX if block_px is None else block_px, "block_px", least=_LEAST_BLOCK_PX)
        _check_memory(grid, edge, margin, n_threads=numba.get_num_threads() if method.runs_in_threads else 2)
    blocks = plan_blocks(grid, block_px=edge, margin_px=margin, window_px=method.window_px, tissue=tissue)
    if not blocks:
        msg = f"the region lies beside the image of {grid.shape[1]} x {grid.shape[0]} px; available: {listing([])}"
        raise ValueError(msg)
    return blocks, edge


def _check_memory(grid: Grid, edge: int, margin: int, *, n_threads: int) -> None:
    """Refuse blocks that do not fit into the memory, before anything is read."""
    import psutil

    rows, columns = (min(edge + 2 * margin, length) for length in grid.shape)
    needed = rows * columns * _BYTES_PER_PX * n_threads
    free = psutil.virtual_memory().available
    if needed > free:
        msg = (
            f"blocks of {rows} x {columns} px in {n_threads} threads take about {needed / 2**30:.1f} GiB, and "
            f"{free / 2**30:.1f} GiB of memory are free; give a smaller block_px= than {edge}"
        )
        raise ValueError(msg)
