"""The probe of HEST-Bench as a regressor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histocell.models.expression.probe import N_COMPONENTS, Moments, choose_alpha, fit_probe
from histocell.models.regressors.base import Regressor, RegressorConfig
from histocell.models.settings import limited

if TYPE_CHECKING:
    from histocell._core.types import Floats, Ints
    from histocell.models.folds import FitRows


@dataclass(frozen=True)
class HestConfig(RegressorConfig):
    """Settings of `Hest`.

    Attributes
    ----------
    alpha
        ``"hest"``: the penalty of HEST-Bench, 100 / (components x targets). ``"cv"``: the best one by correlation on groups
        of the training rows that are left out in turn. Or a number, as text or not.
    n_components
        Principal components of the standardised features.
    nonnegative
        Whether predictions are clipped at 0; HEST-Bench does not.
    max_folds
        Groups are held out in at most this many folds.
    """

    alpha: str = "hest"
    n_components: int = limited(N_COMPONENTS, least=1)
    nonnegative: bool = False
    max_folds: int = limited(5, least=2)


class Hest(Regressor):
    """The probe of HEST-Bench: standardised features, 256 principal components, ridge.

    Solved exactly, in float64; see `histocell.models.expression.probe`. HEST-Bench fits no intercept, which leaves the mean
    of each gene out; it is added back here, which changes no correlation. Of several views of the features it sees the
    first, the features as they are.

    References
    ----------
    Jaume et al.: HEST-1k (NeurIPS 2024), arXiv:2406.16192.

    Examples
    --------
    >>> import numpy as np
    >>> import histocell as hc
    >>> X = np.random.default_rng(0).normal(size=(60, 4))
    >>> model = hc.models.Hest(alpha="cv").fit(X, X[:, :2] + 5, groups=np.repeat(["a", "b", "c"], 20), rng=0)
    >>> model.predict(X).shape
    (60, 2)
    """

    name = "hest"
    summary = (
        "The probe of HEST-Bench: standardised features, 256 principal components, ridge with a fixed small penalty."
    )
    tasks = ("expression",)
    limits = 'linear; the fixed penalty is far too small for many genes and features: alpha="cv" chooses one'
    cost = "one eigendecomposition on a processor"
    reference = "Jaume et al. 2024, arXiv:2406.16192"
    config_class = HestConfig
    config: HestConfig
    _output = "intercept"

    def _fit_scales(self, X: np.ndarray, Y: Floats, rows: FitRows) -> Floats:
        scaled = super()._fit_scales(X, Y, rows)
        del self.weights["input_clip"]  # the probe cuts nothing off
        return scaled

    def _fit_scaled(self, X: Floats, Y: Floats, rows: FitRows, rng: np.random.Generator, device: str | None) -> Floats:
        X = np.split(X, self.config.n_views, axis=1)[0]
        folds = rows.held_out(max_folds=self.config.max_folds)
        groups = [fold.held for fold in rows.folds(max_folds=self.config.max_folds)]
        alpha = self._alpha(X, Y, groups)
        coefficients, intercept, chosen = self._fit_rows(X, Y, np.flatnonzero(rows.train), alpha)
        padded = np.zeros((X.shape[1] * self.config.n_views, Y.shape[1]))
        padded[: X.shape[1]] = coefficients
        self.weights |= {"coefficients": padded, "intercept": intercept, "alpha": np.array([chosen])}
        held = np.full(Y.shape, np.nan)
        for fold in folds:
            coefficients, intercept, _ = self._fit_rows(X, Y, fold.fit, alpha)
            held[fold.held] = X[fold.held] @ coefficients + intercept
        return held

    def _fit_rows(self, X: Floats, Y: Floats, rows: Ints, alpha: float | None) -> tuple[Floats, Floats, float]:
        moments = Moments.of(X[rows], Y[rows])
        probe = fit_probe(moments, n_components=self.config.n_components, alpha=alpha)
        return probe.coefficients, probe.intercept + moments.mean_y, probe.alpha

    def _alpha(self, X: Floats, Y: Floats, groups: list[Ints]) -> float | None:
        """The penalty, `None` for that of HEST-Bench."""
        if self.config.alpha == "hest":
            return None
        if self.config.alpha == "cv":
            parts = [Moments.of(X[rows], Y[rows]) for rows in groups]
            return choose_alpha(parts, n_components=self.config.n_components, max_folds=self.config.max_folds)
        try:
            return float(self.config.alpha)
        except ValueError:
            msg = f"alpha must be 'hest', 'cv' or a number, not {self.config.alpha!r}"
            raise ValueError(msg) from None

    def _predict(self, X: Floats, device: str | None) -> Floats:
        return X @ self.weights["coefficients"] + self.weights["intercept"]

    def _shapes(self, n_features: int, n_targets: int) -> dict[str, tuple[int, ...]]:
        return {"coefficients": (n_features, n_targets), "intercept": (n_targets,), "alpha": (1,)}
