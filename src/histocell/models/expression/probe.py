"""The probe of HEST-Bench in closed form: standardised features, principal components and ridge, from sums of products."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from scipy.linalg import blas

from histocell import metrics
from histocell._core.arguments import check_count, check_positive
from histocell._core.device import one_blas_thread
from histocell.models.expression.blas import add_products
from histocell.models.expression.eigen import Eigen, largest_eigen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from histocell._core.types import Bools, Floats, Ints

N_COMPONENTS = 256
ALPHAS = tuple(float(f"{alpha:.4g}") for alpha in 10 ** np.arange(-3, 7.1, 0.5))  # penalties that are tried
MAX_FOLDS = 5  # within the training rows
_THREADS = 8
_ROWS = 4096  # that are in float64 at once
_LEAST_ROWS = 256  # for a thread
_EPS = np.finfo(np.float64).eps


@dataclass(frozen=True)
class Moments:
    """Sums over some rows that the probe needs of them, and all that it needs: rows are read once, however many folds.

    Attributes
    ----------
    n
        Number of rows.
    mean_x, mean_y
        Means of features, ``(d,)``, and targets, ``(g,)``.
    xx, xy
        Sums of products of what differs from the means, ``(d, d)`` and ``(d, g)``. `xx` is symmetric, and only what is on
        and above its diagonal is kept up: the rest is not read.
    yy
        Sums of squares of the targets, ``(g,)``.
    low_y, high_y
        Least and greatest value of each target.
    """

    n: int
    mean_x: Floats
    mean_y: Floats
    xx: Floats
    xy: Floats
    yy: Floats
    low_y: Floats
    high_y: Floats

    @classmethod
    def of(cls, X: np.ndarray, Y: np.ndarray) -> Self:
        """The sums over rows of features ``(n, d)`` and targets ``(n, g)``, in float64.

        Raises
        ------
        ValueError
            When the rows do not match, there are none, or a value is not finite.
        """
        X, Y = np.asarray(X), np.asarray(Y, dtype=np.float64)
        if X.ndim != 2 or Y.ndim != 2 or len(X) != len(Y) or not X.size or not Y.size:
            msg = f"features and targets must have the same rows, and some, not shapes {X.shape} and {Y.shape}"
            raise ValueError(msg)
        d = X.shape[1]
        with np.errstate(invalid="ignore"):
            mean_x, mean_y = X.mean(axis=0, dtype=np.float64), Y.mean(axis=0)
        if not np.isfinite(mean_x).all() or not np.isfinite(mean_y).all():
            msg = "features or targets hold NaN or infinite values; leave such rows out"
            raise ValueError(msg)
        centred = Y - mean_y

        def products(start: int, end: int) -> tuple[Floats, Floats]:
            xx, xy = np.zeros((d, d), order="F"), np.zeros((d, Y.shape[1]))
            for low in range(start, end, _ROWS):
                rows = slice(low, min(low + _ROWS, end))
                part = np.subtract(X[rows], mean_x, dtype=np.float64, order="C")
                add_products(part, xx)
                xy += part.T @ centred[rows]
            return xx, xy

        # as of `probe_folds`: a thread for each part of the rows, with one thread of BLAS
        n_threads = max(1, min(_n_threads(), len(X) // _LEAST_ROWS))
        ends = np.linspace(0, len(X), n_threads + 1).astype(int).tolist()
        with one_blas_thread(), ThreadPoolExecutor(n_threads) as pool:
            (xx, xy), *others = pool.map(products, ends[:-1], ends[1:])
        for other in others:
            xx += other[0]
            xy += other[1]
        return cls(len(X), mean_x, mean_y, xx, xy, (centred**2).sum(axis=0), Y.min(axis=0), Y.max(axis=0))

    @classmethod
    def pooled(cls, parts: Sequence[Moments]) -> Moments:
        """The sums over the rows of all parts."""
        if len(parts) == 1:
            return parts[0]
        n = sum(part.n for part in parts)
        mean_x, mean_y = (sum(part.n * getattr(part, name) for part in parts) / n for name in ("mean_x", "mean_y"))
        weights = np.sqrt([part.n for part in parts])[:, None]
        shift_x = np.stack([part.mean_x - mean_x for part in parts]) * weights
        shift_y = np.stack([part.mean_y - mean_y for part in parts]) * weights
        return cls(
            n,
            mean_x,
            mean_y,
            blas.dsyrk(1.0, shift_x.T, beta=1.0, c=_sum(parts, "xx"), overwrite_c=1),
            _sum(parts, "xy") + shift_x.T @ shift_y,
            _sum(parts, "yy") + (shift_y**2).sum(axis=0),
            np.minimum.reduce([part.low_y for part in parts]),
            np.maximum.reduce([part.high_y for part in parts]),
        )

    @property
    def constant(self) -> Bools:
        """Targets that have one value in all rows."""
        return self.low_y == self.high_y


@dataclass(frozen=True)
class Probe:
    """A linear map from features to targets.

    Attributes
    ----------
    coefficients, intercept
        Shapes ``(d, g)`` and ``(g,)``. The intercept only carries the means of the features: as in HEST-Bench the mean of
        a target is not added, so predictions have mean 0 over the training rows.
    alpha, n_components
        The penalty, and the number of principal components; of none it is the width of the features.
    """

    coefficients: Floats
    intercept: Floats
    alpha: float
    n_components: int

    def predict(self, X: np.ndarray) -> Floats:
        """Predictions, shape ``(n, g)``."""
        return np.asarray(X, dtype=np.float64) @ self.coefficients + self.intercept


class FoldScore(NamedTuple):
    """What a probe that was fitted on some rows reaches on others.

    Attributes
    ----------
    pearson
        Correlation of each target over the other rows; NaN where the target or its prediction is constant.
    alpha, n_components
        As of `Probe`.
    n_train, n_test
        Numbers of rows.
    """

    pearson: Floats
    alpha: float
    n_components: int
    n_train: int
    n_test: int


class _Basis(NamedTuple):
    """Directions in which the ridge of any penalty is a division.

    Attributes
    ----------
    eigen
        Of the products of the scaled features, of which there are d.
    scale, shift
        Shape (d,): scores are ``(x - shift) / scale`` times the vectors of `eigen`.
    squares
        Shape (k,): sum of squares of the scores over the training rows.
    products
        Shape (k, g): sums of their products with the targets.
    """

    eigen: Eigen
    scale: Floats
    shift: Floats
    squares: Floats
    products: Floats

    def weights(self, alpha: float) -> Floats:
        """Coefficients of the scores, shape (k, g)."""
        return self.products / (self.squares + alpha)[:, None]

    def in_features(self, weights: Floats) -> Floats:
        """Coefficients of the features, shape (d, g), for those of the scores."""
        return self.eigen.back(weights) / self.scale[:, None]


def hest_alpha(n_components: int, n_targets: int) -> float:
    """The penalty of HEST-Bench: ``100 / (components * targets)``."""
    return 100 / (n_components * n_targets)


def fit_probe(train: Moments, *, n_components: int | None = N_COMPONENTS, alpha: float | None = None) -> Probe:
    r"""Ridge on the principal components of standardised features, without an intercept.

    With scores :math:`T` of the training rows :math:`(T^\top T + \alpha I) B = T^\top Y`, where :math:`T^\top T` is
    diagonal. This is the exact minimum, in float64: where scikit-learn's ``lsqr`` stops early, or its randomised PCA has
    not converged, it is not what those give.

    Parameters
    ----------
    train
        Of the training rows.
    n_components
        At most so many components; `None` for ridge on the features as they are, neither centred nor scaled.
    alpha
        Penalty; by default that of :func:`hest_alpha`.

    References
    ----------
    Jaume et al.: HEST-1k (NeurIPS 2024), arXiv:2406.16192, section on HEST-Bench.
    """
    basis = _basis(train, n_components)
    k = len(basis.squares)
    alpha = hest_alpha(k, train.xy.shape[1]) if alpha is None else check_positive(alpha, "alpha")
    coefficients = basis.in_features(basis.weights(alpha))
    return Probe(coefficients, -basis.shift @ coefficients, alpha, k)


def probe_folds(
    units: Sequence[Moments],
    folds: Sequence[tuple[Ints, Ints]],
    *,
    n_components: int | None = N_COMPONENTS,
    alpha: float | str | None = None,
    alphas: Sequence[float] = ALPHAS,
) -> list[FoldScore]:
    """Fit and score a probe in each fold, all targets at once.

    Parameters
    ----------
    units
        Sums over sets of rows that lie together on one side of every fold, such as samples.
    folds
        Indices of the units to train on and of those to test on.
    n_components
        As of `fit_probe`.
    alpha
        A penalty, `None` for that of HEST-Bench, or ``"cv"`` for the best of `alphas` on units of the training side that
        are held out in turn, in at most five bundles.
    alphas
        Penalties that are tried.
    """

    def solve(fold: tuple[Ints, Ints]) -> FoldScore:
        parts = [units[i] for i in fold[0]]
        whole, held = Moments.pooled(parts), Moments.pooled([units[i] for i in fold[1]])
        basis = _basis(whole, n_components)
        k, g = basis.products.shape
        penalty = choose_alpha(parts, n_components=n_components, alphas=alphas) if alpha == "cv" else alpha
        value = hest_alpha(k, g) if penalty is None else check_positive(penalty, "alpha")
        return FoldScore(_path(basis, whole, held, [value])[0], value, k, whole.n, held.n)

    # a decomposition by several threads waits longer than it computes: folds side by side, one thread each
    with one_blas_thread(), ThreadPoolExecutor(_n_threads()) as pool:
        return list(pool.map(solve, folds))


def choose_alpha(
    parts: Sequence[Moments],
    *,
    n_components: int | None = N_COMPONENTS,
    alphas: Sequence[float] = ALPHAS,
    max_folds: int = MAX_FOLDS,
) -> float:
    """The penalty with the best correlation on parts that are held out in turn; of equal ones the largest.

    Scaling and components are found anew without the parts that are held out.

    Raises
    ------
    ValueError
        With one part, or when no target varies.
    """
    check_count(max_folds, "max_folds", least=2)
    if len(parts) < 2:
        msg = "the penalty is chosen on parts that are held out in turn, and there is one"
        raise ValueError(msg)
    bundles = [list(range(start, len(parts), max_folds)) for start in range(min(max_folds, len(parts)))]
    scores = []
    for bundle in bundles:
        rest = Moments.pooled([part for i, part in enumerate(parts) if i not in bundle])
        held = Moments.pooled([parts[i] for i in bundle])
        scores.append(metrics.nan_mean(_path(_basis(rest, n_components), rest, held, alphas), axis=1))
    means = metrics.nan_mean(np.array(scores), axis=0)
    if not np.isfinite(means).any():
        msg = "no target varies in the rows that are held out, so that no penalty can be chosen"
        raise ValueError(msg)
    best = np.flatnonzero(means == np.nanmax(means))
    return float(max(np.asarray(alphas)[best]))


def _basis(train: Moments, n_components: int | None) -> _Basis:
    d = len(train.mean_x)
    if n_components is None:
        k, scale, shift = d, np.ones(d), np.zeros(d)
        matrix = train.xx + train.n * np.outer(train.mean_x, train.mean_x).T  # columns lie together, as in `xx`
        products = train.xy + train.n * np.outer(train.mean_x, train.mean_y)
    else:
        check_count(n_components, "n_components", least=1)
        k, scale, shift = min(n_components, max(train.n - 1, 1), d), _scale(train), train.mean_x
        matrix, products = train.xx / np.outer(scale, scale).T, train.xy / scale[:, None]
    eigen = largest_eigen(matrix, k)
    return _Basis(eigen, scale, shift, np.maximum(eigen.values, 0), eigen.onto(products))


def _scale(train: Moments) -> Floats:
    """Standard deviations; 1 for a feature that is constant but for rounding, as scikit-learn's scaler has it."""
    variance = np.diagonal(train.xx) / train.n
    rounding = train.n * _EPS * variance + (train.n * train.mean_x * _EPS) ** 2
    return np.sqrt(np.where(variance <= rounding, 1.0, variance))


