"""Outcomes of slides from their tiles: fit, predict, evaluate."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd

from histocell._core import keys
from histocell._core.arguments import check_count, check_switch
from histocell._core.errors import listing, warn
from histocell.io.tile_bags.bags import Bags
from histocell.models.base import Model
from histocell.models.registry import load, make_model
from histocell.models.slides.base import SlideModel
from histocell.tables.access import get_table
from histocell.tables.sections import Sections
from histocell.tl.engine import fit as _fit
from histocell.tl.engine import predict as _predict
from histocell.tl.engine.rows import recall_training_rows
from histocell.tl.slide_level.rows import patients, slide_rows, with_known_classes
from histocell.tl.slide_level.scores import scored_slides, scores_of
from histocell.tl.slide_level.task import RISK, Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData

    from histocell._core.rng import RNGLike, SeedLike
    from histocell.io.tile_bags.bags import Source
    from histocell.models.slides.abmil import ABMIL
    from histocell.models.slides.bags import Bag
    from histocell.tables.access import Data
    from histocell.tl.engine.task import Task

_SHORT = {"mean": "mean_pooling"}


def fit_slides(
    data: Data,
    tiles: Source | None = None,
    features: str | None = None,
    *,
    model: str | Model = "abmil",
    config: Mapping[str, object] | None = None,
    target: str = "label",
    time_key: str | None = None,
    event_key: str | None = None,
    split_key: str = keys.SPLIT,
    group_key: str | None = None,
    key_added: str = keys.SLIDE_MODEL,
    rng: SeedLike | RNGLike | None = 0,
    device: str | None = None,
    table_key: str | None = None,
    inplace: bool = True,
) -> dict[str, object] | None:
    """Fit a model that tells the class of a slide, or the survival of its patient, from the tiles.

    Slides with ``obs[split_key] == "train"`` are fitted; those with ``"val"`` only choose the epoch that is kept; without any,
    all epochs are trained. No other slide is looked at. The most frequent class, a regression on the mean of the tiles, and
    one on ``obsm["composition"]`` where that is there, are fitted on the same slides and kept in the model, to be shown beside it.

    Parameters
    ----------
    data
        Table of slides, one row each, of `histocell.io.slide_table`.
    tiles
        Tiles of the slides, as in `histocell.io.slide_table`, for a model that looks at them. They are read some at a time.
    features
        Embedding in ``obsm``; by default the only one there is.
    model
        ``"abmil"``: attention over the tiles, see `histocell.models.ABMIL`; ``"mean_pooling"`` (or ``"mean"``): logistic
        regression, or Cox regression, on the mean of the tiles; ``"composition"``: the same on ``obsm["composition"]``, see
        `histocell.io.slide_table`; ``"common_class"``; or a `histocell.models.Model`, whose settings are used and which itself
        stays as it is.
    config
        Settings of the model.
    target
        Column of ``obs`` with the classes; an ordered category keeps its order. Slides without one are left out.
    time_key, event_key
        Columns of ``obs`` with the time, and 1 for an event or 0 for who was last seen then, for survival in place of
        classes.
    split_key
        Column of ``obs`` with ``train``, ``val``, ``test``; see `histocell.pp.split`.
    group_key
        Column of ``obs`` with the patients, by default ``patient``; without it each slide counts as one, with a warning.
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
    `None`, or with ``inplace=False`` what would have been written to ``uns[key_added]``; `histocell.models.load` makes a model
    of it.

    Raises
    ------
    KeyError
        When the embedding, a column, or the tiles of a slide are missing.
    ValueError
        When a patient or the content of a slide is in two parts of the split, training slides are of one class or all
        censored, or tiles are not those of the table.

    References
    ----------
    Ilse, Tomczak and Welling: Attention-based deep multiple instance learning (ICML 2018).

    Examples
    --------
    >>> import histocell as hc
    >>> tiles = hc.datasets.synthetic_slides(12, n_tiles=40)
    >>> slides = hc.io.slide_table(tiles)
    >>> hc.pp.split(slides, by="patient", test=["P1", "P2"])
    >>> hc.tl.fit_slides(slides, tiles, config={"max_epochs": 2})
    >>> hc.models.load(slides, model_key="slide_model")
    ABMIL(2 targets, features: X_tiles, 10 training rows, groups by patient)
    """
    sections, outcome = Sections(data, table_key=table_key), Outcome(target, time_key, event_key)
    task, unfitted = outcome.task(sections.table), unfitted_model(model, config, outcome)
    features = features or own_features([unfitted])
    dataset = _fit.Dataset.read(task, sections.table, features, target, None)
    _check_one(dataset.names)
    task = replace(task, baselines=baselines_of(task, unfitted))
    rows = slide_rows(sections, dataset, split_key=split_key, group_key=group_key)
    if outcome.name == "classes":
        dataset, rows = with_known_classes(dataset, rows)
    bags = bags_of(sections.table, tiles, dataset.names[0], [unfitted])
    fitted = _fit.fit(task, unfitted, dataset, rows, rng=rng, device=device, bags=bags)
    if keys.COMPOSITION in sections.table.obsm and fitted.name != keys.COMPOSITION:
        beside = replace(_fit.Dataset.read(task, sections.table, keys.COMPOSITION, target, None), truth=dataset.truth)
        made = unfitted_model(keys.COMPOSITION, None, outcome)
        fitted.baselines[made.name] = _fit.fit(task, made, beside, rows, rng=rng, device=device, baselines=False)
    describe(fitted, outcome)
    state = fitted.to_dict()
    if not inplace:
        return state
    sections.table.uns[key_added] = state
    facts = {
        "features": dataset.names,
        "n_train": fitted.facts["n_train"],
        "n_validation": fitted.facts["n_validation"],
    }
    keys.write_provenance(sections.table, key_added, model=fitted.name, **facts, **outcome.facts)
    return None


def predict_slides(
    data: Data,
    tiles: Source | None = None,
    *,
    model: Model | str | Path | Mapping[str, object] | Data | None = None,
    model_key: str = keys.SLIDE_MODEL,
    attention: bool = False,
    attention_key: str = keys.ATTENTION,
    baselines: bool = True,
    key_added: str = keys.PREDICTED_SLIDE,
    device: str | None = None,
    table_key: str | None = None,
    inplace: bool = True,
) -> dict[str, object] | None:
    """Predict the class of slides, with probabilities, or a risk; and which tiles told it.

    Parameters
    ----------
    data
        Table of slides, one row each, of `histocell.io.slide_table`.
    tiles
        Their tiles, as in `histocell.io.slide_table`, for a model that looks at them. All tiles of a slide are read, some at
        a time.
    model
        `None` for the model in the ``uns`` of `data`; or a fitted `histocell.models.Model`, a folder, the mapping that
        ``uns`` holds, or another AnnData or SpatialData that has a model.
    model_key
        Slot of ``uns`` that holds the model.
    attention
        Whether to write the attention of the tiles into `tiles`, which must be a table then.
    attention_key
        Column of ``obs`` of that table.
    baselines
        Whether the baselines' predictions are written too.
    key_added
        Column of ``obs``, and beginning of the other slots.
    device
        Torch device; `None` for the best there is.
    table_key
        Table of a SpatialData, where it holds several.
    inplace
        Whether to write into `data` and `tiles`.

    Returns
    -------
    `None`, or with ``inplace=False`` what would have been written, by slot. Of classes: ``obs[key_added]``, the most probable
    one; ``obs[key_added + "_confidence"]``, its probability; ``obsm[key_added + "_probability"]``, those of all. Of survival:
    ``obs[key_added]``, the risk, higher for an earlier event. The same of the baselines, with ``_common_class`` and
    ``_mean_pooling`` and ``_composition`` after `key_added`. In the table of the tiles ``obs[attention_key]``: the weight of each tile in the
    prediction of its slide, which sum to 1 in a slide, NaN for tiles without finite features.

    Raises
    ------
    KeyError
        When no model, embedding or slide is found.
    ValueError
        When an embedding is not that of the model, or attention is asked of a model that has none.

    Examples
    --------
    >>> import histocell as hc
    >>> tiles = hc.datasets.synthetic_slides(12, n_tiles=40)
    >>> slides = hc.io.slide_table(tiles)
    >>> hc.pp.split(slides, by="patient", test=["P1", "P2"])
    >>> hc.tl.fit_slides(slides, tiles, config={"max_epochs": 2})
    >>> hc.tl.predict_slides(slides, tiles, attention=True)
    >>> tiles.obs.groupby("section")["attention"].sum().round(3).unique()
    array([1.])
    """
    baselines, attention = check_switch(baselines, "baselines"), check_switch(attention, "attention")
    table = get_table(data, table_key)
    fitted = model if isinstance(model, Model) else load(table if model is None else model, model_key=model_key)
    if attention and not fitted.needs_bags:
        msg = f'{fitted.name} gives no attention to tiles; fit model="abmil"'
        raise ValueError(msg)
    outcome = outcome_of(fitted)
    source = (
        Bags.open(tiles, _feature(fitted), slide_key=_slide_key(table)) if attention and tiles is not None else None
    )
    if attention and (source is None or source.table is None):
        msg = (
            "attention is written into a table of tiles: tiles= must be an AnnData or SpatialData. Of a stored slide that is "
            'spatialdata.read_zarr("<slide>.zarr"), with hc.io.slide_table of it'
        )
        raise ValueError(msg)
    bags = bags_of(table, source or tiles, _feature(fitted), [fitted])
    task = outcome.task(table)
    slots = _predict.predict(task, table, fitted, key=key_added, device=device, baselines=baselines, bags=bags)
    column = None if source is None or bags is None else _attention(cast("ABMIL", fitted), source, bags, device)
    if not inplace:
        return {slot: value for (_, slot), value in slots.items()} | ({} if column is None else {attention_key: column})
    more = {**outcome.facts, "groups": fitted.facts.get("groups", [])}
    _predict.write(table, slots, key=key_added, model=fitted, baselines=baselines, more=more)
    if column is not None and source is not None and source.table is not None:
        source.table.obs[attention_key] = column
        keys.write_provenance(source.table, attention_key, model=fitted.name, features=source.key, **outcome.facts)
    return None


def evaluate_slides(
    data: Data,
    *,
    key: str = keys.PREDICTED_SLIDE,
    target: str | None = None,
    split_key: str = keys.SPLIT,
    group_key: str | None = None,
    n_bootstrap: int = 1000,
    key_added: str = keys.SLIDE_EVALUATION,
    rng: SeedLike | RNGLike | None = 0,
    table_key: str | None = None,
    inplace: bool = True,
) -> pd.DataFrame | None:
    """Score predictions of slides, beside the baselines, with intervals over patients.

    Slides with ``obs[split_key] == "test"`` are scored where there are any, else all; a warning tells how many of them the
    model was fitted on, and of how many the patient has a name that was.

    Parameters
    ----------
    data
        Table of slides.
    key
        Column of ``obs`` with the predictions.
    target
        Column of ``obs`` with the classes; by default the one that the model was fitted on. Of survival, time and event are
        those columns.
    split_key
        Column of ``obs`` with ``train``, ``val``, ``test``.
    group_key
        Column of ``obs`` with the patients, which the bootstrap draws; by default ``patient``, else each slide is one.
    n_bootstrap
        Number of resamples of patients for the 95 % intervals, of at least five.
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
    `None`, or with ``inplace=False`` the data frame that would have been written to ``uns[key_added]``: ``model, class,
    metric, value, low, high, interval, n_slides, n_undefined, n_training``. Of classes: ``auc`` of each class against the
    others, and in ``mean`` their mean; ``balanced_accuracy``, and ``quadratic_kappa`` where the classes are ordered, in ``mean``
    alone. Of survival: ``c_index`` in ``mean``.

    Raises
    ------
    KeyError
        When predictions or labels are missing.
    ValueError
        When no slide can be scored.

    Examples
    --------
    >>> import histocell as hc
    >>> tiles = hc.datasets.synthetic_slides(30, n_tiles=40)
    >>> slides = hc.io.slide_table(tiles)
    >>> hc.pp.split(slides, by="patient", rng=0)
    >>> hc.tl.fit_slides(slides, model="mean_pooling")
    >>> hc.tl.predict_slides(slides)
    >>> scores = hc.tl.evaluate_slides(slides, inplace=False)
    >>> sorted(set(scores["metric"]))
    ['auc', 'balanced_accuracy']
    """
    check_count(n_bootstrap, "n_bootstrap")
    table = get_table(data, table_key)
    recorded = keys.read_provenance(table, key)
    truth = target or str(recorded.get("target", "label"))
    outcome = Outcome(truth, recorded.get("time_key"), recorded.get("event_key"))
    labels, _ = patients(table, group_key)
    task = outcome.task(table)
    predictions = _predict.read(task, table, key)
    known = task.match(task.target(table, truth), next(iter(predictions.values()))[""])
    rows = scored_slides(table, split_key, np.isfinite(known.array).all(axis=1))
    seen = recall_training_rows(table, key)
    _warn_of_patients(labels[rows], recorded.get("groups", []), None if seen is None else seen[:, rows])
    scores = scores_of(
        task,
        known.rows(rows),
        {name: outputs[""].rows(rows) for name, outputs in predictions.items()},
        patients=labels[rows],
        seen=None if seen is None else seen[:, rows],
        n_bootstrap=n_bootstrap,
        rng=rng,
    )
    if not inplace:
        return scores
    table.uns[key_added] = scores
    keys.write_provenance(table, key_added, key=key, **outcome.facts, n_bootstrap=n_bootstrap)
    return None


def unfitted_model(model: str | Model, config: Mapping[str, object] | None, outcome: Outcome) -> Model:
    """A model by name, or an unfitted copy of the one given, for an outcome."""
    name = _SHORT.get(model, model) if isinstance(model, str) else model
    made = make_model(name, dict(config or {}), "slides")
    if not isinstance(made, SlideModel):
        msg = f"{made.name} is no model of slides"
        raise TypeError(msg)
    return type(made)(**asdict(made.config) | {"outcome": outcome.name})


def own_features(models: Sequence[Model]) -> str | None:
    """The slot that models read which are not for embeddings; `None` where one of them is."""
    return keys.COMPOSITION if all(each.name == keys.COMPOSITION for each in models) else None


def baselines_of(task: Task, model: Model) -> tuple[str, ...]:
    """The baselines that are simpler than a model and can be fitted on its features."""
    return tuple(
        name for name in task.baselines_of(model.name) if own_features([model]) is None or name == "common_class"
    )


def describe(fitted: Model, outcome: Outcome) -> None:
    """Tell a model, and its baselines, what it predicts."""
    for each in (fitted, *fitted.baselines.values()):
        each.facts |= {name: value for name, value in outcome.facts.items() if value is not None}
        if outcome.name == "survival":
            each.targets, each.facts["original_names"] = [RISK], {}


def outcome_of(fitted: Model) -> Outcome:
    """What a model predicts."""
    facts = fitted.facts
    return Outcome(str(facts.get("target", "label")), facts.get("time_key"), facts.get("event_key"))


def bags_of(table: AnnData, tiles: Source | Bags | None, features: str, models: Sequence[Model]) -> list[Bag] | None:
    """Tiles of the slides of a table, `None` where no model looks at them.

    Raises
    ------
    ValueError
        When tiles are needed and missing, or are not those that the table was made of.
    """
    if not any(each.needs_bags for each in models):
        return None
    if tiles is None:
        msg = "abmil looks at the tiles of a slide: give tiles=, what hc.io.slide_table(tiles) was made of"
        raise ValueError(msg)
    source = tiles if isinstance(tiles, Bags) else Bags.open(tiles, features, slide_key=_slide_key(table))
    bags = source.select(list(table.obs_names))
    wanted = np.asarray(table.obs[keys.N_TILES] if keys.N_TILES in table.obs else [len(bag) for bag in bags])
    others = [
        f"{name}: {len(bag)} x {bag.dim}"
        for name, bag, count in zip(table.obs_names, bags, wanted, strict=True)
        if len(bag) != count or bag.dim != table.obsm[features].shape[1]
    ]
    if others:
        msg = f"the tiles are not those that the table of slides was made of: {listing(others, 4)}; run hc.io.slide_table again"
        raise ValueError(msg)
    return bags


def _attention(model: ABMIL, source: Bags, bags: list[Bag], device: str | None) -> pd.Series:
    """The attention of the rows of a table of tiles."""
    if source.table is None:
        msg = "attention is written into a table of tiles"
        raise ValueError(msg)
    column = np.full(source.table.n_obs, np.nan)
    for bag in bags:
        column[bag.rows] = model.attention(bag, device=device)
    return pd.Series(column, index=source.table.obs_names)


def _slide_key(table: AnnData) -> str:
    return str(keys.read_provenance(table, keys.N_TILES).get("slide_key", keys.SECTION))


def _feature(fitted: Model) -> str:
    if not fitted.features:
        msg = "this model was fitted on plain arrays and does not know its features; use model.predict(X, bags=...)"
        raise ValueError(msg)
    return str(fitted.features[0]["key"])


def _check_one(features: Sequence[str]) -> None:
    if len(features) > 1:
        msg = f"one embedding tells slides, not {listing(features)}"
        raise ValueError(msg)


def _warn_of_patients(labels: np.ndarray, fitted: Sequence[str], seen: np.ndarray | None) -> None:
    """Warn of scored slides that were not fitted, but whose patient has the name of one that was."""
    same = np.isin(labels.astype(str), list(fitted)) & (True if seen is None else ~seen.any(axis=0))
    if same.any():
        warn(
            f"{int(same.sum())} of {len(labels)} scored slides are of patients whose names were fitted on: scores may flatter"
        )
