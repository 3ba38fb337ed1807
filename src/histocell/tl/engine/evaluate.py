"""Evaluation of predictions of any task: which rows are scored, and who the replicates are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histocell._core import keys
from histocell._core.errors import warn
from histocell.tables.access import row_labels
from histocell.tl.engine.predict import read
from histocell.tl.engine.rows import recall_training_rows
from histocell.tl.engine.scores import score_table
from histocell.tl.engine.task import shared_targets

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from histocell._core.rng import RNGLike, SeedLike
    from histocell.tables.sections import Sections
    from histocell.tl.engine.task import Task

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
    table = sections.table
    predictions = read(task, table, key)
    truth = task.target(table, target)
    names = shared_targets(truth, next(iter(predictions.values()))[""], "truth and predictions")
    truth = truth.select(names)
    rows, is_test = _scored_rows(table, split_key, np.isfinite(truth.array).any(axis=1))
    trained = _training_rows(sections, key, rows, is_test=is_test)
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
        trained=trained,
        n_bootstrap=n_bootstrap,
        rng=rng,
    )


def _scored_rows(table: AnnData, split_key: str, known: NDArray[np.bool_]) -> tuple[NDArray[np.intp], bool]:
    """Rows to score, the test rows where there are any, and whether they are test rows."""
    test = np.zeros(table.n_obs, dtype=bool)
    if split_key in table.obs:
        test = (table.obs[split_key].astype(object) == keys.TEST).to_numpy()
    is_test = bool(test.any())
    rows = np.flatnonzero(test & known if is_test else known)
    if len(rows) == 0:
        msg = "no row has a known truth to score against"
        raise ValueError(msg)
    return rows, is_test


def _training_rows(sections: Sections, key: str, rows: NDArray[np.intp], *, is_test: bool) -> NDArray[np.bool_] | None:
    """Which of the scored rows the model was fitted on, with a warning where there are any; `None` where unknown."""
    recalled = recall_training_rows(sections.table, key)
    if recalled is None:
        if not is_test:
            warn(f"nothing is recorded of the rows that the model was fitted on: they may be scored, {_FLATTERS}")
        return None
    train, validation = (seen[rows] for seen in recalled)
    warn_of_training_rows(train, validation)
    return train


def warn_of_training_rows(train: NDArray[np.bool_], validation: NDArray[np.bool_]) -> None:
    """Warn when scored rows were fitted, or chose the settings of the model."""
    if train.any():
        warn(f"{int(train.sum())} of the {len(train)} scored rows were fitted by the model, {_FLATTERS}")
    elif validation.any():
        warn(f"{int(validation.sum())} of the {len(train)} scored rows chose settings of the model, {_FLATTERS}")
