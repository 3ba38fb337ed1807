"""The task of cell types: labels in ``obs``, probabilities in ``obsm``, scored by F1 and calibration."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histocell import metrics
from histocell._core import keys
from histocell._core.errors import listing, missing_key, warn
from histocell.tl.engine.frames import Frames
from histocell.tl.engine.task import Metric, Task, Values

if TYPE_CHECKING:
    from anndata import AnnData

    from histocell._core.types import Bools, Floats
    from histocell.tl.engine.task import Slots

_MANY = 200  # more labels than cell types ever are


def read_labels(table: AnnData, key: str) -> Values:
    """``obs[key]`` as 1 in the column of the label; NaN for cells without one, and for those that are ``unsure``.

    Raises
    ------
    KeyError
        When the column is not there.
    ValueError
        When it holds numbers with fractions, or hundreds of labels.
    """
    if key not in table.obs:
        raise missing_key("obs", key, table.obs.columns, "hc.pp.annotate_cells(data, method=...) makes labels.")
    column = table.obs[key]
    if pd.api.types.is_float_dtype(column.dtype) and (column.to_numpy()[column.notna()] % 1 != 0).any():
        msg = f'obs["{key}"] holds numbers with fractions, not labels'
        raise ValueError(msg)
    labels = column.astype(object).where(column.notna(), None)
    known = np.array([label is not None and str(label) not in {keys.UNSURE, ""} for label in labels])
    texts = np.array([str(label) for label in labels], dtype=object)
    names, codes = np.unique(texts[known].astype(str), return_inverse=True)
    if len(names) > _MANY:
        msg = (
            f'obs["{key}"] holds {len(names)} different labels ({listing(names, 4)}); cell types are fewer than {_MANY}'
        )
        raise ValueError(msg)
    safe, renamed = keys.safe_names(names, quiet=True)
    array = np.full((table.n_obs, len(names)), np.nan)
    array[known] = np.eye(len(names))[codes]
    return Values(array, safe, renamed)


@dataclass(frozen=True)
class CellTypeWriter(Frames):
    """The most probable type in ``obs``, its probability beside it, and the probabilities of all types in ``obsm``.

    Attributes
    ----------
    abstain
        Share of the cells that are ``unsure``: those with the least confidence.
    min_probability
        Confidence below which a cell is ``unsure``.
    """

    abstain: float = 0.0
    min_probability: float = 0.0

    def slots(self, key: str, values: Values, index: pd.Index) -> Slots:
        """Label, confidence and probabilities."""
        probability = values.array
        known = np.isfinite(probability).all(axis=1)
        confidence = np.where(known, probability.max(axis=1, initial=0.0), np.nan)
        unsure = self._unsure(confidence, known)
        names = [values.renamed.get(name, name) for name in values.names]
        codes = np.where(known, np.where(known[:, None], probability, 0).argmax(axis=1), -1)
        codes[unsure] = len(names)
        labels = np.array([*names, keys.UNSURE, None], dtype=object)[codes]
        label = pd.Categorical(labels, [*names, keys.UNSURE] if unsure.any() else names)
        return {
            ("obs", key): pd.Series(label, index),
            ("obs", key + keys.CONFIDENCE): pd.Series(confidence, index),
        } | super().slots(key + keys.PROBABILITY, values, index)

    def read(self, table: AnnData, key: str) -> Values:
        """The probabilities, NaN for cells that are ``unsure``."""
        values = super().read(table, key + keys.PROBABILITY)
        if key not in table.obs:
            raise missing_key("obs", key, table.obs.columns, self.hint)
        unsure = np.asarray(table.obs[key].astype(object) == keys.UNSURE)
        return values._replace(array=np.where(unsure[:, None], np.nan, values.array))

    def _unsure(self, confidence: Floats, known: Bools) -> Bools:
        """Cells to abstain from."""
        unsure = known & (np.nan_to_num(confidence) < self.min_probability)
        if n_least := int(self.abstain * known.sum()):
            unsure[np.argsort(np.where(known, confidence, np.inf), kind="stable")[:n_least]] = True
        return unsure


def match_classes(truth: Values, predicted: Values) -> Values:
    """The truth in the types of the prediction; cells of types that it does not know are left out, with a warning."""
    shared = [name for name in truth.names if name in set(predicted.names)]
    if not shared:
        msg = f"truth and predictions share no type: {listing(truth.names)} against {listing(predicted.names)}"
        raise ValueError(msg)
    array = np.zeros((len(truth.array), len(predicted.names)))
    for name in shared:
        array[:, predicted.names.index(name)] = truth.array[:, truth.names.index(name)]
    foreign = {
        name: int(np.nansum(truth.array[:, truth.names.index(name)])) for name in truth.names if name not in shared
    }
    if foreign:
        text = listing(f"{name} ({count})" for name, count in foreign.items())
        warn(
            f"{sum(foreign.values())} cells are of types that the model does not know: {text}. No prediction of them can be right; "
            "they are left out of the scores"
        )
    array[~(array == 1).any(axis=1)] = np.nan
    return truth._replace(array=array, names=list(predicted.names))


def called(truth: Floats, probability: Floats) -> Floats:
    """Whether a cell with a known type is given one, 1 or 0."""
    return np.where(np.isfinite(truth).all(axis=1), np.isfinite(probability).all(axis=1), np.nan)[:, None]


def _of_classes(name: str, *, overall: bool = False, higher_is_better: bool = True) -> Metric:
    score = getattr(metrics, name)
    resample = partial(metrics.bootstrap_classes, name)
    return Metric(name, score, resample, overall=overall, higher_is_better=higher_is_better)


CELL_TYPES = Task(
    "cell_types",
    target=read_labels,
    metrics=(
        _of_classes("f1"),
        _of_classes("precision"),
        _of_classes("recall"),
        _of_classes("accuracy", overall=True),
        _of_classes("calibration_error", overall=True, higher_is_better=False),
        Metric.of_entries("called", called, overall=True),
    ),
    writer=CellTypeWriter("Run hc.tl.predict_cell_types(data) first."),
    baselines=("majority", "knn", "logistic"),
    column="cell_type",
    match=match_classes,
    has_blocks=True,
    classes=True,
)
