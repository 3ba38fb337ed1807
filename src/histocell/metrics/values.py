"""Scores of numbers: one value per column, undefined where a score cannot be, with bootstrap intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histocell._core.arguments import check_count, check_share
from histocell._core.rng import as_rng

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import ArrayLike

    from histocell._core.rng import RNGLike, SeedLike
    from histocell._core.types import Bools, Floats, Ints

_BLOCK = 4_000_000  # counts of resampled rows held at a time


def pearson(y_true: ArrayLike, y_pred: ArrayLike, *, groups: ArrayLike | None = None) -> Floats:
    """Pearson correlation across rows, for each column.

    Rows where either value is not finite are left out for that column. The correlation is undefined (NaN) with fewer
    than two pairs, and where either vector is constant, judged by its range: rounding can give a constant vector a
    standard deviation of 1e-17 and then a meaningless number.

    Parameters
    ----------
    y_true, y_pred
        Shape ``(n, n_columns)``, or ``(n,)`` for one column.
    groups
        Group of each row; the correlation is then computed within each.

    Returns
    -------
    Shape ``(n_columns,)``, or ``(n_groups, n_columns)`` with the groups sorted.

    Examples
    --------
    >>> import histocell as hc
    >>> truth, predicted = [[1, 5], [2, 5], [4, 5]], [[1, 3], [3, 1], [5, 2]]
    >>> hc.metrics.pearson(truth, predicted).round(3)
    array([0.982,   nan])
    """
    y_true, y_pred = _matrices(y_true, y_pred)
    return _by_group(groups, len(y_true), lambda rows: _pearson(y_true[rows], y_pred[rows]))


def l1(y_true: ArrayLike, y_pred: ArrayLike, *, groups: ArrayLike | None = None) -> Floats:
    """Mean absolute error across rows, for each column, in the units of the target.

    Parameters
    ----------
    y_true, y_pred
        Shape ``(n, n_columns)``, or ``(n,)`` for one column. Pairs that are not finite are left out.
    groups
        Group of each row; the error is then computed within each.

    Returns
    -------
    Shape ``(n_columns,)``, or ``(n_groups, n_columns)`` with the groups sorted; NaN where no pair is finite.

    Examples
    --------
    >>> import histocell as hc
    >>> hc.metrics.l1([[1, 5], [2, 5]], [[1, 4], [4, 4]])
    array([1., 1.])
    """
    error = absolute_error(y_true, y_pred)
    return _by_group(groups, len(error), lambda rows: nan_mean(error[rows]))


def coverage(y_true: ArrayLike, lower: ArrayLike, upper: ArrayLike, *, groups: ArrayLike | None = None) -> Floats:
    """Share of rows whose true value lies in its interval, bounds included, for each column.

    Parameters
    ----------
    y_true, lower, upper
        Shape ``(n, n_columns)``, or ``(n,)`` for one column. Triples that are not finite are left out.
    groups
        Group of each row; the share is then computed within each.

    Returns
    -------
    Shape ``(n_columns,)``, or ``(n_groups, n_columns)`` with the groups sorted.

    Examples
    --------
    >>> import histocell as hc
    >>> hc.metrics.coverage([1, 2, 3, 4], lower=[0, 0, 0, 0], upper=[3, 3, 3, 3])
    array([0.75])
    """
    hit = covered(y_true, lower, upper)
    return _by_group(groups, len(hit), lambda rows: nan_mean(hit[rows]))


def absolute_error(y_true: ArrayLike, y_pred: ArrayLike) -> Floats:
    """Absolute error of each entry, NaN where either value is not finite.

    Parameters
    ----------
    y_true, y_pred
        Shape ``(n, n_columns)``, or ``(n,)`` for one column.

    Returns
    -------
    Shape ``(n, n_columns)``, in the units of the target.

    Examples
    --------
    >>> import numpy as np
    >>> import histocell as hc
    >>> hc.metrics.absolute_error([[1, 5], [2, np.nan]], [[1, 4], [4, 4]])
    array([[ 0.,  1.],
           [ 2., nan]])
    """
    y_true, y_pred = _matrices(y_true, y_pred)
    return np.abs(np.where(np.isfinite(y_true), y_true, np.nan) - np.where(np.isfinite(y_pred), y_pred, np.nan))


def covered(y_true: ArrayLike, lower: ArrayLike, upper: ArrayLike) -> Floats:
    """Whether each entry lies in its interval, bounds included.

    Parameters
    ----------
    y_true, lower, upper
        Shape ``(n, n_columns)``, or ``(n,)`` for one column.

    Returns
    -------
    Shape ``(n, n_columns)``: 1 inside, 0 outside, NaN where a value is not finite.

    Examples
    --------
    >>> import histocell as hc
    >>> hc.metrics.covered([1, 4], lower=[0, 0], upper=[3, 3])
    array([[1.],
           [0.]])
    """
    y_true, lower, upper = _matrices(y_true, lower, upper)
    finite = np.isfinite([y_true, lower, upper]).all(axis=0)
    return np.where(finite, (lower <= y_true) & (y_true <= upper), np.nan)


def nan_mean(values: Floats, axis: int = 0) -> Floats:
    """Mean of the finite values along an axis, NaN (and no warning) where there are none.

    Parameters
    ----------
    values
        Any shape.
    axis
        The axis that goes.

    Examples
    --------
    >>> import numpy as np
    >>> import histocell as hc
    >>> hc.metrics.nan_mean(np.array([[1.0, np.nan], [3.0, np.nan]]))
    array([ 2., nan])
    """
    finite = np.isfinite(values)
    count = finite.sum(axis=axis)
    total = np.where(finite, values, 0.0).sum(axis=axis)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def bootstrap_mean(
    values: ArrayLike,
    *,
    n_bootstrap: int = 1000,
    rng: SeedLike | RNGLike | None = 0,
    blocks: ArrayLike | None = None,
) -> Floats:
    """Means of resampled rows: of groups, or of spots.

    Percentiles of the means of fewer than five rows are little else than the least and the greatest of them.

    Parameters
    ----------
    values
        Shape ``(n, n_columns)``; values that are not finite are left out.
    n_bootstrap
        Number of resamples; 0 for none.
    rng
        Seed or generator; `None` for other draws each time.
    blocks
        Block of each row, such as a square of tissue: whole blocks are drawn, since neighbours are alike. By default rows.

    Returns
    -------
    Shape ``(n_bootstrap, n_columns)``; NaN where a resample holds no finite value of a column.

    Examples
    --------
    >>> import histocell as hc
    >>> replicates = hc.metrics.bootstrap_mean([0.2, 0.4, 0.9], n_bootstrap=500, rng=0)
    >>> replicates.shape
    (500, 1)
    """
    (values,) = _matrices(values)
    finite = np.isfinite(values)
    filled = np.where(finite, values, 0.0)
    parts = [np.empty((0, values.shape[1]))]
    for weights in resamples(len(values), n_bootstrap, rng, blocks):
        count = weights @ finite
        parts.append(np.divide(weights @ filled, count, out=np.full(count.shape, np.nan), where=count > 0))
    return np.concatenate(parts)


def bootstrap_pearson(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    n_bootstrap: int = 1000,
    rng: SeedLike | RNGLike | None = 0,
    blocks: ArrayLike | None = None,
) -> Floats:
    """Correlations of resampled rows.

    Neighbouring spots are alike, so an interval over spots is narrower than one over patients; it says how well this
    group was measured, not how another one will do.

    Parameters
    ----------
    y_true, y_pred
        Shape ``(n, n_columns)``; pairs that are not finite are left out.
    n_bootstrap
        Number of resamples; 0 for none.
    rng
        Seed or generator; `None` for other draws each time.
    blocks
        Block of each row, such as a square of tissue: whole blocks are drawn, since neighbours are alike. By default rows.

    Returns
    -------
    Shape ``(n_bootstrap, n_columns)``; NaN where a resample is constant or has fewer than two pairs.

    Examples
    --------
    >>> import histocell as hc
    >>> replicates = hc.metrics.bootstrap_pearson([1, 2, 3, 4], [1, 3, 2, 5], n_bootstrap=500, rng=0)
    >>> low, high = hc.metrics.percentile_interval(replicates)
    >>> bool(low[0] < hc.metrics.pearson([1, 2, 3, 4], [1, 3, 2, 5])[0] <= high[0])
    True
    """
    y_true, y_pred = _matrices(y_true, y_pred)
    finite = np.isfinite(y_true) & np.isfinite(y_pred)
    x, y = _standardized(y_true, finite), _standardized(y_pred, finite)
    parts = [np.empty((0, y_true.shape[1]))]
    for weights in resamples(len(y_true), n_bootstrap, rng, blocks):
        count = np.maximum(weights @ finite, 1)
        mean_x, mean_y = weights @ x / count, weights @ y / count
        var_x = weights @ (x * x) / count - mean_x**2
        var_y = weights @ (y * y) / count - mean_y**2
        covariance = weights @ (x * y) / count - mean_x * mean_y
        # The columns have unit variance, so what rounding leaves of a constant resample is far below this.
        defined = (var_x > 1e-12) & (var_y > 1e-12)
        scale = np.sqrt(var_x * var_y, out=np.ones_like(var_x), where=defined)
        parts.append(np.where(defined, np.clip(covariance / scale, -1, 1), np.nan))
    return np.concatenate(parts)


def percentile_interval(replicates: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
    """Percentile interval of bootstrap replicates.

    Parameters
    ----------
    replicates
        Shape ``(n_bootstrap, ...)``; replicates that are not finite are left out.
    level
        Share of the replicates that lie between the bounds.

    Returns
    -------
    Lower and upper bound, the shape of one replicate; NaN where no replicate is finite.

    Examples
    --------
    >>> import numpy as np
    >>> import histocell as hc
    >>> low, high = hc.metrics.percentile_interval(np.arange(101.0)[:, None], level=0.9)
    >>> low, high
    (array([5.]), array([95.]))
    """
    check_share(level, "level", ends="()")
    bounds = np.full((2, *replicates.shape[1:]), np.nan)
    for column in np.ndindex(replicates.shape[1:]):
        values = replicates[:, *column]
        if np.isfinite(values).any():
            bounds[:, *column] = np.quantile(values[np.isfinite(values)], [(1 - level) / 2, (1 + level) / 2])
    return bounds[0], bounds[1]


def segmentation_scores(truth: ArrayLike, predicted: ArrayLike, *, iou: float = 0.5) -> dict[str, float]:
    """How well predicted objects agree with true ones, each pixel of which has one label.

    A predicted and a true object match where their intersection over union (IoU) is above `iou`, which from 0.5 on no
    two can for the same object. Labels need not be consecutive; objects with one label in several pieces count once.

    Parameters
    ----------
    truth, predicted
        Labels of one shape, integers, 0 outside of objects.
    iou
        From 0.5 to below 1.

    Returns
    -------
    Numbers: ``n_true``, ``n_predicted``, ``n_matched``, ``precision``, ``recall``, ``f1``, ``sq`` (mean IoU of the
    matches), ``pq`` (panoptic quality, f1 times sq) and ``aji`` (aggregated Jaccard index). To score several images as
    one, put them side by side with labels of their own. A score without objects to count is NaN.

    Raises
    ------
    TypeError
        If labels are no integers.
    ValueError
        If shapes differ or labels are negative.

    References
    ----------
    Kirillov et al. (2019), Panoptic segmentation, equation 1; Kumar et al. (2017), A dataset and a technique for
    generalized nuclear segmentation for computational pathology, algorithm 1.

    Examples
    --------
    >>> import histocell as hc
    >>> truth = [[1, 1, 1, 1, 0, 2, 2]]
    >>> predicted = [[1, 1, 1, 0, 0, 0, 3]]
    >>> scores = hc.metrics.segmentation_scores(truth, predicted)
    >>> scores["f1"], scores["pq"], round(scores["aji"], 3)
    (0.5, 0.375, 0.667)
    """
    if not 0.5 <= check_share(iou, "iou") < 1:
        msg = f"iou must be from 0.5 to below 1, not {iou}: below, an object can match several"
        raise ValueError(msg)
    pairs, common, of_truth, of_predicted = _overlaps(truth, predicted)
    union = of_truth[pairs[0]] + of_predicted[pairs[1]] - common
    shared = common / union
    matched = shared > iou
    n_true, n_predicted, n_matched = len(of_truth), len(of_predicted), int(matched.sum())
    scores = {
        "precision": _ratio(n_matched, n_predicted),
        "recall": _ratio(n_matched, n_true),
        "f1": _ratio(2 * n_matched, n_true + n_predicted),
        "sq": _ratio(float(shared[matched].sum()), n_matched),
        "pq": _ratio(2 * float(shared[matched].sum()), n_true + n_predicted),
    }
    # the best partner of each true object; the union with it, or the object alone where it has none
    order = np.lexsort((-shared, pairs[0]))
    best = order[np.unique(pairs[0][order], return_index=True)[1]]
    unused = np.setdiff1d(np.arange(n_predicted), pairs[1][best])
    alone = np.setdiff1d(np.arange(n_true), pairs[0][best])
    whole = union[best].sum() + of_truth[alone].sum() + of_predicted[unused].sum()
    scores["aji"] = _ratio(float(common[best].sum()), float(whole))
    return {"n_true": n_true, "n_predicted": n_predicted, "n_matched": n_matched, **scores}


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _overlaps(truth: ArrayLike, predicted: ArrayLike) -> tuple[tuple[Ints, Ints], Floats, Floats, Floats]:
    """Pairs of objects that share pixels, how many they share, and how many those of each side have."""
    labels = [np.asarray(truth), np.asarray(predicted)]
    for array, name in zip(labels, ("truth", "predicted"), strict=True):
        if array.dtype.kind not in "iu":
            msg = f"{name} must hold integer labels, not {array.dtype}"
            raise TypeError(msg)
        if array.size and array.min() < 0:
            msg = f"{name} holds negative labels, down to {array.min()}; expected 0 outside of objects"
            raise ValueError(msg)
    if labels[0].shape != labels[1].shape:
        msg = f"truth and predicted must have one shape, not {labels[0].shape} and {labels[1].shape}"
        raise ValueError(msg)
    (names_t, index_t), (names_p, index_p) = (np.unique(array.ravel(), return_inverse=True) for array in labels)
    codes, common = np.unique(index_t * max(len(names_p), 1) + index_p, return_counts=True)
    pairs = np.divmod(codes, max(len(names_p), 1))
    of_truth, of_predicted = np.bincount(index_t), np.bincount(index_p)
    inside = (names_t[pairs[0]] > 0) & (names_p[pairs[1]] > 0)
    first = (int((names_t == 0).any()), int((names_p == 0).any()))  # the background, if there is any, comes first
    kept = (pairs[0][inside] - first[0], pairs[1][inside] - first[1])
    return (
        kept,
        common[inside].astype(float),
        of_truth[first[0] :].astype(float),
        of_predicted[first[1] :].astype(float),
    )


def _pearson(y_true: Floats, y_pred: Floats) -> Floats:
    finite = np.isfinite(y_true) & np.isfinite(y_pred)
    x, y = _standardized(y_true, finite), _standardized(y_pred, finite)
    defined = x.any(axis=0) & y.any(axis=0)
    x *= y
    r = x.sum(axis=0) / np.maximum(finite.sum(axis=0), 1)
    return np.where(defined, np.clip(r, -1, 1), np.nan)


def _standardized(values: Floats, finite: Bools) -> Floats:
    """Columns with mean 0 and standard deviation 1 over their finite entries; 0 elsewhere and where constant."""
    count = np.maximum(finite.sum(axis=0), 1)
    low = values.min(axis=0, where=finite, initial=np.inf)
    high = values.max(axis=0, where=finite, initial=-np.inf)
    varies = low < high
    used = finite & varies
    origin = np.where(varies, low, 0.0)
    # In place, because new arrays of the size of a slide cost more time than the arithmetic.
    out = np.subtract(values, origin, out=np.zeros_like(values), where=used)
    # Scaling by the range first keeps the squares of tiny and of huge values finite.
    out /= np.where(varies, high - origin, 1.0)
    np.subtract(out, out.sum(axis=0) / count, out=out, where=used)
    spread = np.sqrt((out**2).sum(axis=0) / count)
    out /= np.where(spread > 0, spread, 1.0)
    return out


def resamples(
    n: int, n_bootstrap: int, rng: SeedLike | RNGLike | None, blocks: ArrayLike | None = None
) -> Iterator[Floats]:
    """How often each of `n` rows is drawn, alone or with its block, in lots of resamples that keep memory small."""
    check_count(n_bootstrap, "n_bootstrap")
    generator = as_rng(rng)
    lot = max(1, _BLOCK // max(n, 1))
    block = None if blocks is None else np.unique(np.asarray(blocks), return_inverse=True)[1]
    if block is not None and block.shape != (n,):
        msg = f"blocks has shape {block.shape} for {n} rows"
        raise ValueError(msg)
    units = n if block is None else int(block.max(initial=-1)) + 1
    for start in range(0, n_bootstrap, lot):
        size = min(lot, n_bootstrap - start)
        shares = np.full(units, 1 / max(units, 1))
        counts = generator.multinomial(units, shares, size=size).astype(np.float64) if units else np.zeros((size, 0))
        yield counts if block is None else counts[:, block]


def _matrices(*arrays: ArrayLike) -> list[Floats]:
    out = [np.asarray(array, dtype=np.float64) for array in arrays]
    out = [array[:, None] if array.ndim == 1 else array for array in out]
    if any(array.ndim != 2 or array.shape != out[0].shape for array in out):
        msg = f"arrays must have one shape, (n, n_columns); they have {', '.join(str(a.shape) for a in out)}"
        raise ValueError(msg)
    return out


def _by_group(groups: ArrayLike | None, n: int, score: Callable[[Bools], Floats]) -> Floats:
    if groups is None:
        return score(np.ones(n, dtype=bool))
    groups = np.asarray(groups)
    if len(groups) != n:
        msg = f"groups has {len(groups)} entries for {n} rows"
        raise ValueError(msg)
    return np.stack([score(groups == name) for name in np.unique(groups)])
