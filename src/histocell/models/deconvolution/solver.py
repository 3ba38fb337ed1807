"""Weighted least squares with coefficients from 0 up, for many rows at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from histocell._core.types import Floats, Ints

_MAX_SWEEPS = 1000
_TOLERANCE = 1e-7  # relative to the largest coefficient of the row


class PairProducts:
    """Products of each two rows of a matrix ``(K, G)``: what weighted Gram matrices of many rows are sums of."""

    def __init__(self, matrix: Floats) -> None:
        self._upper: tuple[Ints, Ints] = np.triu_indices(len(matrix))
        self._products = matrix[self._upper[0]] * matrix[self._upper[1]]
        self._size = len(matrix)

    def gram(self, weights: Floats) -> Floats:
        """``matrix @ diag(w) @ matrix.T`` for each row w of `weights` ``(n, G)``; shape ``(n, K, K)``."""
        sums = weights @ self._products.T
        gram = np.empty((len(weights), self._size, self._size))
        gram[:, self._upper[0], self._upper[1]] = sums
        gram[:, self._upper[1], self._upper[0]] = sums
        return gram


def solve_nonnegative(gram: Floats, moments: Floats, start: Floats | None = None) -> Floats:
    """Minimise ``x' gram x / 2 - moments' x`` over x >= 0 for each row, by coordinate descent.

    Parameters
    ----------
    gram
        Positive semi-definite matrices, shape ``(n, K, K)``.
    moments
        Shape ``(n, K)``.
    start
        Where to start, shape ``(n, K)``; zeros by default.
    """
    found = np.zeros_like(moments) if start is None else np.maximum(start, 0)
    diagonal = np.einsum("nkk->nk", gram)
    usable = diagonal > 0
    inverse = np.where(usable, 1 / np.where(usable, diagonal, 1), 0)
    active = np.arange(len(found))
    for _ in range(_MAX_SWEEPS):
        now, matrices, goal, scale = found[active], gram[active], moments[active], inverse[active]
        before = now.copy()
        for k in range(found.shape[1]):
            slope = goal[:, k] - np.einsum("nk,nk->n", matrices[:, k], now)
            now[:, k] = np.maximum(now[:, k] + slope * scale[:, k], 0)
        found[active] = now
        moved = np.abs(now - before).max(axis=1) > _TOLERANCE * now.max(axis=1)
        active = active[moved]
        if len(active) == 0:
            break
    return found
