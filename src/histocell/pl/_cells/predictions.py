"""Predicted and true types of the cells that count, as arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from histocell import get
from histocell._core import keys
from histocell._core.errors import listing, missing_key
from histocell.tables.access import get_table, split_parts

if TYPE_CHECKING:
    from anndata import AnnData

    from histocell._core.types import Bools, Floats
    from histocell.tables.access import Data


class Predictions(NamedTuple):
    """Truth (1 in the column of the type) and probabilities of the cells that count, of one model.

    Attributes
    ----------
    truth, probability
        Shape ``(n, n_types)``; probabilities are NaN where a cell is ``unsure``.
    names
        Of the types.
    caption
        Number of cells, and whether they served to train.
    """

    truth: Floats
    probability: Floats
    names: list[str]
    caption: str


def read(data: Data, key: str, target: str | None, table_key: str | None) -> Predictions:
    """The cells with a label and a prediction: the test cells where there are any, else all.

    Raises
    ------
    KeyError
        When the prediction or the labels are not there.
    ValueError
        When no cell has both.
    """
    table = get_table(data, table_key)
    frame = get.cell_types(data, key, table_key=table_key)
    recorded = keys.read_provenance(table, key)
    column = target or str(recorded.get("target") or keys.CELL_TYPE)
    if column not in table.obs:
        raise missing_key("obs", column, table.obs.columns, "target= names the column of the true types.")
    original = recorded.get("original_names") or {}
    names = [original.get(str(name), str(name)) for name in frame]
    labels = table.obs[column].astype(object).map(str, na_action="ignore").to_numpy()
    truth = np.stack([labels == name for name in names], axis=1).astype(np.float64)
    unsure = np.asarray(table.obs[key].astype(object) == keys.UNSURE)
    probability = np.where(unsure[:, None], np.nan, frame.to_numpy(dtype=np.float64))
    known = truth.any(axis=1)
    rows, what = _rows(table, known)
    if not (known & np.isfinite(probability).all(axis=1))[rows].any():
        msg = f'no cell has a type of obs["{column}"] ({listing(sorted(set(labels[~_missing(labels)])))}) and a prediction ({listing(names)})'
        raise ValueError(msg)
    return Predictions(truth[rows], probability[rows], names, f"{int(rows.sum()):,} {what}")


def _rows(table: AnnData, known: Bools) -> tuple[Bools, str]:
    parts = split_parts(table, keys.SPLIT)
    test = known & (parts == keys.TEST) if parts is not None else np.zeros(len(known), dtype=bool)
    if test.any():
        return test, "test cells"
    return known, "cells" if parts is None else "cells, of training too"


def _missing(labels: np.ndarray) -> Bools:
    return np.array([not isinstance(label, str) for label in labels])
