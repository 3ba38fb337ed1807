"""Units of abundances: as they are recorded, else by whether they are shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from histocell._core import keys
from histocell._core.errors import warn

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import ArrayLike

PROPORTION, CELLS, ABUNDANCE = "proportion", "cells per spot", "abundance"  # others may be recorded, too
_ROUNDING = 1e-3  # of shares in a table of text


def recorded_unit(table: AnnData, key: str) -> str | None:
    """The unit of ``obsm[key]`` as its provenance or ``uns[key]["unit"]`` says it; `None` where nothing does."""
    entry = table.uns.get(key)
    beside = entry.get("unit") if isinstance(entry, Mapping) else None
    return keys.read_provenance(table, key).get("unit") or (None if beside is None else str(beside))


def unit_of(table: AnnData, key: str, values: ArrayLike) -> str:
    """The unit of `values`, which are ``obsm[key]``: as it is recorded, else by whether they are shares."""
    return recorded_unit(table, key) or (PROPORTION if are_shares(values) else ABUNDANCE)


def are_shares(values: ArrayLike) -> bool:
    """Whether all rows that are known are parts of 1, but for rounding."""
    rows = np.asarray(values, dtype=np.float64)
    rows = rows[np.isfinite(rows).all(axis=1)]
    if len(rows) == 0 or rows.shape[1] < 2:
        return False
    return bool((rows >= -_ROUNDING).all() and (np.abs(rows.sum(axis=1) - 1) <= _ROUNDING).all())


def warn_of_other_unit(first: str | None, second: str | None, *, names: tuple[str, str]) -> None:
    """Warn where shares are compared with what is none: errors then say nothing, correlations still do."""
    if first and second and first != second and PROPORTION in {first, second}:
        warn(f"{names[0]} is in the unit {first!r}, {names[1]} in {second!r}: only their correlation can be compared")
