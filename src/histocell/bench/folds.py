"""Folds of a protocol: rows to fit on, rows that are held out, and the embeddings that both are seen by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from histocell._core import keys
from histocell._core.arguments import as_names
from histocell.bench.jobs import FoldRows
from histocell.models.base import Model
from histocell.models.registry import has_models, make_model
from histocell.tables.fields import FieldsOfView
from histocell.tables.sections import Sections
from histocell.tl.engine.features import embedding_keys, genes_first
from histocell.tl.engine.fit import Dataset, remember
from histocell.tl.engine.rows import apart, held_out_groups, seen_rows
from histocell.tl.tasks import TASKS

if TYPE_CHECKING:
    from anndata import AnnData

    from histocell._core.types import Bools, Ints
    from histocell.tl.engine.rows import Rows
    from histocell.tl.engine.task import Task

    type Features = str | Sequence[str] | Mapping[str, str | Sequence[str]]
    type Models = str | Model | Sequence[str | Model] | Mapping[str, str | Model]


class Fold(NamedTuple):
    """One fit of each model.

    Attributes
    ----------
    name
        What is held out.
    rows
        Its rows as arrays.
    seen
        Of each row that is held out whether models fitted on it, whether it chose their settings, and whether it shows
        tissue of such rows, ``(3, n_held)``.
    """

    name: str
    rows: FoldRows
    seen: Bools


@dataclass(frozen=True)
class Plan:
    """The folds of one set of embeddings.

    Attributes
    ----------
    features
        Name of the set.
    new
        The table that is predicted.
    folds
        The same for every set, but for what its embeddings see of the tissue.
    """

    features: str
    new: Dataset
    folds: list[Fold]


def feature_sets(features: Features | None) -> dict[str | None, str | Sequence[str] | None]:
    """Embeddings by the name of their set; the name is `None` where it is not given."""
    if not isinstance(features, Mapping):
        return {None: features}
    sets: dict[str | None, str | Sequence[str] | None] = {}
    for name, names in ablation_sets(features).items():
        sets[name] = names
    return sets


def ablation_sets(
    features: Sequence[str | Sequence[str]] | Mapping[str, str | Sequence[str]],
) -> Mapping[str, list[str]]:
    """Embeddings by the name of their set, from a list of sets or a mapping."""
    if isinstance(features, str):
        msg = f"features must be several sets of embeddings, [{features!r}, [{features!r}, ...]], not one"
        raise TypeError(msg)
    pairs = (
        features.items() if isinstance(features, Mapping) else ((set_name(as_names(each)), each) for each in features)
    )
    named: dict[str, list[str]] = {}
    for name, each in pairs:
        if name in named:
            msg = f"the set of embeddings {name!r} is there twice"
            raise ValueError(msg)
        named[name] = as_names(each)
    if not named:
        msg = "features is empty; name at least one set of embeddings"
        raise ValueError(msg)
    return named


def set_name(names: Sequence[str]) -> str:
    """Name of a set of embeddings."""
    return " + ".join(names)


def named_task(task: Task | str) -> Task:
    """A task, or the one of a name."""
    if not isinstance(task, str):
        return task
    if task not in TASKS:
        msg = f"unknown task {task!r}; there are: {', '.join(TASKS)}, or a Task of your own"
        raise ValueError(msg)
    return TASKS[task]


def dataset_of(
    task: Task,
    table: AnnData,
    features: str | Sequence[str] | None,
    target: str,
    standardize_by: str | None,
    models: Mapping[str, Model],
    *,
    like: Dataset | None = None,
) -> Dataset:
    """Features and truth of a table; those of the expression first where models tell genes from image."""
    n_genes = None
    if like is None and any(_tells_genes(model) for model in models.values()):
        features, n_genes = genes_first(table, embedding_keys(table, features))
    dataset = Dataset.read(task, table, features, target, standardize_by, like)
    if n_genes is None:
        return dataset
    described = [
        feature | {"modality": "genes" if number < n_genes else "image"}
        for number, feature in enumerate(dataset.features)
    ]
    return replace(dataset, features=described)


def told(model: Model, dataset: Dataset) -> Model:
    """The unfitted model, told what its features are: their views, and how many columns are of the genes."""
    model = dataset.views.tell(model)
    if not _tells_genes(model):
        return model
    n_genes = sum(feature["dim"] for feature in dataset.features if feature.get("modality") == "genes")
    return type(model)(**asdict(model.config) | {"gene_columns": n_genes})


def _tells_genes(model: Model) -> bool:
    """Whether a model has to be told which columns are of the genes."""
    return getattr(model.config, "gene_columns", 0) is None


def named_models(models: Models, config: Mapping[str, Mapping[str, object]] | None, task: Task) -> dict[str, Model]:
    """Unfitted models by the name that they have in the table, all for the task where models are made for it."""
    known = task.name if has_models(task.name) else None
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
        named[name] = make_model(model, (config or {}).get(model, {}) if isinstance(model, str) else {}, known)
    if not named:
        msg = "models is empty; name at least one"
        raise ValueError(msg)
    return named


def known_rows(dataset: Dataset) -> Ints:
    """Rows whose targets are known."""
    if not dataset.known.any():
        msg = "no row has a known target"
        raise ValueError(msg)
    return np.flatnonzero(dataset.known)


def left_out_folds(
    task: Task,
    sections: Sections,
    dataset: Dataset,
    labels: np.ndarray,
    group_key: str,
    *,
    seeds: Sequence[int],
    reach_um: float,
) -> list[Fold]:
    """Each group in turn against all others, by models that see neighbours up to `reach_um` away."""
    rows = known_rows(dataset)
    folds = []
    for group, seed in zip(np.unique(labels[rows]), seeds, strict=True):
        held = labels[rows] == group
        fitted = _apart(sections, dataset, rows[~held], rows[held], reach_um)
        train = inner_groups(sections, dataset, fitted, group_key)
        new = sections, dataset, rows[held]
        folds.append(one_fold(task, str(group), (dataset, train), new, seed=seed, reach_um=reach_um))
    return folds


def one_fold(
    task: Task,
    name: str,
    known: tuple[Dataset, Rows],
    new: tuple[Sections, Dataset, Ints],
    *,
    seed: int,
    reach_um: float,
) -> Fold:
    """Rows of one dataset to fit on, and rows of another, or of the same, to predict."""
    (dataset, train), (sections, goal, held) = known, new
    fitted = make_model("mean", {})  # stands for all models, which fit the same rows
    remember(task, fitted, dataset, train, reach_um=reach_um)
    arrays = FoldRows(
        dataset.X, dataset.truth.array, train, goal.X, held, seed, places=dataset.places, places_new=goal.places
    )
    return Fold(name, arrays, seen_rows(sections, goal.hashes, fitted, reach_um=reach_um)[:, held])


def inner_groups(sections: Sections, dataset: Dataset, rows: Ints, group_key: str) -> Rows:
    """Groups for what a model chooses for itself: those of the protocol while two are left, else the next finer ones."""
    obs = dataset.table.obs
    usable = group_key in obs and obs[group_key].iloc[rows].nunique() > 1
    inner = Sections(dataset.table, library_key=sections.library_key, group_key=group_key if usable else None)
    return held_out_groups(inner, rows, np.zeros(len(rows), dtype=bool))


def _apart(sections: Sections, dataset: Dataset, rows: Ints, held: Ints, reach_um: float) -> Ints:
    """The rows to fit on that show no tissue of the held-out ones, which may lie on the same section.

    They are the same for all models: those that the one that looks furthest may be fitted on.
    """
    parts = np.full(dataset.table.n_obs, keys.DROPPED, dtype=object)
    parts[rows], parts[held] = keys.TRAIN, keys.TEST
    fields = FieldsOfView.of(sections, dataset.names, reach_um=reach_um)
    return np.flatnonzero(apart(fields, parts) == keys.TRAIN)
