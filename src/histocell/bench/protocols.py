"""Evaluation protocols, leave-one-group-out and cross-dataset, for any task and several models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from histocell._core import keys
from histocell._core.arguments import check_count
from histocell._core.rng import as_rng, draw_seed
from histocell._core.settings import progress_bar
from histocell.models.base import Model
from histocell.models.registry import make_model
from histocell.tables.access import row_labels
from histocell.tables.fields import FieldsOfView
from histocell.tables.sections import Sections
from histocell.tables.units import recorded_unit, warn_of_other_unit
from histocell.tl.engine import features as _features
from histocell.tl.engine.abundance import ABUNDANCE
from histocell.tl.engine.evaluate import ALL, score_table
from histocell.tl.engine.fit import Dataset, fit
from histocell.tl.engine.layout import places_for, reach_um
from histocell.tl.engine.rows import apart, held_out_groups, seen_rows
from histocell.tl.engine.task import shared_targets

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from histocell._core.rng import RNGLike, SeedLike
    from histocell._core.types import Bools, Floats, Ints
    from histocell.tables.access import Data
    from histocell.tl.engine.rows import Rows
    from histocell.tl.engine.task import Task, Values


_MODELS = ("mean", "ridge", "mlp")


class Predicted(NamedTuple):
    """Predictions of several models for the same rows.

    Attributes
    ----------
    rows
        Positions in the table.
    outputs
        By model, then by the ending of the slot.
    seen
        Whether the models were fitted on each row, whether it chose their settings, and whether it shows tissue of such
        rows, ``(3, n)``.
    """

    rows: Ints
    outputs: dict[str, dict[str, Floats]]
    seen: Bools


def leave_one_group_out(
    data: Data,
    features: str | Sequence[str] | None = None,
    *,
    task: Task = ABUNDANCE,
    models: str | Model | Sequence[str | Model] | Mapping[str, str | Model] = _MODELS,
    group_key: str = keys.PATIENT,
    target: str = keys.ABUNDANCE,
    standardize_by: str | None = None,
    config: Mapping[str, Mapping[str, object]] | None = None,
    n_bootstrap: int = 1000,
    rng: SeedLike | RNGLike | None = 0,
    device: str | None = None,
    table_key: str | None = None,
) -> pd.DataFrame:
    """Predict each group with models fitted on all others, and score.

    Rows of other groups whose features show tissue of the group that is left out are not fitted, with a warning.

    Parameters
    ----------
    data
        AnnData, or SpatialData with a table; nothing is written to it.
    features
        One or several embeddings in ``obsm``; by default the only one there is.
    task
        What is predicted and how it is scored.
    models
        One model or several: names, models with settings of their own, or a mapping from a name for the table to either.
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
        Seed or generator; the same one gives the same models, `None` others each time.
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

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(3, n_patients=3, size_px=600, spot_pitch_um=50, rng=0)
    >>> hc.pp.patches(sdata)
    >>> hc.pp.embed_image(sdata, "morphology")
    >>> scores = hc.bench.leave_one_group_out(sdata, models=["mean", "ridge"], n_bootstrap=100, rng=0)
    >>> scores["group"].unique().tolist()
    ['P1', 'P2', 'P3', 'all']
    """
    check_count(n_bootstrap, "n_bootstrap")
    sections = Sections(data, table_key=table_key)
    dataset = Dataset.read(task, sections.table, features, target, standardize_by)
    labels = row_labels(dataset.table, group_key)
    rows = _known_rows(dataset)
    groups = np.unique(labels[rows])
    if len(groups) < 2:
        msg = f'obs["{group_key}"] has {len(groups)} level with a known target; at least two are needed'
        raise ValueError(msg)
    named = _named_models(models, config)
    dataset = replace(dataset, places=places_for(named.values(), sections))
    reach = reach_um(named.values(), dataset.places)
    children = as_rng(rng).spawn(len(groups) + 1)
    parts = []
    for group, child in zip(progress_bar(groups, desc="leave one out", unit="group"), children, strict=False):
        held = labels[rows] == group
        fitted = _apart(sections, dataset, rows[~held], rows[held], reach)
        train = _inner_groups(sections, dataset, fitted, group_key)
        parts.append(
            _fit_predict(task, named, (dataset, train), (sections, dataset, rows[held]), draw_seed(child), device)
        )
    return _score(task, sections, dataset.truth, labels, parts, n_bootstrap, children[-1])


def cross_dataset(
    train: Data,
    test: Data,
    features: str | Sequence[str] | None = None,
    *,
    task: Task = ABUNDANCE,
    models: str | Model | Sequence[str | Model] | Mapping[str, str | Model] = _MODELS,
    group_key: str = keys.PATIENT,
    target: str = keys.ABUNDANCE,
    standardize_by: str | None = None,
    config: Mapping[str, Mapping[str, object]] | None = None,
    n_bootstrap: int = 1000,
    rng: SeedLike | RNGLike | None = 0,
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
    task
        What is predicted and how it is scored.
    models
        One model or several: names, models with settings of their own, or a mapping from a name for the table to either.
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
        Seed or generator; the same one gives the same models, `None` others each time.
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

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(3, n_patients=3, size_px=600, spot_pitch_um=50, rng=0)
    >>> hc.pp.patches(sdata)
    >>> hc.pp.embed_image(sdata, "morphology")
    >>> other = hc.datasets.synthetic_tissue(size_px=600, spot_pitch_um=50, rng=1)
    >>> hc.pp.patches(other)
    >>> hc.pp.embed_image(other, "morphology")
    >>> scores = hc.bench.cross_dataset(sdata, other, models=["mean", "ridge"], n_bootstrap=100, rng=0)
    >>> scores["model"].unique().tolist()
    ['mean', 'ridge']
    """
    check_count(n_bootstrap, "n_bootstrap")
    source, goal = (Sections(data, table_key=table_key) for data in (train, test))
    known = Dataset.read(task, source.table, features, target, standardize_by)
    _features.check_same(goal.table, known.features)
    new = Dataset.read(task, goal.table, features, target, standardize_by, like=known.features)
    units = [recorded_unit(each.table, target) for each in (known, new)]
    warn_of_other_unit(units[0], units[1], names=("train", "test"))
    shared = shared_targets(known.truth, new.truth, "the two")
    known, new = (replace(dataset, truth=dataset.truth.select(shared)) for dataset in (known, new))
    train = _inner_groups(source, known, _known_rows(known), group_key)
    generator = as_rng(rng)
    named = _named_models(models, config)
    known, new = (
        replace(dataset, places=places_for(named.values(), sections))
        for dataset, sections in ((known, source), (new, goal))
    )
    part = _fit_predict(task, named, (known, train), (goal, new, _known_rows(new)), draw_seed(generator), device)
    obs = new.table.obs
    labels = row_labels(new.table, group_key) if group_key in obs else np.full(len(obs), ALL)
    return _score(task, goal, new.truth, labels, [part], n_bootstrap, generator)


