"""Evaluation of predictions of any task: the rows that are scored, and their scores as one tidy table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histocell import metrics
from histocell._core import keys
from histocell._core.arguments import check_count
from histocell._core.errors import warn
from histocell._core.rng import as_rng
from histocell.tables.access import row_labels, split_parts
from histocell.tl.engine.intervals import NONE, over_blocks, over_groups, over_spots
from histocell.tl.engine.layout import tissue_blocks
from histocell.tl.engine.predict import read
from histocell.tl.engine.rows import recall_training_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from histocell._core.rng import RNGLike, SeedLike
    from histocell._core.types import Bools, Floats, Ints
    from histocell.tables.sections import Sections
    from histocell.tl.engine.intervals import Interval
    from histocell.tl.engine.task import Metric, Task, Values

ALL, MEAN = "all", "mean"
_FLATTERS = "which flatters the model; hold rows out with hc.pp.split and fit again"


def evaluate(
    task: Task,
    sections: Sections,
    *,
    key: str,
    target: str,
    split_key: str,
    n_bootstrap: int,
    rng: SeedLike | RNGLike | None,
) -> pd.DataFrame:
    """Score the prediction called `key`, and those of the baselines beside it, against the truth."""
    check_count(n_bootstrap, "n_bootstrap")
    table = sections.table
    predictions = read(task, table, key)
    truth = task.target(table, target)
    truth = task.match(truth, next(iter(predictions.values()))[""])
    names = truth.names
    rows, is_test = scored_rows(table, split_key, np.isfinite(truth.array).any(axis=1))
    seen = recall_training_rows(table, key)
    if seen is None:
        so = "it is not known whether test rows are among them" if is_test else f"they may be scored, {_FLATTERS}"
        warn(
            f"nothing is recorded of the rows that the model was fitted on: {so}. The record lies in uns, which "
            "anndata.concat drops; evaluate before, or predict again"
        )
    slides, group_key = sections.labels[rows], sections.replicate_key(rows)
    return score_table(
        task,
        truth.rows(rows),
        {
            model: {ending: values.select(names).array[rows] for ending, values in outputs.items()}
            for model, outputs in predictions.items()
        },
        groups=slides if group_key is None else row_labels(table, group_key)[rows],
        slides=slides,
        seen=None if seen is None else seen[:, rows],
        blocks=tissue_blocks(sections, rows, split_key) if task.has_blocks else None,
        n_bootstrap=n_bootstrap,
        rng=rng,
    )


def score_table(
    task: Task,
    truth: Values,
    predictions: Mapping[str, Mapping[str, Floats]],
    *,
    groups: np.ndarray,
    slides: np.ndarray,
    seen: Bools | None,
    blocks: np.ndarray | None = None,
    n_bootstrap: int,
    rng: SeedLike | RNGLike | None,
) -> pd.DataFrame:
    """Every score of every model, per group and over all, per target and in the mean.

    Parameters
    ----------
    task
        Names the metrics and the column of the targets.
    truth
        True values, ``(n, n_targets)``.
    predictions
        By model, then by the ending of the slot (``""``, ``"_lower"``, ...).
    groups
        Held-out group of each row; scores are pooled within it, and it is what the bootstrap draws.
    slides
        Slide of each row, for the scores within slides.
    seen
        Whether the model was fitted on each row, whether the row chose its settings, and whether it shows tissue of
        those, ``(3, n)``; there is a warning where there are any. `None` where that is unknown.
    blocks
        Block of tissue of each row: where there is one group, the bootstrap draws these, not rows.
    n_bootstrap
        Number of resamples.
    rng
        Seed or generator; each model sees the same resamples.

    Returns
    -------
    Columns ``model, group, <task.column>, metric, value, low, high, interval, n_spots, n_undefined, n_training, n_overlapping``. Group
    ``all`` is the mean over groups; where there are several, each has its rows, too. Target ``mean`` is the mean over
    targets; a group or a target of that name gets an underscore, with a warning. Both leave out what is undefined and
    ``n_undefined`` counts it; ``n_training`` and ``n_overlapping`` count rows that are `seen`. The bounds belong to ``all``, and ``interval`` says what
    they are: ``95 % over 6 groups``, a bootstrap; ``range of 2 groups``, the least and the greatest of fewer than five; with
    one group ``95 % over spots`` (or the same of its sections, for scores within them), which is too narrow for another
    patient, since spots are alike to their neighbours; ``95 % over 14 blocks`` of tissue for a task that has them; or
    ``none``. A metric that is one score of all targets has the target ``mean`` alone.
    """
    if seen is not None:
        _warn_of_training_rows(*seen)
    targets = free_names(truth.names, MEAN, task.column)
    if len(set(groups)) > 1:  # the only group has no rows of its own
        groups = np.array(free_names(groups.tolist(), ALL, "group"), dtype=object)
    seed = int(as_rng(rng).integers(2**63 - 1))
    parts = []
    for name, outputs in predictions.items():
        finite = np.isfinite(truth.array) & np.isfinite(outputs[""])
        counts = {"n_spots": _counts(finite, groups), "n_training": None, "n_overlapping": None}
        if seen is not None:
            counts["n_training"], counts["n_overlapping"] = (
                _counts(finite & rows[:, None], groups) for rows in (seen[0], seen[2])
            )
        for metric in task.metrics:
            if not set(metric.outputs) <= set(outputs):
                continue
            arrays = [truth.array, *(outputs[ending] for ending in metric.outputs)]
            bootstrap = {"n_bootstrap": n_bootstrap, "rng": seed}
            values, interval = _evaluate(metric, arrays, groups, slides, blocks, **bootstrap)
            if metric.overall:
                of_any = {name: None if each is None else each[:, [0, -1]] for name, each in counts.items()}
                part = score_rows(values, interval, of_any, task.column, [targets[0], MEAN], np.unique(groups))
                part = part[part[task.column] == MEAN]
            else:
                part = score_rows(values, interval, counts, task.column, [*targets, MEAN], np.unique(groups))
            parts.append(part.assign(model=name, metric=metric.name))
    order = ["model", "group", task.column, "metric", "value", "low", "high", "interval", "n_spots", "n_undefined"]
    return pd.concat(parts, ignore_index=True)[[*order, "n_training", "n_overlapping"]]


def _evaluate(
    metric: Metric,
    arrays: Sequence[Floats],
    groups: np.ndarray,
    slides: np.ndarray,
    blocks: np.ndarray | None,
    **bootstrap: int,
) -> tuple[Floats, Interval]:
    """Values ``(n_groups, n_targets)`` and the interval of their mean over groups."""
    slides = slides if metric.within_slides else groups
    per_slide = []
    for name in np.unique(groups):
        inside = [(groups == name) & (slides == slide) for slide in np.unique(slides[groups == name])]
        per_slide.append(np.stack([metric.score(*(array[rows] for array in arrays)) for rows in inside]))
    values = np.stack([metrics.nan_mean(each) for each in per_slide])
    if len(values) > 1:
        return values, over_groups(values, "groups", **bootstrap)
    if len(per_slide[0]) > 1:
        return values, over_groups(per_slide[0], "sections", **bootstrap)
    if blocks is not None:
        return values, over_blocks(metric.resample, arrays, blocks, **bootstrap)
    return values, over_spots(metric.resample(*arrays, **bootstrap))


def _counts(rows: Bools, groups: np.ndarray) -> NDArray[np.int64]:
    """Number of rows of each group: for each target, then for any; the last line is over all groups."""
    columns = np.column_stack([rows, rows.any(axis=1)])
    counts = np.stack([columns[groups == name].sum(axis=0) for name in np.unique(groups)])
    return np.vstack([counts, counts.sum(axis=0)])


def score_rows(
    values: Floats,
    interval: Interval,
    counts: Mapping[str, NDArray[np.int64] | None],
    column: str,
    targets: list[str],
    groups: np.ndarray,
) -> pd.DataFrame:
    """The rows of one metric of one model: each group, then ``all``; with one group only ``all``."""
    # The replicate is the group: the mean over targets is taken within each, then over groups.
    value = np.column_stack([values, metrics.nan_mean(values, axis=1)])
    undefined = ~np.isfinite(values)
    undefined = np.column_stack([undefined, undefined.sum(axis=1)])
    low, high = np.full((2, len(groups) + 1, len(targets)), np.nan)
    low[-1], high[-1], names = interval
    table = pd.DataFrame(
        {
            "group": np.repeat([*map(str, groups), ALL], len(targets)),
            column: np.tile(targets, len(groups) + 1),
            "value": np.vstack([value, metrics.nan_mean(value)]).ravel(),
            "low": low.ravel(),
            "high": high.ravel(),
            "interval": [NONE] * values.size + [NONE] * len(values) + names,
            "n_undefined": np.vstack([undefined, undefined.sum(axis=0)]).ravel(),
        }
    )
    for name, count in counts.items():
        table[name] = pd.array([pd.NA] * len(table) if count is None else count.ravel(), dtype="Int64")
    return table if len(groups) > 1 else table.iloc[len(targets) :]


def free_names(names: Sequence[str], reserved: str, column: str) -> list[str]:
    """Names for a column of the scores where `reserved` stands for all of them; what is called so gets another name."""
    free = reserved
    while free in set(names):
        free += "_"
    if free != reserved:
        warn(
            f"the {column.replace('_', ' ')} {reserved!r} is called {free!r} in the scores, where {reserved!r} is the mean"
        )
    return [free if name == reserved else str(name) for name in names]


def scored_rows(table: AnnData, split_key: str, known: Bools) -> tuple[Ints, bool]:
    """Rows to score, the test rows where there are any, and whether they are test rows."""
    parts = split_parts(table, split_key)
    test = np.zeros(table.n_obs, dtype=bool) if parts is None else parts == keys.TEST
    is_test = bool(test.any())
    rows = np.flatnonzero(test & known if is_test else known)
    if len(rows) == 0:
        msg = "no row has a known truth to score against"
        raise ValueError(msg)
    return rows, is_test


def _warn_of_training_rows(train: Bools, validation: Bools, beside: Bools) -> None:
    """Warn when scored rows were fitted, chose the settings of the model, or show tissue of rows that did."""
    did = [
        f"{int(rows.sum())} of the {len(rows)} scored rows {what}"
        for rows, what in (
            (train, "were used to fit it"),
            (validation, "were used to choose its settings"),
            (beside, "have a field of view that overlaps that of rows it was fitted on"),
        )
        if rows.any()
    ]
    if did:
        warn(f"{', '.join(did)}, {_FLATTERS}")
