"""The base of all models: settings, weights, features and facts, and their way to `uns` and to disk."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from histocell._core.errors import listing
from histocell._core.rng import as_rng
from histocell.models import files
from histocell.models.places import check_finite, check_places
from histocell.models.problem import Problem, Usable, as_features, finite_rows
from histocell.models.settings import Config, make_config

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import ArrayLike

    from histocell._core.rng import RNGLike, SeedLike
    from histocell._core.types import JSON, Arrays, Bools, Floats
    from histocell.models.fingerprint import Fingerprint
    from histocell.models.folds import FitRows
    from histocell.models.places import Places
    from histocell.models.problem import Joined


FINGERPRINT, BASELINE = "rows.", "baseline_{}."  # beginnings of names of arrays
_NOT_LEARNT = (
    "input_",
    "target_",
    "interval_",
    "alpha",
    "novelty_",
    "ridge.share",
    "calibration",
    "class_weight",
)  # and of weights that scale, bound or were chosen


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
    needs_places: bool = False  # whether it must know where a row lies
    needs_bags: ClassVar[bool] = False  # whether it must see the tiles of a slide, not their mean alone

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
    def predict(self, X: ArrayLike, *, places: Places | None = None, device: str | None = None) -> Floats:
        """Predicted targets, shape ``(n, n_targets)``; NaN for rows that are not finite.

        `places` says where the rows lie, for models that need it.
        """

    def reach_um(self, places: Places | None = None) -> float:
        """How far from a row, in um, those rows may lie whose features take part in its prediction; 0 for none.

        `places` are those that the model is about to be fitted on.
        """
        del places
        return 0.0

    def fit(
        self,
        X: ArrayLike,
        Y: ArrayLike,
        *,
        index: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        validation: ArrayLike | None = None,
        places: Places | None = None,
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
        index
            Positions of the rows that are used; all by default. What follows is of these rows.
        groups
            Patient or section of each row. Whatever the model chooses for itself (penalty, number of epochs, width of
            the interval) is chosen on groups that it did not fit on.
        validation
            Boolean, shape ``(n,)``: rows that are for those choices only and are never fitted.
        places
            Where the rows lie, for models that see neighbours (`needs_places`); others ignore it.
        rng
            Seed or generator; the same one gives the same model, `None` another one each time.
        device
            Torch device; `None` for the best there is. The closed-form models ignore it.

        Raises
        ------
        ValueError
            When shapes do not agree, no row is usable, all features are constant, or the model needs places and does
            not get them.
        """
        usable = self._begin(Problem(X, Y, index, groups=groups, validation=validation, places=places))
        self._fit_usable(usable, as_rng(rng), device)
        self._end(usable)
        return self

    @classmethod
    def fit_together(
        cls, models: Sequence[Self], problems: Sequence[Problem], *, device: str | None = None
    ) -> list[Self]:
        """Fit models of one class and equal settings, each on rows of its own; each is what `fit` alone would make.

        One after the other, except where a class can do better: all nets of all `MLP` train at once.

        Parameters
        ----------
        models
            The models; they are fitted in place and returned.
        problems
            Rows of each model.
        device
            Torch device; `None` for the best there is.

        Raises
        ------
        ValueError
            When the models differ in class or settings, the problems in their numbers of features or targets, a model is
            given twice, or a problem is not fit for `fit`.

        Examples
        --------
        >>> import numpy as np
        >>> from histocell.models import Ridge
        >>> from histocell.models.problem import Problem
        >>> X = np.random.default_rng(0).normal(size=(60, 4))
        >>> groups = np.repeat(["a", "b", "c"], 20)
        >>> rows = [np.flatnonzero(groups != name) for name in "abc"]
        >>> problems = [Problem(X, X[:, :2] + 5, index, groups[index]) for index in rows]
        >>> models = Ridge.fit_together([Ridge() for _ in rows], problems)
        >>> [model.facts["n_train"] for model in models]
        [40, 40, 40]
        """
        cls._check_alike(models, problems)
        for model, problem in zip(models, problems, strict=True):
            X, Y = problem.rows()
            model.fit(
                X,
                Y,
                groups=problem.groups,
                validation=problem.validation,
                rng=problem.rng,
                device=device,
                places=problem.places,
            )
        return list(models)

    def outputs(self, X: ArrayLike, *, places: Places | None = None, device: str | None = None) -> dict[str, Floats]:
        """Everything that the model says of rows: the prediction under ``""``, others by the ending of their slot."""
        if not self.needs_places:
            return {"": self.predict(X, device=device)}
        return {"": self.predict(X, places=places, device=device)}

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
        views = f" standardised by {column}" if (column := self.facts.get("standardize_by")) else ""
        views = f" as they are and{views}" if views and self.facts.get("beside_raw") else views
        features = listing(f["key"] for f in self.features)
        return f"{type(self).__name__}({state}, features: {features}{views}{rows}{groups})"

    @property
    def n_parameters(self) -> int:
        """Number of learnt parameters: all weights, of all nets of an ensemble, without scalers, intervals and penalties."""
        return sum(array.size for name, array in self.weights.items() if not name.startswith(_NOT_LEARNT))

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes that weights must have by settings, features and targets, where the model knows them."""
        return {}

    @property
    def may_lack_modality(self) -> bool:
        """Whether it can predict rows that lack the genes or the image."""
        return False

    def has_features(self, X: np.ndarray | Joined) -> Bools:
        """Which rows have the features that the model needs: by default all of them, finite."""
        return finite_rows(X)

    def _fit_usable(self, usable: Usable, rng: np.random.Generator, device: str | None) -> None:
        """Learn from the usable rows; a model of many rows can do without the copy of their features."""
        self._fit(usable.features, usable.Y, usable.rows, rng, device)

    def _begin(self, problem: Problem) -> Usable:
        """Forget what was learnt before, and find the rows that can be used."""
        places = self._checked_places(
            problem.places, len(as_features(problem.X) if problem.index is None else np.asarray(problem.index))
        )
        usable = Usable.of(problem, places, has_features=self.has_features)
        if usable.rows.places is not None:
            check_finite(usable.rows.places, type(self).__name__)
        self.weights, self.history, self.baselines, self.fingerprint = {}, {}, {}, None
        return usable

    def _end(self, usable: Usable) -> None:
        """Note the facts of a fit."""
        train = usable.rows.train
        self.facts = {"n_train": int(train.sum()), "n_validation": int((~train).sum())}

    @classmethod
    def _check_alike(cls, models: Sequence[Self], problems: Sequence[Problem]) -> None:
        """Refuse models that cannot be fitted together."""
        if len(models) != len(problems):
            msg = f"{len(models)} models for {len(problems)} problems; each model needs one problem"
            raise ValueError(msg)
        if len({id(model) for model in models}) < len(models):
            msg = "a model is given twice; make one for each problem"
            raise ValueError(msg)
        kinds = {type(model).__name__ for model in models} | {cls.__name__}
        if len(kinds) > 1 or any(model.config != models[0].config for model in models):
            msg = f"only models of one class and equal settings are fitted together; these are {listing(sorted(kinds))}"
            raise ValueError(msg)
        widths = {(np.shape(problem.X)[1:], np.shape(problem.Y)[1:]) for problem in problems}
        if len(widths) > 1:
            msg = f"the problems differ in their numbers of features or targets: {listing(sorted(map(str, widths)))}"
            raise ValueError(msg)

    def _checked_places(self, places: Places | None, n_rows: int) -> Places | None:
        """The places of rows, `None` for a model that does not need them."""
        return check_places(places, n_rows, type(self).__name__) if self.needs_places else None

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
