"""Folds of whole groups for what a model chooses for itself, and spatial blocks where there is one group only."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_ROW_BLOCKS = 5


class Fold(NamedTuple):
    """Rows to fit on and rows to look at, both as positions."""

    fit: NDArray[np.intp]
    held: NDArray[np.intp]


class FitRows(NamedTuple):
    """Rows that a model may use.

    Attributes
    ----------
    train
        Boolean, shape ``(n,)``: fitted; the others only choose.
    groups
        Group of each row.
    """

    train: NDArray[np.bool_]
    groups: np.ndarray

    def folds(self, *, max_folds: int) -> list[Fold]:
        """Groups of the training rows, each left out once."""
        rows = np.flatnonzero(self.train)
        folds = group_folds(self.groups[rows], len(rows), max_folds=max_folds)
        return [Fold(rows[fold.fit], rows[fold.held]) for fold in folds]

    def validation_fold(self) -> list[Fold]:
        """All training rows against the validation rows, if there are any."""
        return [] if self.train.all() else [Fold(np.flatnonzero(self.train), np.flatnonzero(~self.train))]


def group_folds(groups: ArrayLike | None, n: int, *, max_folds: int = 10) -> list[Fold]:
    """Leave one group out, or, with more than `max_folds` groups, one bundle of groups.

    Parameters
    ----------
    groups
        Group of each row. `None`, or a single group, makes blocks of consecutive rows.
    n
        Number of rows.
    max_folds
        Most folds that are made; groups are bundled so that the folds are of similar size.

    Raises
    ------
    ValueError
        When there are fewer than two rows to divide.
    """
    if n < 2:
        msg = f"{n} training rows cannot be divided into rows to fit and rows to look at"
        raise ValueError(msg)
    labels = np.zeros(n, dtype=int) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    if labels.max() == 0:
        labels = np.arange(n) * min(_ROW_BLOCKS, n) // n
    bundle = _bundles(np.bincount(labels), max_folds)[labels]
    return [Fold(np.flatnonzero(bundle != index), np.flatnonzero(bundle == index)) for index in range(bundle.max() + 1)]


def spatial_blocks(xy: NDArray[np.float64], n_blocks: int) -> NDArray[np.intp]:
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


def _bundles(sizes: NDArray[np.intp], max_folds: int) -> NDArray[np.intp]:
    """Fold of each group: the largest groups first, each to the fold that is smallest so far."""
    if len(sizes) <= max_folds:
        return np.arange(len(sizes))
    filled = np.zeros(max_folds, dtype=np.intp)
    bundle = np.zeros(len(sizes), dtype=np.intp)
    for group in np.argsort(-sizes, kind="stable"):
        bundle[group] = filled.argmin()
        filled[bundle[group]] += sizes[group]
    return bundle
