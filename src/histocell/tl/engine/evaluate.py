"""Evaluate, for any task: which rows are scored, against what, and who the replicates are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from histocell._core import keys
from histocell._core.errors import listing, warn
from histocell.tables.access import get_obsm, row_labels
from histocell.tl.engine import scores as _scores
from histocell.tl.engine import task as _task

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from histocell._core.rng import RNGLike, SeedLike


def evaluate(
    task: _task.Task,
    table: AnnData,
    *,
    key: str,
    target: str,
    split_key: str,
    group_key: str | None,
    slide_key: str | None,
    n_bootstrap: int,
    rng: SeedLike | RNGLike | None,
) -> pd.DataFrame:
    """Score the predictions in ``obsm[key]``, and those of the baselines beside it, against ``obsm[target]``."""
    predicted = _task.target_frame(table, key, f"Run hc.tl.predict_{task.name}(data) first.")
    truth = _task.target_frame(table, target, "Scores need the truth.")
    shared = [name for name in truth.columns if name in set(predicted.columns)]
    if not shared:
        msg = f"predictions and truth share no target: {listing(predicted.columns)} against {listing(truth.columns)}"
        raise ValueError(msg)
    if len(shared) < max(truth.shape[1], predicted.shape[1]):
        warn(f"only the {len(shared)} targets that predictions and truth share are scored")
    rows = _scored_rows(table, split_key, truth[shared])
    groups, slides = _replicates(table, rows, group_key, slide_key)
    return _scores.score_table(
        truth[shared].iloc[rows],
        {name: _prediction(table, slot, shared, rows) for name, slot in _slots(table, key).items()},
        groups=groups,
        slides=slides,
        n_bootstrap=n_bootstrap,
        rng=rng,
    )


def _slots(table: AnnData, key: str) -> dict[str, str]:
    """Model name to slot of ``obsm``, the model first, then its baselines."""
    provenance = keys.read_provenance(table, key)
    slots = {provenance.get("model", key): key}
    return slots | {name: f"{key}_{name}" for name in provenance.get("baselines", []) if f"{key}_{name}" in table.obsm}


def _prediction(table: AnnData, slot: str, names: Sequence[str], rows: NDArray[np.intp]) -> _scores.Prediction:
    def values(key: str) -> Any:
        return get_obsm(table, key)[list(names)].iloc[rows].to_numpy(dtype=np.float64)

    if slot + _task.LOWER not in table.obsm:
        return _scores.Prediction(values(slot))
    return _scores.Prediction(values(slot), values(slot + _task.LOWER), values(slot + _task.UPPER))


def _scored_rows(table: AnnData, split_key: str, truth: pd.DataFrame) -> NDArray[np.intp]:
    test = np.ones(table.n_obs, dtype=bool)
    if split_key in table.obs:
        split = table.obs[split_key].astype(object).to_numpy()
        if (split == _task.TEST).any():
            test = split == _task.TEST
        elif (split == _task.TRAIN).any():
            warn(f'obs["{split_key}"] has no test row: training rows are scored, which flatters the model')
    rows = np.flatnonzero(test & np.isfinite(truth.to_numpy(dtype=np.float64)).any(axis=1))
    if len(rows) == 0:
        msg = "no row has a known truth to score against"
        raise ValueError(msg)
    return rows


def _replicates(
    table: AnnData, rows: NDArray[np.intp], group_key: str | None, slide_key: str | None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Group and slide of each scored row."""
    slide_key = slide_key or (keys.SECTION if keys.SECTION in table.obs else None)
    slides = np.full(len(rows), _scores.ALL) if slide_key is None else row_labels(table, slide_key)[rows]
    if group_key is not None:
        return row_labels(table, group_key)[rows], slides
    groups = slides
    for key in (keys.SECTION, keys.PATIENT):
        if key in table.obs and len(np.unique(labels := row_labels(table, key)[rows])) > 1:
            groups = labels
    return groups, slides
