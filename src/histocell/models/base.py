"""The base of all models: settings, weights, features and facts, and their way to `uns` and to disk."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from histocell._core.errors import listing
from histocell.models import files

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from histocell._core.rng import RNGLike, SeedLike
    from histocell.models.files import JSON, Arrays
    from histocell.models.fingerprint import Fingerprint

    type Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Config:
    """Settings that all models know: none."""


class Model(ABC):
    """A model on arrays: features in, one number per target out (an abundance, or the probability of a class).

    Attributes
    ----------
    config
        Settings, fixed when the model is made.
    features
        Description of the features, one entry per embedding: ``key``, ``dim`` and what is known of the encoder.
    targets
        Names of the targets.
    facts
        Plain facts about the training: number of rows, groups, ...
    weights
        Everything that was learnt, scalers and intervals too; empty before `fit`.
    history
        Curves of the training.
    fingerprint
        Hashes of the rows that were fitted; `None` for a model of plain arrays.
    baselines
        Simpler models fitted on the same rows.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[Config]] = Config

    def __init__(self, **config: object) -> None:
        self.config = make_config(self.config_class, config, type(self).__name__)
        self.features: list[JSON] = []
        self.targets: list[str] = []
        self.facts: JSON = {}
        self.weights: Arrays = {}
        self.history: Arrays = {}
        self.fingerprint: Fingerprint | None = None
        self.baselines: dict[str, Model] = {}

    @abstractmethod
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
        """Fit the model to features ``(n, n_features)`` and targets ``(n, n_targets)``."""

    @abstractmethod
    def predict(self, X: ArrayLike, *, device: str | None = None) -> Floats:
        """Predicted targets, shape ``(n, n_targets)``; NaN for rows that are not finite."""

    def outputs(self, X: ArrayLike, *, device: str | None = None) -> dict[str, Floats]:
        """Everything that the model says of rows: the prediction under ``""``, others by the ending of their slot."""
        return {"": self.predict(X, device=device)}

    @classmethod
    def baseline_for(cls, model: Model) -> Self:
        """A model of this class to be fitted beside `model`, with the settings that both must share."""
        del model
        return cls()

    def to_dict(self) -> JSON:
        """Config, weights and history as `uns` holds them: one JSON string and two flat mappings of arrays."""
        return files.to_dict(self._state())

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write ``config.json``, ``model.safetensors`` and a model card, ``README.md``, into `folder`."""
        files.write(self._state(), folder, overwrite=overwrite)

    def __repr__(self) -> str:
        state = f"{len(self.targets) or '?'} targets" if self.weights else "not fitted"
        return f"{type(self).__name__}({state}, features: {listing(f['key'] for f in self.features)})"

    def _check_fitted(self) -> None:
        if not self.weights:
            msg = f"this {type(self).__name__} is not fitted; call fit first"
            raise ValueError(msg)

    def _state(self) -> files.State:
        self._check_fitted()
        return files.State(
            model=self.name,
            config=dataclasses.asdict(self.config),
            features=self.features,
            targets=self.targets,
            facts=self.facts,
            weights=self.weights,
            history=self.history,
            fingerprint=self.fingerprint,
            baselines={name: baseline._state() for name, baseline in self.baselines.items()},
        )


def make_config[C: Config](cls: type[C], values: Mapping[str, object], owner: str) -> C:
    """A config from settings; an unknown one is a `TypeError` that lists those there are."""
    names = [field.name for field in dataclasses.fields(cls)]
    if unknown := [key for key in values if key not in names]:
        msg = f"{owner} has no setting {listing(unknown)}; it has: {', '.join(names)}"
        raise TypeError(msg)
    # JSON knows no tuples.
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
