"""Folds of whole groups for what a model chooses for itself, and spatial blocks where there is one group only."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from histocell._core.types import Bools, Floats, Ints
    from histocell.models.places import Places

_ROW_BLOCKS = 5


class Fold(NamedTuple):
    """Rows to fit on and rows to look at, both as positions."""

    fit: Ints
    held: Ints


class FitRows(NamedTuple):
    """Rows that a model may use.

    Attributes
    ----------
    train
        Boolean, shape ``(n,)``: fitted; the others only choose.
    groups
        Group of each row.
    places
        Where each row lies, for models that need it.
    weights
        How much each row is known, relative to others, for models that use it; `None` for all alike.
    """

    train: Bools
    groups: np.ndarray
    places: Places | None = None
    weights: Floats | None = None

    def folds(self, *, max_folds: int) -> list[Fold]:
        """Leave out each group of the training rows, or, with more than `max_folds` groups, bundles of similar size.

        A single group makes blocks of consecutive rows.

        Raises
        ------
        ValueError
            When there are fewer than two rows to divide.
        """
        rows = np.flatnonzero(self.train)
        if len(rows) < 2:
            msg = f"{len(rows)} training rows cannot be divided into rows to fit and rows to look at"
            raise ValueError(msg)
        labels = np.unique(self.groups[rows], return_inverse=True)[1]
        if labels.max() == 0:
            labels = np.arange(len(rows)) * min(_ROW_BLOCKS, len(rows)) // len(rows)
        bundle = _bundles(np.bincount(labels), max_folds)[labels]
        return [Fold(rows[bundle != index], rows[bundle == index]) for index in range(bundle.max() + 1)]

    def held_out(self, *, max_folds: int) -> list[Fold]:
        """`folds`, and the validation rows, if there are any, against all training rows; none of a single row."""
        folds = self.folds(max_folds=max_folds) if self.train.sum() > 1 else []
        return folds + self.validation_fold()

    def validation_fold(self) -> list[Fold]:
        """All training rows against the validation rows, if there are any."""
        return [] if self.train.all() else [Fold(np.flatnonzero(self.train), np.flatnonzero(~self.train))]


def spatial_blocks(xy: Floats, n_blocks: int) -> Ints:
    """Compact blocks of equal size: the points halved along their longer side again and again."""
    labels = np.zeros(len(xy), dtype=np.intp)
    parts = [np.arange(len(xy))]
    while len(parts) < n_blocks and max(map(len, parts)) > 1:
        halves = []
        for part in parts:
            axis = np.ptp(xy[part], axis=0).argmax() if len(part) else 0
            order = part[np.argsort(xy[part, axis], kind="stable")]
            halves += [order[: len(order) // 2], order[len(order) // 2 :]]
        parts = halves
    for index, part in enumerate(parts):
        labels[part] = index
    return labels


def _bundles(sizes: Ints, max_folds: int) -> Ints:
    """Fold of each group: the largest groups first, each to the fold that is smallest so far."""
    if len(sizes) <= max_folds:
        return np.arange(len(sizes))
    filled = np.zeros(max_folds, dtype=np.intp)
    bundle = np.zeros(len(sizes), dtype=np.intp)
    for group in np.argsort(-sizes, kind="stable"):
        bundle[group] = filled.argmin()
        filled[bundle[group]] += sizes[group]
    return bundle
