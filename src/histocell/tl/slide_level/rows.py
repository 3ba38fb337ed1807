"""Slides that a model may see: no patient and no slide on both sides of a split."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from histocell._core import keys
from histocell._core.errors import listing, warn
from histocell.models.fingerprint import hash_rows
from histocell.tables.access import row_labels, split_parts
from histocell.tl.engine.rows import Rows, training_rows
from histocell.tl.engine.task import Values

if TYPE_CHECKING:
    from anndata import AnnData

    from histocell.tables.sections import Sections
    from histocell.tl.engine.fit import Dataset


def patients(table: AnnData, group_key: str | None) -> tuple[np.ndarray, str]:
    """Patient of each slide and where that is known from; each slide is one where nothing says more."""
    if group_key is None and keys.PATIENT not in table.obs:
        warn(f'no obs["{keys.PATIENT}"]: each slide counts as a patient of its own; group_key= names another column')
        return table.obs_names.to_numpy().astype(object), keys.SECTION
    key = group_key or keys.PATIENT
    return row_labels(table, key, "It names the patient of each slide."), key


def slide_rows(sections: Sections, dataset: Dataset, *, split_key: str, group_key: str | None) -> Rows:
    """Slides to fit on and to stop on, with their patients.

    Raises
    ------
    ValueError
        When a patient, or the content of a slide, is in two parts of the split.
    """
    table = sections.table
    labels, key = patients(table, group_key)
    parts = split_parts(table, split_key)
    if parts is not None:
        check_apart(dataset, labels, parts, f'obs["{split_key}"]')
    rows = training_rows(sections, dataset.known, split_key=split_key, features=dataset.names)
    return replace(rows, groups=labels[rows.index], group_key=key)


def check_apart(dataset: Dataset, labels: np.ndarray, parts: np.ndarray, where: str) -> None:
    """Refuse a division of slides in which a patient, or one slide under two names, is on both sides.

    Raises
    ------
    ValueError
        With the patients or the slides.
    """
    used = np.isin(parts, (keys.TRAIN, keys.VAL, keys.TEST))
    for what, of_slide in (("patients", labels), ("slides of one content", contents(dataset))):
        kinds = np.unique(of_slide[used].astype(str), return_inverse=True)[1]
        pairs = np.unique(np.column_stack([kinds, np.unique(parts[used], return_inverse=True)[1]]), axis=0)
        twice, count = np.unique(pairs[:, 0], return_counts=True)
        if (across := np.isin(kinds, twice[count > 1])).any():
            names = dataset.table.obs_names[used][across] if what != "patients" else labels[used][across]
            msg = (
                f"{len(set(names))} {what} are in several parts of {where}: {listing(dict.fromkeys(names), 6)}. A model would be "
                "scored on what it has seen; divide patients, hc.pp.split(slides, by=...), and leave out copies"
            )
            raise ValueError(msg)


def contents(dataset: Dataset) -> np.ndarray:
    """A text for each slide that two slides share whose tiles have one mean, whatever their order and names."""
    n_tiles = dataset.table.obs.get(keys.N_TILES, np.zeros(dataset.table.n_obs))
    means = np.asarray(dataset.X)
    rows = np.column_stack([means, np.asarray(n_tiles, dtype=np.float64)]).astype(np.float32)
    hashes = hash_rows(row.tobytes() for row in rows).astype(str)
    empty = ~np.isfinite(means).any(axis=1)
    return np.where(empty, [f"empty {name}" for name in dataset.table.obs_names], hashes).astype(object)


def with_known_classes(dataset: Dataset, rows: Rows) -> tuple[Dataset, Rows]:
    """The classes that training slides are of, and the slides of those; a warning tells of others.

    Raises
    ------
    ValueError
        When all are of one class.
    """
    truth = dataset.truth
    counts = truth.array[rows.index[~rows.validation]].sum(axis=0)
    absent = counts == 0
    if not absent.any():
        return dataset, rows
    names = np.array(truth.names)
    if (~absent).sum() < 2:
        msg = f"all {int(counts.sum())} training slides are of class {listing(names[~absent])}, so there is nothing to tell apart"
        raise ValueError(msg)
    warn(f"no training slide is of class {listing(names[absent])}, which can not be predicted")
    array = truth.array[:, ~absent].copy()
    array[~(array == 1).any(axis=1)] = np.nan
    kept = np.isfinite(array[rows.index]).all(axis=1)
    renamed = {new: old for new, old in truth.renamed.items() if new in names[~absent]}
    values = Values(array, [str(name) for name in names[~absent]], renamed)
    some = replace(rows, index=rows.index[kept], validation=rows.validation[kept], groups=rows.groups[kept])
    return replace(dataset, truth=values), some
