"""Regression on what a slide is made of: numbers that have names, some of which may be missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histocell._core.errors import warn
from histocell.models.slides.pooled import MeanPooling

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from histocell._core.types import Bools, Floats
    from histocell.models.folds import FitRows
    from histocell.models.places import Places
    from histocell.models.problem import Joined


class Composition(MeanPooling):
    """Logistic regression, or Cox regression, on shares and co-localizations of the cells of a slide.

    A missing number counts as the mean of the training slides. Columns that are constant or never known in these have a
    coefficient of 0.

    Parameters
    ----------
    **config
        Settings: ``outcome`` (``"classes"`` or ``"survival"``), ``C`` (one over the strength of the penalty), ``balanced``.

    Examples
    --------
    >>> import numpy as np
    >>> import histocell as hc
    >>> shares = np.random.default_rng(0).dirichlet([2, 2, 2], size=30)
    >>> Y = np.eye(2)[(shares[:, 0] > 0.3).astype(int)]
    >>> hc.models.Composition().fit(shares, Y).weights["coefficients"][1].argmax()
    np.int64(0)
    """

    name = "composition"
    summary = "Logistic regression, or Cox regression, on shares and co-localizations of the cells of a slide."
    needs = "the table of hc.tl.summarize_slides"
    limits = "sees what was predicted of the cells, and nothing else of the tissue"

    def has_features(self, X: np.ndarray | Joined) -> Bools:
        """Slides of which anything is known."""
        return np.isfinite(np.asarray(X)).any(axis=1)

    def _fit(self, X: np.ndarray, Y: Floats, rows: FitRows, rng: np.random.Generator, device: str | None) -> None:
        known = np.isfinite(X[rows.train])
        count = known.sum(axis=0)
        total = np.where(known, X[rows.train], 0.0).sum(axis=0, dtype=np.float64)
        _tell_missing(known, "training slides")
        super()._fit(_filled(X, total / np.maximum(count, 1)), Y, rows, rng, device)

    def predict(self, X: ArrayLike, *, places: Places | None = None, device: str | None = None) -> Floats:
        """Probability of each class, ``(n, n_classes)``, or the risk, ``(n, 1)``; NaN for rows of which nothing is known."""
        X = np.asarray(X, dtype=np.float64)
        self._check_width(X, len(self.weights.get("input_mean", ())))
        known = self.has_features(X)
        _tell_missing(np.isfinite(X[known]), "slides to predict")
        return np.where(known[:, None], super().predict(_filled(X, self.weights["input_mean"])), np.nan)


def _filled(X: np.ndarray, mean: Floats) -> Floats:
    return np.where(np.isfinite(X), X, mean)


def _tell_missing(known: Bools, what: str) -> None:
    if not known.all():
        never = int((~known.any(axis=0)).sum())
        of_columns = f"; {never} columns are never known" if never else ""
        warn(
            f"composition: {int((~known).sum())} of {known.size} numbers of {len(known)} {what} are missing{of_columns}; the mean "
            "of the training slides stands in for them"
        )
