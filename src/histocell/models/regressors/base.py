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
from histocell.models.intervals import apply_interval, fit_interval
from histocell.models.places import check_finite
from histocell.models.settings import Config, limited

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from histocell._core.types import Floats
    from histocell.models.folds import FitRows
    from histocell.models.places import Places


_CHUNK = 16_384


@dataclass(frozen=True)
class RegressorConfig(Config):
    """Settings that all regression models know.

    Attributes
    ----------
    target_transform
        ``"none"``, ``"log1p"``, ``"sqrt"`` or ``"standard"`` (each target to mean 0 and standard deviation 1), fitted
        on training rows and inverted at prediction.
    nonnegative
        Whether predictions and lower bounds are clipped at 0.
    interval
        Share of true values that the predicted interval should hold; `None` for no interval.
    """

    target_transform: str = limited("none", choices=scaling.TRANSFORMS)
    nonnegative: bool = True
    interval: float | None = limited(0.9, above=0, below=1)


class Regressor(Model):
    """A regression model: features in, one value per target out, with an interval."""

    config_class = RegressorConfig
    config: RegressorConfig
    tasks = ("abundance",)
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
        self.weights = {**scaling.fit_input(X[train]), **scaling.fit_target(Y[train], transform)}
        flat = scaling.constant_columns(Y[train])
        if flat.any():
            warn(f"{int(flat.sum())} of {len(flat)} targets do not vary in the training rows; predicted as constants")
        return scaling.forward_target(Y, transform, self.weights)

    def _fit_errors(self, X: np.ndarray, Y: Floats, rows: FitRows, held: Floats) -> None:
        """Learn from predictions of rows that were held out how far off the model is."""
        del X, rows
        if self.config.interval is not None:
            self.weights |= fit_interval(Y, self._in_units(held), self.config.interval)

    def predict(self, X: ArrayLike, *, places: Places | None = None, device: str | None = None) -> Floats:
        """Predicted targets in their own units, shape ``(n, n_targets)``; NaN for rows that are not finite."""
        self._check_fitted()
        X = np.asarray(X)
        n_features = len(self.weights["input_mean"])
        if X.ndim != 2 or X.shape[1] != n_features:
            msg = f"X must have shape (n, {n_features}), as the model was fitted; it has {X.shape}"
            raise ValueError(msg)
        known = self._checked_places(places, len(X))
        if known is not None:
            return self._predict_chunk(X, device, known)
        parts = [self._predict_chunk(X[start : start + _CHUNK], device) for start in range(0, max(len(X), 1), _CHUNK)]
        return np.concatenate(parts)

    def interval(self, predicted: Floats) -> tuple[Floats, Floats]:
        """Lower and upper bounds for predictions, each shape ``(n, n_targets)``.

        Raises
        ------
        ValueError
            When the model was fitted with ``interval=None``.
        """
        if not self.has_interval:
            msg = "this model has no interval; fit it with interval=0.9"
            raise ValueError(msg)
        lower, upper = apply_interval(predicted, self.weights)
        return (np.maximum(lower, 0.0) if self.config.nonnegative else lower), upper

    @property
    def has_interval(self) -> bool:
        """Whether the model can say how sure it is."""
        return "interval_low" in self.weights

    def outputs(self, X: ArrayLike, *, places: Places | None = None, device: str | None = None) -> dict[str, Floats]:
        """The prediction, and its interval under ``_lower`` and ``_upper`` where the model has one."""
        predicted = self.predict(X, places=places, device=device)
        if not self.has_interval:
            return {"": predicted}
        return {"": predicted} | dict(zip((keys.LOWER, keys.UPPER), self.interval(predicted), strict=True))

    @classmethod
    def baseline_for(cls, model: Model) -> Self:
        """A model of this class in the units of `model`, without an interval."""
        return cls(**{name: getattr(model.config, name) for name in ("target_transform", "nonnegative")}, interval=None)

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes that weights must have by settings, features and targets."""
        sizes = {name: array.shape for name, array in self.weights.items() if array.ndim}
        n_features = sum(feature["dim"] for feature in self.features) or math.prod(sizes.get("input_mean", ()))
        n_targets = len(self.targets) or next(
            (sizes[name][-1] for name in ("target_mean", self._output) if name in sizes), 0
        )
        expected: dict[str, tuple[int, ...]] = {"input_mean": (n_features,), "input_scale": (n_features,)}
        expected |= self._shapes(n_features, n_targets)
        if self.config.target_transform == "standard":
            expected |= dict.fromkeys(("target_mean", "target_std"), (n_targets,))
        if self.config.interval is not None or self.has_interval:
            n_bins = sizes.get("interval_low", (1,))[-1]
            expected |= {"interval_edges": (n_targets, n_bins - 1)}
            expected |= {f"interval_{end}": (n_targets, n_bins) for end in ("low", "high")}
        return expected

    def _shapes(self, n_features: int, n_targets: int) -> dict[str, tuple[int, ...]]:
        """Shapes of what `_fit_scaled` learns; the last axis of the weights called `_output` is that of the targets."""
        return {}

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
        return np.maximum(out, 0.0) if self.config.nonnegative else out
