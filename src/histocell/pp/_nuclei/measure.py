"""Measurements of nuclei on their slide, from any polygons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histocell._core import keys
from histocell._core.arguments import check_amount, check_positive
from histocell._core.errors import warn
from histocell._core.settings import logger, progress_bar
from histocell.images.slide_image import open_image
from histocell.images.stain.estimate import stains_of
from histocell.images.transformations import matrix_to_image
from histocell.nuclei.measuring.blocks import LARGEST_UM, Raster, measure_stains
from histocell.nuclei.measuring.columns import NAMES
from histocell.nuclei.measuring.outlines import Outlines
from histocell.nuclei.measuring.surroundings import surroundings
from histocell.tables.nuclei import image_under, nucleus_shapes, rows_of_shapes, table_of_shapes, with_shapes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from spatialdata import SpatialData

    from histocell._core.types import JSON, Floats
    from histocell.images.stain.estimate import StainEstimate
    from histocell.nuclei.measuring.blocks import Stains

COARSE_UM = 1.0  # px of more hold no chromatin
OFTEN = 0.05  # share of outlines that the border may cut, or that may overlap, with a line in the provenance only
OVERLAP = 0.05  # share of the px of an outline that may lie in others, too, without a word


@dataclass(frozen=True)
class _Measured:
    """Measurements of all shapes of one name, shape (n, 18), and facts for the provenance."""

    name: str
    values: Floats
    facts: JSON


def measure_nuclei(
    data: SpatialData,
    shapes_key: str = keys.NUCLEI,
    *,
    resolution_um: float = 0.5,
    ring_um: float = 3.0,
    mpp: float | None = None,
    image_key: str | Mapping[str, str] | None = None,
    table_key: str | None = None,
    key_added: str = keys.MEASUREMENTS,
    inplace: bool = True,
) -> pd.DataFrame | None:
    """Measure nuclei on their slide: shape, stain, chromatin, cytoplasm around them, and neighbours.

    Takes any outlines: of :func:`histocell.pp.segment_nuclei`, of a Xenium, of QuPath, of Visium HD. Shapes are measured
    on the outlines themselves, stains on the px whose centre lies in them, in one pass over the parts of the slide that
    hold any, block by block, in threads; memory does not grow with the slide.

    Parameters
    ----------
    data
        SpatialData with an image and polygons, or circles, in any coordinate system that they share with it.
    shapes_key
        Name of the shapes. ``"nuclei"`` also means those of all slides, ``nuclei-<section>``, where there is no element
        of just this name.
    resolution_um
        Edge of the px on which stains are measured, in um; that of the slide where its px are larger.
    ring_um
        Width of the ring around a nucleus, in um.
    mpp
        Micrometres per full-resolution px, where the image does not say it.
    image_key
        The image, or a mapping from shapes to it, where there are several slides.
    table_key
        The table to write to; by default the one that annotates the shapes, else the one whose rows have the names of all of
        them, as the table of the cells of a Xenium has those of its nuclei. Also one of other shapes with the same index;
        rows without a nucleus are NaN.
    key_added
        Slot of ``obsm``.
    inplace
        Whether to write the result; else it is returned.

    Returns
    -------
    `None`, or with ``inplace=False`` the data frame; of shapes without a table it is indexed as they are. Writes:

    ``obsm["nucleus_measurements"]`` : DataFrame (n, 18)
        Columns ``area_um2``, ``perimeter_um``, ``major_axis_um``, ``minor_axis_um``, ``eccentricity``, ``solidity``,
        ``orientation``, ``haematoxylin_mean``, ``haematoxylin_sd``, ``eosin_mean``, ``eosin_sd``,
        ``chromatin_contrast``, ``chromatin_correlation``, ``chromatin_entropy``, ``ring_haematoxylin_mean``,
        ``ring_eosin_mean``, ``nearest_um``, ``density_per_mm2``; docs/nuclei_measurements.md has unit and formula of
        each. Stains are in units of the slide's own strength, so that slides can be compared. Rows of other slides in
        the table keep what they had.
    ``uns["histocell"]["nucleus_measurements"]`` : str
        As JSON, by shapes: the image, the resolution, the ring, what is odd, and the stains of the slide.

    Raises
    ------
    KeyError
        When there are no such shapes, image or table.
    TypeError
        When `data` is no SpatialData.
    ValueError
        When shapes are no polygons, share no coordinate system with the image, no table annotates them, or the
        resolution is unknown.

    Notes
    -----
    One warning counts what is odd, and so does the provenance: outlines that are NaN or were changed always, such as the border
    cuts, or that overlap, where they are more than 5 %. An outline that crosses itself is made valid first. An empty one is NaN. Stains are NaN
    where an outline lies outside of the image, holds the centre of no px, or is larger than 250 um; of one that the
    border of the image cuts they are those of the part inside. Where outlines overlap, a px counts in each of them. An
    outline of several parts is measured as one.

    References
    ----------
    Stains: Macenko et al. (2009). Texture: Haralick, Shanmugam and Dinstein (1973), Textural features for image
    classification, equations f2 and f3. Perimeters and axes as in Benkrid and Crookes, and Steger (1996).

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600)
    >>> hc.pp.measure_nuclei(sdata, "cells")
    >>> sdata["cell_table"].obsm["nucleus_measurements"].columns[0]
    'area_um2'
    """
    sdata = with_shapes(data, "hc.pp.measure_nuclei")
    resolution_um, ring_um = check_positive(resolution_um, "resolution_um"), check_amount(ring_um, "ring_um")
    names = nucleus_shapes(sdata, shapes_key, image_key)
    found = {name: table_of_shapes(sdata, name, table_key) for name in names}
    without = [name for name, key in found.items() if key is None]
    if len(set(found.values())) > 1 or (without and (inplace or len(names) > 1)):
        _refuse(sdata, found)
    parts = [
        _measure(sdata, name, resolution_um=resolution_um, ring_um=ring_um, mpp=mpp, image_key=image_key)
        for name in names
    ]
    if without:
        return pd.DataFrame(parts[0].values, index=sdata.shapes[names[0]].index, columns=list(NAMES))
    table = sdata.tables[str(found[names[0]])]
    frame = _frame(sdata, table, parts, key_added)
    if not inplace:
        return frame
    table.obsm[key_added] = frame
    slides = keys.read_provenance(table, key_added).get("slides", {}) | {part.name: part.facts for part in parts}
    keys.write_provenance(table, key_added, slides=slides)
    return None


def _refuse(sdata: SpatialData, found: dict[str, str | None]) -> None:
    """Refuse shapes that no table, or several, annotate."""
    without = [name for name, key in found.items() if key is None]
    if without:
        msg = (
            f"no table annotates the shapes {without[0]!r}, so there is no obsm to write to; tables: {_tables(sdata)}. Get the "
            "data frame with inplace=False, name a table of rows of the same names with table_key=, or build one with "
            "spatialdata.models.TableModel.parse"
        )
    else:
        msg = f"the shapes are annotated by different tables ({found}); measure one of them at a time with shapes_key="
    raise ValueError(msg)


def _tables(sdata: SpatialData) -> str:
    """The tables and what they annotate."""
    regions = {key: table.uns.get("spatialdata_attrs", {}).get("region") for key, table in sdata.tables.items()}
    return ", ".join(f"{key!r} of {region!r}" for key, region in regions.items()) or "none"


def _measure(
    sdata: SpatialData,
    name: str,
    *,
    resolution_um: float,
    ring_um: float,
    mpp: float | None,
    image_key: str | Mapping[str, str] | None,
) -> _Measured:
    """All measurements of the shapes of one name."""
    shapes, key = sdata.shapes[name], image_under(sdata, name, image_key)
    image = open_image(sdata.images[key], mpp=mpp)
    if image.mpp is None:
        msg = f"the resolution of image {key!r} is unknown; give mpp= (um per full-resolution px)"
        raise ValueError(msg)
    matrix = matrix_to_image(shapes, sdata.images[key])
    if matrix is None:
        msg = f"shapes {name!r} and image {key!r} share no coordinate system, so nuclei cannot be placed on it"
        raise ValueError(msg)
    radius = shapes["radius"].to_numpy(dtype=np.float64) if "radius" in shapes else None
    outlines = Outlines.read(shapes.geometry.to_numpy(), radius=radius, matrix=matrix)
    if not outlines.known.any():
        msg = f"shapes {name!r} hold no outline with an area ({len(outlines)} rows)"
        raise ValueError(msg)
    raster = Raster(image, image.mpp, max(resolution_um, image.mpp), ring_um)
    stains = stains_of(image, mpp=image.mpp)
    _check_image(key, raster, stains)
    with progress_bar(total=len(outlines), desc=f"measuring {name}", unit="nucleus") as bar:
        measured = measure_stains(outlines, raster, stains, bar)
    size = (image.shape[1] * image.mpp, image.shape[0] * image.mpp)
    around = surroundings(outlines.centroids * image.mpp, size)
    logger.info("measured %d outlines of %r on %r at %.3g um per px", len(outlines), name, key, raster.resolution_um)
    facts = {
        "image": key,
        "mpp": image.mpp,
        "resolution_um": raster.resolution_um,
        "ring_um": ring_um,
        "n": len(outlines),
        "odd": _odd(name, outlines, measured, raster),
        "stain_estimated": stains.estimated,
        "stain_vectors": np.round(stains.vectors, 5).tolist(),
        "stain_strength": np.round(stains.strength, 5).tolist(),
    }
    return _Measured(name, np.column_stack([outlines.shapes(image.mpp), measured.values, around]), facts)


def _frame(sdata: SpatialData, table: AnnData, parts: list[_Measured], key: str) -> pd.DataFrame:
    """Measurements by the rows of the table; rows of other slides keep what they had."""
    values = np.full((table.n_obs, len(NAMES)), np.nan)
    before = table.obsm.get(key)
    if isinstance(before, pd.DataFrame) and list(before.columns) == list(NAMES):
        values[:] = before.to_numpy()
    for part in parts:
        rows, places = rows_of_shapes(table, part.name, sdata.shapes[part.name])
        absent = int((places < 0).sum())
        if absent:
            warn(f"{absent} of {len(rows)} rows of the table have no shape in {part.name!r}; they are NaN")
        values[rows] = np.where((places >= 0)[:, None], part.values[places], np.nan)
    return pd.DataFrame(values, index=table.obs_names, columns=list(NAMES))


def _check_image(key: str, raster: Raster, stains: StainEstimate) -> None:
    """Warn where the image is not what it should be."""
    if not stains.estimated:
        warn(
            f"the stains of image {key!r} could not be estimated: it shows too little tissue, or does not look like H&E. "
            "Reference colours stand in, and haematoxylin and eosin may mean nothing on it"
        )
    if raster.mpp > COARSE_UM:
        warn(
            f"image {key!r} has {raster.mpp:.3g} um per px, too coarse for the stain and texture of nuclei; shapes are exact"
        )


def _odd(name: str, outlines: Outlines, measured: Stains, raster: Raster) -> dict[str, int]:
    """How many outlines are odd, and in what; one warning of those that are NaN or were changed, and of many others."""
    n, bounds, (height, width) = len(outlines), outlines.bounds, raster.image.shape
    with np.errstate(invalid="ignore"):
        outside = (bounds[:, :2] >= (width, height)).any(axis=1) | (bounds[:, 2:] <= 0).any(axis=1)
        cut = ((bounds[:, :2] < 0).any(axis=1) | (bounds[:, 2:] > (width, height)).any(axis=1)) & ~outside
        large = (bounds[:, 2:] - bounds[:, :2]).max(axis=1) * raster.mpp > LARGEST_UM
    without = outlines.known & ~outside & ~large & (measured.n_px == 0)
    serious = {
        "are empty or no area (NaN)": ~outlines.known,
        "crossed themselves and were made valid": outlines.repaired,
        "have several parts, measured as one": outlines.parts > 1,
        "lie outside of the image (stains NaN)": outside,
        f"are larger than {LARGEST_UM:g} um (stains NaN)": large & ~outside,
        f"hold the centre of no px of {raster.resolution_um:.3g} um (stains NaN)": without,
    }
    usual = {
        "are cut by its border (stains of the part inside)": cut,
        f"share more than {OVERLAP:.0%} of their px with others (counted in each)": measured.shared > OVERLAP,
    }
    counts = {what: int(which.sum()) for what, which in (serious | usual).items()}
    counts = {what: number for what, number in counts.items() if number}
    said = [f"{number} {what}" for what, number in counts.items() if what in serious or number > OFTEN * n]
    if said:
        warn(f"of {n} outlines in {name!r}: {'; '.join(said)}")
    return counts
