"""Rows of a table that a model may see, and the recognition of rows that it has seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histocell._core import keys
from histocell._core.errors import warn
from histocell._core.settings import logger
from histocell.models.fingerprint import Fingerprint, from_text, hash_rows, to_text
from histocell.models.folds import spatial_blocks
from histocell.tables.access import coordinates, row_labels, split_parts
from histocell.tables.fields import FieldsOfView
from histocell.tables.sections import Sections
from histocell.tl.engine.features import dense
from histocell.tl.engine.places import beside_fitted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from histocell._core.types import Bools, Ints
    from histocell.models.base import Model

_BLOCKS = 8
_NO_GUARANTEE = "scores and the coverage of intervals in other patients are not guaranteed"
_CHUNK = 16_384
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
    group_key, library_key
        Where the groups and the sections come from, for the record.
    """

    index: Ints
    validation: Bools
    groups: np.ndarray
    group_key: str
    library_key: str | None = None


def training_rows(
    sections: Sections,
    known: Bools,
    *,
    split_key: str,
    features: Sequence[str] | None = None,
    reach_um: float = 0.0,
    keep_overlapping: bool = False,
) -> Rows:
    """Rows to fit on and rows to stop on, and the groups that are held out whole; see `usable_parts`."""
    parts = usable_parts(
        sections, known, split_key=split_key, features=features, reach_um=reach_um, keep_overlapping=keep_overlapping
    )
    train, val = parts == keys.TRAIN, parts == keys.VAL
    rows = held_out_groups(sections, np.flatnonzero(train | val), val[train | val])
    logger.info("%d training and %d validation rows, groups by %s", train.sum(), val.sum(), rows.group_key)
    return rows


def usable_parts(
    sections: Sections,
    known: Bools,
    *,
    split_key: str,
    features: Sequence[str] | None = None,
    reach_um: float = 0.0,
    keep_overlapping: bool = False,
) -> NDArray[np.object_]:
    """The part of each row by ``obs[split_key]``; without it every row whose target is known is for training.

    Rows are left out where the `features`, all embeddings by default, show tissue of held-out rows: that the split was
    made before the patches, or for an encoder that sees less, does not matter. For a model that sees neighbours up to
    `reach_um` away, rows are left out where those show such tissue. With `keep_overlapping` they stay, and scores flatter.
    """
    parts = split_parts(sections.table, split_key)
    if parts is None:
        warn(f'no obs["{split_key}"]: all {int(known.sum())} rows with a target are training rows; see hc.pp.split')
        parts = np.where(known, keys.TRAIN, keys.DROPPED).astype(object)
    elif not (parts == keys.TRAIN).any():
        counts = ", ".join(f"{name}: {(parts == name).sum()}" for name in keys.PARTS if (parts == name).any())
        msg = f'obs["{split_key}"] has no row "{keys.TRAIN}" ({counts}); run hc.pp.split(data) again'
        raise ValueError(msg)
    seen = np.isin(parts, (keys.TRAIN, keys.VAL))
    if unknown := int((~known & seen).sum()):
        warn(f"{unknown} training or validation rows have a target that is not finite; left out")
    parts = np.where(seen & ~known, keys.DROPPED, parts)
    if not (parts == keys.TRAIN).any():
        msg = "no training row has a finite target"
        raise ValueError(msg)
    return parts if keep_overlapping else apart(FieldsOfView.of(sections, features, reach_um=reach_um), parts)


def apart(fields: FieldsOfView, parts: NDArray[np.object_]) -> NDArray[np.object_]:
    """The parts of a split without rows whose features show tissue of held-out rows; a warning counts them."""
    kept = fields.drop_shared(parts)
    left_out = [
        f"{int(n)} of {int((parts == part).sum())} {name} rows"
        for part, name in ((keys.TRAIN, "training"), (keys.VAL, "validation"))
        if (n := ((parts == part) & (kept != part)).sum())
    ]
    if not left_out:
        return kept
    text = (
        f"{' and '.join(left_out)} are left out of the fit: their field of view ({fields.size}) overlaps that of held-out "
        "rows"
    )
    if not (kept == keys.TRAIN).any():
        msg = (
            f"{text}, and none is left. Hold out whole sections or patients, use larger blocks "
            "(hc.pp.split(data, block_um=...)), or an encoder that sees less"
        )
        raise ValueError(msg)
    warn(text)
    return kept


