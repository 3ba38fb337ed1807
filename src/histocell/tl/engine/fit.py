"""Fit a model of any task, and the baselines beside it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from histocell._core.rng import as_rng
from histocell.models.fingerprint import Fingerprint
from histocell.models.registry import model_class
from histocell.tables.fields import FieldsOfView
from histocell.tables.sections import Sections
from histocell.tl.engine import features as _features
from histocell.tl.engine.places import places_of
from histocell.tl.engine.rows import row_hashes
from histocell.tl.engine.views import Views

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from histocell._core.rng import RNGLike, SeedLike
    from histocell._core.types import Bools
    from histocell.models.base import Model
    from histocell.models.files import JSON
    from histocell.models.places import Places
    from histocell.tl.engine.rows import Rows
    from histocell.tl.engine.task import Task, Values


@dataclass(frozen=True)
class Dataset:
    """Features and truth of a table.

    Attributes
    ----------
    table
        The table.
    features
        Its embeddings, as a model remembers them.
    X
        Their numbers side by side, standardised if asked, ``(n, n_features)``.
    truth
        The targets.
    target
        Where the truth comes from.
    views
        Whether the features are standardised within sections, or stand there twice, as they are and standardised.
    places
        Where the rows lie, for models that need it; see `histocell.tl.engine.layout`.
    """

    table: AnnData
    features: list[JSON]
    X: np.ndarray
    truth: Values
    target: str
    views: Views
    places: Places | None = None

    @classmethod
    def read(
        cls,
        task: Task,
        table: AnnData,
        features: str | Sequence[str] | None,
        target: str,
        standardize_by: str | None,
        like: Dataset | None = None,
        *,
        unseen: Bools | None = None,
    ) -> Dataset:
        """The features and the truth of a task; the features as in another dataset, `like`, and not scaled by `unseen` rows."""
        if like is None:
            described = _features.describe(table, _features.embedding_keys(table, features))
            views = Views.choose(standardize_by, table)
        else:
            described, views = like.features, like.views
        X = views.apply(_features.feature_matrix(table, described), table, unseen=unseen)
        return cls(table, described, X, task.target(table, target), target, views)

    @property
    def names(self) -> list[str]:
        """Keys of the embeddings."""
        return [feature["key"] for feature in self.features]

    @cached_property
    def known(self) -> Bools:
        """Rows whose targets are all known."""
        return np.isfinite(self.truth.array).all(axis=1)

    @cached_property
    def hashes(self) -> NDArray[np.uint64]:
        """Hashes of the rows, by which an evaluation recognises them."""
        return row_hashes(self.table, self.names)

    def fingerprint(self, rows: Rows, model: Model) -> Fingerprint:
        """Of a `model` that is fitted on `rows`."""
        used = model.has_features(self.X)[rows.index]
        return Fingerprint.of(self.hashes[rows.index[used]], rows.validation[used])


def fit(
    task: Task,
    model: Model,
    dataset: Dataset,
    rows: Rows,
    *,
    rng: SeedLike | RNGLike | None,
    device: str | None,
    baselines: bool = True,
) -> Model:
    """Fit a model and, on the same rows, the task's baselines; it then knows its features, targets and rows."""
    X, Y = dataset.X, dataset.truth.array
    validation = rows.validation if rows.validation.any() else None
    index, groups = rows.index, rows.groups
    known = None if dataset.places is None else dataset.places.rows(index)
    weights = None if dataset.truth.weights is None else dataset.truth.weights[index]
    settings: dict[str, Any] = {"index": index, "groups": groups, "validation": validation, "weights": weights}
    fit_rows = partial(model.fit, X, Y, **settings, device=device)
    if model.needs_places:
        fit_rows(places=known, rng=as_rng(rng))
    else:
        fit_rows(rng=as_rng(rng))
    for name in task.baselines_of(model.name) if baselines else ():
        with warnings.catch_warnings():  # rows left out and constant targets were warned of already
            warnings.simplefilter("ignore", UserWarning)
            baseline = model_class(name).baseline_for(model)
            model.baselines[name] = baseline.fit(X, Y, **settings)
    for each in model.baselines.values():
        _describe(task, each, dataset, rows)
    remember(task, model, dataset, rows)
    return model


def remember(task: Task, model: Model, dataset: Dataset, rows: Rows, *, reach_um: float | None = None) -> None:
    """Tell a model what it is fitted on: its features, targets and rows, by which an evaluation recognises them.

    `reach_um` says how far it looks beside a row, by default what it says itself.
    """
    _describe(task, model, dataset, rows)
    sections = Sections(dataset.table, library_key=rows.library_key)
    fields = FieldsOfView.of(sections, dataset.names, reach_um=model.reach_um() if reach_um is None else reach_um)
    fitted, resolutions = places_of(fields, rows.index)
    model.facts["sections"] = resolutions
    model.fingerprint = dataset.fingerprint(rows, model)._replace(places=fitted)


def _describe(task: Task, model: Model, dataset: Dataset, rows: Rows) -> None:
    model.features = dataset.features
    model.targets = dataset.truth.names
    model.facts |= {
        "task": task.name,
        "target": dataset.target,
        **dataset.views.facts,
        "group_key": rows.group_key,
        "library_key": rows.library_key,
        "original_names": dataset.truth.renamed,
        "groups": [str(name) for name in np.unique(rows.groups[~rows.validation])],
    }