def _known_rows(dataset: Dataset) -> Ints:
    if not dataset.known.any():
        msg = "no row has a known target"
        raise ValueError(msg)
    return np.flatnonzero(dataset.known)


def _apart(sections: Sections, dataset: Dataset, rows: Ints, held: Ints, reach: float) -> Ints:
    """The rows to fit on that show no tissue of the held-out ones, which may lie on the same section.

    They are the same for all models: those that the one that looks furthest may be fitted on.
    """
    parts = np.full(dataset.table.n_obs, keys.DROPPED, dtype=object)
    parts[rows], parts[held] = keys.TRAIN, keys.TEST
    fields = FieldsOfView.of(sections, dataset.names, reach_um=reach)
    return np.flatnonzero(apart(fields, parts) == keys.TRAIN)


def _inner_groups(sections: Sections, dataset: Dataset, rows: Ints, group_key: str) -> Rows:
    """Groups for what a model chooses for itself: those of the protocol while two are left, else the next finer ones."""
    obs = dataset.table.obs
    usable = group_key in obs and obs[group_key].iloc[rows].nunique() > 1
    inner = Sections(dataset.table, library_key=sections.library_key, group_key=group_key if usable else None)
    return held_out_groups(inner, rows, np.zeros(len(rows), dtype=bool))


def _named_models(
    models: str | Model | Sequence[str | Model] | Mapping[str, str | Model],
    config: Mapping[str, Mapping[str, object]] | None,
) -> dict[str, Model]:
    """Unfitted models by the name that they have in the table."""
    if isinstance(models, str | Model):
        models = [models]
    pairs = (
        models.items()
        if isinstance(models, Mapping)
        else [(model if isinstance(model, str) else model.name, model) for model in models]
    )
    named: dict[str, Model] = {}
    for name, model in pairs:
        if name in named:
            msg = f"two models are called {name!r}; give a mapping from names of your own to models"
            raise ValueError(msg)
        named[name] = make_model(model, (config or {}).get(model, {}) if isinstance(model, str) else {})
    return named


def _fit_predict(
    task: Task,
    models: Mapping[str, Model],
    known: tuple[Dataset, Rows],
    new: tuple[Sections, Dataset, Ints],
    seed: int,
    device: str | None,
) -> Predicted:
    """Models fitted on rows of one dataset, and what they say of rows of another."""
    sections, dataset, rows = new
    outputs = {}
    for name, model in models.items():
        # Baselines are models of the protocol like all others.
        fit(task, model, *known, rng=seed, device=device, baselines=False)
        outputs[name] = _outputs(model, dataset, rows, device)
    widest = max(models.values(), key=lambda model: model.reach_um())
    return Predicted(rows, outputs, seen_rows(sections, dataset.hashes, widest)[:, rows])


def _outputs(model: Model, dataset: Dataset, rows: Ints, device: str | None) -> dict[str, Floats]:
    """What a model says of some rows; one that sees neighbours sees all rows of their sections."""
    if not model.needs_places or dataset.places is None:
        return model.outputs(dataset.X[rows], device=device)
    together = np.flatnonzero(np.isin(dataset.places.sections, dataset.places.sections[rows]))
    outputs = model.outputs(dataset.X[together], places=dataset.places.rows(together), device=device)
    return {ending: values[np.searchsorted(together, rows)] for ending, values in outputs.items()}


def _score(
    task: Task,
    sections: Sections,
    truth: Values,
    labels: np.ndarray,
    parts: Sequence[Predicted],
    n_bootstrap: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """The table of scores of all rows that were predicted, with the replicate of each row of the table in `labels`."""
    rows = np.concatenate([part.rows for part in parts])
    return score_table(
        task,
        truth.rows(rows),
        {
            name: {ending: np.concatenate([part.outputs[name][ending] for part in parts]) for ending in endings}
            for name, endings in parts[0].outputs.items()
        },
        groups=labels[rows],
        slides=sections.labels[rows],
        seen=np.hstack([part.seen for part in parts]),
        n_bootstrap=n_bootstrap,
        rng=rng,
    )