def held_out_groups(sections: Sections, index: Ints, validation: Bools) -> Rows:
    """Rows with the groups that are held out whole: by patient, else by section, else blocks of the one section."""
    table = sections.table
    key = sections.replicate_key(index[~validation])
    if key is not None:
        labels = row_labels(table, key)[index]
        if len(np.unique(labels[~validation])) > 1:
            if sections.group_key is None and key != keys.PATIENT and keys.PATIENT in table.obs:
                warn(f"all training rows come from one patient: {_NO_GUARANTEE}")
            return Rows(index, validation, labels, key, sections.library_key)
    warn(f"the training rows are one group, so settings and intervals are chosen on blocks of it: {_NO_GUARANTEE}")
    if keys.SPATIAL not in table.obsm:
        groups, origin = np.arange(len(index)) * _BLOCKS // len(index), "blocks of rows"
    else:
        groups, origin = spatial_blocks(coordinates(table)[index], _BLOCKS), "spatial blocks"
    return Rows(index, validation, groups, origin, sections.library_key)


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
        value = table.obsm[features[0]]
        if isinstance(value, pd.DataFrame):  # whatever the order of its columns
            value = value[sorted(value.columns, key=str)]
        some = value.iloc[:, :_HASHED] if isinstance(value, pd.DataFrame) else value[:, :_HASHED]
        content = dense(some, features[0])
        parts = (slice(start, start + _CHUNK) for start in range(0, len(xy), _CHUNK))
        joined = (np.hstack([content[part].astype(np.float64), xy[part]]) for part in parts)
        hashes.append(hash_rows(row.tobytes() for part in joined for row in part))
    return np.column_stack(hashes)


def seen_rows(sections: Sections, hashes: NDArray[np.uint64], model: Model, *, reach_um: float | None = None) -> Bools:
    """What a model has seen of each row, ``(3, n)``.

    Whether it was fitted on the row, whether the row only chose its settings, and whether the row shows tissue of those,
    be they in the table or not.
    """
    fingerprint = model.fingerprint or Fingerprint.of(hashes[:0], np.zeros(0, dtype=bool))
    seen = fingerprint.contains(hashes)
    unseen = ~seen.any(axis=0)
    reach = model.reach_um() if reach_um is None else reach_um
    fields = FieldsOfView.of(sections, [feature["key"] for feature in model.features], reach_um=reach)
    beside = fields.shared(unseen, ~unseen)
    beside |= beside_fitted(fields, unseen, fingerprint.places, model.facts.get("sections", {}))
    return np.vstack([seen, beside])


def remember_training_rows(table: AnnData, key: str, model: Model) -> None:
    """Record which rows of the prediction `key` the model was fitted on, as hashes that survive subsets and files.

    Rows that show tissue of those are recorded, too: once the table is divided they could not be told.
    """
    features = [feature["key"] for feature in model.features]
    recorded: dict[str, object] = {"features": features, "rows": None, "n": table.n_obs}
    if model.fingerprint is not None:
        hashes, library_key = row_hashes(table, features), model.facts.get("library_key")
        sections = Sections(table, library_key=library_key if library_key in table.obs else None)
        recorded["rows"] = model.fingerprint.among(hashes).to_text()
        recorded["beside"] = to_text(np.unique(hashes[seen_rows(sections, hashes, model)[2]]))
    keys.write_provenance(table, key + _TRAINING, **recorded)


def recall_training_rows(table: AnnData, key: str) -> Bools | None:
    """What the model of the prediction `key` has seen of each row, ``(3, n)``; `None` where nothing is recorded.

    Whether it was fitted on the row, whether the row only chose its settings, and whether the row shows tissue of those.
    """
    recorded = keys.read_provenance(table, key + _TRAINING)
    if not recorded.get("rows") or table.n_obs > recorded.get("n", table.n_obs):  # joined with rows of other tables
        return None
    hashes = row_hashes(table, recorded["features"])
    seen = Fingerprint.from_text(recorded["rows"]).contains(hashes)
    beside = np.isin(hashes, from_text(recorded.get("beside", ""))).any(axis=1)
    return np.vstack([seen, beside & ~seen.any(axis=0)])
