"""One tidy table of everything that a protocol measured: scores, agreement of co-localization, costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from histocell import metrics
from histocell.bench.agreement import map_agreement
from histocell.bench.costs import COSTS, SECONDS
from histocell.tl.engine.evaluate import ALL, MEAN, score_table
from histocell.tl.engine.intervals import NONE, over_groups

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from histocell._core.types import Floats
    from histocell.bench.agreement import Coordinates
    from histocell.bench.cache import Result
    from histocell.bench.folds import Plan
    from histocell.tables.sections import Sections
    from histocell.tl.engine.intervals import Interval
    from histocell.tl.engine.task import Task


class Scoring(NamedTuple):
    """How results are scored.

    Attributes
    ----------
    task
        Names the metrics.
    sections, labels
        Section and group of each row of the table that was predicted.
    coordinates
        For maps of co-localization; `None` for none.
    n_bootstrap, seed
        Of the intervals; the same resamples for every model and set of embeddings.
    """

    task: Task
    sections: Sections
    labels: np.ndarray
    coordinates: Coordinates | None
    n_bootstrap: int
    seed: int

    def table(self, plan: Plan, results: Mapping[str, Sequence[Result]]) -> pd.DataFrame:
        """Rows of one set of embeddings, from the results of each model in each fold."""
        task, rows = self.task, np.concatenate([fold.rows.held for fold in plan.folds])
        truth = plan.new.truth.rows(rows)
        outputs = {
            model: {ending: np.concatenate([part.outputs[ending] for part in parts]) for ending in parts[0].outputs}
            for model, parts in results.items()
        }
        scores = score_table(
            task,
            truth,
            outputs,
            groups=self.labels[rows],
            slides=self.sections.labels[rows],
            seen=np.hstack([fold.seen for fold in plan.folds]),
            n_bootstrap=self.n_bootstrap,
            rng=self.seed,
        )
        groups = [name for name in scores["group"].unique() if name != ALL]
        count = scores[scores[task.column] == MEAN].drop_duplicates("group").set_index("group")["n_spots"]
        parts = [scores]
        if self.coordinates is not None:
            predicted = {model: each[""] for model, each in outputs.items()}
            parts.append(self._agreement(rows, truth.array, predicted, groups))
        parts.append(_costs(results, groups if len(plan.folds) > 1 else []))
        table = pd.concat([_like(part, scores, task.column, count) for part in parts], ignore_index=True)
        table.insert(1, "features", plan.features)
        order = {name: index for index, name in enumerate(results)}
        return table.sort_values("model", key=lambda column: column.map(order), kind="stable", ignore_index=True)

    def _agreement(
        self, rows: np.ndarray, truth: Floats, predicted: Mapping[str, Floats], groups: Sequence[str]
    ) -> pd.DataFrame:
        """Agreement of co-localization maps per group, the mean over its sections, and over groups."""
        xy, length_scale_um = self.coordinates  # type: ignore[misc]
        labels = self.labels[rows]
        pairs = np.array(
            [f"{group}\0{section}" for group, section in zip(labels, self.sections.labels[rows], strict=True)]
        )
        group_of = dict(zip(pairs, labels, strict=True))
        out = []
        for model, scores in map_agreement(xy[rows], length_scale_um, pairs, truth, predicted).items():
            owners = np.array([group_of[pair] for pair in scores.index])
            for metric in scores:
                of_sections = scores[[metric]].to_numpy()
                values = np.stack([metrics.nan_mean(of_sections[owners == name]) for name in np.unique(labels)])
                undefined = [int((~np.isfinite(of_sections[owners == name])).sum()) for name in np.unique(labels)]
                replicates, unit = (values, "groups") if len(values) > 1 else (of_sections, "sections")
                interval = over_groups(replicates, unit, n_bootstrap=self.n_bootstrap, rng=self.seed)
                out.append(_rows(model, str(metric), values[:, 0], groups, interval, undefined))
        return pd.concat(out, ignore_index=True)


def _rows(
    model: str, metric: str, values: Floats, groups: Sequence[str], interval: Interval, undefined: Sequence[int]
) -> pd.DataFrame:
    """Rows of one metric: each group, where there are several, and all."""
    low, high, name = (each[-1] for each in interval)
    n, single = len(groups), [*values] if len(groups) else []
    return pd.DataFrame(
        {
            "model": model,
            "group": [*groups, ALL],
            "metric": metric,
            "value": [*single, float(metrics.nan_mean(values))],
            "low": [np.nan] * n + [low],
            "high": [np.nan] * n + [high],
            "interval": [NONE] * n + [name],
            "n_undefined": [*undefined[:n], sum(undefined)],
        }
    )


def _costs(results: Mapping[str, Sequence[Result]], groups: Sequence[str]) -> pd.DataFrame:
    """Costs of each fit, and of all: the sum of the seconds, the largest of everything else."""
    rows: list[tuple[str, str, str, float]] = []
    for model, parts in results.items():
        for metric in COSTS:
            values = [part.costs[metric] for part in parts if metric in part.costs]
            if len(values) < len(parts):
                continue
            if groups:
                rows += [(model, group, metric, value) for group, value in zip(groups, values, strict=True)]
            rows.append((model, ALL, metric, sum(values) if metric == SECONDS else max(values)))
    table = pd.DataFrame(rows, columns=["model", "group", "metric", "value"])
    return table.assign(low=np.nan, high=np.nan, interval=NONE, n_undefined=0)


def _like(part: pd.DataFrame, scores: pd.DataFrame, column: str, count: pd.Series) -> pd.DataFrame:
    """A part with all columns of the scores, in their types."""
    if part is scores:
        return part
    part = part.assign(n_spots=part["group"].map(count))
    part[column] = MEAN
    return part.reindex(columns=scores.columns).astype(scores.dtypes.to_dict())
