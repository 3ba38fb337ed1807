"""The base of models that predict numbers: checks of rows, scaling, transforms of the target, and intervals."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from histocell._core import keys
from histocell._core.errors import warn
from histocell.models import scaling
from histocell.models.base import Model
from histocell.models.folds import Fold
from histocell.models.intervals import apply_interval, fit_interval
from histocell.models.places import check_finite
from histocell.models.regressors.novelty import fit_novelty, novelty, widening
from histocell.models.settings import Config, limited

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from histocell._core.types import Floats
    from histocell.models.folds import FitRows
    from histocell.models.places import Places


_CHUNK = 16_384
_MAX_FOLDS = 10  # groups are held out in at most this many folds to know how different they are
_GAINS = (0.5, 2.0)  # of the sum of predictions


@dataclass(frozen=True)
class RegressorConfig(Config):
    """Settings that all regression models know.

    Attributes
    ----------
    target_transform
        ``"none"``, ``"log1p"``, ``"sqrt"``, ``"standard"`` (each target to mean 0 and standard deviation 1) or ``"root"``
        (the square root with its sign, then as ``"standard"``), fitted on training rows and inverted at prediction. The
        root of an abundance varies about as much where there is little as where there is much; what its square loses of
        the mean is made good by a factor for each target, from predictions of held-out rows.
    nonnegative
        Whether predictions and lower bounds are clipped at 0.
    interval
        Share of true values that the predicted interval should hold; `None` for no interval.
    n_views
        How many views of the same features stand side by side in `X`, such as raw and standardised ones.
    """

    target_transform: str = limited("none", choices=scaling.TRANSFORMS)
    nonnegative: bool = True
    interval: float | None = limited(0.9, above=0, below=1)
    n_views: int = limited(1, least=1)


class Regressor(Model):
    """A regression model: features in, one value per target out, with an interval."""

    config_class = RegressorConfig
    config: RegressorConfig
    tasks: ClassVar[tuple[str, ...]] = ("abundance", "expression")
    _output: ClassVar[str] = ""

    @abstractmethod
    def _fit_scaled(self, X: Floats, Y: Floats, rows: FitRows, rng: np.random.Generator, device: str | None) -> Floats:
        """Learn from scaled features and targets; return predictions of rows that were held out, NaN elsewhere."""

    @abstractmethod
    def _predict(self, X: Floats, device: str | None) -> Floats:
        """Predict scaled targets from scaled features."""

    def _predict_at(self, X: Floats, places: Places | None, device: str | None) -> Floats:
        """Predict scaled targets of rows that lie at `places`, for models that need them; sections come whole."""
        del places
        return self._predict(X, device)

    def _fit(self, X: np.ndarray, Y: Floats, rows: FitRows, rng: np.random.Generator, device: str | None) -> None:
        targets = self._fit_scales(X, Y, rows)
        held = self._fit_scaled(scaling.apply_input(X, self.weights), targets, rows, rng, device)
        self._fit_errors(X, Y, rows, held)

    def _fit_scales(self, X: np.ndarray, Y: Floats, rows: FitRows) -> Floats:
        """Learn the scales of features and targets from training rows; returns the targets scaled."""
        train, transform = rows.train, self.config.target_transform
        if X.shape[1] % self.config.n_views:
            msg = f"X has {X.shape[1]} columns, which are not {self.config.n_views} views of as many features (n_views)"
            raise ValueError(msg)
        self.weights = {**scaling.fit_input(X[train]), **scaling.fit_target(Y[train], transform)}
        flat = scaling.constant_columns(Y[train])
        if flat.any():
            warn(f"{int(flat.sum())} of {len(flat)} targets do not vary in the training rows; predicted as constants")
        return scaling.forward_target(Y, transform, self.weights)

    def _fit_errors(self, X: np.ndarray, Y: Floats, rows: FitRows, held: Floats) -> None:
        """Learn from predictions of held-out rows how far off the model is, and what it has seen of features."""
        if self.config.target_transform == "root":
            self.weights["target_gain"] = _gain(Y, self._in_units(held))
        far = scaling.scale_input(X, self.weights)
        folds = [*rows.held_out(max_folds=_MAX_FOLDS), Fold(np.flatnonzero(rows.train), np.empty(0, dtype=np.intp))]
        learnt, of_held = fit_novelty(far, folds)
        self.weights |= learnt
        if self.config.interval is not None:
            self.weights |= fit_interval(Y, self._in_units(held), self.config.interval, widening(of_held))

    def predict(self, X: ArrayLike, *, places: Places | None = None, device: str | None = None) -> Floats:
        """Predicted targets in their own units, shape ``(n, n_targets)``; NaN for rows that are not finite."""
        X = self._checked_features(X)
        known = self._checked_places(places, len(X))
        if known is not None:
            return self._predict_chunk(X, device, known)
        parts = [self._predict_chunk(X[start : start + _CHUNK], device) for start in range(0, max(len(X), 1), _CHUNK)]
        return np.concatenate(parts)

    def novelty(self, X: ArrayLike) -> Floats:
        """How far rows lie from those of the fit, shape ``(n,)``: 1 for a typical group that was held out.

        NaN for rows that are not finite. See `histocell.models.regressors.novelty`.

        Raises
        ------
        ValueError
            When the model was fitted by a version that did not learn it.
        """
        if not self.has_novelty:
            msg = "this model knows no novelty, it was fitted by an older version; fit it again"
            raise ValueError(msg)
        X = self._checked_features(X)
        finite, out = np.isfinite(X).all(axis=1), np.full(len(X), np.nan)
        for start in range(0, len(X), _CHUNK):
            part = np.flatnonzero(finite[start : start + _CHUNK]) + start
            out[part] = novelty(scaling.scale_input(X[part], self.weights), self.weights)
        return out

    def interval(self, predicted: Floats, novelty: Floats | None = None) -> tuple[Floats, Floats]:
        """Lower and upper bounds for predictions, each shape ``(n, n_targets)``.

        Parameters
        ----------
        predicted
            Predictions, shape ``(n, n_targets)``.
        novelty
            That of their rows, which widens the interval; by default that of rows like those of the fit.

        Raises
        ------
        ValueError
            When the model was fitted with ``interval=None``.
        """
        if not self.has_interval:
            msg = "this model has no interval; fit it with interval=0.9"
            raise ValueError(msg)
        lower, upper = apply_interval(predicted, self.weights, None if novelty is None else widening(novelty))
        return (np.maximum(lower, 0.0) if self.config.nonnegative else lower), upper

    @property
    def has_interval(self) -> bool:
        """Whether the model can say how sure it is."""
        return "interval_low" in self.weights

    @property
    def has_novelty(self) -> bool:
        """Whether the model knows which rows are unlike those of the fit."""
        return "novelty_unit" in self.weights

    def outputs(self, X: ArrayLike, *, places: Places | None = None, device: str | None = None) -> dict[str, Floats]:
        """The prediction, its interval under ``_lower`` and ``_upper`` and its ``_novelty``, where the model has them."""
        predicted = self.predict(X, places=places, device=device)
        far = {keys.NOVELTY: self.novelty(X)} if self.has_novelty else {}
        if not self.has_interval:
            return {"": predicted} | far
        bounds = self.interval(predicted, far.get(keys.NOVELTY))
        return {"": predicted} | dict(zip((keys.LOWER, keys.UPPER), bounds, strict=True)) | far

    @classmethod
    def baseline_for(cls, model: Model) -> Self:
        """A model of this class in the units of `model`, without an interval."""
        shared = {name: getattr(model.config, name) for name in ("target_transform", "nonnegative", "n_views")}
        return cls(**shared, interval=None)

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes that weights must have by settings, features and targets."""
        sizes = {name: array.shape for name, array in self.weights.items() if array.ndim}
        described = self.config.n_views * sum(feature["dim"] for feature in self.features)
        n_features = described or math.prod(sizes.get("input_mean", ()))
        n_targets = len(self.targets) or next(
            (sizes[name][-1] for name in ("target_mean", self._output) if name in sizes), 0
        )
        expected: dict[str, tuple[int, ...]] = {"input_mean": (n_features,), "input_scale": (n_features,)}
        expected |= self._shapes(n_features, n_targets)
        if scaling.is_standardized(self.config.target_transform):
            expected |= dict.fromkeys(("target_mean", "target_std"), (n_targets,))
        if self.config.interval is not None or self.has_interval:
            n_bins = sizes.get("interval_low", (1,))[-1]
            expected |= {"interval_edges": (n_targets, n_bins - 1)}
            expected |= {f"interval_{end}": (n_targets, n_bins) for end in ("low", "high")}
        if self.config.target_transform == "root":
            expected |= {"target_gain": (n_targets,), "input_clip": (1,)}
        if self.has_novelty:
            n_axes = sizes.get("novelty_axes", (0,))[0]
            expected |= {"novelty_center": (n_features,), "novelty_axes": (n_axes, n_features), "novelty_unit": (1,)}
            expected |= {"novelty_variance": (n_axes + 1,)}
        return expected

    def _shapes(self, n_features: int, n_targets: int) -> dict[str, tuple[int, ...]]:
        """Shapes of what `_fit_scaled` learns; the last axis of the weights called `_output` is that of the targets."""
        return {}

    def _checked_features(self, X: ArrayLike) -> np.ndarray:
        """Features as an array of as many columns as the model was fitted on."""
        self._check_fitted()
        X = np.asarray(X)
        n_features = len(self.weights["input_mean"])
        if X.ndim != 2 or X.shape[1] != n_features:
            msg = f"X must have shape (n, {n_features}), as the model was fitted; it has {X.shape}"
            raise ValueError(msg)
        return X

    def _predict_chunk(self, X: np.ndarray, device: str | None, places: Places | None = None) -> Floats:
        finite = np.isfinite(X).all(axis=1)
        if places is not None:
            places = places.rows(finite)
            check_finite(places, type(self).__name__)
        inside = self._in_units(self._predict_at(scaling.apply_input(X[finite], self.weights), places, device))
        out = np.full((len(X), inside.shape[1]), np.nan)
        out[finite] = inside
        return out

    def _in_units(self, scaled: Floats) -> Floats:
        out = scaling.inverse_target(scaled, self.config.target_transform, self.weights)
        out = out * self.weights.get("target_gain", 1.0)
        return np.maximum(out, 0.0) if self.config.nonnegative else out


def _gain(Y: Floats, held: Floats) -> Floats:
    """By how much the sum of each target is more than that of its predictions; 1 where that says nothing."""
    rows = np.isfinite(held).all(axis=1)
    truth, predicted = Y[rows].sum(axis=0), held[rows].sum(axis=0)
    usable = (truth > 0) & (predicted > 0)
    return np.clip(np.divide(truth, predicted, out=np.ones_like(truth), where=usable), *_GAINS)
