"""Probabilities of classes that mean what they say: temperature, frequency of classes and blend, from held-out rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

if TYPE_CHECKING:
    from histocell._core.types import Floats, Ints

_MOST = 5.0  # of the logarithm of the temperature, either way
_CAP = 10.0
_PRIOR = 5.0  # forty rows that are all right must not make the others certain, nor prefer the first of two models


def class_weights(labels: Ints, n_classes: int, *, balanced: bool = True) -> Floats:
    """Weight of each class in the loss: one over its frequency, with mean 1 over the classes, at most 10; 0 for none.

    Parameters
    ----------
    labels
        Class of each training row.
    n_classes
        Number of classes.
    balanced
        Whether there are weights; else 1 for each.
    """
    count = np.bincount(labels, minlength=n_classes)
    there = count > 0
    if not balanced:
        return there.astype(np.float64)
    weights = np.divide(1.0, count, out=np.zeros(n_classes), where=there)
    return np.minimum(weights / weights[there].mean(), _CAP)


def fit_calibration(
    logits: Floats, labels: Ints, weights: Floats, *, second: Floats | None = None, share: float | None = None
) -> Floats:
    r"""What makes held-out rows likeliest: temperature :math:`T`, share :math:`b` of the weights that are taken back, blend :math:`s`.

    .. math:: p = \mathrm{softmax}(((1 - s) z + s z') / T - b \log w)

    A net that learnt with class weights :math:`w` sees rare classes too often; ``b=1`` takes all of that back. The loss is
    convex in :math:`(1 - s) / T`, :math:`s / T` and :math:`b`. A prior that hundreds of rows outweigh holds :math:`T` near 1
    and prefers the second model.

    Parameters
    ----------
    logits, labels
        Of rows that were not fitted; those of classes of weight 0 say nothing.
    weights
        Of the classes in the loss.
    second
        Logits :math:`z'` of another model for the same rows.
    share
        Blend :math:`s`, where it is not fitted; 0 without `second`.

    Returns
    -------
    :math:`T, b, s`.
    """
    share = 0.0 if second is None else share
    told = weights[labels] > 0
    both = [logits] if second is None else [logits, second]
    parts, labels = [each[told] for each in both], labels[told]
    if not len(labels):
        return np.array([1.0, 0.0, share or 0.0])
    there = weights > 0
    if share is not None:
        parts = [blend(parts[0], parts[-1], np.array(share))]
    scores = np.stack([*parts, np.broadcast_to(-np.log(np.where(there, weights, 1.0)), parts[0].shape)])[..., there]
    rows, column = np.arange(len(labels)), (np.cumsum(there) - 1)[labels]

    def loss(values: Floats) -> tuple[float, Floats]:
        log_p = log_softmax(np.tensordot(values, scores, 1), axis=1)
        missed = np.exp(log_p)
        missed[rows, column] -= 1
        away = values[:-1].sum() - 1
        value, slope = -log_p[rows, column].sum() + _PRIOR * away**2, np.tensordot(scores, missed, 2)
        slope[:-1] += 2 * _PRIOR * away
        if slopes > 1:
            value, slope[0] = value + _PRIOR * values[0] ** 2, slope[0] + 2 * _PRIOR * values[0]
        return float(value) / len(labels), slope / len(labels)

    slopes = len(parts)
    start = np.array([1 / slopes] * slopes + [0.5])
    bounds = [(np.exp(-_MOST) / slopes, np.exp(_MOST))] + [(0.0, np.exp(_MOST))] * (slopes - 1) + [(0.0, 1.0)]
    found = minimize(loss, start, method="L-BFGS-B", jac=True, bounds=bounds).x
    total = found[:-1].sum()
    return np.array([1 / total, found[-1], found[1] / total if share is None else share])


def blend(logits: Floats, second: Floats | None, share: Floats) -> Floats:
    """Logits of two models as one, by the share of the second."""
    return logits if second is None else (1 - share) * logits + share * second


def calibrate(logits: Floats, calibration: Floats, weights: Floats, *, second: Floats | None = None) -> Floats:
    """Probabilities, ``(n, n_classes)``, by one calibration, or one for each row.

    A class of weight 0, which no training row has, gets no probability.
    """
    temperature, back, share = np.atleast_2d(calibration).T[..., None]
    there = weights > 0
    scores = blend(logits, second, share) / temperature - back * np.log(np.where(there, weights, 1.0))
    return np.exp(log_softmax(np.where(there, scores, -np.inf), axis=1))