def _path(basis: _Basis, train: Moments, held: Moments, alphas: Sequence[float]) -> Floats:
    """Correlation on held-out rows for each penalty and target, shape (n_alphas, g)."""
    known = ~(train.constant | held.constant)
    out = np.full((len(alphas), len(known)), np.nan)
    if not known.any():
        return out
    one = len(alphas) == 1  # one set of coefficients is cheaper in the features themselves
    squares, products = held.xx, held.xy
    if not one:
        directions = basis.in_features(np.eye(len(basis.squares)))
        squares, products = directions.T @ blas.dsymm(1.0, squares, directions), directions.T @ products
    for i, alpha in enumerate(alphas):
        weights = basis.weights(alpha)[:, known]
        weights = basis.in_features(weights) if one else weights
        spread = np.sqrt((weights * blas.dsymm(1.0, squares, weights)).sum(axis=0) * held.yy[known])
        with np.errstate(invalid="ignore", divide="ignore"):
            out[i, known] = (weights * products[:, known]).sum(axis=0) / spread
    return np.where(np.isfinite(out), np.clip(out, -1, 1), np.nan)


def _n_threads() -> int:
    return min(_THREADS, os.cpu_count() or 1)


def _sum(parts: Sequence[Moments], name: str) -> Floats:
    """The sum of an array of all parts, without a copy of them all."""
    first, *others = (getattr(part, name) for part in parts)
    out: Floats = first.copy(order="K")
    for other in others:
        out += other
    return out
