"""The base of models of cell types: checks, scales, held-out rows, calibrated probabilities."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from histocell.models.base import Model
from histocell.models.cells.calibration import calibrate, class_weights, fit_calibration
from histocell.models.cells.inputs import CHUNK, Modalities, fit_scales, hidden, scaled
from histocell.models.places import check_finite
from histocell.models.problem import as_features
from histocell.models.settings import Config, limited

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike

    from histocell._core.types import Bools, Floats, Ints
    from histocell.models.folds import FitRows, Fold
    from histocell.models.places import Places
    from histocell.models.problem import Joined, Usable

_MAX_FOLDS = 5
_LEAST_HELD = 30  # cells that a calibration is fitted on


@dataclass(frozen=True)
class ClassifierConfig(Config):
    """Settings that all models of cell types know.

    Attributes
    ----------
    gene_columns
        How many of the first columns of the features are of the genes; the others are of the image. `None`: all.
        :func:`histocell.tl.fit_cell_types` sets it.
    balanced
        Whether rare types weigh more in the loss: by one over their frequency, with mean 1, at most 10.
    calibrate
        Whether probabilities are calibrated on rows that were held out: those of cells with genes and image, those with genes
        alone and those with the image alone each by themselves.
    """

    gene_columns: int | None = limited(None, least=0)
    balanced: bool = True
    calibrate: bool = True


class Cells(NamedTuple):
    """Cells that a model learns from; `rows` are positions in `X`, whose other rows are not looked at.

    Attributes
    ----------
    X
        Features, as they are.
    rows
        The cells.
    labels
        Class of each of them.
    places
        Where they lie, for models that need it.
    """

    X: np.ndarray | Joined
    rows: Ints
    labels: Ints
    places: Places | None

    def take(self, index: Ints) -> Cells:
        """Some of the cells."""
        places = None if self.places is None else self.places.rows(index)
        return Cells(self.X, self.rows[index], self.labels[index], places)


class Classifier(Model):
    """A model of cell types: features in, one probability per type out.

    A row needs one of its modalities, genes or image, not both.
    """

    config_class = ClassifierConfig
    config: ClassifierConfig
    tasks = ("cell_types",)
    license = "that of the features: terms of an encoder's weights may extend to models fitted on its embeddings"

    @abstractmethod
    def _learn(
        self, cells: Cells, held: Cells | None, rng: np.random.Generator, device: str | None, epochs: int | None
    ) -> int | None:
        """Learn `weights` from cells, stopped on those held out; returns for how many epochs to learn from all."""

    @abstractmethod
    def _logits(self, X: np.ndarray, places: Places | None, device: str | None) -> Floats:
        """Logits of rows that have a modality, ``(n, n_classes)``."""

    def _second(self, X: np.ndarray) -> Floats | None:
        """Logits of another model, which are blended in."""
        del X
        return None

    @property
    def _share(self) -> float | None:
        """Share of the other model, `None` where held-out rows say it."""
        return None

    def has_features(self, X: np.ndarray | Joined) -> Bools:
        """Which rows have a modality whose features are all finite."""
        return self.modalities(X.shape[1]).present(X).any(axis=1)

    def modalities(self, n_features: int) -> Modalities:
        """The columns of each modality."""
        return Modalities.of(n_features, self.config.gene_columns)

    def _fit(self, X: np.ndarray, Y: Floats, rows: FitRows, rng: np.random.Generator, device: str | None) -> None:
        msg = "models of cell types learn from usable rows"
        raise NotImplementedError(msg)

    def _fit_usable(self, usable: Usable, rng: np.random.Generator, device: str | None) -> None:
        try:
            self._fit_cells(usable, rng, device)
        except BaseException:  # half a model, as after an interruption, must not be taken for one
            self.weights = {}
            raise

    def _fit_cells(self, usable: Usable, rng: np.random.Generator, device: str | None) -> None:
        """Scales, class weights, the fit on some and the calibration on others, the fit on all."""
        labels, rows = _labels(usable.Y), usable.rows
        cells = Cells(usable.X, usable.index, labels, rows.places)
        n_classes = usable.Y.shape[1]
        counts = np.bincount(labels[rows.train], minlength=n_classes)
        if (counts > 0).sum() < 2:
            msg = f"all {int(rows.train.sum())} training rows are of one class, so there is nothing to tell apart"
            raise ValueError(msg)
        train = cells.take(np.flatnonzero(rows.train))
        modalities = self.modalities(train.X.shape[1])
        self.weights = fit_scales(train.X, train.rows, modalities)
        self.weights["class_weight"] = class_weights(train.labels, n_classes, balanced=self.config.balanced)
        self.weights["calibration"] = np.tile([1.0, 0.0, self._share or 0.0], (len(modalities.subsets), 1))
        fold = self._fold(rows, labels)
        held = cells.take(fold.held) if len(fold.held) else None
        epochs = self._learn(cells.take(fold.fit), held, rng.spawn(1)[0], device, None)
        if held is not None:
            self._calibrate(held, modalities, device)
        if held is not None and rows.train.all():  # the rows held out were training rows
            self._learn(cells, None, rng.spawn(1)[0], device, epochs)

    def _calibrate(self, held: Cells, modalities: Modalities, device: str | None) -> None:
        """Fit the calibration of each subset of the modalities, on held-out cells that have it and are shown nothing else.

        Where few of them have it, the calibration is that of the cells as they are. Another model is blended in for all modalities alone.
        """
        for number, subset in enumerate(modalities.subsets):
            shown = self._shown(held, modalities, subset, device)
            if shown[0].sum() < _LEAST_HELD:
                shown = self._shown(held, modalities, (), device)
            # the other model has learnt from cells that have everything, and to no purpose where something is missing
            share = 0.0 if number else self._share
            self.weights["calibration"][number] = self._fitted_calibration(*shown, held.labels, share)

    def _shown(
        self, held: Cells, modalities: Modalities, subset: tuple[int, ...], device: str | None
    ) -> tuple[Bools, Floats, Floats | None]:
        """Which cells have a subset of the modalities, and the logits of these by it alone; of all as they are for none."""
        kept, logits = [], []
        second: list[Floats] = []
        for X, places in self._parts_of(held):
            some = modalities.present(X)[:, list(subset)].all(axis=1)
            seen = hidden(X, modalities, subset) if subset else X
            kept.append(some)
            logits.append(self._logits(seen, places, device)[some])
            if (other := self._second(seen[some])) is not None:
                second.append(other)
        return np.concatenate(kept), np.concatenate(logits), np.concatenate(second) if second else None

    def _fitted_calibration(
        self, kept: Bools, logits: Floats, second: Floats | None, labels: Ints, share: float | None
    ) -> Floats:
        """Temperature, share of the weights taken back, and of the other model."""
        found = fit_calibration(logits, labels[kept], self.weights["class_weight"], second=second, share=share)
        return found if self.config.calibrate else np.array([1.0, 0.0, found[2]])

    def _fold(self, rows: FitRows, labels: Ints) -> Fold:
        """Rows to learn from, and to stop and calibrate on: validation rows, else the groups that hold most classes."""
        if given := rows.validation_fold():
            return given[0]
        folds = rows.folds(max_folds=_MAX_FOLDS)
        return max(folds, key=lambda fold: tuple(len(np.unique(labels[part])) for part in fold))

    def _parts_of(self, cells: Cells) -> Iterator[tuple[np.ndarray, Places | None]]:
        """Features and places, some rows at a time; all at once for a model that sees neighbours."""
        size = max(len(cells.rows), 1) if self.reach_um(cells.places) else CHUNK
        for start in range(0, len(cells.rows), size):
            part = slice(start, start + size)
            index = np.arange(len(cells.rows))[part]
            yield cells.X[cells.rows[part]], None if cells.places is None else cells.places.rows(index)

    def predict(self, X: ArrayLike, *, places: Places | None = None, device: str | None = None) -> Floats:
        """Probability of each class, shape ``(n, n_classes)``; NaN for rows without any modality."""
        cells = self._usable_cells(X, places)
        out = np.full((len(cells.X), len(self.weights["class_weight"])), np.nan)
        start, modalities = 0, self.modalities(cells.X.shape[1])
        for part, where in self._parts_of(cells):
            calibration = self.weights["calibration"][modalities.subset_of(modalities.present(part))]
            out[cells.rows[start : start + len(part)]] = calibrate(
                self._logits(part, where, device),
                calibration,
                self.weights["class_weight"],
                second=self._second(part),
            )
            start += len(part)
        return out

    def _usable_cells(self, X: ArrayLike, places: Places | None) -> Cells:
        """The rows that have a modality, checked against what the model was fitted on; their numbers are their labels."""
        self._check_fitted()
        X = as_features(X)
        n_features = len(self.weights["input_mean"])
        if X.ndim != 2 or X.shape[1] != n_features:
            msg = f"X must have shape (n, {n_features}), as the model was fitted; it has {X.shape}"
            raise ValueError(msg)
        known = self._checked_places(places, len(X))
        usable = np.flatnonzero(self.has_features(X))
        if known is not None:
            known = known.rows(usable)
            check_finite(known, type(self).__name__)
        return Cells(X, usable, usable, known)

    def _scaled_cells(self, cells: Cells) -> np.ndarray:
        """Scaled features of cells, of which nothing else is copied."""
        out = np.empty((len(cells.rows), cells.X.shape[1]), dtype=np.float32)
        for start in range(0, len(out), CHUNK):
            out[start : start + CHUNK] = self._scaled(cells.X[cells.rows[start : start + CHUNK]])
        return out

    def _scaled(self, X: np.ndarray) -> np.ndarray:
        """Features in standard deviations, 0 where a modality is missing."""
        return scaled(X, self.modalities(X.shape[1]), self.weights)

    @classmethod
    def baseline_for(cls, model: Model) -> Self:
        """A model of this class on the inputs of `model`."""
        shared = ("gene_columns", "balanced", "calibrate")
        return cls(**{name: getattr(model.config, name) for name in shared if hasattr(model.config, name)})

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes that weights must have by settings, features and targets."""
        n_features = sum(feature["dim"] for feature in self.features) or self.weights["input_mean"].size
        n_classes = len(self.targets) or self.weights["class_weight"].size
        expected: dict[str, tuple[int, ...]] = dict.fromkeys(("input_mean", "input_scale"), (n_features,))
        subsets = self.modalities(n_features).subsets
        expected |= {"class_weight": (n_classes,), "calibration": (len(subsets), 3)}
        return expected | self._shapes(n_features, n_classes)

    def _shapes(self, n_features: int, n_classes: int) -> dict[str, tuple[int, ...]]:
        """Shapes of what `_learn` learns."""
        return {}


def _labels(Y: Floats) -> Ints:
    """Class of each row, from 1 in its column and 0 elsewhere."""
    if Y.shape[1] < 2 or not (np.isin(Y, (0, 1)).all() and (Y.sum(axis=1) == 1).all()):
        msg = (
            f"targets of classes must hold a single 1 in the column of the class, and 0 elsewhere, in two columns or more; Y has "
            f"shape {Y.shape}"
        )
        raise ValueError(msg)
    return Y.argmax(axis=1)
