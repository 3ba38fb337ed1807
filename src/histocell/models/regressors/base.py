"""The base of models that predict numbers: checks of rows, scaling, transforms of the target, and intervals."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from histocell._core import keys
from histocell._core.errors import warn
from histocell._core.rng import as_rng
from histocell.models import scaling
from histocell.models.base import Config, Model
from histocell.models.folds import FitRows
from histocell.models.intervals import apply_interval, fit_interval

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from histocell._core.rng import RNGLike, SeedLike

    type Floats = NDArray[np.float64]

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

    target_transform: str = "none"
    nonnegative: bool = True
    interval: float | None = 0.9


class Regressor(Model):
    """A regression model: features in, one value per target out, with an interval."""

    config_class = RegressorConfig
    config: RegressorConfig

    @abstractmethod
    def _fit(self, X: Floats, Y: Floats, rows: FitRows, rng: np.random.Generator, device: str | None) -> Floats:
        """Learn from scaled features and targets; return predictions of rows that were held out, NaN elsewhere."""

    @abstractmethod
    def _predict(self, X: Floats, device: str | None) -> Floats:
        """Predict scaled targets from scaled features."""

    def fit(
        self,
        X: ArrayLike,
        Y: ArrayLike,
        *,
        groups: ArrayLike | None = None,
        validation: ArrayLike | None = None,
        rng: SeedLike | RNGLike | None = None,
        device: str | None = None,
    ) -> Self:
        """Fit the model.

        Parameters
        ----------
        X
            Features, shape ``(n, n_features)``. Rows that are not finite here or in `Y` are left out with a warning.
        Y
            Targets, shape ``(n, n_targets)``.
        groups
            Patient or section of each row. Whatever the model chooses for itself (penalty, number of epochs, width of
            the interval) is chosen on groups that it did not fit on.
        validation
            Boolean, shape ``(n,)``: rows that are for those choices only and are never fitted.
        rng
            Seed or generator; the same one gives the same model.
        device
            Torch device; `None` for the best there is. The closed-form models ignore it.

        Raises
        ------
        ValueError
            When shapes do not agree, no row is usable, or all features are constant.
        """
        features, targets, rows = _usable(X, Y, groups, validation)
        train, transform = rows.train, self.config.target_transform
        self.weights = {**scaling.fit_input(features[train]), **scaling.fit_target(targets[train], transform)}
        self.history, self.baselines, self.fingerprint = {}, {}, None
        flat = scaling.constant_columns(targets[train])
        if flat.any():
            warn(f"{int(flat.sum())} of {len(flat)} targets do not vary in the training rows; predicted as constants")
        scaled = scaling.apply_input(features, self.weights)
        held = self._fit(scaled, scaling.forward_target(targets, transform, self.weights), rows, as_rng(rng), device)
        self.facts = {"n_train": int(train.sum()), "n_validation": int((~train).sum())}
        if self.config.interval is not None:
            self.weights |= fit_interval(targets, self._in_units(held), self.config.interval)
        return self

    def predict(self, X: ArrayLike, *, device: str | None = None) -> Floats:
        """Predicted targets in their own units, shape ``(n, n_targets)``; NaN for rows that are not finite."""
        self._check_fitted()
        X = np.asarray(X)
        n_features = len(self.weights["input_mean"])
        if X.ndim != 2 or X.shape[1] != n_features:
            msg = f"X must have shape (n, {n_features}), as the model was fitted; it has {X.shape}"
            raise ValueError(msg)
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

    def outputs(self, X: ArrayLike, *, device: str | None = None) -> dict[str, Floats]:
        """The prediction, and its interval under ``_lower`` and ``_upper`` where the model has one."""
        predicted = self.predict(X, device=device)
        if not self.has_interval:
            return {"": predicted}
        return {"": predicted} | dict(zip((keys.LOWER, keys.UPPER), self.interval(predicted), strict=True))

    @classmethod
    def baseline_for(cls, model: Model) -> Self:
        """A model of this class in the units of `model`, without an interval."""
        return cls(**{name: getattr(model.config, name) for name in ("target_transform", "nonnegative")}, interval=None)

    def _predict_chunk(self, X: np.ndarray, device: str | None) -> Floats:
        finite = np.isfinite(X).all(axis=1)
        inside = self._in_units(self._predict(scaling.apply_input(X[finite], self.weights), device))
        out = np.full((len(X), inside.shape[1]), np.nan)
        out[finite] = inside
        return out

    def _in_units(self, scaled: Floats) -> Floats:
        out = scaling.inverse_target(scaled, self.config.target_transform, self.weights)
        return np.maximum(out, 0.0) if self.config.nonnegative else out


def _usable(
    X: ArrayLike, Y: ArrayLike, groups: ArrayLike | None, validation: ArrayLike | None
) -> tuple[np.ndarray, Floats, FitRows]:
    """Features and targets of the rows that can be used, and which of them are fitted."""
    X, Y = np.asarray(X), np.asarray(Y, dtype=np.float64)
    if X.ndim != 2 or Y.ndim != 2 or len(X) != len(Y):
        msg = f"X and Y must have shapes (n, n_features) and (n, n_targets); they have {X.shape} and {Y.shape}"
        raise ValueError(msg)
    train = np.ones(len(X), dtype=bool) if validation is None else ~np.asarray(validation, dtype=bool)
    labels = np.zeros(len(X), dtype=int) if groups is None else np.asarray(groups)
    for name, value in (("groups", labels), ("validation", train)):
        if value.shape != (len(X),):
            msg = f"{name} has shape {value.shape} for {len(X)} rows"
            raise ValueError(msg)
    finite = np.isfinite(X).all(axis=1) & np.isfinite(Y).all(axis=1)
    if not (finite & train).any():
        msg = f"none of the {int(train.sum())} training rows has finite features and targets"
        raise ValueError(msg)
    if not finite.all():
        warn(
            f"{int((~finite).sum())} of {len(X)} rows have features or targets that are not finite; left out of the fit"
        )
    return X[finite], Y[finite], FitRows(train[finite], labels[finite])
