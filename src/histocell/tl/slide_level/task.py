"""The tasks of slides: classes and survival, read from ``obs``, scored over patients."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd

from histocell import metrics
from histocell._core import keys
from histocell._core.errors import listing, missing_key, warn
from histocell.tl._cell_types.task import CellTypeWriter, read_labels
from histocell.tl.engine.task import Metric, Task, Values

if TYPE_CHECKING:
    from anndata import AnnData

    from histocell.tl.engine.task import Slots

FOLD = "_fold"  # ending of what only those predictions have in common that are of one model
RISK = "risk"
_RUN = "Run hc.tl.predict_slides(data, tiles) first."


def read_classes(table: AnnData, key: str) -> Values:
    """``obs[key]`` as 1 in the column of the class; in the order of its categories where they are ordered.

    Raises
    ------
    KeyError
        When the column is not there.
    ValueError
        When it holds numbers with fractions, or hundreds of labels.
    """
    _check_column(table, key)
    values = read_labels(table, key)
    column = table.obs[key]
    if not is_ordered(table, key):
        return values
    order = [str(name).replace("/", "_") for name in column.cat.categories]
    return values.select([name for name in order if name in values.names])


def is_ordered(table: AnnData, key: str) -> bool:
    """Whether the classes have an order."""
    dtype = table.obs[key].dtype
    return isinstance(dtype, pd.CategoricalDtype) and bool(dtype.ordered)


def read_survival(table: AnnData, time_key: str, event_key: str) -> Values:
    """Time and event of each slide, NaN where one of both is not known.

    Raises
    ------
    KeyError
        When a column is not there.
    ValueError
        When times are negative or no numbers, or events are not 0 and 1.
    """
    columns = []
    for key in (time_key, event_key):
        _check_column(table, key)
        column = pd.to_numeric(cast("pd.Series[str]", table.obs[key]).astype(object), errors="coerce")
        if (wrong := column.isna() & table.obs[key].notna()).any():
            msg = f'obs["{key}"] must hold numbers; it holds {listing(table.obs[key][wrong].unique(), 3)}'
            raise ValueError(msg)
        columns.append(column.to_numpy(dtype=np.float64))
    time, event = columns
    if (time < 0).any():
        msg = f'obs["{time_key}"] holds negative times, the least {np.nanmin(time):g}'
        raise ValueError(msg)
    if found := sorted(set(event[np.isfinite(event)]) - {0.0, 1.0}):
        msg = (
            f'obs["{event_key}"] must be 1 for an event and 0 for who was last seen then; it holds {listing(found, 3)}'
        )
        raise ValueError(msg)
    array = np.column_stack(columns)
    return Values(np.where(np.isfinite(array).all(axis=1)[:, None], array, np.nan), [time_key, event_key])


@dataclass(frozen=True)
class RiskWriter:
    """One column of ``obs``: the higher, the sooner the event."""

    def slots(self, key: str, values: Values, index: pd.Index) -> Slots:
        """The risk."""
        return {("obs", key): pd.Series(values.array[:, 0], index)}

    def read(self, table: AnnData, key: str) -> Values:
        """The risk; a `KeyError` where there is none."""
        if key not in table.obs:
            raise missing_key("obs", key, table.obs.columns, _RUN)
        return Values(np.asarray(table.obs[key], dtype=np.float64)[:, None], [RISK])


def classes_task(*, ordered: bool) -> Task:
    """The task of classes, which may have an order."""
    overall = ("balanced_accuracy", *(("quadratic_kappa",) if ordered else ()))
    return Task(
        "slides",
        target=read_classes,
        metrics=(
            Metric("auc", metrics.auc, metrics.bootstrap_auc, outputs=("", FOLD)),
            *(
                Metric(name, getattr(metrics, name), partial(metrics.bootstrap_classes, name), overall=True)
                for name in overall
            ),
        ),
        writer=CellTypeWriter(_RUN),
        baselines=("common_class", "mean_pooling"),
        column="class",
        match=match_classes,
        has_blocks=True,
    )


def survival_task(time_key: str, event_key: str) -> Task:
    """The task of survival."""
    return Task(
        "slides",
        target=lambda table, _: read_survival(table, time_key, event_key),
        metrics=(
            Metric("c_index", metrics.concordance, metrics.bootstrap_concordance, outputs=("", FOLD), overall=True),
        ),
        writer=RiskWriter(),
        baselines=("mean_pooling",),
        column="class",
        match=_as_it_is,
        has_blocks=True,
    )


@dataclass(frozen=True)
class Outcome:
    """What is predicted of slides: a class, or survival where two columns are named.

    Attributes
    ----------
    target
        Column of ``obs`` with the classes.
    time_key, event_key
        Columns of ``obs`` with time and event.
    """

    target: str
    time_key: str | None = None
    event_key: str | None = None

    def __post_init__(self) -> None:
        if (self.time_key is None) != (self.event_key is None):
            msg = "survival needs both time_key= and event_key="
            raise ValueError(msg)

    @property
    def name(self) -> str:
        """As models know it."""
        return "classes" if self.time_key is None else "survival"

    @property
    def facts(self) -> dict[str, str | None]:
        """What a prediction remembers."""
        return {"target": self.target, "time_key": self.time_key, "event_key": self.event_key}

    def task(self, table: AnnData) -> Task:
        """The task on a table."""
        if self.time_key is not None and self.event_key is not None:
            return survival_task(self.time_key, self.event_key)
        return classes_task(ordered=self.target in table.obs and is_ordered(table, self.target))


def match_classes(truth: Values, predicted: Values) -> Values:
    """The truth in the classes of the prediction; slides of classes that it does not know are left out, with a warning."""
    known = [name for name in predicted.names if name in truth.names]
    if not known:
        msg = f"truth and predictions share no class: {listing(truth.names)} against {listing(predicted.names)}"
        raise ValueError(msg)
    array = np.zeros((len(truth.array), len(predicted.names)))
    for name in known:
        array[:, predicted.names.index(name)] = truth.array[:, truth.names.index(name)]
    strangers = [name for name in truth.names if name not in known]
    if n_strange := int(np.nansum(truth.select(strangers).array)):
        warn(
            f"{n_strange} slides are of classes that the model does not know: {listing(strangers)}; left out of the scores"
        )
    array[~(array == 1).any(axis=1)] = np.nan
    return truth._replace(array=array, names=list(predicted.names))


def _as_it_is(truth: Values, predicted: Values) -> Values:
    del predicted
    return truth


def _check_column(table: AnnData, key: str) -> None:
    if key in table.obs:
        return
    varying = keys.read_provenance(table, keys.N_TILES).get("varying", [])
    hint = "hc.io.slide_table(tiles, labels) writes what is known of each slide."
    if key in varying:
        hint = "The tiles of one slide have several values of it; a label must be the same in all tiles of a slide."
    raise missing_key("obs", key, table.obs.columns, hint)
