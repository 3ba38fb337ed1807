"""Evaluation protocols for any task: leave one group out, ablation of embeddings, one dataset to another."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histocell._core import keys
from histocell._core.arguments import check_count, check_positive
from histocell._core.rng import as_rng, draw_seed
from histocell.bench.agreement import map_coordinates
from histocell.bench.cache import Cache
from histocell.bench.folds import (
    Plan,
    ablation_sets,
    feature_sets,
    inner_groups,
    known_rows,
    left_out_folds,
    named_models,
    one_fold,
    set_name,
)
from histocell.bench.jobs import Job, run_jobs
from histocell.bench.scores import Scoring
from histocell.tables.access import row_labels
from histocell.tables.sections import Sections
from histocell.tables.units import recorded_unit, warn_of_other_unit
from histocell.tl.engine import features as _features
from histocell.tl.engine.abundance import ABUNDANCE
from histocell.tl.engine.evaluate import ALL, free_names
from histocell.tl.engine.fit import Dataset
from histocell.tl.engine.layout import places_for, reach_um
from histocell.tl.engine.task import shared_targets
from histocell.tl.engine.views import AUTO

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from histocell._core.rng import RNGLike, SeedLike
    from histocell.bench.folds import Features, Models
    from histocell.models.base import Model
    from histocell.tables.access import Data
    from histocell.tl.engine.task import Task


_MODELS = ("mean", "ridge", "mlp")


def leave_one_group_out(
    data: Data,
    features: Features | None = None,
    *,
    task: Task = ABUNDANCE,
    models: Models = _MODELS,
    group_key: str = keys.PATIENT,
    target: str = keys.ABUNDANCE,
    standardize_by: str | None = AUTO,
    config: Mapping[str, Mapping[str, object]] | None = None,
    colocalization: bool | None = None,
    length_scale_um: float | None = None,
    cache: str | Path | None = None,
    n_workers: int = 1,
    n_bootstrap: int = 1000,
    rng: SeedLike | RNGLike | None = 0,
    device: str | None = None,
    table_key: str | None = None,
) -> pd.DataFrame:
    """Predict each group with models fitted on all others, and score.

    All that a model chooses for itself is chosen on groups of the training rows that are held out in turn. Rows of other
    groups whose features show tissue of the group that is left out are not fitted, with a warning.

    Parameters
    ----------
    data
        AnnData, or SpatialData with a table; nothing is written to it.
    features
        One or several embeddings in ``obsm``, side by side; by default the only one there is. A mapping names several
        sets, each of which is tried: ``{"both": ["X_conch", "X_uni"], "UNI": "X_uni"}``.
    task
        What is predicted and how it is scored.
    models
        One model or several: names, models with settings of their own, or a mapping from a name for the table to either.
    group_key
        Column of ``obs`` whose levels are left out in turn.
    target
        Data frame in ``obsm`` with one column per target.
    standardize_by
        Column of ``obs`` within whose levels features are standardised, `None` or ``"auto"``, see
        `histocell.tl.fit_abundance`.
    config
        Settings for the models that are given by name, by model name: ``{"mlp": {"n_members": 5}}``.
    colocalization
        Whether maps of co-localization of prediction and truth are compared; by default where there are coordinates and
        four cell types.
    length_scale_um
        Of those maps, see :func:`histocell.tl.colocalization`.
    cache
        Folder of its own that keeps the result of every fold. A run that was interrupted continues there; a fold is
        repeated when any of its features, labels, groups or settings changed.
    n_workers
        Number of processes that fit side by side, with one thread each. Models whose folds train together, such as
        ``"mlp"``, stay in this one.
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
    The table of `histocell.tl.evaluate_abundance` for each model and set of features, which the column ``features``
    names, with one group per level of `group_key` and ``all``. Beside its metrics, with the cell type ``mean``:
    ``colocalization_cosine`` and ``colocalization_correlation``, row by row without the diagonal, the mean over the
    sections of a group (``..._with_diagonal``: with ones there, as papers have it); ``seconds`` of the fit;
    ``peak_memory_mb`` of the process meanwhile; ``peak_gpu_memory_mb`` on a CUDA device; ``n_parameters``. Of ``all``,
    seconds are the sum over the groups, memory and parameters the largest.

    Raises
    ------
    ValueError
        When there are fewer than two groups with a known target.
    FileExistsError
        When the folder `cache` holds anything else.

    References
    ----------
    arXiv 2507.07013: leave-one-patient-out, Tables 1 and 3.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(3, n_patients=3, size_px=600, spot_pitch_um=50, rng=0)
    >>> hc.pp.patches(sdata)
    >>> hc.pp.embed_image(sdata, "morphology")
    >>> scores = hc.bench.leave_one_group_out(sdata, models=["mean", "ridge"], n_bootstrap=100, rng=0)
    >>> scores["group"].unique().tolist()
    ['P1', 'P2', 'P3', 'all']
    >>> sorted(set(scores["metric"]) - {"cc", "cc_per_slide", "l1", "coverage"})[:2]
    ['colocalization_correlation', 'colocalization_correlation_with_diagonal']
    """
    _check(n_bootstrap, n_workers, length_scale_um, cache, rng)
    sections = Sections(data, table_key=table_key)
    named = named_models(models, config, task)
    places = places_for(named.values(), sections)
    datasets = {
        name: replace(Dataset.read(task, sections.table, names, target, standardize_by), places=places)
        for name, names in feature_sets(features).items()
    }
    labels = row_labels(sections.table, group_key)
    labels = np.array(free_names(labels.tolist(), ALL, "group"), dtype=object)
    known = next(iter(datasets.values()))
    n_groups = len(np.unique(labels[known_rows(known)]))
    if n_groups < 2:
        msg = f'obs["{group_key}"] has {n_groups} level with a known target; at least two are needed'
        raise ValueError(msg)
    children = as_rng(rng).spawn(n_groups + 1)
    seeds = [draw_seed(child) for child in children]
    reach = reach_um(named.values(), places)
    plans = []
    for name, dataset in datasets.items():
        folds = left_out_folds(task, sections, dataset, labels, group_key, seeds=seeds[:-1], reach_um=reach)
        plans.append(Plan(name or set_name(dataset.names), dataset, folds))
    maps = map_coordinates(
        data, sections, len(known.truth.names), wanted=_wanted(task, colocalization), length_scale_um=length_scale_um
    )
    scoring = Scoring(task, sections, labels, maps, n_bootstrap, seeds[-1])
    return _run(plans, named, scoring, cache, n_workers, device)


def ablation(
    data: Data,
    features: Sequence[str | Sequence[str]] | Mapping[str, str | Sequence[str]],
    *,
    task: Task = ABUNDANCE,
    models: Models = _MODELS,
    group_key: str = keys.PATIENT,
    target: str = keys.ABUNDANCE,
    standardize_by: str | None = AUTO,
    config: Mapping[str, Mapping[str, object]] | None = None,
    colocalization: bool | None = None,
    length_scale_um: float | None = None,
    cache: str | Path | None = None,
    n_workers: int = 1,
    n_bootstrap: int = 1000,
    rng: SeedLike | RNGLike | None = 0,
    device: str | None = None,
    table_key: str | None = None,
) -> pd.DataFrame:
    """Leave one group out with each of several sets of embeddings, and each model, on the same folds.

    Parameters
    ----------
    data
        AnnData, or SpatialData with a table; nothing is written to it.
    features
        Sets of embeddings in ``obsm``, ``["X_uni", ["X_conch", "X_uni"]]``, or a mapping from names for the table.
    task, models, group_key, target, standardize_by, config, colocalization, length_scale_um, cache, n_workers
        As in :func:`leave_one_group_out`.
    n_bootstrap, rng, device, table_key
        As in :func:`leave_one_group_out`.

    Returns
    -------
    The table of :func:`leave_one_group_out`; its column ``features`` tells the sets apart.

    Raises
    ------
    TypeError
        When `features` is one set.
    ValueError
        When a set is there twice, or there are fewer than two groups with a known target.

    References
    ----------
    arXiv 2507.07013: Figures 4 and A2.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(3, n_patients=3, size_px=600, spot_pitch_um=50, rng=0)
    >>> hc.pp.patches(sdata)
    >>> hc.pp.embed_image(sdata, "morphology")
    >>> sdata["table"].obsm["X_colour"] = sdata["table"].obsm["X_morphology"][:, :3]
    >>> sets = ["X_colour", ["X_colour", "X_morphology"]]
    >>> scores = hc.bench.ablation(sdata, sets, models="ridge", n_bootstrap=100, rng=0)
    >>> scores["features"].unique().tolist()
    ['X_colour', 'X_colour + X_morphology']
    """
    return leave_one_group_out(
        data,
        ablation_sets(features),
        task=task,
        models=models,
        group_key=group_key,
        target=target,
        standardize_by=standardize_by,
        config=config,
        colocalization=colocalization,
        length_scale_um=length_scale_um,
        cache=cache,
        n_workers=n_workers,
        n_bootstrap=n_bootstrap,
        rng=rng,
        device=device,
        table_key=table_key,
    )


def cross_dataset(
    train: Data,
    test: Data,
    features: Features | None = None,
    *,
    task: Task = ABUNDANCE,
    models: Models = _MODELS,
    group_key: str = keys.PATIENT,
    target: str = keys.ABUNDANCE,
    standardize_by: str | None = AUTO,
    config: Mapping[str, Mapping[str, object]] | None = None,
    colocalization: bool | None = None,
    length_scale_um: float | None = None,
    cache: str | Path | None = None,
    n_workers: int = 1,
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
        One or several embeddings in ``obsm`` of both, side by side; by default the only one there is. A mapping names
        several sets, each of which is tried.
    task
        What is predicted and how it is scored.
    models
        One model or several: names, models with settings of their own, or a mapping from a name for the table to either.
    group_key
        Column of ``obs`` with the groups: those of `train` are held out when a model chooses, those of `test` are scored.
    target
        Data frame in ``obsm`` of both; the columns that they share are used.
    standardize_by
        Column of ``obs`` within whose levels features are standardised, in both; `None` or ``"auto"``, see
        `histocell.tl.fit_abundance`.
    config
        Settings for the models that are given by name, by model name: ``{"mlp": {"n_members": 5}}``.
    colocalization, length_scale_um, cache, n_workers
        As in :func:`leave_one_group_out`.
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
    The table of :func:`leave_one_group_out` with the groups of `test`; costs are those of the one fit, of group ``all``.

    Raises
    ------
    ValueError
        When the two share no target, or their embeddings differ in what is known of them.

    References
    ----------
    arXiv 2507.07013: Tables 2 and 3.

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
    _check(n_bootstrap, n_workers, length_scale_um, cache, rng)
    source, goal = (Sections(data, table_key=table_key) for data in (train, test))
    named = named_models(models, config, task)
    generator = as_rng(rng)
    places = [places_for(named.values(), sections) for sections in (source, goal)]
    reach = reach_um(named.values(), places[0])
    seed, scoring_seed = draw_seed(generator), draw_seed(generator)
    plans: list[Plan] = []
    for name, names in feature_sets(features).items():
        known = Dataset.read(task, source.table, names, target, standardize_by)
        _features.check_same(goal.table, known.features)
        new = Dataset.read(task, goal.table, names, target, standardize_by, like=known)
        if not plans:  # the same for all sets
            units = [recorded_unit(each.table, target) for each in (known, new)]
            warn_of_other_unit(units[0], units[1], names=("train", "test"))
            shared = shared_targets(known.truth, new.truth, "the two")
        known, new = (
            replace(dataset, truth=dataset.truth.select(shared), places=where)
            for dataset, where in zip((known, new), places, strict=True)
        )
        rows = inner_groups(source, known, known_rows(known), group_key)
        fold = one_fold(task, ALL, (known, rows), (goal, new, known_rows(new)), seed=seed, reach_um=reach)
        plans.append(Plan(name or set_name(known.names), new, [fold]))
    maps = map_coordinates(
        test, goal, len(shared), wanted=_wanted(task, colocalization), length_scale_um=length_scale_um
    )
    has_groups = group_key in goal.table.obs
    labels = row_labels(goal.table, group_key) if has_groups else np.full(goal.table.n_obs, ALL)
    if len(np.unique(labels)) > 1:
        labels = np.array(free_names(labels.tolist(), ALL, "group"), dtype=object)
    scoring = Scoring(task, goal, labels, maps, n_bootstrap, scoring_seed)
    return _run(plans, named, scoring, cache, n_workers, device)


def _wanted(task: Task, colocalization: bool | None) -> bool | None:
    """Maps of co-localization are of cell types: those of genes are made where they are asked for."""
    return False if colocalization is None and task.column == "gene" else colocalization


def _check(
    n_bootstrap: int,
    n_workers: int,
    length_scale_um: float | None,
    cache: str | Path | None,
    rng: SeedLike | RNGLike | None,
) -> None:
    check_count(n_bootstrap, "n_bootstrap")
    check_count(n_workers, "n_workers", least=1)
    if length_scale_um is not None:
        check_positive(length_scale_um, "length_scale_um")
    if cache is not None and rng is None:
        msg = "rng=None draws other seeds each time, so nothing in the cache would ever be found again; give a seed"
        raise ValueError(msg)


def _run(
    plans: Sequence[Plan],
    models: Mapping[str, Model],
    scoring: Scoring,
    cache: str | Path | None,
    n_workers: int,
    device: str | None,
) -> pd.DataFrame:
    """Every model on every fold of every set of embeddings, and their scores."""
    told = [[plan.new.views.tell(model) for model in models.values()] for plan in plans]
    jobs = [
        Job(model, fold.rows) for plan, some in zip(plans, told, strict=True) for model in some for fold in plan.folds
    ]
    with Cache.open(cache) as opened:
        results = iter(run_jobs(jobs, opened, n_workers=n_workers, device=device))
    tables = [scoring.table(plan, {name: [next(results) for _ in plan.folds] for name in models}) for plan in plans]
    return pd.concat(tables, ignore_index=True)
