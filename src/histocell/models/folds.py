"""Which rows are held out together: whole groups, never single spots."""

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
