"""Features of cells by modality: which cells have which, and their scales, without copies of all cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from histocell.models.scaling import CLIP

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from histocell._core.types import Arrays, Bools, Floats, Ints
    from histocell.models.problem import Joined

GENES, IMAGE = "genes", "image"
CHUNK = 4096  # rows that are looked at at a time


@dataclass(frozen=True)
class Modalities:
    """Columns of the features by modality.

    Attributes
    ----------
    columns
        Of each modality that is there: the genes first, then the image.
    """

    columns: dict[str, slice]

    @classmethod
    def of(cls, n_features: int, gene_columns: int | None) -> Self:
        """The first `gene_columns` are of the genes, the others of the image; with `None` all are of the genes.

        Raises
        ------
        ValueError
            When there are fewer columns than that.
        """
        n_genes = n_features if gene_columns is None else gene_columns
        if n_genes > n_features:
            msg = f"gene_columns is {n_genes}, X has {n_features} columns"
            raise ValueError(msg)
        parts = {GENES: slice(0, n_genes), IMAGE: slice(n_genes, n_features)}
        return cls({name: part for name, part in parts.items() if part.start < part.stop})

    def widths(self) -> dict[str, int]:
        """Number of columns of each."""
        return {name: part.stop - part.start for name, part in self.columns.items()}

    @property
    def subsets(self) -> list[tuple[int, ...]]:
        """Numbers of the modalities that a cell may have: all of them first, then each alone."""
        n = len(self.columns)
        return [tuple(range(n)), *([(index,) for index in range(n)] if n > 1 else [])]

    def subset_of(self, there: Bools) -> Ints:
        """Which of `subsets` each cell has, from `present`."""
        return (
            np.where(there.all(axis=1), 0, 1 + there.argmax(axis=1))
            if there.shape[1] > 1
            else np.zeros(len(there), int)
        )

    def present(self, X: np.ndarray | Joined) -> Bools:
        """Which modality of each row is finite, ``(n, n_modalities)``; some rows are looked at at a time."""
        out = np.empty((len(X), len(self.columns)), dtype=bool)
        for start in range(0, len(X), CHUNK):
            some = X[start : start + CHUNK]
            for index, part in enumerate(self.columns.values()):
                out[start : start + CHUNK, index] = np.isfinite(some[:, part]).all(axis=1)
        return out


def fit_scales(X: np.ndarray | Joined, rows: Ints, modalities: Modalities) -> Arrays:
    """Mean and scale of each feature over those of `rows` that have its modality; a constant feature gets scale 0.

    Raises
    ------
    ValueError
        When every feature is constant.
    """
    n_features = X.shape[1]
    count, total, square = (np.zeros(n_features) for _ in range(3))
    low, high = np.full(n_features, np.inf), np.full(n_features, -np.inf)
    origin = np.zeros(n_features)  # near the mean, so that squares of what is left lose nothing
    for number, part in enumerate(_parts(X, rows, modalities)):
        there = np.isfinite(part)
        if number == 0:
            origin = np.divide(np.where(there, part, 0).sum(axis=0), np.maximum(there.sum(axis=0), 1))
        away = np.where(there, part - origin, 0.0)
        count += there.sum(axis=0)
        total += away.sum(axis=0)
        square += (away**2).sum(axis=0)
        low = np.minimum(low, np.where(there, part, np.inf).min(axis=0))
        high = np.maximum(high, np.where(there, part, -np.inf).max(axis=0))
    seen = np.maximum(count, 1)
    mean = total / seen
    std = np.sqrt(np.maximum(square / seen - mean**2, 0))
    varies = (low < high) & (std > 1e-7 * np.maximum(np.abs(low), np.abs(high)))
    if not varies.any():
        msg = (
            f"all features are constant over the {len(rows)} training rows, so nothing can be learnt from "
            "them; check the embedding (was every patch blank, or the same?)"
        )
        raise ValueError(msg)
    scale = np.divide(1.0, std, out=np.zeros_like(std), where=varies)
    return {"input_mean": np.where(count > 0, mean + origin, 0.0), "input_scale": scale}


def scaled(X: np.ndarray, modalities: Modalities, weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """Features in standard deviations of the training rows, cut off at four; 0, the mean, where a modality is missing."""
    return fill(X, modalities.present(X), modalities, weights["input_mean"], weights["input_scale"])


def hidden(X: np.ndarray, modalities: Modalities, kept: tuple[int, ...]) -> np.ndarray:
    """A copy of features that has some of the modalities only, NaN in the others."""
    X = X.copy() if X.dtype.kind == "f" else X.astype(np.float64)
    for index, part in enumerate(modalities.columns.values()):
        if index not in kept:
            X[:, part] = np.nan
    return X


def fill(X: np.ndarray, there: Bools, modalities: Modalities, mean: Floats, scale: Floats) -> np.ndarray:
    """`scaled`, of which it is known what is there; float32."""
    out = np.zeros(X.shape, dtype=np.float32)
    mean, scale = (each.astype(X.dtype if X.dtype.kind == "f" else np.float64) for each in (mean, scale))
    for index, part in enumerate(modalities.columns.values()):
        rows = there[:, index]
        out[rows, part] = np.clip((X[rows, part] - mean[part]) * scale[part], -CLIP, CLIP)
    return out


def _parts(X: np.ndarray | Joined, rows: Ints, modalities: Modalities) -> Iterator[Floats]:
    """Some rows at a time, NaN in all of a modality that a row lacks."""
    for start in range(0, len(rows), CHUNK):
        part = np.asarray(X[rows[start : start + CHUNK]], dtype=np.float64)
        there = modalities.present(part)
        for index, columns in enumerate(modalities.columns.values()):
            part[~there[:, index], columns] = np.nan
        yield part
