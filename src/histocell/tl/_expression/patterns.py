"""Spatial patterns of predicted genes: Moran's I of truth and of prediction, section by section."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histocell import metrics
from histocell._core import keys
from histocell._core.geometry import spot_pitch
from histocell.kernels.moran import sparse_lag, standardize
from histocell.kernels.neighbors import rbf_weights
from histocell.tables.access import coordinates
from histocell.tl.engine.evaluate import MEAN, score_rows
from histocell.tl.engine.intervals import over_groups

if TYPE_CHECKING:
    from collections.abc import Mapping

    from histocell._core.types import Floats, Ints
    from histocell.tables.sections import Sections

_LEAST = 10  # rows of a section that have a pattern
DIFFERENCE, CORRELATION = "moran_difference", "moran_cc"


def morans_i(values: Floats, xy: Floats) -> Floats:
    """Moran's I of each column, ``(n_columns,)``, with Gaussian weights of the distance between neighbours.

    NaN for constant columns, and where there are fewer than ten rows.
    """
    if len(values) < _LEAST or len(np.unique(xy, axis=0)) < _LEAST:
        return np.full(values.shape[1], np.nan)
    weights = rbf_weights(xy, length_scale=spot_pitch(xy), include_self=False)
    z, constant = standardize(np.asarray(values, dtype=np.float64))
    i = (z * sparse_lag(weights, z).values).mean(axis=0)
    return np.where(constant, np.nan, i)


def pattern_scores(
    sections: Sections,
    truth: Floats,
    predictions: Mapping[str, Floats],
    rows: Ints,
    groups: np.ndarray,
    names: list[str],
    **bootstrap: int,
) -> pd.DataFrame:
    """How far Moran's I of each predicted gene is from that of the truth, and how both correlate over the genes.

    Values are of sections, averaged over those of a group; one table of scores as `histocell.tl.engine.evaluate.score_table`.
    """
    if keys.SPATIAL not in sections.table.obsm:
        return pd.DataFrame()
    xy, slides = coordinates(sections.table)[rows], sections.labels[rows]
    pairs = [(group, slide) for group in np.unique(groups) for slide in np.unique(slides[groups == group])]
    masks = [(groups == group) & (slides == slide) for group, slide in pairs]
    known = [mask & np.isfinite(truth).all(axis=1) for mask in masks]
    true = np.array([morans_i(truth[mask], xy[mask]) for mask in known])
    owners = np.array([group for group, _ in pairs], dtype=object)
    out = []
    for model, predicted in predictions.items():
        both = [mask & np.isfinite(predicted).all(axis=1) for mask in known]
        found = np.array([morans_i(predicted[mask], xy[mask]) for mask in both])
        correlation = np.array([metrics.pearson(*pair)[0] for pair in zip(true, found, strict=True)])[:, None]
        counts = {"n_spots": _counts(both, owners)}
        for metric, of_sections in ((DIFFERENCE, found - true), (CORRELATION, correlation)):
            values = np.stack([metrics.nan_mean(of_sections[owners == name]) for name in np.unique(groups)])
            replicates, unit = (values, "groups") if len(values) > 1 else (of_sections, "sections")
            interval = over_groups(replicates, unit, **bootstrap)
            targets = [*names, MEAN] if metric == DIFFERENCE else ["", MEAN]
            part = score_rows(values, interval, _spread(counts, len(targets)), "gene", targets, np.unique(groups))
            out.append(part[part["gene"] != ""].assign(model=model, metric=metric))
    return pd.concat(out, ignore_index=True)


def _counts(masks: list[np.ndarray], owners: np.ndarray) -> np.ndarray:
    of_sections = np.array([mask.sum() for mask in masks])
    counts = np.array([of_sections[owners == name].sum() for name in np.unique(owners)])
    return np.append(counts, counts.sum())[:, None]


def _spread(counts: dict[str, np.ndarray], n: int) -> dict[str, np.ndarray | None]:
    return {name: np.repeat(each, n, axis=1) for name, each in counts.items()} | {
        "n_training": None,
        "n_overlapping": None,
    }
