"""Reasons for caution that a reader of results has to know, read from the slots of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histocell._core import keys
from histocell.tables.access import resolutions, split_parts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

NOVEL = 1.5  # from which on intervals are half as wide again
EVALUATIONS = (keys.EVALUATION, keys.CELL_TYPE_EVALUATION, "expression_evaluation")


def notes(table: AnnData) -> Iterator[str]:
    """Reasons to be careful, each a sentence."""
    for key in EVALUATIONS:
        if isinstance(scores := table.uns.get(key), pd.DataFrame):
            yield from _of_scores(key, scores)
    for column in table.obs.columns:
        if str(column).endswith(keys.NOVELTY):
            values = np.asarray(table.obs[column], dtype=np.float64)
            if share := float(np.nanmean(values > NOVEL)) if np.isfinite(values).any() else 0.0:
                yield (
                    f"{_percent(share)} of the rows lie further from what the model was fitted on than {NOVEL:g} times a typical new "
                    f'group (obs["{column}"]): their predictions are less sure.'
                )
    if keys.INSIDE in table.obs and (outside := int((~table.obs[keys.INSIDE].astype(bool)).sum())):
        yield f"{outside} of {table.n_obs} patches reach beyond the image."
    for key in table.obsm:
        if (
            key.startswith("X_")
            and isinstance(value := table.obsm[key], np.ndarray)
            and (lost := int((~np.isfinite(value)).any(axis=1).sum()))
        ):
            yield f'{lost} of {table.n_obs} rows have no embedding in obsm["{key}"].'
    if keys.MPP not in table.obs or not np.isfinite(resolutions(table)).all():
        yield "The resolution of some rows is unknown: their lengths are in pixels."
    if keys.MODEL in table.uns and split_parts(table, keys.SPLIT) is None:
        yield f'There is no split (obs["{keys.SPLIT}"]): rows that were fitted may be among those that are shown.'


def _of_scores(key: str, scores: pd.DataFrame) -> Iterator[str]:
    if "n_training" in scores and (n := int(pd.to_numeric(scores["n_training"], errors="coerce").max() or 0)):
        yield f"{key}: {n} of the scored rows were seen by the model when it was fitted, so the scores are too good."
    ranges = sorted({str(each) for each in scores.get("interval", []) if str(each).startswith("range of")})
    if ranges:
        yield f"{key}: bounds of scores are the {', '.join(ranges)}, too few for an interval."


def _percent(share: float) -> str:
    return "less than 1 %" if share < 0.01 else f"{100 * share:.0f} %"
