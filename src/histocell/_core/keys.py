"""Names of the slots that histocell reads and writes, and the provenance kept beside them."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histocell._core.errors import warn

if TYPE_CHECKING:
    from collections.abc import Iterable
    from os import PathLike

    from anndata import AnnData

# obsm
SPATIAL = "spatial"  # (n, 2) float64: x, y in full-resolution pixels
PATCHES = "patches"  # (n, 4) int32: y0, x0, y1, x1 in full-resolution pixels
ABUNDANCE = "cell_abundance"  # DataFrame, one column per cell type
ALIGNED = "X_aligned"  # with _image and _genes: both views of a cell in one space
PREDICTED = "predicted_abundance"  # DataFrame; with _lower and _upper the interval
PREDICTED_EXPRESSION = "predicted_expression"  # DataFrame; of many genes in layers
MEASUREMENTS = "nucleus_measurements"  # DataFrame (n, 18) of nuclei

LOWER, UPPER = "_lower", "_upper"  # endings of the slots of an interval
NOISE = "_noise"  # ending of the slot with the uncertainty of a measured abundance
SIGNATURES = "_signatures"  # ending of the slot of varm with what was deconvolved by
NOVELTY = "_novelty"  # ending of the column of obs that says how unlike the training rows a row is

# obs
SECTION = "section"
PATIENT = "patient"
MPP = "mpp"  # um per full-resolution pixel of the row's image
INSIDE = "patch_inside"
SPLIT = "split"
TRAIN, VAL, TEST, DROPPED = "train", "val", "test", "dropped"  # its levels
PARTS = (TRAIN, VAL, TEST, DROPPED)
TISSUE_FRACTION = "tissue_fraction"
FOCUS = "focus"
NICHE = "niche"
PROBABILITY, CONFIDENCE = "_probability", "_confidence"
UNSURE = "unsure"  # the type of cells that a prediction abstains from
N_NUCLEI = "n_nuclei"  # nuclei in a spot or tile
PREDICTED_TYPE, CELL_TYPE = (
    "predicted_cell_type",
    "cell_type",
)  # of single cells; with the two endings above of a prediction
BETWEEN = "between_spots"  # rows of a denser grid that are no spots

# uns
PROVENANCE = "histocell"
MODEL = "abundance_model"
EVALUATION = "abundance_evaluation"
ALIGNMENT = "alignment"  # whether nuclei lie on their image
CELL_TYPE_MODEL = "cell_type_model"
CELL_TYPE_EVALUATION = "cell_type_evaluation"
EXPRESSION_MODEL = "expression_model"
EXPRESSION_EVALUATION = "expression_evaluation"
ALIGNMENT_MODEL = "alignment_model"
FINETUNING = "finetuning"
ALIGNMENT_EVALUATION = "alignment_evaluation"
RETRIEVAL = "retrieval"
BATCH_EFFECT = "batch_effect"

SLIDE_MODEL = "slide_model"
COMPOSITION = "composition"  # data frame in obsm of a table of slides
SLIDE_EVALUATION = "slide_evaluation"
PREDICTED_SLIDE = "predicted_slide"  # column of obs of a table of slides
N_TILES = "n_tiles"
ATTENTION = (
    "attention"  # column of obs of tiles; with an underscore before it the ending of a slot of uns of cell types
)

# what two embeddings must agree on to be the same kind of number, where it is known of both
IDENTITY = ("dim", "encoder", "revision", "pool", "size_um", "mpp", "stain", "axes")  # axes: of embeddings of genes

# models that stand beside every other one, the simplest first
BASELINES = ("mean", "ridge")

# SpatialData elements
IMAGE = "he"
SPOTS = "spots"
BINS = "bins"
CELLS = "cells"
TILES = "tiles"
TILE_TABLE = "tile_table"  # SpatialData wants names to differ between tables and shapes
TISSUE = "tissue"
NUCLEI = "nuclei"
NUCLEUS_TABLE = "nucleus_table"
NUCLEUS_ID = "nucleus_id"
TABLE = "table"
PIXELS = "global"  # coordinate system of full-resolution pixels
INTENSITY_RANGE = "intensity_range"  # attrs of a SpatialData: values of black and white, by image, of more than 8 bit
SOURCES = "sources"  # attrs of a SpatialData: the image that each normalised image shows
MICRONS = "um"  # coordinate system of micrometres; carries the mpp of an image
REGION = "region"
INSTANCE = "spot_id"
CELL_ID = "cell_id"


def safe_key(name: str) -> str:
    """A key that anndata and SpatialData can write: letters, digits, ``.``, ``_`` and ``-``."""
    key = _plain(name)
    if not key:
        msg = f"{name!r} holds no character that a slot name may hold"
        raise ValueError(msg)
    return key


def safe_keys(names: Iterable[str]) -> list[str]:
    """A key for each name, all different, also where capitals do not count: ``a b`` and ``a/b`` become a_b and a_b_2.

    Names of which no character can stay become ``unnamed``, ``unnamed_2`` and so on.
    """
    taken: dict[str, str] = {}
    for name in names:
        key = _plain(name) or "unnamed"
        numbered = (key, *(f"{key}_{number}" for number in range(2, len(taken) + 3)))
        free = next(each for each in numbered if each.lower() not in taken)
        taken[free.lower()] = free
    return list(taken.values())


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("_")


def slide_name(path: str | PathLike[str]) -> str:
    """Name of a slide file without ``.svs``, ``.tif``, ``.ome.tif`` and the like."""
    return Path(path).stem.removesuffix(".ome")


def safe_names(names: Iterable[object], *, quiet: bool = False) -> tuple[list[str], dict[str, str]]:
    """Column names without ``/``, which anndata cannot write, and the originals of those that changed.

    Warns, unless `quiet`, when a name had to change; raises `ValueError` when two names become the same.
    """
    originals = [str(name) for name in names]
    safe = [name.replace("/", "_") for name in originals]
    changed = {new: old for new, old in zip(safe, originals, strict=True) if new != old}
    if len(set(safe)) != len(safe):
        clash = sorted({name for name in safe if safe.count(name) > 1})
        msg = f"column names are not unique (after '/' became '_'): {', '.join(clash)}"
        raise ValueError(msg)
    if changed and not quiet:
        warn(f"'/' cannot be written in column names; replaced by '_' in: {', '.join(changed.values())}")
    return safe, changed


def write_provenance(table: AnnData, slot: str, **facts: Any) -> None:
    """Record how a slot came about in ``uns["histocell"][slot]``, as one JSON string that survives every format."""
    facts = {"histocell": version("histocell"), **facts}
    store = dict(table.uns.get(PROVENANCE, {}))
    store[slot] = json.dumps(facts)
    table.uns[PROVENANCE] = store


def read_provenance(table: AnnData, slot: str) -> dict[str, Any]:
    """What `write_provenance` recorded, an empty dict where nothing is."""
    text = table.uns.get(PROVENANCE, {}).get(slot)
    return {} if text is None else json.loads(str(text))
