"""Evaluation protocols: every group once the unseen one, or one dataset after another; tidy tables come out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from histocell._core import keys
from histocell._core.errors import listing, warn
from histocell._core.rng import as_rng, draw_seed
from histocell._core.settings import progress_bar
from histocell.tables.access import get_table, row_labels
from histocell.tl.engine import features as _features
from histocell.tl.engine import scores as _scores
from histocell.tl.engine import task as _task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from histocell._core.rng import RNGLike, SeedLike
    from histocell.models.base import Model

_MODELS = ("mean", "ridge", "mlp")


def leave_one_group_out(
    data: AnnData | SpatialData,
    features: str | Sequence[str] | None = None,
    *,
    models: Sequence[str | Model] | Mapping[str, str | Model] = _MODELS,
    group_key: str = keys.PATIENT,
    target: str = keys.ABUNDANCE,
    standardize_by: str | None = None,
    config: Mapping[str, Any] | None = None,
    n_bootstrap: int = 1000,
    rng: SeedLike | RNGLike | None = None,
    device: str | None = None,
    table_key: str | None = None,
) -> pd.DataFrame:
    """Predict each group with models fitted on all others, and score.

    Parameters
    ----------
    data
        AnnData, or SpatialData with a table; nothing is written to it.
    features
        One or several embeddings in ``obsm``; by default the only one there is.
    models
        Names of models, models with settings of their own, or a mapping from a name for the table to either.
    group_key
        Column of ``obs`` whose levels are left out in turn.
    target
        Data frame in ``obsm`` with one column per target.
    standardize_by
        Column of ``obs`` within whose levels features are standardised.
    config
        Settings for the models that are given by name, by model name: ``{"mlp": {"n_members": 5}}``.
    n_bootstrap
        Number of resamples of groups for the intervals.
    rng
        Seed or generator.
    device
        Torch device; `None` for the best there is.
    table_key
        Table of a SpatialData, where it holds several.

    Returns
    -------
    The table of `histocell.tl.evaluate_abundance`, with one group per level of `group_key` and ``all``.

    Raises
    ------
    ValueError
        When there are fewer than two groups with a known target.
    """
    table = get_table(data, table_key)
    X, truth = _inputs(table, features, target, standardize_by)
    labels = row_labels(table, group_key)
    rows = _known(truth)
    groups = np.unique(labels[rows])
    if len(groups) < 2:
        msg = f'obs["{group_key}"] has {len(groups)} level with a known target; at least two are needed'
        raise ValueError(msg)
    named = _named_models(models)
    found = {name: _nothing(truth.shape) for name in named}
    children = as_rng(rng).spawn(len(groups) + 1)
    for index, group in enumerate(progress_bar(groups, desc="leave one out", unit="group")):
        train, held = rows[labels[rows] != group], np.flatnonzero(labels == group)
        inner = _inner_groups(table, train, group_key)
        seed = draw_seed(children[index])
        for name, model in named.items():
            fitted = _fit(model, config, X[train], truth.iloc[train], inner, seed, device)
            for part, values in zip(found[name], _predict(fitted, X[held], device), strict=True):
                part[held] = values
    slides = row_labels(table, keys.SECTION) if keys.SECTION in table.obs else labels
    return _scores.score_table(
        truth.iloc[rows],
        {name: _prediction(*(part[rows] for part in parts)) for name, parts in found.items()},
        groups=labels[rows],
        slides=slides[rows],
        n_bootstrap=n_bootstrap,
        rng=children[-1],
    )


def cross_dataset(
    train: AnnData | SpatialData,
    test: AnnData | SpatialData,
    features: str | Sequence[str] | None = None,
    *,
    models: Sequence[str | Model] | Mapping[str, str | Model] = _MODELS,
    group_key: str = keys.PATIENT,
    target: str = keys.ABUNDANCE,
    standardize_by: str | None = None,
    config: Mapping[str, Any] | None = None,
    n_bootstrap: int = 1000,
    rng: SeedLike | RNGLike | None = None,
    device: str | None = None,
    table_key: str | None = None,
) -> pd.DataFrame:
    """Fit on one dataset, predict another, and score there.

    Parameters
    ----------
    train, test
        AnnData, or SpatialData with a table; nothing is written to them.
    features
        One or several embeddings in ``obsm`` of both; by default the only one there is.
    models
        Names of models, models with settings of their own, or a mapping from a name for the table to either.
    group_key
        Column of ``obs`` with the groups: those of `train` are held out when a model chooses, those of `test` are scored.
    target
        Data frame in ``obsm`` of both; the columns that they share are used.
    standardize_by
        Column of ``obs`` within whose levels features are standardised, in both.
    config
        Settings for the models that are given by name, by model name: ``{"mlp": {"n_members": 5}}``.
    n_bootstrap
        Number of resamples for the intervals.
    rng
        Seed or generator.
    device
        Torch device; `None` for the best there is.
    table_key
        Table of a SpatialData, where it holds several.

    Returns
    -------
    The table of `histocell.tl.evaluate_abundance`.

    Raises
    ------
    ValueError
        When the two share no target, or their embeddings differ in what is known of them.
    """
    source, goal = get_table(train, table_key), get_table(test, table_key)
    names = _features.embedding_keys(source, features)
    _features.check_same(goal, _features.describe(source, names))
    X, truth = _inputs(source, names, target, standardize_by)
    X_new, truth_new = _inputs(goal, names, target, standardize_by)
    shared = [name for name in truth.columns if name in set(truth_new.columns)]
    if not shared:
        msg = f"the two share no target: {listing(truth.columns)} against {listing(truth_new.columns)}"
        raise ValueError(msg)
    if len(shared) < max(truth.shape[1], truth_new.shape[1]):
        warn(f"only the {len(shared)} targets that the two share are used")
    rows, rows_new = _known(truth[shared]), _known(truth_new[shared])
    inner = _inner_groups(source, rows, group_key)
    generator = as_rng(rng)
    seed = draw_seed(generator)
    found = {}
    for name, model in _named_models(models).items():
        fitted = _fit(model, config, X[rows], truth[shared].iloc[rows], inner, seed, device)
        found[name] = _prediction(*_predict(fitted, X_new[rows_new], device))
    groups = row_labels(goal, group_key)[rows_new] if group_key in goal.obs else np.full(len(rows_new), "all rows")
    return _scores.score_table(
        truth_new[shared].iloc[rows_new],
        found,
        groups=groups,
        slides=row_labels(goal, keys.SECTION)[rows_new] if keys.SECTION in goal.obs else groups,
        n_bootstrap=n_bootstrap,
        rng=generator,
    )


def _inputs(
    table: AnnData, features: str | Sequence[str] | None, target: str, standardize_by: str | None
) -> tuple[NDArray[Any], pd.DataFrame]:
    names = _features.embedding_keys(table, features)
    return _features.feature_matrix(table, names, standardize_by), _task.target_frame(table, target, "")


def _known(truth: pd.DataFrame) -> NDArray[np.intp]:
    rows = np.flatnonzero(np.isfinite(truth.to_numpy(dtype=np.float64)).all(axis=1))
    if len(rows) == 0:
        msg = "no row has a known target"
        raise ValueError(msg)
    return rows


def _inner_groups(table: AnnData, rows: NDArray[np.intp], group_key: str) -> NDArray[Any]:
    """Groups for what a model chooses for itself: those of the protocol while two are left, else the next finer ones."""
    usable = group_key in table.obs and table.obs[group_key].iloc[rows].nunique() > 1
    return _task.held_out_groups(table, rows, np.ones(len(rows), dtype=bool), group_key if usable else None)[0]


def _named_models(models: Sequence[str | Model] | Mapping[str, str | Model]) -> dict[str, str | Model]:
    if hasattr(models, "items"):
        return dict(models.items())
    named: dict[str, str | Model] = {}
    for model in models:
        name = model if isinstance(model, str) else model.name
        if name in named:
            msg = f"two models are called {name!r}; give a mapping from names of your own to models"
            raise ValueError(msg)
        named[name] = model
    return named


def _fit(
    model: str | Model,
    config: Mapping[str, Any] | None,
    X: NDArray[Any],
    truth: pd.DataFrame,
    groups: NDArray[Any],
    seed: int,
    device: str | None,
) -> Model:
    settings = (config or {}).get(model, {}) if isinstance(model, str) else {}
    fitted = _task.make_model(model, settings)
    return fitted.fit(X, truth.to_numpy(dtype=np.float64), groups=groups, rng=seed, device=device)


def _predict(model: Model, X: NDArray[Any], device: str | None) -> tuple[NDArray[np.float64], ...]:
    """Prediction, lower and upper bound; the bounds are NaN for a model without interval."""
    value = model.predict(X, device=device)
    return value, *(model.interval(value) if model.has_interval else _nothing(value.shape)[:2])


def _nothing(shape: tuple[int, ...]) -> tuple[NDArray[np.float64], ...]:
    return tuple(np.full(shape, np.nan) for _ in range(3))


def _prediction(
    value: NDArray[np.float64], lower: NDArray[np.float64], upper: NDArray[np.float64]
) -> _scores.Prediction:
    known = bool(np.isfinite(lower).any())
    return _scores.Prediction(value, lower if known else None, upper if known else None)
