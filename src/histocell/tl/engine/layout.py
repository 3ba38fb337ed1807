"""Places of the rows of a table, for the models that see neighbours, and blocks of tissue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histocell._core import keys
from histocell.models.folds import spatial_blocks
from histocell.models.places import Places
from histocell.tables.access import coordinates

if TYPE_CHECKING:
    from collections.abc import Iterable

    from histocell._core.types import Ints
    from histocell.models.base import Model
    from histocell.tables.sections import Sections

_BLOCKS = 32


def places_for(models: Iterable[Model], sections: Sections) -> Places | None:
    """The places of all rows in um, `None` where none of the models needs them.

    Raises
    ------
    KeyError
        When there are no coordinates.
    ValueError
        When the resolution is not known, or the coordinates are in another unit than the patches.
    """
    if not any(model.needs_places for model in models):
        return None
    return Places.of(sections.coordinates_um(), sections.labels.astype(str))


def tissue_blocks(sections: Sections, rows: Ints, split_key: str) -> np.ndarray:
    """Block of each of `rows`: the squares that were held out whole, else 32 of equal numbers of them in each section.

    Rows without coordinates are blocks of their own.
    """
    table = sections.table
    if keys.SPATIAL not in table.obsm:
        return np.arange(len(rows))
    numbers = np.unique(sections.labels.astype(str), return_inverse=True)[1][rows]
    if block_um := keys.read_provenance(table, split_key).get("block_um"):
        squares = np.floor(sections.coordinates_um()[rows] / block_um).astype(np.int64)
        return np.unique(np.column_stack([numbers, squares]), axis=0, return_inverse=True)[1].reshape(-1)
    xy, out = coordinates(table)[rows], np.zeros(len(rows), dtype=np.intp)
    for number in np.unique(numbers):
        mine = numbers == number
        out[mine] = number * _BLOCKS + spatial_blocks(xy[mine], _BLOCKS)
    return out


def reach_um(models: Iterable[Model], places: Places | None) -> float:
    """How far the widest of the models looks beside a row."""
    return max([0.0, *(model.reach_um(places) for model in models)])
