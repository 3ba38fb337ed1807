"""Cross-validation of models of slides over patients, with settings chosen on training patients alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from histocell import metrics
from histocell._core import keys
from histocell._core.arguments import check_count
from histocell._core.errors import listing, warn
from histocell._core.rng import as_rng, draw_seed
from histocell._core.settings import logger, progress_bar
from histocell.models.base import Model
from histocell.tables.access import get_table
from histocell.tl.engine.fit import Dataset
from histocell.tl.engine.task import Values
from histocell.tl.slide_level.rows import contents, patients
from histocell.tl.slide_level.scores import scores_of
from histocell.tl.slide_level.slides import bags_of, own_features, unfitted_model
from histocell.tl.slide_level.task import RISK, Outcome

if TYPE_CHECKING:
    import pandas as pd

    from histocell._core.rng import RNGLike, SeedLike
    from histocell._core.types import Floats, Ints
    from histocell.io.tile_bags.bags import Source
    from histocell.models.slides.bags import Bag
    from histocell.tables.access import Data
    from histocell.tl.engine.task import Task

    type Settings = Mapping[str, object] | Sequence[Mapping[str, object]]

_MODELS = ("common_class", "mean_pooling", "abmil")
_INNER = 3  # folds of the training patients on which settings are chosen


@dataclass(frozen=True)
class _Study:
    """Slides with known outcomes."""

    task: Task
    X: np.ndarray
    composition: np.ndarray | None
    Y: Floats
    bags: list[Bag] | None
    patients: np.ndarray
    strata: np.ndarray
    device: str | None

    def folds(self, index: Ints, n_folds: int, seed: int) -> list[tuple[Ints, Ints]]:
        """Slides to fit on and slides that are held out, whole patients, each class spread over the folds."""
        folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
        parts = folds.split(index, self.strata[index], self.patients[index])
        return [(index[fitted], index[held]) for fitted, held in parts]

    def predict(self, model: Model, fitted: Ints, held: Ints, seed: int) -> Floats:
        """Predictions of slides by a model fitted on others."""
        made = type(model)(**vars(model.config))
        options: dict[str, Any] = {"bags": self.bags} if made.needs_bags else {}
        X = self.X if made.name != keys.COMPOSITION or self.composition is None else self.composition
        made.fit(X, self.Y, index=fitted, groups=self.patients[fitted], rng=seed, device=self.device, **options)
        new: dict[str, Any] = (
            {"bags": [self.bags[i] for i in held]} if made.needs_bags and self.bags is not None else {}
        )
        return made.predict(X[held], device=self.device, **new)

    def choose(self, models: Sequence[Model], fitted: Ints, seed: int) -> Model:
        """The one of several settings that predicts patients best that are held out of those to fit on."""
        if len(models) == 1:
            return models[0]
        folds = self.folds(fitted, _INNER, seed)
        held = np.concatenate([some for _, some in folds])
        number = np.repeat(np.arange(len(folds)), [len(some) for _, some in folds])
        values = []
        for model in models:
            predicted = np.concatenate([self.predict(model, some, rest, seed) for some, rest in folds])
            values.append(float(metrics.nan_mean(self.task.metrics[0].score(self.Y[held], predicted, number))))
        return models[int(np.nanargmax(values))]


def cross_validate_slides(
    data: Data,
    tiles: Source | None = None,
    features: str | None = None,
    *,
    models: str | Model | Sequence[str | Model] = _MODELS,
    config: Mapping[str, Settings] | None = None,
    target: str = "label",
    time_key: str | None = None,
    event_key: str | None = None,
    n_folds: int = 5,
    group_key: str | None = None,
    n_bootstrap: int = 1000,
    rng: SeedLike | RNGLike | None = 0,
    device: str | None = None,
    table_key: str | None = None,
) -> pd.DataFrame:
    """Predict the slides of each fold of patients with models fitted on all other patients, and score.

    Folds are of whole patients, with about as many of each class (or of events). Where several settings of a model are given,
    they are compared on three folds of the training patients, and the best one by AUC (or c-index) is fitted on all of these:
    patients that are scored choose nothing.

    Parameters
    ----------
    data
        Table of slides, see `histocell.io.slide_table`; nothing is written to it.
    tiles
        Tiles of the slides, for models that look at them, as in `histocell.tl.fit_slides`.
    features
        Embedding in ``obsm``; by default the only one there is.
    models
        One model or several, as in `histocell.tl.fit_slides`; by default all, with ``"composition"`` where
        ``obsm["composition"]`` is there.
    config
        Settings by the name of a model; several, as a list, to choose from: ``{"abmil": [{"lr": 1e-4}, {"lr": 1e-3}]}``.
    target, time_key, event_key
        Column of ``obs`` with the classes, or columns with time and event for survival.
    n_folds
        Number of folds.
    group_key
        Column of ``obs`` with the patients; by default ``patient``, else each slide counts as one, with a warning.
    n_bootstrap
        Number of resamples of patients for the intervals.
    rng
        Seed or generator of folds and models; `None` for others each time.
    device
        Torch device; `None` for the best there is.
    table_key
        Table of a SpatialData, where it holds several.

    Returns
    -------
    The table of `histocell.tl.evaluate_slides`: each slide is scored once, by models that saw no slide of its patient. AUC and
    c-index compare slides of one fold only, since models of two folds have no common scale. ``settings`` says which settings
    were chosen in how many folds, where there was a choice. The interval does not know that folds share training slides.

    Raises
    ------
    ValueError
        When a class, or the event, is in fewer patients than there are folds, or slides of two patients have the same content.

    Examples
    --------
    >>> import histocell as hc
    >>> slides = hc.io.slide_table(hc.datasets.synthetic_slides(20, n_tiles=40))
    >>> choice = {"mean_pooling": [{"C": 0.01}, {"C": 0.5}]}
    >>> scores = hc.bench.cross_validate_slides(slides, models="mean_pooling", config=choice, n_bootstrap=50)
    >>> int(scores["n_slides"].max())
    20
    """
    check_count(n_folds, "n_folds", least=2)
    table, outcome = get_table(data, table_key), Outcome(target, time_key, event_key)
    if outcome.name == "survival" and models == _MODELS:
        models = _MODELS[1:]
    if models in (_MODELS, _MODELS[1:]) and keys.COMPOSITION in table.obsm:
        models = (*models, keys.COMPOSITION)
    choices = _choices(models, config, outcome)
    task = outcome.task(table)
    every = [model for each in choices.values() for model in each]
    dataset = Dataset.read(task, table, features or own_features(every), target, None)
    composition = None
    if keys.COMPOSITION in choices:
        composition = np.asarray(Dataset.read(task, table, keys.COMPOSITION, target, None).X)
    labels, _ = patients(table, group_key)
    known = _known(dataset, composition, every)
    _check_copies(dataset, labels, known)
    bags = bags_of(table, tiles, dataset.names[0], every)
    Y = dataset.truth.array
    strata = Y[:, 1] if outcome.name == "survival" else Y.argmax(axis=1)
    study = _Study(task, np.asarray(dataset.X), composition, Y, bags, labels, strata.astype(np.int64), device)
    _check_folds(study, known, dataset.truth.names, outcome, n_folds)
    generator = as_rng(rng)
    folds = study.folds(known, n_folds, draw_seed(generator))
    names = [RISK] if outcome.name == "survival" else dataset.truth.names
    predicted, number, chosen = _over_folds(study, choices, folds, len(names), generator)
    scores = scores_of(
        task,
        dataset.truth.rows(known),
        {name: Values(values[known], names) for name, values in predicted.items()},
        patients=labels[known],
        seen=np.zeros((3, len(known)), dtype=bool),
        folds=number[known],
        n_bootstrap=n_bootstrap,
        rng=draw_seed(generator),
    )
    texts = {name: "; ".join(f"{text} in {n}" for text, n in counts.items() if text) for name, counts in chosen.items()}
    return scores.assign(settings=scores["model"].map(texts))


def _known(dataset: Dataset, composition: np.ndarray | None, models: Sequence[Model]) -> Ints:
    """Slides whose outcome is known, and what all models look at; a warning tells of others."""
    there = dataset.known & (composition is None or np.isfinite(composition).any(axis=1))
    if own_features(models) is None:
        there &= np.isfinite(np.asarray(dataset.X)).all(axis=1)
    if not there.all():
        what = "no tiles" if composition is None else "no tiles or no composition"
        warn(f"{int((~there).sum())} of {len(there)} slides have no known outcome or {what}; left out")
    return np.flatnonzero(there)


def _over_folds(
    study: _Study,
    choices: Mapping[str, Sequence[Model]],
    folds: Sequence[tuple[Ints, Ints]],
    n_out: int,
    generator: np.random.Generator,
) -> tuple[dict[str, Floats], Ints, dict[str, Counter[str]]]:
    """Predictions of each model, the fold of each slide, and how often which settings were chosen."""
    predicted = {name: np.full((len(study.Y), n_out), np.nan) for name in choices}
    number, chosen = np.zeros(len(study.Y), dtype=np.intp), {name: Counter[str]() for name in choices}
    with progress_bar(total=len(folds) * len(choices), desc="cross-validation", unit="fit") as bar:
        for fold, (fitted, held) in enumerate(folds):
            number[held], seed = fold, draw_seed(generator)
            for name, each in choices.items():
                model = study.choose(each, fitted, seed)
                chosen[name][_text(model, each)] += 1
                predicted[name][held] = study.predict(model, fitted, held, seed)
                bar.update()
            logger.info("fold %d: %d slides to fit on, %d held out", fold, len(fitted), len(held))
    return predicted, number, chosen


def _choices(
    models: str | Model | Sequence[str | Model], config: Mapping[str, Settings] | None, outcome: Outcome
) -> dict[str, list[Model]]:
    """The settings of each model that are compared."""
    every = [models] if isinstance(models, str | Model) else list(models)
    names = [each if isinstance(each, str) else each.name for each in every]
    if not every or len(set(names)) < len(names):
        msg = f"models must name different models, at least one, not {listing(names)}"
        raise ValueError(msg)
    if strangers := [name for name in config or {} if name not in names]:
        msg = f"config names {listing(strangers)}, and models holds {listing(names)}"
        raise ValueError(msg)
    choices = {}
    for name, model in zip(names, every, strict=True):
        settings = (config or {}).get(name, {})
        several = [settings] if isinstance(settings, Mapping) else list(settings)
        if not several:
            msg = f"config of {name!r} is empty: give at least one setting"
            raise ValueError(msg)
        made = [unfitted_model(model, each, outcome) for each in several]
        choices[made[0].name] = made
    return choices


def _text(model: Model, among: Sequence[Model]) -> str:
    """What tells the settings of a model from others, empty where there are no others."""
    configs = [vars(each.config) for each in among]
    differ = {name: value for name, value in vars(model.config).items() if any(each[name] != value for each in configs)}
    return json.dumps(differ) if differ else ""


def _check_copies(dataset: Dataset, labels: np.ndarray, known: Ints) -> None:
    """Refuse slides of two patients that have the same content, which could come into two folds."""
    owners: dict[str, dict[str, str]] = {}
    names = dataset.table.obs_names
    found = contents(dataset)
    for row in known:
        owners.setdefault(found[row], {})[str(names[row])] = str(labels[row])
    copies = [slides for slides in owners.values() if len(slides) > 1]
    if across := [slides for slides in copies if len(set(slides.values())) > 1]:
        what = "; ".join(
            " = ".join(f"{slide} of {patient}" for slide, patient in slides.items()) for slides in across[:4]
        )
        msg = f"{len(across)} slides are there under several patients, and could be trained on and scored: {what}"
        raise ValueError(msg)
    if copies:
        warn(f"{len(copies)} slides are there several times, of one patient each: {listing(copies[0])}")


def _check_folds(study: _Study, known: Ints, names: Sequence[str], outcome: Outcome, n_folds: int) -> None:
    """Refuse more folds than there are patients of a class."""
    for stratum in np.unique(study.strata[known]) if len(known) else [0]:
        n = len(set(study.patients[known][study.strata[known] == stratum]))
        what = ("no event", "an event")[stratum] if outcome.name == "survival" else f"class {names[stratum]}"
        if n < n_folds and what != "no event":
            msg = f"{n} patients of {what} do not go into {n_folds} folds; n_folds={max(n, 2)} at most, or leave it out"
            raise ValueError(msg)
    if outcome.name == "survival" and not study.strata[known].any():
        msg = f"all {len(known)} slides are censored: without an event there is nothing to compare"
        raise ValueError(msg)
    if outcome.name == "classes" and len(np.unique(study.strata[known])) < 2:
        msg = f"all {len(known)} slides are of one class, so there is nothing to tell apart"
        raise ValueError(msg)
