"""Tables of scores as plots read them: checked, selected, and with a name for each run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histocell import get
from histocell._core import keys
from histocell._core.errors import listing
from histocell.pl._choices import choose
from histocell.pl._style import MUTED, PALETTE, colors_of
from histocell.tables.access import get_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.typing import ColorType

    from histocell.pl._style import Palette
    from histocell.tables.access import Data

MEAN = "mean"  # of the cell types; also the model that predicts the training mean
ALL = "all"  # the group that stands for all of them
BASELINES = ("ridge", MEAN, "logistic", "knn", "majority")
NAMES = {
    MEAN: "training mean",
    "majority": "most frequent type",
    "knn": "nearest cells",
    "cell_transformer": "transformer",
}  # of models, where their own could be taken for something else
OF_CELLS = {"f1", "precision", "recall", "accuracy", "calibration_error", "called"}  # metrics of types of cells
LABELS = {
    "cc": "CC with the measured abundance",
    "cc_per_slide": "CC within sections",
    "l1": "mean absolute error",
    "coverage": "share of measured values in the interval",
    "f1": "F1",
    "precision": "precision: share of the cells given a type that are of it",
    "recall": "recall: share of the cells of a type that are given it",
    "accuracy": "share of the cells with the right type",
    "calibration_error": "calibration error",
    "called": "share of the cells that are given a type",
    "colocalization_cosine": "cosine of co-localization",
    "colocalization_correlation": "CC of co-localization",
}
RUN = "run"  # the column that `read` adds
# of a table of scores; the one that is left names the targets
COLUMNS = ("model", "group", "metric", "value", "low", "high")
COUNTS = ("features", "interval", "n_spots", "n_undefined", "n_training", "n_overlapping")
OF_PROBES = ("task", "alpha", "n_components")


def read(
    data: Data | pd.DataFrame,
    key: str,
    table_key: str | None,
    *,
    models: str | Sequence[str] | None = None,
    features: str | Sequence[str] | None = None,
) -> pd.DataFrame:
    """The table of the chosen models and features, whose targets are called cell types.

    The column ``run`` names what is drawn in one colour: the model, and the features where there are several;
    ``attrs["target"]`` is what the targets were called.
    """
    table = data.copy() if isinstance(data, pd.DataFrame) else get.scores(data, key, table_key=table_key)
    named = [name for name in table if name not in {*COLUMNS, *COUNTS, *OF_PROBES}]
    if absent := [name for name in COLUMNS if name not in table] or ([] if named else ["cell_type"]):
        msg = f"this is no table of scores: column {listing(absent)} not found; available: {listing(map(str, table))}. "
        msg += "hc.tl.evaluate_abundance and hc.bench make one"
        raise ValueError(msg)
    target = "cell_type" if "cell_type" in named else named[0]
    table = table.rename(columns={target: "cell_type"})
    if "features" not in table:
        table["features"] = ""
    texts = dict.fromkeys(("model", "features", "group", "cell_type", "metric"), str)
    table = table.astype({"features": object}).fillna({"features": ""}).astype(texts)
    _check_single(table)
    for column, wanted in (("model", models), ("features", features)):
        if wanted is not None:
            table = select(table, column, wanted)
    table = _name_runs(table)
    table.attrs["target"] = target
    return table


def select(table: pd.DataFrame, column: str, wanted: str | Sequence[str]) -> pd.DataFrame:
    """The rows whose `column` is one of the wanted names; an error that lists what there is."""
    chosen = choose(wanted, table[column].unique(), column, where=" in the scores", error=ValueError)
    return table[table[column].isin(chosen)]


def run_names(table: pd.DataFrame) -> list[str]:
    """Names of the runs in the order of the table, the baselines last."""
    models = dict(zip(table[RUN], table["model"], strict=True))
    return sorted(models, key=lambda run: BASELINES.index(models[run]) if models[run] in BASELINES else -1)


def run_colors(runs: Sequence[str], palette: Palette | None, *, is_only: bool) -> dict[str, ColorType]:
    """Colours of runs; by default a training mean beside others is grey, and more runs than colours are told apart."""
    colors = colors_of(runs, "tab20" if palette is None and len(runs) > len(PALETTE) else palette)
    if palette is None and not is_only and MEAN in runs:
        colors[MEAN] = MUTED
    return colors


def interval_names(table: pd.DataFrame) -> str:
    """What the bounds of these rows are, by the column that says it; empty where there are none."""
    known = np.isfinite(table[["low", "high"]].astype(float)).all(axis=1)
    names = table["interval"][known].unique() if "interval" in table else ["interval"]
    return " or ".join(map(str, names)) if known.any() else ""


def _check_single(table: pd.DataFrame) -> None:
    if "task" in table and table["task"].nunique() > 1:
        msg = f"the table holds several tasks ({listing(table['task'].unique())}); choose one, or draw them with hc.pl.probe"
        raise ValueError(msg)
    if (twice := table.duplicated(["model", "features", "group", "metric", "cell_type"])).any():
        model = table["model"][twice].iloc[0]
        msg = f"the table has several scores of {model!r} for one cell type, group and metric: give each run a name of its own"
        msg += ' in the column "model" before they are concatenated'
        raise ValueError(msg)


def _name_runs(table: pd.DataFrame) -> pd.DataFrame:
    """The column ``run``; the training mean, which looks at no features, is one run whatever they were."""
    features = table["features"]
    of_mean = table["model"] == MEAN
    if of_mean.any():
        table = table[~of_mean | (features == features[of_mean].iloc[0])]
    models, features = table["model"], table["features"].map(_plain)
    others = models != MEAN
    several = features[others].nunique() > 1, models[others].nunique() > 1
    runs = models if not several[0] else (models + ", " + features) if several[1] else features
    return table.assign(**{RUN: runs.where(others, MEAN).str.removesuffix(", ")})


def _plain(features: str) -> str:
    """Names of slots as a reader calls them: ``X_conch + X_uni`` is conch + uni."""
    return re.sub(r"\bX_", "", features)


def promised(data: Data | pd.DataFrame, table_key: str | None, key: str = keys.PREDICTED) -> float | None:
    """Share of values that the intervals of a prediction should hold, where that is known."""
    if isinstance(data, pd.DataFrame):
        return None
    return keys.read_provenance(get_table(data, table_key), key).get("interval")
