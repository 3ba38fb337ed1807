"""Probabilities of classes that mean what they say: a temperature and the frequency of classes, from held-out rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

if TYPE_CHECKING:
    from histocell._core.types import Floats, Ints

_MOST = 5.0  # of the logarithm of the temperature, either way
_CAP = 10.0


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


def fit_calibration(logits: Floats, labels: Ints, weights: Floats) -> Floats:
    r"""Temperature :math:`T` and share :math:`b` of the weights that are taken back, which make held-out rows likeliest.

    .. math:: p = \mathrm{softmax}(z / T - b \log w)

    A net that learnt with class weights :math:`w` sees rare classes too often; ``b=1`` takes all of that back.

    Parameters
    ----------
    logits, labels
        Of rows that were not fitted; those of classes of weight 0 say nothing.
    weights
        Of the classes in the loss.
    """
    told = weights[labels] > 0
    logits, labels = logits[told], labels[told]
    if not len(labels):
        return np.array([1.0, 0.0])

    def loss(values: Floats) -> float:
        scores = log_softmax(_apply(logits, np.array([np.exp(values[0]), values[1]]), weights), axis=1)
        return -float(scores[np.arange(len(labels)), labels].mean())

    bounds = [(-_MOST, _MOST), (0.0, 1.0)]
    starts = (np.array([0.0, 0.0]), np.array([0.0, 1.0]), np.array([1.0, 0.5]))
    found = min((minimize(loss, start, method="L-BFGS-B", bounds=bounds) for start in starts), key=lambda one: one.fun)
    return np.array([np.exp(found.x[0]), found.x[1]])


def calibrate(logits: Floats, calibration: Floats, weights: Floats) -> Floats:
    """Probabilities, ``(n, n_classes)``."""
    return np.exp(log_softmax(_apply(logits, calibration, weights), axis=1))


def _apply(logits: Floats, calibration: Floats, weights: Floats) -> Floats:
    """A class of weight 0, which no training row has, gets no probability."""
    temperature, share = calibration
    there = weights > 0
    return np.where(there, logits / temperature - share * np.log(np.where(there, weights, 1.0)), -np.inf)
