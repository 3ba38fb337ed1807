"""Expression of genes from image embeddings: fit, predict, evaluate."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histocell._core import keys
from histocell._core.arguments import check_count, check_switch
from histocell._core.rng import as_rng
from histocell.models.base import Model
from histocell.models.registry import load
from histocell.tables.access import get_table, row_labels
from histocell.tables.sections import Sections
from histocell.tl._expression.fitting import Given, fit_panel
from histocell.tl._expression.patterns import pattern_scores
from histocell.tl.engine import evaluate as _evaluate
from histocell.tl.engine import predict as _predict
from histocell.tl.engine.layout import places_for
from histocell.tl.engine.views import AUTO
from histocell.tl.tasks.expression import (
    MOST_IN_FRAME,
    NAME,
    ExpressionWriter,
    expression_task_of,
    layer_slots,
    panel_of,
    shared_panel,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData

    from histocell._core.rng import RNGLike, SeedLike
    from histocell.tables.access import Data
    from histocell.tl.engine.task import Task

_LAYER = "layer"


def fit_expression(
    data: Data,
    features: str | Sequence[str] | None = None,
    *,
    genes: int | str | Sequence[str] | None = 50,
    model: str | Model = "component_ridge",
    config: Mapping[str, object] | None = None,
    layer: str | None = None,
    scale: str = "log1p_cp10k",
    spot_context: bool = False,
    flavor: str = "variance",
    min_share: float = 0.0,
    split_key: str = keys.SPLIT,
    group_key: str | None = None,
    library_key: str | None = None,
    standardize_by: str | None = AUTO,
    target_transform: str | None = None,
    interval: float | None = 0.9,
    key_added: str = keys.EXPRESSION_MODEL,
    rng: SeedLike | RNGLike | None = 0,
    device: str | None = None,
    table_key: str | None = None,
    inplace: bool = True,
) -> dict[str, object] | None:
    """Fit a model that predicts the expression of genes from embeddings.

    Genes are chosen, scaled and fitted on rows with ``obs[split_key] == "train"``; rows with ``"val"`` only choose settings;
    no other row is looked at. The panel of genes is kept in the model. Training rows whose features, or whose counts
    with those of their neighbours, show tissue of held-out rows are left out, with a warning that counts them. The mean and
    a ridge regression are fitted on the same rows and kept in the model, to be shown beside it.

    Parameters
    ----------
    data
        AnnData, or SpatialData with a table, with raw counts.
    features
        One or several slots of ``obsm``, set side by side: embeddings, or measurements of nuclei that
        `histocell.pp.aggregate_nuclei` wrote; by default the only embedding there is.
    genes
        How many of the genes that vary most; or their names; or `None` for all genes that are found in every section.
    model
        ``"component_ridge"`` by default, which did best on sections it had not seen; ``"ridge"``, ``"mean"``, ``"mlp"``,
        ``"hest"``, ``"st_net"``, ``"bleep"``, ``"similarity"``, ``"seal_decoder"``, ``"spatial_mlp"``, ``"hist2cell"``,
        see `histocell.models.list_models`; or a `histocell.models.Model`, whose settings are used and which itself stays as
        it is. Of more than 2,000 genes ``"component_ridge"`` alone.
    config
        Settings of the model, see for example `histocell.models.ComponentRidge`.
    layer
        Layer with raw counts, by default ``X``.
    scale
        ``"log1p_cp10k"``: the logarithm of 1 + counts per 10,000; ``"log1p"``: of 1 + counts, as HEST-Bench has it.
    spot_context
        Whether the counts of a Visium spot are averaged with those of the four spots diagonally beside it, half and half,
        as SEAL does.
    flavor
        How the genes are ranked: ``"variance"`` in the scale of the panel, ``"mean"``, or ``"seurat"``, normalised
        dispersions.
    min_share
        Share of the training rows of every section that must have counts of a gene.
    split_key
        Column of ``obs`` with ``train``, ``val``, ``test``; see `histocell.pp.split`.
    group_key
        Column of ``obs`` whose levels are held out whole when the model chooses something: by default ``patient``, else
        ``section``, whichever has two levels among the training rows, else blocks of the section, with a warning.
    library_key
        Column of ``obs`` with the sections or slides.
    standardize_by
        As in `histocell.tl.fit_abundance`: by default features as they are and standardised within sections, side by side.
    target_transform
        ``"none"``, ``"standard"`` and so on, see `histocell.models.ComponentRidge`; by default ``"standard"`` where the
        model has one to choose.
    interval
        Share of true values that the predicted interval should hold, or `None` for no interval. Of more than 500 genes
        there is none.
    key_added
        Slot of ``uns``.
    rng
        Seed or generator; the same one gives the same model, `None` another one each time.
    device
        Torch device; `None` for the best there is.
    table_key
        Table of a SpatialData, where it holds several.
    inplace
        Whether to write into `data`.

    Returns
    -------
    `None`, or with ``inplace=False`` what would have been written to ``uns[key_added]``: ``config`` (JSON), ``weights``
    and ``history`` (mappings of arrays). `histocell.models.load` makes a model of it, whose ``facts["panel"]`` is the panel.

    Raises
    ------
    KeyError
        When an embedding, a gene, the layer or a column is missing.
    TypeError
        When the model has no such setting.
    ValueError
        When values are no raw counts, sections share too few genes, there is no training row or all of them show tissue of
        held-out rows, features are constant, or a model cannot predict so many genes.

    References
    ----------
    Jaume et al.: HEST-1k, arXiv:2406.16192; SEAL, arXiv:2602.14177; He et al., doi:10.1038/s41551-020-0578-x.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(3, n_patients=3, size_px=600, spot_pitch_um=50, rng=0)
    >>> hc.pp.patches(sdata)
    >>> hc.pp.embed_image(sdata, "morphology")
    >>> hc.pp.split(sdata, by="patient", test="P3")
    >>> hc.tl.fit_expression(sdata, genes=20)
    >>> hc.models.load(sdata, model_key="expression_model").targets[:2]
    ['...', '...']
    """
    sections = Sections(data, table_key=table_key, group_key=group_key, library_key=library_key)
    given = Given(
        genes=genes,
        layer=layer,
        scale=scale,
        spot_context=check_switch(spot_context, "spot_context"),
        flavor=flavor,
        min_share=min_share,
        config=dict(config or {}),
        target_transform=target_transform,
        interval=interval,
        split_key=split_key,
        standardize_by=standardize_by,
    )
    fitted, names = fit_panel(sections, features, model, given, rng=rng, device=device)
    state = fitted.to_dict()
    if not inplace:
        return state
    sections.table.uns[key_added] = state
    left_out = {"original_names", "sections", "panel"}
    used = {name: value for name, value in fitted.facts.items() if name not in left_out}
    keys.write_provenance(sections.table, key_added, model=fitted.name, features=names, **used)
    return None


def predict_expression(
    data: Data,
    *,
    model: Model | str | Path | Mapping[str, object] | Data | None = None,
    model_key: str = keys.EXPRESSION_MODEL,
    baselines: bool = True,
    key_added: str = keys.PREDICTED_EXPRESSION,
    device: str | None = None,
    table_key: str | None = None,
    inplace: bool = True,
) -> dict[str, object] | None:
    """Predict the expression of the genes of a model's panel.

    No counts are needed: rows may be spots, cells, or tiles between the spots (`histocell.pp.tiles`,
    `histocell.pp.dense_spots`), with the embeddings of the model.

    Up to 500 genes are written as a data frame in ``obsm``. More are written as a layer, aligned with the variables,
    float32 and NaN for genes outside of the panel, so that it takes 4 bytes for each row and variable; genes that the
    table lacks are left out, with a warning that counts them. A table without any gene of the panel gets a data frame.

    Parameters
    ----------
    data
        AnnData, or SpatialData with a table, that holds the embeddings of the model.
    model
        `None` for the model in the ``uns`` of `data`; or a fitted `histocell.models.Model`, a folder, the mapping that
        ``uns`` holds, or another AnnData or SpatialData that has a model.
    model_key
        Slot of ``uns`` that holds the model.
    baselines
        Whether the baselines' predictions are written too, where the model has baselines.
    key_added
        Slot of ``obsm``, or of ``layers``.
    device
        Torch device; `None` for the best there is.
    table_key
        Table of a SpatialData, where it holds several.
    inplace
        Whether to write into `data`.

    Returns
    -------
    `None`, or with ``inplace=False`` what would have been written, by slot: `key_added`, with ``_lower`` and ``_upper`` the
    interval, with ``_mean`` and ``_ridge`` the baselines, with ``_novelty`` how unlike the training rows a row is (``obs``).
    Rows without finite features are NaN.

    Raises
    ------
    KeyError
        When no model or no embedding is found.
    ValueError
        When the model predicts no expression, or an embedding is not that of the model.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(3, n_patients=3, size_px=600, spot_pitch_um=50, rng=0)
    >>> hc.pp.patches(sdata)
    >>> hc.pp.embed_image(sdata, "morphology")
    >>> hc.pp.split(sdata, by="patient", test="P3")
    >>> hc.tl.fit_expression(sdata, genes=20)
    >>> hc.tl.predict_expression(sdata)
    >>> sdata["table"].obsm["predicted_expression"].shape[1]
    20
    """
    baselines = check_switch(baselines, "baselines")
    table = get_table(data, table_key)
    fitted = model if isinstance(model, Model) else load(table if model is None else model, model_key=model_key)
    library_key = fitted.facts.get("library_key")
    sections = Sections(data, table_key=table_key, library_key=library_key if library_key in table.obs else None)
    task = _task_of(fitted)
    panel, places = panel_of(fitted.facts, "this model"), places_for([fitted], sections)
    if len(panel) <= MOST_IN_FRAME or fitted.needs_places:
        slots = _predict.predict(task, table, fitted, key=key_added, device=device, baselines=baselines, places=places)
    else:
        X = _predict.inputs(task, table, fitted)
        models = {"": fitted} | ({f"_{name}": each for name, each in fitted.baselines.items()} if baselines else {})
        slots = layer_slots(table, X, models, panel, key=key_added, device=device)
        novelty = fitted.novelty(X)  # type: ignore[attr-defined]
        slots["obs", key_added + keys.NOVELTY] = pd.Series(novelty, index=table.obs_names)
        _predict.warn_of_new_sections(Sections(table), novelty, len(fitted.facts.get("groups", [])))
    if not inplace:
        return {slot: frame for (_, slot), frame in slots.items()}
    _drop_other_container(table, slots)
    more = {"panel": panel.to_dict(), _LAYER: fitted.facts.get(_LAYER)}
    _predict.write(table, slots, key=key_added, model=fitted, baselines=baselines, more=more)
    return None


def evaluate_expression(
    data: Data,
    *,
    key: str = keys.PREDICTED_EXPRESSION,
    layer: str | None = None,
    split_key: str = keys.SPLIT,
    group_key: str | None = None,
    library_key: str | None = None,
    patterns: bool = True,
    n_bootstrap: int = 1000,
    key_added: str = keys.EXPRESSION_EVALUATION,
    rng: SeedLike | RNGLike | None = 0,
    table_key: str | None = None,
    inplace: bool = True,
) -> pd.DataFrame | None:
    """Score predicted expression against counts, beside the baselines.

    Rows with ``obs[split_key] == "test"`` are scored where there are any, else all rows. A warning tells how many of them
    the model was fitted on, and how many show tissue of those. Counts are scaled as the panel of the prediction says; genes
    of the panel that the table lacks are left out, with a warning that counts them.

    Parameters
    ----------
    data
        AnnData, or SpatialData with a table, with raw counts.
    key
        Slot of ``obsm`` or ``layers`` with the predictions.
    layer
        Layer with raw counts; by default the one that the model was fitted on.
    split_key
        Column of ``obs`` with ``train``, ``val``, ``test``.
    group_key
        Column of ``obs`` with the replicates: by default ``patient``, else ``section``, whichever has two levels among
        the scored rows, else one group.
    library_key
        Column of ``obs`` with the sections or slides, by default ``section``.
    patterns
        Whether Moran's I of truth and prediction are compared, where there are coordinates.
    n_bootstrap
        Number of resamples for the 95 % intervals, of at least five groups or of the spots of one.
    key_added
        Slot of ``uns``.
    rng
        Seed or generator; `None` for other draws each time.
    table_key
        Table of a SpatialData, where it holds several.
    inplace
        Whether to write into `data`.

    Returns
    -------
    `None`, or with ``inplace=False`` the data frame that would have been written to ``uns[key_added]``, with the columns of
    `histocell.tl.evaluate_abundance`. Metrics of each ``gene``, and in ``mean`` their mean over genes: ``cc``, Pearson
    correlation over the pooled spots of a group; ``cc_per_slide``, within sections, then averaged; ``l1``; ``coverage`` of
    the interval; ``moran_difference``, Moran's I of the prediction less that of the truth, within sections: above 0 where the
    prediction is smoother. Metrics in ``mean`` alone: ``cc_highly_variable`` and ``cc_highly_expressed`` (and the same per
    slide), of the fifth of the genes with the largest standard deviation or mean in the training rows; ``top_variable``,
    the share of the fifth of the genes that vary most within a section which is also in that fifth of the prediction;
    ``moran_cc``, the correlation over genes of Moran's I of truth and prediction. Scores that are undefined (constant or
    missing values) are left out of means and counted.

    Raises
    ------
    KeyError
        When predictions or the layer are missing.
    ValueError
        When values are no raw counts, none of the genes is in the table, or no row can be scored.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(3, n_patients=3, size_px=600, spot_pitch_um=50, rng=0)
    >>> hc.pp.patches(sdata)
    >>> hc.pp.embed_image(sdata, "morphology")
    >>> hc.pp.split(sdata, by="patient", test="P3")
    >>> hc.tl.fit_expression(sdata, genes=20)
    >>> hc.tl.predict_expression(sdata)
    >>> hc.tl.evaluate_expression(sdata, n_bootstrap=100, rng=0)
    >>> scores = hc.get.scores(sdata, "expression_evaluation")
    >>> sorted(set(scores["model"]))
    ['component_ridge', 'mean', 'ridge']
    """
    sections = Sections(data, table_key=table_key, library_key=library_key, group_key=group_key)
    table, recorded = sections.table, keys.read_provenance(sections.table, key)
    if "panel" not in recorded:
        ExpressionWriter("Run hc.tl.predict_expression(data) first.").read(table, key)  # says what is missing
    panel = shared_panel(table, panel_of(recorded, f"the prediction {key!r}"))
    layer = recorded.get(_LAYER) if layer is None else layer
    task = expression_task_of(panel, layer)
    check_count(n_bootstrap, "n_bootstrap")
    seed = int(as_rng(rng).integers(2**63 - 1))
    scores = _evaluate.evaluate(
        task, sections, key=key, target="X", split_key=split_key, n_bootstrap=n_bootstrap, rng=seed
    )
    if check_switch(patterns, "patterns"):
        parts = [scores, _patterns(task, sections, key, split_key, n_bootstrap=n_bootstrap, rng=seed)]
        scores = pd.concat([part for part in parts if len(part)], ignore_index=True)[scores.columns]
    if not inplace:
        return scores
    table.uns[key_added] = scores
    facts = {"key": key, "layer": layer, "split_key": split_key, "n_bootstrap": n_bootstrap}
    keys.write_provenance(table, key_added, **facts)
    return None


def _task_of(model: Model) -> Task:
    """The task of a model's panel.

    Raises
    ------
    ValueError
        When it was fitted for another task.
    """
    if (fitted := model.facts.get("task", NAME)) != NAME:
        msg = f"this model predicts {fitted}, not {NAME}; use hc.tl.predict_{fitted}"
        raise ValueError(msg)
    return expression_task_of(panel_of(model.facts, "this model"), model.facts.get(_LAYER))


def _patterns(task: Task, sections: Sections, key: str, split_key: str, *, n_bootstrap: int, rng: int) -> pd.DataFrame:
    """Moran's I of the rows that are scored."""
    table = sections.table
    predictions = _predict.read(task, table, key)
    truth = task.match(task.target(table, "X"), next(iter(predictions.values()))[""])
    rows, _ = _evaluate.scored_rows(table, split_key, np.isfinite(truth.array).any(axis=1))
    group_key = sections.replicate_key(rows)
    groups = sections.labels[rows] if group_key is None else row_labels(table, group_key)[rows]
    arrays = {model: outputs[""].select(truth.names).array[rows] for model, outputs in predictions.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of names, said before
        named = _evaluate.free_names(truth.names, _evaluate.MEAN, task.column)
        if len(set(groups)) > 1:
            groups = np.array(_evaluate.free_names(groups.tolist(), _evaluate.ALL, "group"), dtype=object)
    return pattern_scores(sections, truth.array[rows], arrays, rows, groups, named, n_bootstrap=n_bootstrap, rng=rng)


def _drop_other_container(table: AnnData, slots: Mapping[tuple[str, str], object]) -> None:
    """A prediction lies in ``obsm`` or in ``layers``, not in both."""
    for container, slot in slots:
        other = {"obsm": "layers", "layers": "obsm"}.get(container)
        if other is not None and slot in getattr(table, other):
            del getattr(table, other)[slot]
