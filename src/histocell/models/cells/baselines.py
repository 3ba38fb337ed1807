"""Baselines of cell types: the most frequent one, nearest neighbours, logistic regression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histocell._core.settings import logger
from histocell.models.cells.base import Classifier, ClassifierConfig
from histocell.models.settings import limited

if TYPE_CHECKING:
    from histocell._core.types import Floats, Ints
    from histocell.models.cells.base import Cells
    from histocell.models.places import Places

_ABSENT = -30.0  # logit of a class that no training row has


class Majority(Classifier):
    """The shares of the training rows, whatever the features: every cell is of the most frequent type."""

    name = "majority"
    summary = "The most frequent type of the training rows for every cell."
    limits = "looks at no features"
    cost = "none"
    reference = "none"

    def _learn(
        self, cells: Cells, held: Cells | None, rng: np.random.Generator, device: str | None, epochs: int | None
    ) -> int | None:
        count = np.bincount(cells.labels, minlength=len(self.weights["class_weight"]))
        share = (count + 1e-9) / (count + 1e-9).sum()
        self.weights |= {"share": share, "class_weight": np.ones(len(share))}
        return None

    def _logits(self, X: np.ndarray, places: Places | None, device: str | None) -> Floats:
        return np.tile(np.log(self.weights["share"]), (len(X), 1))

    def _shapes(self, n_features: int, n_classes: int) -> dict[str, tuple[int, ...]]:
        return {"share": (n_classes,)}


@dataclass(frozen=True)
class LogisticConfig(ClassifierConfig):
    """Settings of `Logistic`.

    Attributes
    ----------
    penalty
        Strength of the L2 penalty on the sum of the loss over the rows.
    max_rows
        It is fitted on at most so many rows, drawn by chance.
    max_iter
        Most steps.
    """

    penalty: float = limited(10.0, above=0)
    max_rows: int = limited(50_000, least=2)
    max_iter: int = limited(200, least=1)


class Logistic(Classifier):
    """Multinomial logistic regression on the features side by side; a missing modality counts as its mean."""

    name = "logistic"
    summary = "Multinomial logistic regression on genes and image side by side."
    limits = "sees no interplay of features; learns from at most 50,000 cells unless max_rows= says more"
    cost = "seconds to a minute on a CPU"
    reference = "scikit-learn's LogisticRegression"
    config_class = LogisticConfig
    config: LogisticConfig

    def _learn(
        self, cells: Cells, held: Cells | None, rng: np.random.Generator, device: str | None, epochs: int | None
    ) -> int | None:
        import warnings

        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        cells = cells.take(_some(len(cells.rows), self.config.max_rows, rng))
        weights = self.weights["class_weight"]
        model = LogisticRegression(C=1 / self.config.penalty, max_iter=self.config.max_iter)
        with warnings.catch_warnings():  # what it has reached by then is as good
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(self._scaled_cells(cells), cells.labels, sample_weight=weights[cells.labels])
        coefficients, intercept = model.coef_, model.intercept_
        if len(model.classes_) == 2:  # one line of the second class against the first
            coefficients, intercept = np.vstack([-coefficients, coefficients]) / 2, np.append(-intercept, intercept) / 2
        learnt = np.zeros((len(weights), coefficients.shape[1])), np.full(len(weights), _ABSENT)
        learnt[0][model.classes_], learnt[1][model.classes_] = coefficients, intercept
        self.weights |= {"coefficients": learnt[0], "intercept": learnt[1]}
        return None

    def _logits(self, X: np.ndarray, places: Places | None, device: str | None) -> Floats:
        return self._scaled(X) @ self.weights["coefficients"].T + self.weights["intercept"]

    def _shapes(self, n_features: int, n_classes: int) -> dict[str, tuple[int, ...]]:
        return {"coefficients": (n_classes, n_features), "intercept": (n_classes,)}


@dataclass(frozen=True)
class NearestConfig(ClassifierConfig):
    """Settings of `Nearest`.

    Attributes
    ----------
    n_neighbors
        Number of neighbours.
    n_components
        Number of principal components in which they are near; fewer where there are fewer features.
    max_rows
        It remembers at most so many rows, drawn by chance.
    """

    n_neighbors: int = limited(15, least=1)
    n_components: int = limited(32, least=1)
    max_rows: int = limited(20_000, least=2)


class Nearest(Classifier):
    """The types of the nearest training cells in the principal components of the features side by side."""

    name = "knn"
    summary = "Vote of the 15 nearest training cells, in 32 principal components of genes and image side by side."
    limits = "remembers at most 20,000 cells unless max_rows= says more; a missing modality counts as its mean"
    cost = "seconds on a CPU; the model holds the components of the cells that it remembers"
    reference = "none"
    config_class = NearestConfig
    config: NearestConfig

    def _learn(
        self, cells: Cells, held: Cells | None, rng: np.random.Generator, device: str | None, epochs: int | None
    ) -> int | None:
        from sklearn.decomposition import PCA

        cells = cells.take(_some(len(cells.rows), self.config.max_rows, rng))
        X = self._scaled_cells(cells)
        n_components = min(self.config.n_components, *X.shape)
        solver = "full" if min(X.shape) < 4 * n_components else "randomized"
        pca = PCA(n_components, svd_solver=solver, random_state=int(rng.integers(2**31 - 1))).fit(X)
        axes = np.ascontiguousarray(pca.components_.T, dtype=np.float32)
        self.weights |= {"axes": axes, "cells": (X @ axes).astype(np.float32), "labels": cells.labels.astype(np.int32)}
        self.weights["class_weight"] = np.ones(len(self.weights["class_weight"]))  # votes are not weighted
        return None

    def _logits(self, X: np.ndarray, places: Places | None, device: str | None) -> Floats:
        from sklearn.neighbors import NearestNeighbors

        known, labels, n_classes = self.weights["cells"], self.weights["labels"], len(self.weights["class_weight"])
        if not len(X):
            return np.zeros((0, n_classes))
        n_neighbors = min(self.config.n_neighbors, len(known))
        search = NearestNeighbors(n_neighbors=n_neighbors, algorithm="brute").fit(known)
        votes = labels[search.kneighbors(self._scaled(X) @ self.weights["axes"], return_distance=False)]
        shares = np.bincount(labels, minlength=n_classes) / len(labels)
        counts = np.stack([(votes == each).sum(axis=1) for each in range(n_classes)], axis=1)
        return np.log((counts + shares + 1e-9) / (n_neighbors + 1))

    def _shapes(self, n_features: int, n_classes: int) -> dict[str, tuple[int, ...]]:
        n_cells, n_components = (
            self.weights["cells"].shape if self.weights.get("cells", np.empty(0)).ndim == 2 else (0, 0)
        )
        return {"axes": (n_features, n_components), "cells": (n_cells, n_components), "labels": (n_cells,)}


def _some(n_rows: int, most: int, rng: np.random.Generator) -> Ints:
    """At most so many rows, drawn by chance, in order."""
    if n_rows <= most:
        return np.arange(n_rows)
    logger.info("%d of %d rows are used", most, n_rows)
    return np.sort(rng.choice(n_rows, most, replace=False))
