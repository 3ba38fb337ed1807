"""The base of models that bring two views of a cell, its image and its genes, into one space."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from histocell._core.arguments import check_count
from histocell.models.base import Model
from histocell.models.scaling import apply_input, fit_input
from histocell.models.settings import Config, limited

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from histocell._core.types import Arrays, Floats, Ints
    from histocell.models.places import Places

    type View = Literal["image", "genes"]

VIEWS: tuple[View, View] = ("image", "genes")
SCALED = ("mean", "scale", "clip")
GENES = "genes"  # entry of the facts that describes the features of the second view
_CHUNK = 16_384
_SCALE_ROWS = 50_000  # training rows that mean and scale of the features are of


@dataclass(frozen=True)
class AlignmentConfig(Config):
    """Settings that all models of two views know.

    Attributes
    ----------
    dim
        Dimensions of the common space.
    """

    dim: int = limited(128, least=1)


class AlignmentModel(Model):
    """Two views of the same rows, brought into one space of unit vectors; `X` is the image, `Y` the genes."""

    config_class = AlignmentConfig
    config: AlignmentConfig
    tasks = ("alignment",)
    needs = "two embeddings of each cell, of its image and of its genes"

    @abstractmethod
    def _project(self, view: View, values: NDArray[np.float32], device: str | None) -> np.ndarray:
        """Scaled features of a view in the common space, of any length."""

    def predict(self, X: ArrayLike, *, places: Places | None = None, device: str | None = None) -> Floats:
        """The image in the common space, shape ``(n, dim)``; NaN for rows that are not finite."""
        del places
        return self.project("image", X, device=device).astype(np.float64)

    def project(self, view: View, values: ArrayLike, *, device: str | None = None) -> NDArray[np.float32]:
        """A view in the common space: unit vectors, shape ``(n, dim)``; NaN for rows that are not finite.

        Raises
        ------
        ValueError
            When the model is not fitted, or the features have another width.
        """
        self._check_fitted()
        values, arrays = np.asarray(values), self._scales(view)
        width = len(arrays["input_mean"])
        if values.ndim != 2 or values.shape[1] != width:
            msg = f"the {view} must have shape (n, {width}), as the model was fitted; it has {values.shape}"
            raise ValueError(msg)
        out = np.full((len(values), self._dim), np.nan, dtype=np.float32)
        for start in range(0, len(values), _CHUNK):
            part = values[start : start + _CHUNK]
            finite = np.isfinite(part).all(axis=1)
            scaled = apply_input(part[finite].astype(np.float64), arrays).astype(np.float32)
            out[start : start + _CHUNK][finite] = unit(self._project(view, scaled, device))
        return out

    def __repr__(self) -> str:
        rows = f"{self.facts.get('n_train', 0)} training rows" if self.weights else "not fitted"
        views = " with ".join([*(str(feature["key"]) for feature in self.features), *self._gene_keys()])
        return f"{type(self).__name__}({rows}{f', {views}' if views else ''})"

    def _gene_keys(self) -> list[str]:
        return [str(self.facts[GENES]["key"])] if GENES in self.facts else []

    @property
    def _dim(self) -> int:
        """Dimensions of the common space, which a linear model of few features may have fewer of."""
        return self.config.dim

    def _fit_scales(self, X: np.ndarray, Y: np.ndarray, train: Ints, rng: np.random.Generator) -> None:
        """Learn mean and scale of both views from training rows, at most 50,000 of them."""
        check_count(len(train), "the number of training rows with both views finite", least=2)
        some = rng.choice(train, _SCALE_ROWS, replace=False) if len(train) > _SCALE_ROWS else train
        for view, values in zip(VIEWS, (X, Y), strict=True):
            try:
                learnt = fit_input(values[some])
            except ValueError as error:
                msg = f"the embedding of the {view} says nothing: {error}"
                raise ValueError(msg) from error
            self.weights |= {f"input_{view}_{name}": learnt[f"input_{name}"] for name in SCALED}

    def _scales(self, view: View) -> Arrays:
        return {f"input_{name}": self.weights[f"input_{view}_{name}"] for name in SCALED}

    def _scaled(self, view: View, values: np.ndarray) -> NDArray[np.float32]:
        """Features of a view as the model sees them."""
        return apply_input(np.asarray(values, dtype=np.float64), self._scales(view)).astype(np.float32)

    def _widths(self) -> dict[str, int]:
        return {view: len(self.weights[f"input_{view}_mean"]) for view in VIEWS}

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes that the scales must have, by the description of the features where there is one."""
        found = {view: self.weights.get(f"input_{view}_mean", np.empty(0)).shape for view in VIEWS}
        if self.features:
            found["image"] = (sum(feature["dim"] for feature in self.features),)
        if GENES in self.facts:
            found["genes"] = (self.facts[GENES]["dim"],)
        return {
            f"input_{view}_{name}": (1,) if name == "clip" else shape
            for view, shape in found.items()
            for name in SCALED
        }


def unit(values: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays."""
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return np.divide(values, length, out=np.zeros_like(values), where=length > 0)
