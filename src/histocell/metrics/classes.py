"""Scores of classes: confusion, precision, recall, F1, accuracy and calibration, with bootstrap intervals over blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histocell._core.arguments import check_count
from histocell._core.rng import as_rng

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

    from histocell._core.rng import RNGLike, SeedLike
    from histocell._core.types import Bools, Floats, Ints

N_BINS = 15  # of the confidence
_AT_EDGE = 1e-6  # of a bin: so near below an edge is above it
_LOT = 4_000_000  # numbers of resampled tables held at a time


def confusion_matrix(truth: ArrayLike, probability: ArrayLike) -> Floats:
    """Number of rows of each true class (lines) that are given each class (columns).

    Parameters
    ----------
    truth
        1 in the column of the true class, else 0, shape ``(n, n_classes)``. Lines with NaN are unknown and left out.
    probability
        Probability of each class, same shape; the most probable one is the prediction. Lines with NaN were not predicted.

    Returns
    -------
    Shape ``(n_classes, n_classes)``.

    Examples
    --------
    >>> import histocell as hc
    >>> hc.metrics.confusion_matrix([[1, 0], [1, 0], [0, 1]], [[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    array([[1., 1.],
           [0., 1.]])
    """
    truth, probability, known = _matched(truth, probability)
    return _tables(truth, probability, known, np.zeros(len(truth), dtype=np.intp), 1)[0]


def precision(truth: ArrayLike, probability: ArrayLike) -> Floats:
    """Share of the rows given a class that are of it, for each class; NaN for a class that no row is given.

    Parameters
    ----------
    truth, probability
        As in `confusion_matrix`.

    Examples
    --------
    >>> import histocell as hc
    >>> hc.metrics.precision([[1, 0], [1, 0], [0, 1]], [[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    array([1. , 0.5])
    """
    return _precision(confusion_matrix(truth, probability))


def recall(truth: ArrayLike, probability: ArrayLike) -> Floats:
    """Share of the rows of a class that are given it, for each class; NaN for a class that no row has.

    Parameters
    ----------
    truth, probability
        As in `confusion_matrix`.

    Examples
    --------
    >>> import histocell as hc
    >>> hc.metrics.recall([[1, 0], [1, 0], [0, 1]], [[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    array([0.5, 1. ])
    """
    return _recall(confusion_matrix(truth, probability))


def f1(truth: ArrayLike, probability: ArrayLike) -> Floats:
    """Harmonic mean of precision and recall of each class.

    0 for a class that is never hit; NaN for one that no row has, be it given to some or not: its mistakes count in the
    recall of the classes that they belong to.

    Parameters
    ----------
    truth, probability
        As in `confusion_matrix`.

    Examples
    --------
    >>> import histocell as hc
    >>> hc.metrics.f1([[1, 0], [1, 0], [0, 1]], [[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]]).round(3)
    array([0.667, 0.667])
    """
    return _f1(confusion_matrix(truth, probability))


def accuracy(truth: ArrayLike, probability: ArrayLike) -> Floats:
    """Share of the rows that are given their class, shape ``(1,)``.

    Parameters
    ----------
    truth, probability
        As in `confusion_matrix`.

    Examples
    --------
    >>> import histocell as hc
    >>> hc.metrics.accuracy([[1, 0], [1, 0], [0, 1]], [[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]]).round(3)
    array([0.667])
    """
    return _accuracy(confusion_matrix(truth, probability))


def balanced_accuracy(truth: ArrayLike, probability: ArrayLike) -> Floats:
    """Mean recall of the classes that have rows, shape ``(1,)``.

    Parameters
    ----------
    truth, probability
        As in `confusion_matrix`.

    Examples
    --------
    >>> import histocell as hc
    >>> hc.metrics.balanced_accuracy([[1, 0], [1, 0], [0, 1]], [[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    array([0.75])
    """
    return _balanced_accuracy(confusion_matrix(truth, probability))


def quadratic_kappa(truth: ArrayLike, probability: ArrayLike) -> Floats:
    """Cohen's kappa of ordered classes, shape ``(1,)``: a mistake counts by the square of the distance of the classes.

    Parameters
    ----------
    truth, probability
        As in `confusion_matrix`; the columns in the order of the classes.

    References
    ----------
    Cohen: Weighted kappa (1968).

    Examples
    --------
    >>> import numpy as np
    >>> import histocell as hc
    >>> hc.metrics.quadratic_kappa(np.eye(3)[[0, 1, 2, 2]], np.eye(3)[[0, 1, 2, 1]]).round(3)
    array([0.8])
    """
    return _quadratic_kappa(confusion_matrix(truth, probability))


def reliability(truth: ArrayLike, probability: ArrayLike, *, n_bins: int = N_BINS) -> Floats:
    """How confident predictions are, and how often they are right, in bins of equal width.

    Parameters
    ----------
    truth, probability
        As in `confusion_matrix`.
    n_bins
        Number of bins from 0 to 1.

    Returns
    -------
    Shape ``(n_bins, 3)``: number of rows, mean confidence (the probability of the most probable class) and share of rows
    that are right; NaN in empty bins.

    Examples
    --------
    >>> import histocell as hc
    >>> hc.metrics.reliability([[1, 0], [1, 0], [0, 1]], [[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]], n_bins=2)
    array([[0.        ,        nan,        nan],
           [3.        , 0.8       , 0.66666667]])
    """
    check_count(n_bins, "n_bins", least=1)
    truth, probability, known = _matched(truth, probability)
    count, confidence, right = _bins(truth, probability, known, np.zeros(len(truth), dtype=np.intp), 1, n_bins)[0].T
    means = np.divide([confidence, right], count, out=np.full((2, n_bins), np.nan), where=count > 0)
    return np.column_stack([count, *means])


def calibration_error(truth: ArrayLike, probability: ArrayLike) -> Floats:
    """Expected calibration error, shape ``(1,)``: by how much confidence and share of right predictions differ.

    The mean over the rows of the difference in each of 15 bins of the confidence.

    Parameters
    ----------
    truth, probability
        As in `confusion_matrix`.

    References
    ----------
    Guo et al.: On calibration of modern neural networks (ICML 2017).

    Examples
    --------
    >>> import histocell as hc
    >>> hc.metrics.calibration_error([[1, 0], [1, 0]], [[0.9, 0.1], [0.1, 0.9]])
    array([0.4])
    """
    truth, probability, known = _matched(truth, probability)
    return _calibration_error(_bins(truth, probability, known, np.zeros(len(truth), dtype=np.intp), 1, N_BINS))[0]


def bootstrap_classes(
    score: str,
    truth: ArrayLike,
    probability: ArrayLike,
    *,
    n_bootstrap: int = 1000,
    rng: SeedLike | RNGLike | None = 0,
    blocks: ArrayLike | None = None,
) -> Floats:
    """A score of classes of resampled rows, or of resampled blocks of rows.

    Parameters
    ----------
    score
        ``"precision"``, ``"recall"``, ``"f1"``, ``"accuracy"``, ``"balanced_accuracy"``, ``"quadratic_kappa"`` or
        ``"calibration_error"``.
    truth, probability
        As in `confusion_matrix`.
    n_bootstrap
        Number of resamples; 0 for none.
    rng
        Seed or generator; `None` for other draws each time.
    blocks
        Block of each row, such as a square of tissue: whole blocks are drawn, since neighbours are alike. By default rows.

    Returns
    -------
    Shape ``(n_bootstrap, n_classes)``, of scores of all classes together, such as ``accuracy``,
    ``(n_bootstrap, 1)``.

    Raises
    ------
    ValueError
        For an unknown score.

    Examples
    --------
    >>> import numpy as np
    >>> import histocell as hc
    >>> truth = np.eye(2)[[0, 1] * 10]
    >>> hc.metrics.bootstrap_classes("f1", truth, truth, n_bootstrap=5, blocks=np.arange(20) // 4).shape
    (5, 2)
    """
    if score not in _SCORES:
        msg = f"score must be one of {', '.join(_SCORES)}, not {score!r}"
        raise ValueError(msg)
    check_count(n_bootstrap, "n_bootstrap")
    truth, probability, known = _matched(truth, probability)
    labels = np.arange(len(truth)) if blocks is None else np.asarray(blocks)
    if labels.shape != (len(truth),):
        msg = f"blocks has shape {labels.shape} for {len(truth)} rows"
        raise ValueError(msg)
    formula = _SCORES[score]
    if blocks is None:  # rows that count alike are drawn together
        cells = _cells(score, truth, probability, known)
        kinds, numbers = np.unique(cells[known], axis=0, return_counts=True)
        sums, weights = kinds, numbers / max(int(numbers.sum()), 1)
        n_draws = int(numbers.sum())
    else:
        block = np.unique(labels, return_inverse=True)[1].reshape(-1)
        n_draws = int(block.max(initial=-1)) + 1
        sums = _sums(score, truth, probability, known, block, n_draws)
        weights = np.full(n_draws, 1 / max(n_draws, 1))
    generator, parts = as_rng(rng), []
    shape = (N_BINS, 3) if score == "calibration_error" else (truth.shape[1],) * 2
    lot = max(1, _LOT // max(sums.shape[0] + sums.shape[1], 1))
    for start in range(0, n_bootstrap, lot):
        size = min(lot, n_bootstrap - start)
        drawn = generator.multinomial(n_draws, weights, size=size) if n_draws else np.zeros((size, 0))
        parts.append(formula((drawn @ sums).reshape(size, *shape)))
    empty = np.empty((0, *formula(np.zeros((1, *shape))).shape[1:]))
    return np.concatenate([empty, *parts])


def _matched(truth: ArrayLike, probability: ArrayLike) -> tuple[Floats, Floats, Bools]:
    """Both as arrays of one shape, and which rows are known in both."""
    one, other = (np.asarray(each, dtype=np.float64) for each in (truth, probability))
    if one.ndim != 2 or one.shape != other.shape or one.shape[1] == 0:
        msg = f"truth and probability must have one shape, (n, n_classes); they have {one.shape} and {other.shape}"
        raise ValueError(msg)
    known = np.isfinite(one).all(axis=1)
    if not (np.isin(one[known], (0, 1)).all() and (one[known].sum(axis=1) == 1).all()):
        msg = "truth must hold a single 1 in the column of the true class, and 0 elsewhere, in each row that is known"
        raise ValueError(msg)
    return one, other, known & np.isfinite(other).all(axis=1)


def _sums(score: str, truth: Floats, probability: Floats, known: Bools, block: Ints, n_blocks: int) -> Floats:
    """What a score needs to know of each block, flat."""
    if score == "calibration_error":
        return _bins(truth, probability, known, block, n_blocks, N_BINS).reshape(n_blocks, -1)
    return _tables(truth, probability, known, block, n_blocks).reshape(n_blocks, -1)


def _cells(score: str, truth: Floats, probability: Floats, known: Bools) -> Floats:
    """What a score needs to know of each row, flat."""
    return _sums(score, truth, probability, known, np.arange(len(truth)), len(truth))


def _tables(truth: Floats, probability: Floats, known: Bools, block: Ints, n_blocks: int) -> Floats:
    """The confusion matrix of each block."""
    n_classes = truth.shape[1]
    place = (block[known] * n_classes + truth[known].argmax(axis=1)) * n_classes + probability[known].argmax(axis=1)
    return np.bincount(place, minlength=n_blocks * n_classes**2).reshape(n_blocks, n_classes, n_classes).astype(float)


def _bins(truth: Floats, probability: Floats, known: Bools, block: Ints, n_blocks: int, n_bins: int) -> Floats:
    """Number, sum of the confidence and number of right rows, by block and bin: ``(n_blocks, n_bins, 3)``."""
    confidence = probability[known].max(axis=1)
    right = truth[known].argmax(axis=1) == probability[known].argmax(axis=1)
    above = (confidence * n_bins + _AT_EDGE).astype(np.intp)  # votes of 15 neighbours lie at the edges of 15 bins
    place = block[known] * n_bins + np.clip(above, 0, n_bins - 1)
    columns = [np.bincount(place, weights, n_blocks * n_bins) for weights in (np.ones(len(place)), confidence, right)]
    return np.stack(columns, axis=-1).reshape(n_blocks, n_bins, 3)


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)


def _hits(table: Floats) -> Floats:
    return np.diagonal(table, axis1=-2, axis2=-1)


def _precision(table: Floats) -> Floats:
    return _ratio(_hits(table), table.sum(axis=-2))


def _recall(table: Floats) -> Floats:
    return _ratio(_hits(table), table.sum(axis=-1))


def _f1(table: Floats) -> Floats:
    there = table.sum(axis=-1)
    return np.where(there > 0, _ratio(2 * _hits(table), there + table.sum(axis=-2)), np.nan)


def _accuracy(table: Floats) -> Floats:
    return _ratio(_hits(table).sum(axis=-1), table.sum(axis=(-2, -1)))[..., None]


def _balanced_accuracy(table: Floats) -> Floats:
    of_classes = _recall(table)
    there = np.isfinite(of_classes)
    return _ratio(np.where(there, of_classes, 0.0).sum(axis=-1), there.sum(axis=-1).astype(float))[..., None]


def _quadratic_kappa(table: Floats) -> Floats:
    place = np.arange(table.shape[-1])
    apart = (place[:, None] - place) ** 2.0
    total = table.sum(axis=(-2, -1))
    chance = table.sum(axis=-1)[..., :, None] * table.sum(axis=-2)[..., None, :]
    return 1 - _ratio((table * apart).sum(axis=(-2, -1)) * total, (chance * apart).sum(axis=(-2, -1)))[..., None]


def _calibration_error(bins: Floats) -> Floats:
    count, confidence, right = np.moveaxis(bins, -1, 0)
    return _ratio(np.abs(confidence - right).sum(axis=-1), count.sum(axis=-1))[..., None]


_SCORES: dict[str, Callable[[Floats], Floats]] = {
    "precision": _precision,
    "recall": _recall,
    "f1": _f1,
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "quadratic_kappa": _quadratic_kappa,
    "calibration_error": _calibration_error,
}
