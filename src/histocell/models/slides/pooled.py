"""Models of the mean of the tiles of a slide, and the one that looks at none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histocell._core.errors import warn
from histocell.models.problem import finite_rows
from histocell.models.settings import limited
from histocell.models.slides.base import SlideConfig, SlideModel, check_outcome, fit_scale

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from histocell._core.types import Bools, Floats
    from histocell.models.folds import FitRows
    from histocell.models.places import Places
    from histocell.models.problem import Joined

_FAR = 10.0  # standard deviations
_ABSENT = -30.0  # logit of a class that no training slide has


class CommonClass(SlideModel):
    """The shares of the training slides, whatever the tiles: every slide is of the most frequent class."""

    name = "common_class"
    summary = "The most frequent class of the training slides for every slide."
    needs = "nothing"
    limits = "looks at no features; says nothing of survival"
    cost = "none"
    reference = "none"

    def has_features(self, X: np.ndarray | Joined) -> Bools:
        """Slides of which anything is known, as of a composition."""
        return np.isfinite(np.asarray(X)).any(axis=1)

    def _fit(self, X: np.ndarray, Y: Floats, rows: FitRows, rng: np.random.Generator, device: str | None) -> None:
        check_outcome(Y, rows.train, self.config.outcome)
        share = np.full(1, 1.0) if self.is_survival else Y[rows.train].mean(axis=0)
        self.weights = {"share": share}

    def predict(self, X: ArrayLike, *, places: Places | None = None, device: str | None = None) -> Floats:
        """Shares of the classes in every row, ``(n, n_classes)``; a constant risk, ``(n, 1)``."""
        self._check_fitted()
        return np.tile(self.weights["share"], (len(np.asarray(X)), 1))


@dataclass(frozen=True)
class MeanPoolingConfig(SlideConfig):
    """Settings of `MeanPooling`.

    Attributes
    ----------
    C
        One over the strength of the L2 penalty on the sum of the loss over the slides.
    balanced
        Whether classes weigh the same in all.
    """

    C: float = limited(0.5, above=0)
    balanced: bool = True


class MeanPooling(SlideModel):
    """Logistic regression, or Cox regression, on the standardised mean of the tiles of a slide.

    Parameters
    ----------
    **config
        Settings: ``outcome`` (``"classes"`` or ``"survival"``), ``C`` (one over the strength of the penalty), ``balanced``.

    Examples
    --------
    >>> import numpy as np
    >>> import histocell as hc
    >>> means = np.random.default_rng(0).normal(size=(30, 4))
    >>> Y = np.eye(2)[(means[:, 0] > 0).astype(int)]
    >>> hc.models.MeanPooling().fit(means, Y).predict(means).shape
    (30, 2)
    """

    name = "mean_pooling"
    summary = "Logistic regression, or Cox regression, on the mean of the tiles of a slide."
    limits = "a few tiles among thousands hardly move the mean"
    cost = "seconds on a CPU"
    reference = "none"
    config_class = MeanPoolingConfig
    config: MeanPoolingConfig

    def _fit(self, X: np.ndarray, Y: Floats, rows: FitRows, rng: np.random.Generator, device: str | None) -> None:
        check_outcome(Y, rows.train, self.config.outcome)
        X, Y = np.asarray(X[rows.train], dtype=np.float64), Y[rows.train]
        weights = fit_scale(X)
        scaled = (X - weights["input_mean"]) * weights["input_scale"]
        if self.is_survival:
            from histocell.models.slides.cox import fit_cox

            beta = fit_cox(scaled, *Y.T, penalty=1 / self.config.C)
            self.weights = weights | {"coefficients": beta[None], "intercept": np.zeros(1)}
        else:
            self.weights = weights | _logistic(scaled, Y, self.config)

    def predict(self, X: ArrayLike, *, places: Places | None = None, device: str | None = None) -> Floats:
        """Probability of each class, ``(n, n_classes)``, or the risk, ``(n, 1)``; NaN for rows that are not finite."""
        X = np.asarray(X, dtype=np.float64)
        self._check_width(X, len(self.weights.get("input_mean", ())))
        out, known = np.full((len(X), len(self.weights["intercept"])), np.nan), finite_rows(X)
        scaled = (X[known] - self.weights["input_mean"]) * self.weights["input_scale"]
        self._warn_of_others(scaled)
        out[known] = self._as_outputs(scaled @ self.weights["coefficients"].T + self.weights["intercept"])
        return out

    def _warn_of_others(self, scaled: Floats) -> None:
        """Warn where slides are not of the kind, or numbers not in the unit, of the fit."""
        counts = (self.weights["coefficients"] != 0).any(axis=0)
        if len(scaled) and (far := int((counts & (np.median(np.abs(scaled), axis=0) > _FAR)).sum())):
            warn(
                f"{self.name}: in {far} of {scaled.shape[1]} columns the {len(scaled)} slides lie mostly over {_FAR:g} standard "
                "deviations from those of the fit: another unit, or another kind of slide; do not rely on what is predicted"
            )

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes that weights must have by features and targets."""
        n_features = sum(feature["dim"] for feature in self.features) or self.weights["input_mean"].size
        n_out = len(self.targets) or self.weights["intercept"].size
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("input_mean", "input_scale"), (n_features,))
        return shapes | {"coefficients": (n_out, n_features), "intercept": (n_out,)}


def _logistic(X: Floats, Y: Floats, config: MeanPoolingConfig) -> dict[str, Floats]:
    """A line of coefficients for each class."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=config.C, class_weight="balanced" if config.balanced else None, max_iter=2000)
    model.fit(X, Y.argmax(axis=1))
    coefficients, intercept = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # one line of the second class against the first
        coefficients, intercept = np.vstack([-coefficients, coefficients]) / 2, np.append(-intercept, intercept) / 2
    learnt = np.zeros((Y.shape[1], X.shape[1])), np.full(Y.shape[1], _ABSENT)
    learnt[0][model.classes_], learnt[1][model.classes_] = coefficients, intercept
    return {"coefficients": learnt[0], "intercept": learnt[1]}
