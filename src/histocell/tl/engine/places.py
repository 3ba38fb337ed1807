"""Places of the rows that a model was fitted on, by which rows beside them are told in tables that do not hold them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from histocell._core.geometry import overlapping_windows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from histocell._core.types import Bools, Floats, Ints
    from histocell.models.fingerprint import Places
    from histocell.tables.fields import FieldsOfView

_CLOSEST = 0.01  # the share of rows that stand for the least distance there is


def places_of(fields: FieldsOfView, rows: Ints) -> tuple[Places, dict[str, float | None]]:
    """The fields of view of rows of a named section, and the um per px of each section.

    Shape ``(n, 4)``: number of the section, twice y and twice x of the centre, and edge, in px.
    """
    sections = fields.sections
    known = rows[np.isfinite(fields.windows[rows]).all(axis=1)]
    if sections.library_key is None:  # nothing tells that section from another one
        known = known[:0]
    names, number = np.unique(sections.labels[known], return_inverse=True)
    y0, x0, y1, x1 = fields.windows[known].T
    places = np.rint(np.column_stack([number, y0 + y1, x0 + x1, y1 - y0])).astype(np.int32)
    mpp = sections.mpp(required=False)
    first = [mpp[known[number == i][0]] for i in range(len(names))]
    return places, {str(name): float(one) if np.isfinite(one) else None for name, one in zip(names, first, strict=True)}


def beside_fitted(fields: FieldsOfView, rows: Bools, places: Places, resolutions: Mapping[str, float | None]) -> Bools:
    """Which of `rows` share tissue with the places of a fit on the sections that have the same name and resolution.

    Other slides of the same name are told by their rows: on one slide, rows keep their distance from each other.
    """
    out = np.zeros(len(rows), dtype=bool)
    mpp = fields.sections.mpp(required=False)
    known = rows & np.isfinite(fields.windows).all(axis=1)
    there = set(fields.sections.names)
    for number, (name, resolution) in enumerate(resolutions.items()):
        if name not in there:
            continue
        mine = np.flatnonzero(known & (fields.sections.labels == name))
        _, y, x, edge = places[places[:, 0] == number].astype(np.float64).T
        theirs = np.column_stack([y - edge, x - edge, y + edge, x + edge]) / 2
        wanted = np.nan if resolution is None else resolution
        mine = mine[np.isclose(mpp[mine], wanted, rtol=1e-3, equal_nan=True)]
        touched = mine[overlapping_windows(fields.windows[mine], theirs)]
        if len(touched) and _same_slide(fields.windows[touched], theirs):
            out[touched] = True
    return out


def _same_slide(windows: Floats, others: Floats) -> bool:
    """Whether windows are as far from the others as those are from each other."""
    mine, theirs = ((each[:, :2] + each[:, 2:]) / 2 for each in (windows, others))
    if len(theirs) < 2:
        return True
    tree = cKDTree(theirs)
    apart, across = tree.query(theirs, k=[2])[0], tree.query(mine)[0]
    return bool(np.quantile(across, _CLOSEST) >= np.quantile(apart, _CLOSEST) / 2)
