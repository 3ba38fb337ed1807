"""Rows of a cohort that an encoder is trained on, and those, of other patients, that choose the epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from histocell._core import keys
from histocell._core.errors import listing, warn
from histocell.models.folds import spatial_blocks
from histocell.tables.access import coordinates, row_labels, split_parts
from histocell.tables.expression import raw_counts
from histocell.tables.fields import FieldsOfView
from histocell.tables.regions import record_mpp
from histocell.tables.sections import Sections
from histocell.tables.windows import check_patches, patch_size_um, patch_windows, rows_inside

if TYPE_CHECKING:
    from histocell._core.types import Bools, Floats, Ints
    from histocell.tables.access import Data
    from histocell.tables.regions import Region

_SHARE = 0.1  # of the training rows that validate, where the split has none
_BLOCKS = 8


@dataclass
class Member:
    """One table of the cohort.

    Attributes
    ----------
    sections
        Its rows by section.
    regions
        Its images.
    centers
        Of the patches, x and y in full-resolution px.
    mpp
        Of each row.
    size_um
        Edge of the patches.
    parts
        What each row is for; ``dropped`` where it has no patch, no counts, or shows tissue of held-out rows.
    groups
        Patient of each row, else its section.
    """

    sections: Sections
    regions: list[Region]
    centers: Floats
    mpp: Floats
    size_um: float
    parts: np.ndarray
    groups: np.ndarray

    @property
    def used(self) -> Bools:
        """Rows for training or validation."""
        return np.isin(self.parts, (keys.TRAIN, keys.VAL))

    def rows(self, part: str) -> Ints:
        """Positions of the rows of a part."""
        return np.flatnonzero(self.parts == part)


class Columns(NamedTuple):
    """Names in the tables.

    Attributes
    ----------
    split, group, library
        Columns of ``obs`` with parts, patients and sections.
    table
        The table of a SpatialData.
    """

    split: str
    group: str | None
    library: str | None
    table: str | None


def read_cohort(data: Data | Sequence[Data], columns: Columns, *, layer: str | None) -> list[Member]:
    """The tables of a cohort, with the rows to train on and to validate on; both are there.

    Raises
    ------
    ValueError
        When no row is left for training, patches of the tables differ in size, or values are no raw counts.
    """
    given = list(data) if isinstance(data, Sequence) else [data]
    if not given:
        msg = "data is an empty list; give a table with patches, or several"
        raise ValueError(msg)
    members = []
    for number, each in enumerate(given):
        sections = Sections(each, table_key=columns.table, library_key=columns.library, group_key=columns.group)
        members.append(
            _member(sections, columns.split, layer, where=f" of table {number + 1}" if len(given) > 1 else "")
        )
    for number, member in enumerate(members):
        if member.groups[0] == "" and len(members) > 1:  # neither patient nor section: the table is one
            member.groups[:] = f"table {number + 1}"
    sizes = {round(member.size_um, 2) for member in members}
    if len(sizes) > 1:
        msg = f"the patches of the tables are {listing(sorted(sizes), 4)} um wide; lay them again, all of one size_um="
        raise ValueError(msg)
    _apart(members)
    if not any(len(member.rows(keys.TRAIN)) for member in members):
        msg = f'no row has obs["{columns.split}"] == "{keys.TRAIN}", a patch on the image and counts; see hc.pp.split'
        raise ValueError(msg)
    if not any(len(member.rows(keys.VAL)) for member in members):
        _hold_out(members)
        _apart(members)
    counts = {part: sum(len(member.rows(part)) for member in members) for part in (keys.TRAIN, keys.VAL)}
    for part, n in counts.items():
        if n < 2:
            msg = (
                f'{n} rows are left with obs["{columns.split}"] == "{part}", a patch on the image and counts; two are the least '
                "that can be compared, and hundreds are needed. See hc.pp.split"
            )
            raise ValueError(msg)
    _warn_of_shared_groups(members)
    return members


def _member(sections: Sections, split_key: str, layer: str | None, *, where: str) -> Member:
    table = sections.table
    windows = patch_windows(table)
    regions = sections.regions()
    check_patches(table, regions)
    mpp = record_mpp(table, regions)
    centers = (windows[:, [1, 0]] + windows[:, [3, 2]]) / 2
    parts = split_parts(table, split_key)
    if parts is None:
        warn(f'no obs["{split_key}"]{where}: all {table.n_obs} rows are training rows; see hc.pp.split')
        parts = np.full(table.n_obs, keys.TRAIN, dtype=object)
    known = np.zeros(table.n_obs, dtype=bool)
    for region in regions:
        known[rows_inside(region, centers)] = True
    counted = np.asarray(raw_counts(table, layer).sum(axis=1)).ravel() > 0
    used = np.isin(parts, (keys.TRAIN, keys.VAL))
    for lost, why in ((used & ~known, "lie outside of their image"), (used & known & ~counted, "have no counts")):
        if lost.any():
            warn(f"{int(lost.sum())} training or validation rows{where} {why}; left out")
    parts = np.where(used & ~(known & counted), keys.DROPPED, parts)
    key = sections.group_key or (keys.PATIENT if keys.PATIENT in table.obs else sections.library_key)
    groups = np.full(table.n_obs, "", dtype=object) if key is None else row_labels(table, key)
    return Member(sections, regions, centers, mpp, patch_size_um(table, windows, mpp), parts, groups)


def _apart(members: Sequence[Member]) -> None:
    """Drop training rows whose patches overlap those of held-out rows, and validation rows that overlap test rows."""
    n_lost = 0
    for member in members:
        kept = FieldsOfView.of(member.sections, []).drop_shared(member.parts)
        n_lost += int((member.used & (kept == keys.DROPPED)).sum())
        member.parts = kept
    if n_lost:
        warn(f"{n_lost} training or validation rows are left out: their patches overlap those of held-out rows")


def _hold_out(members: Sequence[Member]) -> None:
    """Make validation rows of one patient of the training rows, the one nearest to a tenth of them."""
    labels = np.concatenate([member.groups[member.rows(keys.TRAIN)] for member in members])
    names, counts = np.unique(labels.astype(str), return_counts=True)
    if len(names) > 1:
        chosen = names[np.abs(counts - _SHARE * counts.sum()).argmin()]
        for member in members:
            member.parts[(member.parts == keys.TRAIN) & (member.groups == chosen)] = keys.VAL
        warn(
            f"no validation rows: {str(chosen)!r}, {int(counts[names == chosen][0])} of {len(labels)} training rows, is held out "
            "to choose the epoch. Choose others with hc.pp.split(data, val=...)"
        )
        return
    largest = max(members, key=lambda member: len(member.rows(keys.TRAIN)))
    rows = largest.rows(keys.TRAIN)
    if len(rows) < _BLOCKS:
        msg = f"{len(rows)} training rows of one patient are too few to hold some of them out; add patients"
        raise ValueError(msg)
    blocks = spatial_blocks(coordinates(largest.sections.table)[rows], _BLOCKS)
    largest.parts[rows[blocks == 0]] = keys.VAL
    warn(
        "the training rows are of one patient, so the epoch is chosen on a block of the same tissue: an encoder that was "
        "tuned on one patient may well be worse on others, and nothing here can tell"
    )


def _warn_of_shared_groups(members: Sequence[Member]) -> None:
    """Warn of patients that are trained on and held out: what is measured on them is not what others will see."""
    of = {
        part: {name for member in members for name in member.groups[member.rows(part)]}
        for part in (keys.TRAIN, keys.VAL, keys.TEST)
    }
    shared = of[keys.TRAIN] & (of[keys.VAL] | of[keys.TEST])
    if shared and len(of[keys.TRAIN]) > 1:
        warn(
            f"{len(shared)} patients have training rows and held-out rows ({listing(sorted(shared), 5)}); split by patient"
        )
