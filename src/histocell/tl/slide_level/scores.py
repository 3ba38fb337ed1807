"""Scores of slides: over all of them at once, with intervals over patients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histocell._core import keys
from histocell._core.errors import listing, warn
from histocell.tables.access import split_parts
from histocell.tl.engine.evaluate import ALL, score_table
from histocell.tl.slide_level.task import FOLD

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from anndata import AnnData

    from histocell._core.rng import RNGLike, SeedLike
    from histocell._core.types import Bools, Ints
    from histocell.tl.engine.task import Task, Values


def scored_slides(table: AnnData, split_key: str, known: Bools) -> Ints:
    """The test slides where there are any, else all, whose truth is known.

    Raises
    ------
    ValueError
        When there is none.
    """
    parts = split_parts(table, split_key)
    test = np.zeros(table.n_obs, dtype=bool) if parts is None else parts == keys.TEST
    rows = np.flatnonzero(known & test if test.any() else known)
    if not len(rows):
        msg = "no slide has a known outcome to score against"
        raise ValueError(msg)
    return rows


def scores_of(
    task: Task,
    truth: Values,
    predictions: Mapping[str, Values],
    *,
    patients: np.ndarray,
    seen: Bools | None,
    folds: np.ndarray | None = None,
    n_bootstrap: int,
    rng: SeedLike | RNGLike | None,
) -> pd.DataFrame:
    """The table of scores; ranks are compared within a fold, whose predictions are of one model."""
    of_fold = (np.zeros(len(truth.array)) if folds is None else folds)[:, None]
    outputs = {name: {"": values.array, FOLD: of_fold} for name, values in predictions.items()}
    everything = np.full(len(truth.array), ALL, dtype=object)
    scores = score_table(
        task,
        truth,
        outputs,
        groups=everything,
        slides=everything,
        seen=seen,
        blocks=patients,
        n_bootstrap=n_bootstrap,
        rng=rng,
    )
    undefined = scores.loc[~np.isfinite(scores["value"].to_numpy(dtype=float)), "metric"].unique()
    if len(undefined):
        what = "all are of one class" if "auc" in undefined else "no two have a known order"
        warn(f"{', '.join(undefined)} of the {len(truth.array)} scored slides is undefined: {what}")
    scores["interval"] = scores["interval"].str.replace("blocks", "patients")
    there = {name: int(np.isfinite(values.array).all(axis=1).sum()) for name, values in predictions.items()}
    if fewer := [f"{name} {n}" for name, n in there.items() if n < len(truth.array)]:
        warn(
            f"not all of {len(truth.array)} slides are predicted, and models are scored on different ones: {listing(fewer)}"
        )
    scores["n_spots"] = scores["model"].map(there)
    return scores.drop(columns=["group", "n_overlapping"]).rename(columns={"n_spots": "n_slides"})
