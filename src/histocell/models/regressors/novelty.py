"""Novelty of rows: how far their features lie from those of the training rows, in units of groups that were held out.

Features span a few directions in which the training rows vary, and many in which they hardly do. A row is new when it
lies far out in the first, or off them altogether, as after another stain or in another tissue. The distance is

    d^2 = (t' diag(l)^-1 t / k + r / v) / 2,

half the mean squared distance along the first k principal components of the training rows (t: scores, l: variances), half
what is left beside them (r: squared length, v: its mean over the training rows), so both halves are 1 where training rows
lie. The same is computed for each group of the training rows from all others, and d is divided by the median over the rows
of held-out groups: 1 is what a group brings that is no more different from the others than they are from each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histocell._core.device import one_blas_thread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from histocell._core.types import Arrays, Floats, Ints
    from histocell.models.folds import Fold

_SHARE = 0.95  # of the variance that the components hold
_MOST = 32  # components
_ROWS = 500  # that the components are computed from
_LEAST_AXIS = 1e-9  # share of the variance of a component below which it is rounding
_LEAST_BESIDE = 0.01  # share of the variance that is taken to lie beside the components, where few features leave less


def fit_novelty(X: Floats, folds: Sequence[Fold]) -> tuple[Arrays, Floats]:
    """What `novelty` needs to know, and the novelty of the rows that the folds hold out.

    Parameters
    ----------
    X
        Scaled features, shape ``(n, n_features)``.
    folds
        Rows to fit on and rows to hold out; the last one fits on all rows that the model may fit on and may hold out none.

    Returns
    -------
    ``novelty_axes`` ``(k, n_features)``, ``novelty_center`` ``(n_features,)``, ``novelty_variance`` ``(k + 1,)`` and
    ``novelty_unit`` ``(1,)``; and shape ``(n,)``, NaN for rows that are never held out.
    """
    squared, distance = np.einsum("ij,ij->i", X, X), np.full(len(X), np.nan)
    for fold in folds:
        space = _space(X, squared, fold.fit)
        if len(fold.held):
            distance[fold.held] = _distance(X[fold.held], space)
    unit = float(np.median(distance[np.isfinite(distance)])) if np.isfinite(distance).any() else 1.0
    unit = unit if unit > 0 else 1.0
    return space | {"novelty_unit": np.array([unit])}, distance / unit


def novelty(X: Floats, arrays: Mapping[str, np.ndarray]) -> Floats:
    """Novelty of each row of scaled features, shape ``(n,)``: 1 for a group like those of the training rows."""
    return _distance(X, arrays) / arrays["novelty_unit"]


def widening(values: Floats) -> Floats:
    """By how much errors grow with the novelty: in proportion, and not at all below 1."""
    return np.maximum(values, 1.0)


def _space(X: Floats, squared: Floats, rows: Ints) -> Arrays:
    """Principal components of some rows, and their variance along each of them and beside all of them.

    `squared` are the squared lengths of all rows. No copy of the rows is made, for they may be most of `X`.
    """
    center = np.bincount(rows, minlength=len(X)).astype(X.dtype) @ X / len(rows)
    some = X[rows[np.linspace(0, len(rows) - 1, min(len(rows), _ROWS)).round().astype(np.intp)]] - center
    with one_blas_thread():
        values, left = np.linalg.eigh(some @ some.T / len(some))
    values, left = np.maximum(values[::-1], 0.0), left[:, ::-1]
    total = values.sum()
    n_axes = min(
        int(np.searchsorted(np.cumsum(values), _SHARE * total)) + 1, _MOST, int((values > _LEAST_AXIS * total).sum())
    )
    axes = (left[:, :n_axes] / np.sqrt(len(some) * np.maximum(values[:n_axes], np.finfo(float).tiny))).T @ some
    along = ((X @ axes.T - center @ axes.T)[rows] ** 2).mean(axis=0)
    length = float(squared[rows].mean())
    whole = length - float(center @ center)
    whole = whole if whole > _LEAST_AXIS * length else 0.0  # of equal rows, but for rounding
    beside = max(whole - along.sum(), _LEAST_BESIDE * whole) or 1.0  # scaled features have variance 1
    return {"novelty_center": center, "novelty_axes": axes, "novelty_variance": np.append(along, beside)}


def _distance(X: Floats, space: Mapping[str, np.ndarray]) -> Floats:
    variance, centred = space["novelty_variance"], X - space["novelty_center"]
    scores = centred @ space["novelty_axes"].T
    squared = np.einsum("ij,ij->i", centred, centred)
    beside = np.maximum(squared - (scores**2).sum(axis=1), 0.0) / variance[-1]
    along = (scores**2 / variance[:-1]).mean(axis=1) if len(variance) > 1 else np.zeros(len(X))
    return np.sqrt((along + beside) / 2)
