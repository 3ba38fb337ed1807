"""Tables of scores as they are read again: checked, and with a name for each run, a model on a set of features."""

from __future__ import annotations

import re

import pandas as pd

from histocell._core.errors import listing

RUN = "run"  # the column that `read_scores` adds
_NEEDED = ("model", "group", "metric", "value", "low", "high")
_OTHERS = ("features", "interval", "n_spots", "n_undefined", "n_training", "n_overlapping")
_OF_PROBES = ("task", "alpha", "n_components")


def read_scores(scores: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """A copy with the column ``run``, and the name of the column of the targets.

    Raises
    ------
    TypeError
        When it is no data frame.
    ValueError
        When it is no table of scores, or holds two scores of one run for one target, group and metric.
    """
    if not isinstance(scores, pd.DataFrame):
        msg = f"scores must be the data frame that a protocol of hc.bench returns, not {type(scores).__name__}"
        raise TypeError(msg)
    targets = [str(name) for name in scores if name not in {*_NEEDED, *_OTHERS, *_OF_PROBES}]
    if absent := [name for name in _NEEDED if name not in scores] or ([] if targets else ["cell_type"]):
        msg = f"this is no table of scores: column {listing(absent)} not found; available: {listing(scores)}"
        raise ValueError(msg)
    column = "cell_type" if "cell_type" in targets else targets[0]
    if "task" in scores and scores["task"].nunique() > 1:
        msg = f"the table holds {scores['task'].nunique()} tasks; choose one, as in scores[scores['task'] == {scores['task'].iloc[0]!r}]"
        raise ValueError(msg)
    table = scores.copy() if "features" in scores else scores.assign(features="")
    table = table.astype(dict.fromkeys(("model", "features", "group", "metric", column), str))
    if (twice := table.duplicated(["model", "features", "group", "metric", column])).any():
        first = table[twice].iloc[0]
        msg = (
            f"the table has several scores of {first['model']!r} for one target, group and metric; name runs apart in the "
            'column "model" before they are concatenated'
        )
        raise ValueError(msg)
    return table.assign(**{RUN: run_names(table)}), column


def run_names(table: pd.DataFrame) -> pd.Series:
    """The model, the features, or both, whichever tells the runs apart; features without their ``X_``."""
    features = table["features"].map(plain_features)
    if features.nunique() < 2:
        return table["model"]
    names = features if table["model"].nunique() < 2 else table["model"] + ", " + features
    return names.mask(features == "", table["model"])


def plain_features(name: str) -> str:
    """Names of slots as a reader calls them: ``X_conch + X_uni`` is conch + uni."""
    return re.sub(r"\bX_", "", name)
