"""The task of expression: a panel of genes, read from counts, scored by correlation within and across sections."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histocell import metrics
from histocell._core import keys
from histocell._core.errors import listing, warn
from histocell.metrics.values import resamples
from histocell.tables.expression import GenePanel, genes_of, read_expression, total_counts
from histocell.tl.engine.frames import Frames
from histocell.tl.engine.task import Metric, Task, Values

if TYPE_CHECKING:
    from anndata import AnnData

    from histocell._core.types import JSON, Floats, Ints
    from histocell.models.base import Model

NAME = "expression"
MOST_IN_FRAME = 500  # genes; more go to layers
SUBSET = 0.2  # share of the genes that count as highly variable, or highly expressed
_ROWS = 2048
_LEAST_GENES = 10  # to have subsets
# What models by these names do to targets, unless they are told otherwise: the root is for abundances.
_SETTINGS = dict.fromkeys(("ridge", "mlp", "spatial_mlp", "hist2cell"), {"target_transform": "standard"})


def read_values(table: AnnData, slot: str, *, panel: GenePanel, layer: str | None) -> Values:
    """The expression of a panel, and the counts of each row as its weight."""
    del slot
    array = read_expression(table, panel, layer=layer)
    names, renamed = keys.safe_names(panel.genes, quiet=True)
    totals = total_counts(table, layer) if panel.scale == "log1p_cp10k" else None
    return Values(array, names, renamed, totals)


def expression_task_of(panel: GenePanel, layer: str | None = None) -> Task:
    """The task of predicting a panel."""
    return Task(
        NAME,
        target=partial(read_values, panel=panel, layer=layer),
        metrics=(
            Metric("cc", metrics.pearson, metrics.bootstrap_pearson),
            Metric("cc_per_slide", metrics.pearson, metrics.bootstrap_pearson, within_slides=True),
            Metric.of_entries("l1", metrics.absolute_error, higher_is_better=False),
            Metric.of_entries("coverage", metrics.covered, outputs=(keys.LOWER, keys.UPPER)),
            *_subset_metrics(panel),
        ),
        writer=ExpressionWriter("Run hc.tl.predict_expression(data) first.", panel),
        baselines=keys.BASELINES,
        column="gene",
        match=match_genes,
        settings=_SETTINGS,
    )


def match_genes(truth: Values, predicted: Values) -> Values:
    """The truth of the genes that were predicted, too; which the table lacks was said before."""
    known = set(predicted.names)
    shared = [name for name in truth.names if name in known]
    if not shared:
        msg = f"truth and predictions share no gene: {listing(truth.names)} against {listing(predicted.names)}"
        raise ValueError(msg)
    return truth.select(shared)


@dataclass(frozen=True)
class ExpressionWriter(Frames):
    """Data frames in ``obsm``; also reads what lies in ``layers``.

    Attributes
    ----------
    panel
        The genes.
    """

    panel: GenePanel | None = None

    def read(self, table: AnnData, key: str) -> Values:
        """The prediction called `key`: of a panel in a layer, the genes that the table has."""
        if key in table.obsm or key not in [name for name in table.layers.keys() if name is not None]:
            return super().read(table, key)
        genes, columns = _in_table(table, self.panel.genes if self.panel else list(table.var_names))
        names, renamed = keys.safe_names(genes, quiet=True)
        layer: Any = table.layers[key]
        return Values(np.asarray(layer[:, columns]), names, renamed)


def panel_of(facts: JSON, what: str) -> GenePanel:
    """The panel that a model, or a prediction, remembers."""
    if "panel" not in facts:
        msg = f"{what} knows no panel of genes; fit it with hc.tl.fit_expression, predict with hc.tl.predict_expression"
        raise ValueError(msg)
    return GenePanel.from_dict(facts["panel"])


def shared_panel(table: AnnData, panel: GenePanel) -> GenePanel:
    """The genes of a panel that a table has; a warning where that is not all."""
    genes, _ = _in_table(table, panel.genes)
    if not genes:
        msg = (
            f"none of the {len(panel)} genes of the panel ({listing(panel.genes, 4)}) is in the table, whose genes are "
            f"{listing(table.var_names, 4)}: names must be of one kind, symbols or Ensembl identifiers"
        )
        raise ValueError(msg)
    if len(genes) < len(panel):
        known = set(genes)
        absent = [name for name in panel.genes if name not in known]
        warn(
            f"{len(absent)} of the {len(panel)} genes of the panel are not in the table and are left out: {listing(absent, 6)}"
        )
    return panel.select(genes)


def layer_slots(
    table: AnnData, X: np.ndarray, models: dict[str, Model], panel: GenePanel, *, key: str, device: str | None
) -> dict[tuple[str, str], object]:
    """Predictions of many genes, by the ending of their slot: a layer each, float32, NaN for genes outside of the panel.

    A table that has none of the genes, such as one of tiles, gets a data frame in ``obsm``.
    """
    genes, columns = _in_table(table, panel.genes)
    in_layer = bool(genes)
    if in_layer:
        panel, all_genes = shared_panel(table, panel), panel.genes
        place = {name: index for index, name in enumerate(all_genes)}
        chosen = np.array([place[name] for name in genes])
    else:
        chosen = np.arange(len(panel))
        columns = chosen
    slots: dict[tuple[str, str], object] = {}
    for ending, model in models.items():
        out = np.full((table.n_obs, table.n_vars if in_layer else len(panel)), np.nan, dtype=np.float32)
        for start in range(0, table.n_obs, _ROWS):
            rows = slice(start, start + _ROWS)
            out[rows, columns] = model.predict(X[rows], device=device)[:, chosen]
        if in_layer:
            slots["layers", key + ending] = out
        else:
            slots["obsm", key + ending] = pd.DataFrame(out, index=table.obs_names, columns=model.targets)
    return slots


def _in_table(table: AnnData, genes: list[str]) -> tuple[list[str], Ints]:
    """Those of the genes that a table has, and their columns."""
    known = genes_of(table)
    places = known.reindex(pd.Index(genes).str.upper()).to_numpy(dtype=float)
    there = np.isfinite(places)
    return [name for name, found in zip(genes, there, strict=True) if found], places[there].astype(np.intp)


def _subset_metrics(panel: GenePanel) -> list[Metric]:
    """Correlations of the genes that vary most and that are expressed most in the training rows, and which vary most."""
    if len(panel) < _LEAST_GENES or not panel.mean:
        return []
    n = max(1, round(SUBSET * len(panel)))
    out = [Metric("top_variable", top_variable, bootstrap_top_variable, overall=True, within_slides=True)]
    for name, values in (("highly_variable", panel.std), ("highly_expressed", panel.mean)):
        columns = np.sort(np.argsort(-np.asarray(values), kind="stable")[:n])
        for base, within in (("cc", False), ("cc_per_slide", True)):
            score, resample = partial(_mean_cc, columns=columns), partial(_bootstrap_mean_cc, columns=columns)
            out.append(Metric(f"{base}_{name}", score, resample, overall=True, within_slides=within))
    return out


def _mean_cc(truth: Floats, predicted: Floats, *, columns: Ints) -> Floats:
    return np.array([metrics.nan_mean(metrics.pearson(truth[:, columns], predicted[:, columns]))])


def _bootstrap_mean_cc(truth: Floats, predicted: Floats, *, columns: Ints, **bootstrap: int) -> Floats:
    return metrics.nan_mean(metrics.bootstrap_pearson(truth[:, columns], predicted[:, columns], **bootstrap), axis=1)[
        :, None
    ]


def top_variable(truth: Floats, predicted: Floats) -> Floats:
    """Share of the fifth of the genes with the largest variance that has the largest variance in the prediction, too."""
    ones = np.ones((1, len(truth)))
    return _top_shares(truth, predicted, ones)


def bootstrap_top_variable(
    truth: Floats, predicted: Floats, *, n_bootstrap: int = 1000, rng: int = 0, blocks: np.ndarray | None = None
) -> Floats:
    """The same of resampled rows, ``(n_bootstrap, 1)``."""
    parts = [np.empty((0, 1))]
    for weights in resamples(len(truth), n_bootstrap, rng, blocks):
        parts.append(_top_shares(truth, predicted, weights)[:, None])
    return np.concatenate(parts)


def _top_shares(truth: Floats, predicted: Floats, weights: Floats) -> Floats:
    known = np.isfinite(truth).all(axis=1) & np.isfinite(predicted).all(axis=1)
    n = max(1, round(SUBSET * truth.shape[1]))
    if known.sum() < 2:
        return np.full(len(weights), np.nan)
    weights = weights[:, known] / np.maximum(weights[:, known].sum(axis=1, keepdims=True), 1)
    tops, varies = [], np.ones(len(weights), dtype=bool)
    for values in (truth[known].astype(np.float64), predicted[known].astype(np.float64)):
        values = values - values.mean(axis=0)
        variance = weights @ values**2 - (weights @ values) ** 2
        varies &= variance.max(axis=1) > 1e-12
        tops.append(np.argsort(-variance, axis=1, kind="stable")[:, :n])
    shares = [len(np.intersect1d(a, b)) / n for a, b in zip(*tops, strict=True)]
    return np.where(varies, shares, np.nan)
