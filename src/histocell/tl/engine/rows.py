"""Rows of a table that a model may see, and the recognition of rows that it has seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histocell._core import keys
from histocell._core.errors import warn
from histocell._core.settings import logger
from histocell.models.fingerprint import Fingerprint, hash_rows
from histocell.models.folds import spatial_blocks
from histocell.tables.access import coordinates, row_labels
from histocell.tl.engine.features import dense

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from histocell._core.types import Bools, Ints
    from histocell.models.base import Model
    from histocell.tables.sections import Sections

_BLOCKS = 8
_NO_GUARANTEE = "scores and the coverage of intervals in other patients are not guaranteed"
_HASHED = 64  # numbers of an embedding that tell rows apart
_TRAINING = "_training"  # ending of the provenance entry that remembers the training rows among those predicted


@dataclass(frozen=True)
class Rows:
    """Rows that a model may see.

    Attributes
    ----------
    index
        Positions in the table.
    validation
        Which of them only stop the training, boolean.
    groups
        Group of each; whole groups are held out for every choice.
    group_key
        Where the groups come from, for the record.
    """

    index: Ints
    validation: Bools
    groups: np.ndarray
    group_key: str


def training_rows(sections: Sections, known: Bools, *, split_key: str) -> Rows:
    """Rows to fit on and rows to stop on, by ``obs[split_key]``; without it every row whose target is known."""
    obs = sections.table.obs
    if split_key in obs:
        split = obs[split_key].astype(object).to_numpy()
        train, val = split == keys.TRAIN, split == keys.VAL
        if not train.any():
            counts = ", ".join(f"{name}: {n}" for name, n in obs[split_key].value_counts(dropna=False).items())
            msg = f'obs["{split_key}"] has no row "{keys.TRAIN}" ({counts}); run hc.pp.split(data) again'
            raise ValueError(msg)
    else:
        warn(f'no obs["{split_key}"]: all {int(known.sum())} rows with a target are training rows; see hc.pp.split')
        train, val = known.copy(), np.zeros(len(known), dtype=bool)
    unknown = int((~known & (train | val)).sum())
    if unknown:
        warn(f"{unknown} training or validation rows have a target that is not finite; left out")
    train, val = train & known, val & known
    if not train.any():
        msg = "no training row has a finite target"
        raise ValueError(msg)
    rows = held_out_groups(sections, np.flatnonzero(train | val), val[train | val])
    logger.info("%d training and %d validation rows, groups by %s", train.sum(), val.sum(), rows.group_key)
    return rows


def held_out_groups(sections: Sections, index: Ints, validation: Bools) -> Rows:
    """Rows with the groups that are held out whole: by patient, else by section, else blocks of the one section."""
    table = sections.table
    key = sections.replicate_key(index[~validation])
    if key is not None:
        labels = row_labels(table, key)[index]
        if len(np.unique(labels[~validation])) > 1:
            if sections.group_key is None and key != keys.PATIENT and keys.PATIENT in table.obs:
                warn(f"all training rows come from one patient: {_NO_GUARANTEE}")
            return Rows(index, validation, labels, key)
    warn(f"the training rows are one group, so settings and intervals are chosen on blocks of it: {_NO_GUARANTEE}")
    if keys.SPATIAL not in table.obsm:
        return Rows(index, validation, np.arange(len(index)) * _BLOCKS // len(index), "blocks of rows")
    return Rows(index, validation, spatial_blocks(coordinates(table)[index], _BLOCKS), "spatial blocks")


def row_hashes(table: AnnData, features: Sequence[str]) -> NDArray[np.uint64]:
    """Hashes of each row, ``(n, 1 or 2)``: of its section, name and place, and of its features and place if there are any.

    The first survives another embedding of the same row, the second other names, as `anndata.concat` gives them. The place
    tells sections apart that share barcodes, and blank patches.
    """
    section = table.obs[keys.SECTION].astype(str) if keys.SECTION in table.obs else [""] * table.n_obs
    xy = np.zeros((table.n_obs, 0))
    if keys.SPATIAL in table.obsm:
        xy = np.ascontiguousarray(table.obsm[keys.SPATIAL], dtype=np.float64)
    names = zip(section, table.obs_names, xy, strict=True)
    hashes = [hash_rows(f"{label}\0{name}\0".encode() + place.tobytes() for label, name, place in names)]
    if features and features[0] in table.obsm:
        content = dense(table.obsm[features[0]], features[0])[:, :_HASHED].astype(np.float64)
        hashes.append(hash_rows(row.tobytes() for row in np.hstack([content, xy])))
    return np.column_stack(hashes)


def remember_training_rows(table: AnnData, key: str, model: Model) -> None:
    """Record which rows of the prediction `key` the model was fitted on, as hashes that survive subsets and files."""
    features = [feature["key"] for feature in model.features]
    known = model.fingerprint and model.fingerprint.among(row_hashes(table, features)).to_text()
    keys.write_provenance(table, key + _TRAINING, features=features, rows=known)


def recall_training_rows(table: AnnData, key: str) -> Bools | None:
    """Whether the model of the prediction `key` was fitted on each row, or validated on it, ``(2, n)``; else `None`."""
    recorded = keys.read_provenance(table, key + _TRAINING)
    if not recorded.get("rows"):
        return None
    return Fingerprint.from_text(recorded["rows"]).contains(row_hashes(table, recorded["features"]))
