"""Conformal intervals from predictions of held-out groups.

Every row of the calibration set was predicted by a model that had not seen its group, so its error is of the kind that
a new patient brings. The errors are ranked within bins of the predicted value (Mondrian conformal prediction), because
rare cell types err little where little is predicted and much where much is.

The errors are ranked in units of the spread that the novelty of their row lets expect (normalised conformal prediction,
`histocell.models.novelty`), so intervals widen for rows that are unlike those of the training set.

The promise holds for groups that are exchangeable with those of the training set. With few groups it is only as good
as they are representative, which no method can repair; `evaluate` therefore reports the coverage that was reached.

References
----------
Papadopoulos, Gammerman, Vovk: Normalized nonconformity measures for regression conformal prediction (AIA 2008).
Vovk, Gammerman, Shafer: Algorithmic Learning in a Random World (2005), Mondrian predictors.
Barber, Candes, Ramdas, Tibshirani: Predictive inference with the jackknife+ (Ann. Statist. 2021), cross-conformal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from histocell._core.types import Floats, Ints


_ROWS_PER_BIN = 100
_MAX_BINS = 8


def fit_interval(y_true: Floats, y_held: Floats, level: float, spread: Floats | None = None) -> dict[str, Floats]:
    """Offsets that turn a prediction into an interval, for each target and bin of the predicted value.

    Parameters
    ----------
    y_true
        True values, shape ``(n, n_targets)``.
    y_held
        Predictions by models that had not seen the row's group, the same shape; rows with NaN are left out.
    level
        Share of true values that the interval should hold, for example 0.9.
    spread
        How large an error is to be expected in each row, relative to others, shape ``(n,)``; by default the same in all.

    Returns
    -------
    ``interval_edges`` ``(n_targets, n_bins - 1)``, ``interval_low`` and ``interval_high`` ``(n_targets, n_bins)``.

    Raises
    ------
    ValueError
        When `level` is not between 0 and 1, or no row was held out.
    """
    if not 0 < level < 1:
        msg = f"interval must lie between 0 and 1, for example 0.9, not {level}"
        raise ValueError(msg)
    rows = np.isfinite(y_held).all(axis=1) & np.isfinite(y_true).all(axis=1)
    if not rows.any():
        msg = "no held-out prediction to calibrate an interval on; use interval=None"
        raise ValueError(msg)
    scale = np.ones((len(y_true), 1)) if spread is None else spread[:, None]
    y_true, y_held, scale = y_true[rows], y_held[rows], scale[rows]
    n_bins = int(np.clip(len(y_true) // _ROWS_PER_BIN, 1, _MAX_BINS))
    edges = np.quantile(y_held, np.linspace(0, 1, n_bins + 1)[1:-1], axis=0).T.reshape(y_true.shape[1], n_bins - 1)
    low, high = np.zeros((2, y_true.shape[1], n_bins))
    bins, errors = _bins(y_held, edges), (y_true - y_held) / scale
    for target, index in np.ndindex(low.shape):
        inside = errors[bins[:, target] == index, target]
        # Ties can empty a bin; all errors are then the safe choice.
        low[target, index], high[target, index] = _error_bounds(inside if len(inside) else errors[:, target], level)
    return {"interval_edges": edges, "interval_low": low, "interval_high": high}


def apply_interval(
    y_pred: Floats, arrays: Mapping[str, np.ndarray], spread: Floats | None = None
) -> tuple[Floats, Floats]:
    """Lower and upper bound of each prediction, shape ``(n, n_targets)``; the prediction lies between them.

    `spread` is that of `fit_interval`, of the rows that are predicted.
    """
    bins = _bins(y_pred, arrays["interval_edges"])
    scale = 1.0 if spread is None else spread[:, None]
    lower, upper = (
        y_pred + scale * np.take_along_axis(arrays[f"interval_{end}"], bins.T, axis=1).T for end in ("low", "high")
    )
    return lower, upper


def _bins(values: Floats, edges: Floats) -> Ints:
    """Bin of each value, ``(n, n_targets)``, by the edges of its target, ``(n_targets, n_bins - 1)``."""
    return (values[:, :, None] >= edges).sum(axis=2)


def _error_bounds(error: Floats, level: float) -> tuple[float, float]:
    """Order statistics of the errors that hold a new one with probability `level`."""
    ranked = np.sort(error)
    n = len(ranked)
    tail = int(np.floor((n + 1) * (1 - level) / 2))
    low, high = ranked[max(tail - 1, 0)], ranked[min(n - tail, n - 1)]
    return min(float(low), 0.0), max(float(high), 0.0)
