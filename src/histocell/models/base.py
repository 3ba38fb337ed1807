"""What every model on arrays shares: checks, scaling, intervals, and one strict form for `uns` and for disk."""

from __future__ import annotations

import dataclasses
import importlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from histocell._core.errors import listing, warn
from histocell._core.rng import as_rng
from histocell.models import scaling
from histocell.models.intervals import apply_interval, fit_interval

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    from histocell._core.rng import RNGLike, SeedLike

    type Arrays = dict[str, NDArray[Any]]
    type Floats = NDArray[np.float64]

# Name in files and arguments to the module and class of it. Adding a model = one file + one row.
REGISTRY = {
    "mean": ("histocell.models.regressors.ridge", "Mean"),
    "mlp": ("histocell.models.regressors.mlp", "MLP"),
    "ridge": ("histocell.models.regressors.ridge", "Ridge"),
}
_CHUNK = 16_384


@dataclasses.dataclass(frozen=True)
class Config:
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


class Model(ABC):
    """A regression model: features in, one value per target out.

    Attributes
    ----------
    config
        Settings, fixed when the model is made.
    features
        What the features are, one entry per embedding: ``key``, ``dim`` and what is known of the encoder.
    targets
        Names of the targets.
    facts
        Plain facts about the training: number of rows, groups, ...
    weights
        Everything that was learnt, scalers and intervals too; empty before `fit`.
    history
        Curves of the training.
    baselines
        Simpler models fitted on the same rows.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[Config]] = Config

    def __init__(self, **config: Any) -> None:
        self.config = make_config(self.config_class, config, type(self).__name__)
        self.features: list[dict[str, Any]] = []
        self.targets: list[str] = []
        self.facts: dict[str, Any] = {}
        self.weights: Arrays = {}
        self.history: Arrays = {}
        self.baselines: dict[str, Model] = {}

    @abstractmethod
    def _fit(self, X: Floats, Y: Floats, train: NDArray[np.bool_], groups: Any, rng: Any, device: Any) -> Floats:
        """Learn from the rows in `train`; return predictions for rows that were held out, NaN elsewhere."""

    @abstractmethod
    def _predict(self, X: Floats, device: Any) -> Floats:
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
        features, targets, labels, train = _usable(X, Y, groups, validation)
        transform = self.config.target_transform
        self.weights = {**scaling.fit_input(features[train]), **scaling.fit_target(targets[train], transform)}
        self.history, self.baselines = {}, {}
        flat = scaling.constant_columns(targets[train])
        if flat.any():
            warn(f"{int(flat.sum())} of {len(flat)} targets do not vary in the training rows; predicted as constants")
        held = self._fit(
            scaling.apply_input(features, self.weights),
            scaling.forward_target(targets, transform, self.weights),
            train,
            labels,
            as_rng(rng),
            device,
        )
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

    def to_dict(self) -> dict[str, Any]:
        """Config, weights and history as `uns` holds them: one JSON string and two flat mappings of arrays."""
        from histocell.models import files

        return files.to_dict(self)

    def save(self, folder: Any, *, overwrite: bool = False) -> None:
        """Write ``config.json``, ``model.safetensors`` and a model card, ``README.md``, into `folder`."""
        from histocell.models import files

        files.save(self, folder, overwrite=overwrite)

    def __repr__(self) -> str:
        state = f"{len(self.targets) or '?'} targets" if self.weights else "not fitted"
        return f"{type(self).__name__}({state}, features: {listing(f['key'] for f in self.features)})"

    def _predict_chunk(self, X: NDArray[Any], device: str | None) -> Floats:
        finite = np.isfinite(X).all(axis=1)
        inside = self._in_units(self._predict(scaling.apply_input(X[finite], self.weights), device))
        out = np.full((len(X), inside.shape[1]), np.nan)
        out[finite] = inside
        return out

    def _in_units(self, scaled: Floats) -> Floats:
        out = scaling.inverse_target(scaled, self.config.target_transform, self.weights)
        return np.maximum(out, 0.0) if self.config.nonnegative else out

    def _check_fitted(self) -> None:
        if not self.weights:
            msg = f"this {type(self).__name__} is not fitted; call fit first"
            raise ValueError(msg)


def make_config[C](cls: type[C], values: Mapping[str, Any], owner: str) -> C:
    """A config from settings; an unknown one is a `TypeError` that lists those there are."""
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    if unknown := [key for key in values if key not in names]:
        msg = f"{owner} has no setting {listing(unknown)}; it has: {', '.join(names)}"
        raise TypeError(msg)
    # JSON knows no tuples.
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def model_class(name: str) -> type[Model]:
    """The class of a model name, or an error that lists the names."""
    if name not in REGISTRY:
        msg = f"unknown model {name!r}; there are: {', '.join(REGISTRY)}"
        raise ValueError(msg)
    module, attribute = REGISTRY[name]
    return getattr(importlib.import_module(module), attribute)


def load(source: Any) -> Model:
    """Load a fitted model.

    Parameters
    ----------
    source
        A folder that `Model.save` wrote, or the mapping that ``uns["abundance_model"]`` holds.

    Raises
    ------
    FileNotFoundError
        When the folder or one of its files is not there.
    ValueError
        When names, shapes or types of the weights are not exactly those that the config lists.
    """
    from histocell.models import files

    return files.load(source)


def _usable(X: ArrayLike, Y: ArrayLike, groups: ArrayLike | None, validation: ArrayLike | None) -> tuple[Any, ...]:
    """The rows that can be used, and which of them are fitted."""
    X, Y = np.asarray(X), np.asarray(Y, dtype=np.float64)
    if X.ndim != 2 or Y.ndim != 2 or len(X) != len(Y):
        msg = f"X and Y must have shapes (n, n_features) and (n, n_targets); they have {X.shape} and {Y.shape}"
        raise ValueError(msg)
    train = np.ones(len(X), dtype=bool) if validation is None else ~np.asarray(validation, dtype=bool)
    labels = None if groups is None else np.asarray(groups)
    for name, value in (("groups", labels), ("validation", train)):
        if value is not None and value.shape != (len(X),):
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
    return X[finite], Y[finite], None if labels is None else labels[finite], train[finite]
