"""Scores of the order of predictions: area under the ROC curve and concordance, with bootstrap intervals over blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histocell.metrics.values import resamples

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from histocell._core.rng import RNGLike, SeedLike
    from histocell._core.types import Floats

_PAIRS = 4_000_000  # pairs of rows looked at at a time


def auc(truth: ArrayLike, probability: ArrayLike, strata: ArrayLike | None = None) -> Floats:
    """Area under the ROC curve of each class against all others; NaN where the rows are of one kind.

    Parameters
    ----------
    truth
        1 in the column of the true class, else 0, shape ``(n, n_classes)``. Lines with NaN are left out.
    probability
        Probability of each class, same shape. Lines with NaN are left out.
    strata
        Only rows of one stratum are compared, as those that one model predicted, shape ``(n,)``; by default all.

    Returns
    -------
    Shape ``(n_classes,)``.

    Examples
    --------
    >>> import histocell as hc
    >>> hc.metrics.auc([[1, 0], [1, 0], [0, 1]], [[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    array([0.5, 0.5])
    """
    return bootstrap_auc(truth, probability, strata, n_bootstrap=None)[0]


def bootstrap_auc(
    truth: ArrayLike,
    probability: ArrayLike,
    strata: ArrayLike | None = None,
    *,
    n_bootstrap: int | None = 1000,
    rng: SeedLike | RNGLike | None = 0,
    blocks: ArrayLike | None = None,
) -> Floats:
    """`auc` of resampled rows, or of resampled blocks of rows, shape ``(n_bootstrap, n_classes)``.

    Parameters
    ----------
    truth, probability, strata
        As in `auc`.
    n_bootstrap
        Number of resamples; `None`: the rows as they are, once.
    rng
        Seed or generator; `None` for other draws each time.
    blocks
        Block of each row, such as its patient: whole blocks are drawn. By default rows.

    Examples
    --------
    >>> import numpy as np
    >>> import histocell as hc
    >>> truth = np.eye(2)[[0, 1] * 5]
    >>> hc.metrics.bootstrap_auc(truth, truth, n_bootstrap=3).min(axis=0)
    array([1., 1.])
    """
    truth, probability = (np.asarray(each, dtype=np.float64) for each in (truth, probability))
    if truth.ndim != 2 or truth.shape != probability.shape:
        msg = f"truth and probability must have one shape, (n, n_classes); they have {truth.shape} and {probability.shape}"
        raise ValueError(msg)
    known = np.isfinite(truth).all(axis=1) & np.isfinite(probability).all(axis=1)
    truth, probability, number = truth[known], probability[known], _numbers(strata, known)
    parts = []
    for weights in _weights(known, n_bootstrap, rng, blocks):
        won, pairs = np.zeros((2, len(weights), truth.shape[1]))
        for stratum in range(number.max(initial=-1) + 1):
            inside = number == stratum
            for column in range(truth.shape[1]):
                score, of_class = probability[inside, column], truth[inside, column] == 1
                of_those, of_others = weights[:, inside] * of_class, weights[:, inside] * ~of_class
                won[:, column] += _won(score, of_those, of_others)
                pairs[:, column] += of_those.sum(axis=1) * of_others.sum(axis=1)
        parts.append(np.divide(won, pairs, out=np.full_like(won, np.nan), where=pairs > 0))
    return np.concatenate([np.empty((0, truth.shape[1])), *parts])


def concordance(truth: ArrayLike, risk: ArrayLike, strata: ArrayLike | None = None) -> Floats:
    """Harrell's c-index, shape ``(1,)``: share of the pairs of known order in which the higher risk has the event first.

    A pair counts where the earlier of two times is that of an event; at one time, an event against who was last seen then.
    Equal risks count half. NaN where no pair counts.

    Parameters
    ----------
    truth
        Time, and 1 for an event or 0 for who was last seen then, shape ``(n, 2)``. Lines with NaN are left out.
    risk
        Predicted risk, shape ``(n,)`` or ``(n, 1)``; NaN is left out.
    strata
        Only rows of one stratum are compared, shape ``(n,)``; by default all.

    References
    ----------
    Harrell et al.: Evaluating the yield of medical tests (JAMA 1982).

    Examples
    --------
    >>> import histocell as hc
    >>> hc.metrics.concordance([[1, 1], [2, 0], [3, 1], [4, 0]], [3.0, 1.0, 0.5, 2.0])
    array([0.75])
    """
    return bootstrap_concordance(truth, risk, strata, n_bootstrap=None)[0]


def bootstrap_concordance(
    truth: ArrayLike,
    risk: ArrayLike,
    strata: ArrayLike | None = None,
    *,
    n_bootstrap: int | None = 1000,
    rng: SeedLike | RNGLike | None = 0,
    blocks: ArrayLike | None = None,
) -> Floats:
    """`concordance` of resampled rows, or of resampled blocks of rows, shape ``(n_bootstrap, 1)``.

    Parameters
    ----------
    truth, risk, strata
        As in `concordance`.
    n_bootstrap, rng, blocks
        As in `bootstrap_auc`.

    Examples
    --------
    >>> import histocell as hc
    >>> truth = [[1, 1], [2, 0], [3, 1], [4, 0]]
    >>> hc.metrics.bootstrap_concordance(truth, [3.0, 1.0, 0.5, 2.0], n_bootstrap=3).shape
    (3, 1)
    """
    truth, risk = np.asarray(truth, dtype=np.float64), np.asarray(risk, dtype=np.float64)
    risk = risk[:, 0] if risk.ndim == 2 else risk
    if truth.ndim != 2 or truth.shape[1] != 2 or risk.shape != (len(truth),):
        msg = f"truth must have shape (n, 2), time and event, and risk (n,); they have {truth.shape} and {risk.shape}"
        raise ValueError(msg)
    known = np.isfinite(truth).all(axis=1) & np.isfinite(risk)
    (time, event), risk, number = truth[known].T, risk[known], _numbers(strata, known)
    size = max(1, _PAIRS // max(len(risk), 1))
    parts = []
    for weights in _weights(known, n_bootstrap, rng, blocks):
        won, pairs = np.zeros((2, len(weights)))
        for start in range(0, len(risk), size):
            some = slice(start, start + size)
            later = (time[some, None] < time) | ((time[some, None] == time) & (event == 0))
            counts = later & (event[some, None] == 1) & (number[some, None] == number)
            higher = np.sign(risk[some, None] - risk) / 2 + 0.5
            won += (weights[:, some] * (weights @ (counts * higher).T)).sum(axis=1)
            pairs += (weights[:, some] * (weights @ counts.T.astype(np.float64))).sum(axis=1)
        parts.append(np.divide(won, pairs, out=np.full_like(won, np.nan), where=pairs > 0))
    return np.concatenate([np.empty(0), *parts])[:, None]


def _won(score: Floats, of_those: Floats, of_others: Floats) -> Floats:
    """Weight of the pairs in which one of those has the higher score, half of it at equal scores; by line of the weights."""
    if not len(score):
        return np.zeros(len(of_those))
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf))
    those, others = (np.add.reduceat(each[:, order], starts, axis=1) for each in (of_those, of_others))
    return (those * (others.cumsum(axis=1) - others / 2)).sum(axis=1)


def _numbers(strata: ArrayLike | None, known: np.ndarray) -> np.ndarray:
    if strata is None:
        return np.zeros(int(known.sum()), dtype=np.intp)
    labels = np.asarray(strata).reshape(len(known), -1)[known, 0]
    return np.unique(labels, return_inverse=True)[1].reshape(-1)


def _weights(
    known: np.ndarray, n_bootstrap: int | None, rng: SeedLike | RNGLike | None, blocks: ArrayLike | None
) -> list[Floats]:
    """How often each known row is drawn, ``(some resamples, n)`` at a time."""
    if n_bootstrap is None:
        return [np.ones((1, int(known.sum())))]
    inside = None if blocks is None else np.asarray(blocks)[known]
    return list(resamples(int(known.sum()), n_bootstrap, rng, inside))
