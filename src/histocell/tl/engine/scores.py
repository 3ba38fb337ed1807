"""Scores of predictions as one tidy table, with intervals over groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from histocell import metrics
from histocell._core.rng import as_rng

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    type Floats = NDArray[np.float64]

COLUMNS = ["model", "group", "cell_type", "metric", "value", "low", "high", "n_spots", "n_undefined"]
ALL, MEAN = "all", "mean"
CC, CC_PER_SLIDE, L1, COVERAGE = "cc", "cc_per_slide", "l1", "coverage"


class Prediction(NamedTuple):
    """Predictions of one model, shape ``(n, n_types)``, and its interval where it has one."""

    value: Floats
    lower: Floats | None = None
    upper: Floats | None = None


def score_table(
    truth: pd.DataFrame,
    predictions: Mapping[str, Prediction],
    *,
    groups: NDArray[Any],
    slides: NDArray[Any],
    n_bootstrap: int,
    rng: Any,
) -> pd.DataFrame:
    """Every score of every model, per group and over all, per cell type and in the mean.

    Parameters
    ----------
    truth
        True values, ``(n, n_types)``.
    predictions
        By model.
    groups
        Held-out group of each row; scores are pooled within it, and it is what the bootstrap draws.
    slides
        Slide of each row, for the scores within slides.
    n_bootstrap
        Number of resamples.
    rng
        Seed or generator; each model sees the same resamples.

    Returns
    -------
    Columns ``model, group, cell_type, metric, value, low, high, n_spots, n_undefined``. Group ``all`` is the mean over
    groups, cell type ``mean`` the mean over types; both leave out what is undefined and ``n_undefined`` counts it. With
    several groups the interval is over groups and belongs to ``all``; with one group it is over its spots, which are
    alike to their neighbours, so that it is too narrow for another patient.
    """
    y = truth.to_numpy(dtype=np.float64)
    seed = int(as_rng(rng).integers(2**63 - 1))
    parts = []
    for name, prediction in predictions.items():
        for metric in (CC, CC_PER_SLIDE, L1, COVERAGE):
            if metric == COVERAGE and prediction.lower is None:
                continue
            values, replicates = _evaluate(metric, y, prediction, groups, slides, n_bootstrap, seed)
            finite = np.isfinite(y) & np.isfinite(prediction.value)
            part = _rows(values, replicates, list(map(str, truth.columns)), groups, finite)
            parts.append(part.assign(model=name, metric=metric))
    return pd.concat(parts, ignore_index=True)[COLUMNS]


def _evaluate(
    metric: str, y: Floats, prediction: Prediction, groups: Any, slides: Any, n_bootstrap: int, seed: int
) -> tuple[Floats, Floats]:
    """Values ``(n_groups, n_types)`` and bootstrap replicates ``(n_bootstrap, n_types)`` of their mean over groups."""
    resample: dict[str, Any] = {"n_bootstrap": n_bootstrap, "rng": seed}
    if metric in {CC, CC_PER_SLIDE}:
        per_slide = None
        if metric == CC:
            values = metrics.pearson(y, prediction.value, groups=groups)
        else:
            by_group = [groups == name for name in np.unique(groups)]
            per_slide = [metrics.pearson(y[rows], prediction.value[rows], groups=slides[rows]) for rows in by_group]
            values = np.stack([metrics.nan_mean(each) for each in per_slide])
        if len(values) > 1:
            return values, metrics.bootstrap_mean(values, **resample)
        if per_slide is not None and len(per_slide[0]) > 1:
            return values, metrics.bootstrap_mean(per_slide[0], **resample)
        return values, metrics.bootstrap_pearson(y, prediction.value, **resample)
    if metric == L1:
        entries = metrics.absolute_error(y, prediction.value)
    else:
        entries = metrics.covered(y, prediction.lower, prediction.upper)  # type: ignore[arg-type]
    values = np.stack([metrics.nan_mean(entries[groups == name]) for name in np.unique(groups)])
    return values, metrics.bootstrap_mean(values if len(values) > 1 else entries, **resample)


def _rows(values: Floats, replicates: Floats, types: list[str], groups: Any, finite: NDArray[np.bool_]) -> pd.DataFrame:
    names = np.unique(groups)
    undefined = ~np.isfinite(values)
    counts = np.stack([finite[groups == name].sum(axis=0) for name in names])
    spots = np.array([int(finite[groups == name].any(axis=1).sum()) for name in names])
    blocks = [
        _block(str(name), types, values[i], counts[i], undefined[i], (values[i], spots[i]))
        for i, name in enumerate(names)
    ]
    # The replicate is the group: the mean over types is taken within each, then over groups.
    overall = metrics.nan_mean(metrics.nan_mean(values, axis=1))
    blocks.append(
        _block(ALL, types, metrics.nan_mean(values), counts.sum(axis=0), undefined.sum(axis=0), (overall, spots.sum()))
    )
    low, high = metrics.percentile_interval(np.column_stack([replicates, metrics.nan_mean(replicates, axis=1)]))
    interval = pd.DataFrame({"low": low, "high": high}, index=blocks[-1].index)
    blocks[-1] = blocks[-1].assign(low=interval["low"], high=interval["high"])
    if len(names) == 1:
        blocks[0] = blocks[0].assign(low=interval["low"], high=interval["high"])
    return pd.concat(blocks, ignore_index=True)


def _block(
    group: str, types: list[str], values: Floats, counts: Any, undefined: Any, mean: tuple[Any, Any]
) -> pd.DataFrame:
    """The rows of one group: each type, then their mean."""
    average = metrics.nan_mean(np.atleast_1d(mean[0])) if np.ndim(mean[0]) else mean[0]
    return pd.DataFrame(
        {
            "group": group,
            "cell_type": [*types, MEAN],
            "value": np.append(values, average),
            "low": np.nan,
            "high": np.nan,
            "n_spots": np.append(counts, mean[1]).astype(np.int64),
            "n_undefined": np.append(undefined, np.sum(undefined)).astype(np.int64),
        }
    )
