"""The base of all models: settings, weights, features and facts, and their way to `uns` and to disk."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from histocell._core.errors import listing, warn
from histocell._core.rng import as_rng
from histocell.models import files
from histocell.models.folds import FitRows
from histocell.models.settings import Config, make_config

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import ArrayLike

    from histocell._core.rng import RNGLike, SeedLike
    from histocell._core.types import JSON, Arrays, Floats
    from histocell.models.fingerprint import Fingerprint


FINGERPRINT, BASELINE = "rows.", "baseline_{}."  # beginnings of names of arrays


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

    # What `histocell.models.list_models` says of the class.
    summary: ClassVar[str] = ""
    tasks: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[str] = "embeddings of any encoder"
    limits: ClassVar[str] = ""
    cost: ClassVar[str] = ""
    license: ClassVar[str] = (
        "that of the features: terms of an encoder's weights may extend to models fitted on its embeddings"
    )
    reference: ClassVar[str] = ""

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
    def _fit(self, X: np.ndarray, Y: Floats, rows: FitRows, rng: np.random.Generator, device: str | None) -> None:
        """Learn `weights` from rows that are finite."""

    @abstractmethod
    def predict(self, X: ArrayLike, *, device: str | None = None) -> Floats:
        """Predicted targets, shape ``(n, n_targets)``; NaN for rows that are not finite."""

    def fit(
        self,
        X: ArrayLike,
        Y: ArrayLike,
        *,
        groups: ArrayLike | None = None,
        validation: ArrayLike | None = None,
        rng: SeedLike | RNGLike | None = 0,
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
            Seed or generator; the same one gives the same model, `None` another one each time.
        device
            Torch device; `None` for the best there is. The closed-form models ignore it.

        Raises
        ------
        ValueError
            When shapes do not agree, no row is usable, or all features are constant.
        """
        features, targets, rows = _usable(X, Y, groups, validation)
        self.weights, self.history, self.baselines, self.fingerprint = {}, {}, {}, None
        self._fit(features, targets, rows, as_rng(rng), device)
        self.facts = {"n_train": int(rows.train.sum()), "n_validation": int((~rows.train).sum())}
        return self

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
        """Write ``config.json``, ``model.safetensors`` and a model card, ``README.md``, into a folder of their own.

        Parameters
        ----------
        folder
            A folder that is empty or absent.
        overwrite
            Whether a model that the folder holds is replaced. Other files in it stay as they are.

        Raises
        ------
        FileExistsError
            When the folder holds a model and `overwrite` is not set, something else, or a card that was edited.
        """
        files.write(self._state(), folder, overwrite=overwrite)

    def __repr__(self) -> str:
        state = f"{len(self.targets) or '?'} targets" if self.weights else "not fitted"
        rows = f", {self.facts['n_train']} training rows" if "n_train" in self.facts else ""
        rows += f" and {self.facts['n_validation']} for validation" if self.facts.get("n_validation") else ""
        groups = f", groups by {self.facts['group_key']}" if self.facts.get("group_key") else ""
        return f"{type(self).__name__}({state}, features: {listing(f['key'] for f in self.features)}{rows}{groups})"

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes that weights must have by settings, features and targets, where the model knows them."""
        return {}

    def _check_fitted(self) -> None:
        if not self.weights:
            msg = f"this {type(self).__name__} is not fitted; call fit first"
            raise ValueError(msg)

    def _state(self) -> files.State:
        self._check_fitted()
        weights = {name: np.ascontiguousarray(array) for name, array in self.weights.items()}
        if self.fingerprint is not None:
            known = self.fingerprint._asdict()
            weights |= {FINGERPRINT + name: known[name] for name in known if name != "places" or len(known[name])}
        baselines = {name: baseline._state() for name, baseline in self.baselines.items()}
        for name, baseline in baselines.items():
            weights |= {BASELINE.format(name) + key: array for key, array in baseline.weights.items()}
        config = {
            "model": self.name,
            "config": dataclasses.asdict(self.config),
            "features": self.features,
            "targets": self.targets,
            "facts": self.facts,
            "baselines": {name: baseline.config for name, baseline in baselines.items()},
        }
        return files.State(config, weights, self.history)


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
