"""The baselines: the mean of the training rows, and ridge regression in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from scipy.linalg import eigh, lapack

from histocell import metrics
from histocell._core.device import one_blas_thread
from histocell.models import scaling
from histocell.models.regressors.base import Regressor, RegressorConfig
from histocell.models.settings import limited

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from histocell._core.types import Floats, Ints
    from histocell.models.base import Model
    from histocell.models.folds import FitRows, Fold


_ENTRIES = 2_000_000  # predictions that are scored at once
_LEAST_FREE = 1e-6  # share of a row below which what it leaves to the others is rounding
_ROWS = 4096  # that are left out one by one at most
_WIDE = 1024  # features from which on single precision is enough, and half the time
_BLOCK = 64  # columns that LAPACK works on at once


class Mean(Regressor):
    """Predict the mean of the training rows, whatever the image shows.

    Examples
    --------
    >>> import numpy as np
    >>> import histocell as hc
    >>> X = np.random.default_rng(0).normal(size=(60, 4))
    >>> model = hc.models.Mean().fit(X, X[:, :2] + 5, groups=np.repeat(["a", "b", "c"], 20), rng=0)
    >>> model.predict(X).shape
    (60, 2)
    """

    name = "mean"
    summary = "The mean of the training rows, whatever the image shows: what every other model has to beat."
    needs = "nothing: the features are ignored"
    limits = "the same for all rows, so it has no correlation with the truth"
    cost = "none; one number per target"
    _output = "mean"

    def _fit_scaled(self, X: Floats, Y: Floats, rows: FitRows, rng: np.random.Generator, device: str | None) -> Floats:
        self.weights["mean"] = Y[rows.train].mean(axis=0)
        held = np.full(Y.shape, np.nan)
        for fold in _folds(rows, max_folds=10):
            held[fold.held] = Y[fold.fit].mean(axis=0)
        return held

    def _predict(self, X: Floats, device: str | None) -> Floats:
        return np.tile(self.weights["mean"], (len(X), 1))

    def _shapes(self, n_features: int, n_targets: int) -> dict[str, tuple[int, ...]]:
        return {"mean": (n_targets,)}

    @classmethod
    def baseline_for(cls, model: Model) -> Self:
        """The mean in the units of the target, since the mean of transformed targets is not their mean."""
        shared = {
            name: getattr(model.config, name) for name in ("nonnegative", "n_views") if hasattr(model.config, name)
        }
        return cls(**shared, interval=None)


@dataclass(frozen=True)
class RidgeConfig(RegressorConfig):
    """Settings of `Ridge`.

    Attributes
    ----------
    alphas
        Penalties to choose from, in units of the number of training rows; features have unit variance.
    criterion
        What a penalty is chosen by: ``"error"``, the squared error of rows left out one by one plus that of groups left
        out whole; or on held-out groups alone ``"mse"`` or ``"pearson"`` within each group (a shift of a whole group
        does not count). Rows alone ask for too little penalty, since a row resembles its neighbours; of few groups the
        best penalty is known badly; the sum did best over sections, patients and synthetic cohorts.
    sharing
        From 0 (each target has its own penalty) to 1 (all targets have one): how far the score of a target is drawn to
        the mean of all targets before the best penalty is looked for.
    max_folds
        Most folds; with more groups than that, groups are held out in bundles.
    """

    alphas: tuple[float, ...] = limited(
        tuple(float(f"{alpha:.4g}") for alpha in 10 ** np.arange(-4, 3.1, 0.25)), above=0
    )
    target_transform: str = limited("root", choices=scaling.TRANSFORMS)
    criterion: str = limited("error", choices=("error", "mse", "pearson"))
    sharing: float = limited(1.0, least=0, most=1)
    max_folds: int = limited(10, least=2)


class Ridge(Regressor):
    r"""Ridge regression in closed form, its penalty chosen on rows and on whole groups that were left out.

    Minimises :math:`\|Y - XB\|^2 / n + \alpha \|B\|^2` on centred data by one decomposition per fold, which serves all
    penalties and all targets; in single precision where there are 1,024 features or more. Of several views of the features
    (`n_views`) each has a fit and a penalty of its own, and the prediction is their mean.

    References
    ----------
    Hoerl, Kennard: Ridge regression (Technometrics 1970). Allen: PRESS (Technometrics 1974), rows left out one by one.

    Examples
    --------
    >>> import numpy as np
    >>> import histocell as hc
    >>> X = np.random.default_rng(0).normal(size=(60, 4))
    >>> model = hc.models.Ridge(alphas=(0.1, 1.0)).fit(X, X[:, :2] + 5, groups=np.repeat(["a", "b", "c"], 20), rng=0)
    >>> model.predict(X).shape
    (60, 2)
    """

    name = "ridge"
    summary = "Linear, in closed form; the penalty is chosen on whole groups that were left out."
    limits = "linear in the embedding; looks at each row by itself"
    cost = "one eigendecomposition per group left out, on a processor; one number per feature and target"
    reference = "Hoerl and Kennard 1970, Technometrics, doi:10.1080/00401706.1970.10488634"
    config_class = RidgeConfig
    config: RidgeConfig
    _output = "intercept"

    def _fit_scaled(self, X: Floats, Y: Floats, rows: FitRows, rng: np.random.Generator, device: str | None) -> Floats:
        precision = np.float32 if X.shape[1] // self.config.n_views >= _WIDE else np.float64
        alphas = np.asarray(self.config.alphas, dtype=np.float64)
        if not alphas.size:
            msg = "alphas is empty; give at least one penalty"
            raise ValueError(msg)
        # Means are taken off first: single precision would lose what is small beside them.
        middle = Y[rows.train].mean(axis=0) if precision is np.float32 else np.zeros(Y.shape[1])
        targets, penalties = (Y - middle).astype(precision, copy=False), alphas.astype(precision)
        split = (view.astype(precision, copy=False) for view in np.split(X, self.config.n_views, axis=1))
        views = [self._fit_view(view, targets, rows, penalties) for view in split]
        held, coefficients, intercept, best, score = (np.stack(each) for each in zip(*views, strict=True))
        self.weights |= {
            "coefficients": coefficients.reshape(X.shape[1], -1).astype(np.float64) / len(views),
            "intercept": intercept.mean(axis=0, dtype=np.float64) + middle,
            "alpha": alphas[best if len(views) > 1 else best[0]],
        }
        self.history = {"alphas": alphas, "cv_score": score.mean(axis=0)}
        return held.mean(axis=0) + middle

    def _fit_view(self, X: np.ndarray, Y: np.ndarray, rows: FitRows, alphas: np.ndarray) -> tuple[np.ndarray, ...]:
        """Held-out predictions, coefficients, intercept, penalties and the scores of all penalties."""
        folds = _folds(rows, max_folds=self.config.max_folds)
        known = _Known.of(X, Y, np.flatnonzero(rows.train))
        paths, variance = list(Path.of_folds(known, folds, alphas)), Y[rows.train].var(axis=0)
        scores = [
            self._score_path(path, alphas, Y[fold.held], variance) for path, fold in zip(paths, folds, strict=True)
        ]
        score = metrics.nan_mean(np.array(scores))
        parts = _decompose(known)
        if self.config.criterion == "error":
            score = score - _in_units(_row_errors(known, parts, alphas), variance)
        best = self._choose(score)
        held = np.full(Y.shape, np.nan)
        for path, fold in zip(paths, folds, strict=True):
            held[fold.held] = path.best(best)
        return held, *_solve(parts, alphas[best]), best, score

    def _predict(self, X: Floats, device: str | None) -> Floats:
        return X @ self.weights["coefficients"] + self.weights["intercept"]

    def _shapes(self, n_features: int, n_targets: int) -> dict[str, tuple[int, ...]]:
        n_views = self.config.n_views
        alpha = (n_targets,) if n_views == 1 else (n_views, n_targets)
        return {"coefficients": (n_features, n_targets), "intercept": (n_targets,), "alpha": alpha}

    def _score_path(self, path: Path, alphas: Floats, truth: Floats, variance: Floats) -> Floats:
        """Scores of all penalties, ``(n_alphas, n_targets)``: in one call where there are few rows."""
        scores = []
        for some in _parts(len(alphas), truth.size):
            tiled = (np.tile(each, len(some)) for each in (truth, variance))
            scores.append(self._score(path.at(some), *tiled))
        return np.concatenate(scores).reshape(len(alphas), -1)

    def _score(self, predicted: Floats, truth: Floats, variance: Floats) -> Floats:
        """How well held-out rows are predicted, ``(n_targets,)``, larger is better; `variance` is that of the training."""
        if self.config.criterion == "pearson":
            return metrics.pearson(truth, predicted)
        variance = variance if self.config.criterion == "error" else truth.var(axis=0)
        return -_in_units(((predicted - truth) ** 2).mean(axis=0), variance)

    def _choose(self, score: Floats) -> Ints:
        """Best penalty of each target; the strongest one where no fold could tell."""
        common = metrics.nan_mean(score, axis=1)[:, None]
        own = np.where(np.isfinite(score), score, common)
        mixed = (1 - self.config.sharing) * own + self.config.sharing * common
        mixed = np.where(np.isfinite(mixed), mixed, -np.inf)
        # The last of equal scores is the strongest penalty.
        return len(mixed) - 1 - mixed[::-1].argmax(axis=0)


class _Known(NamedTuple):
    """Rows to learn from, less the mean of the training rows, and sums over these.

    Attributes
    ----------
    X, Y
        Features and targets of all rows, centred.
    x_mean, y_mean
        What was taken off.
    total
        Of `_sums`, over the training rows; `None` where there are fewer of them than features.
    train
        Positions of the training rows.
    """

    X: Floats
    Y: Floats
    x_mean: Floats
    y_mean: Floats
    total: list[Floats] | None
    train: Ints

    @classmethod
    def of(cls, X: Floats, Y: Floats, train: Ints) -> Self:
        x_mean, y_mean = X[train].mean(axis=0), Y[train].mean(axis=0)
        X, Y = X - x_mean, Y - y_mean
        total = _sums(X[train], Y[train]) if X.shape[1] <= len(train) else None
        return cls(X, Y, x_mean, y_mean, total, train)


class Path(NamedTuple):
    """Predictions for new rows at all penalties, from one tridiagonal form of the covariance of the features.

    That takes a third of the time of an eigendecomposition, and solves for a penalty in no time, too.

    Attributes
    ----------
    new
        New rows, ``(n_new, rank)``.
    coefficients
        Of each penalty and target, ``(rank, n_alphas, n_targets)``.
    offset
        Means of the targets.
    """

    new: Floats
    coefficients: Floats
    offset: Floats

    @classmethod
    def of_folds(cls, known: _Known, folds: Sequence[Fold], alphas: Floats) -> Iterator[Self]:
        """Fit on the rows to fit of each fold, predict those held out.

        Sums of products over all rows are taken once; for a fold, those over the rows that it leaves out are taken off.
        """
        X, Y, y_mean, total = known.X, known.Y, known.y_mean, known.total
        for fold in folds:
            if total is None or X.shape[1] > len(fold.fit):  # the smaller side of `X`
                x, y = X[fold.fit], Y[fold.fit]
                center, mean = x.mean(axis=0), y.mean(axis=0)
                x = x - center
                covariance, right, new = x @ x.T / len(x), (y - mean) / len(x), (X[fold.held] - center) @ x.T
            else:
                out = np.setdiff1d(known.train, fold.fit, assume_unique=True)
                left = zip(total, _sums(X[out], Y[out]), strict=True)
                center, mean, xx, xy = (each / len(fold.fit) for each in (a - b for a, b in left))
                covariance, right = xx - np.outer(center, center), xy - np.outer(center, mean)
                new = X[fold.held] - center
            yield cls(new, _solve_all(covariance, right, alphas), mean + y_mean)

    def at(self, indices: Ints | slice) -> Floats:
        """Predictions with some of the penalties: ``(n_new, n_targets)`` each, side by side."""
        some = self.coefficients[:, indices].reshape(len(self.coefficients), -1)
        return self.new @ some + np.tile(self.offset, some.shape[1] // len(self.offset))

    def best(self, indices: Ints) -> Floats:
        """Predictions ``(n_new, n_targets)`` with one penalty for each target."""
        return self.new @ self.coefficients[:, indices, np.arange(len(indices))] + self.offset


def _solve_all(matrix: Floats, right: Floats, alphas: Floats) -> Floats:
    """Solutions of ``(matrix + alpha) solution = right``, shape ``(len(matrix), n_alphas, n_right)``."""
    size, n_right = right.shape
    least = _rounding(matrix)
    if (missing := 3 - size) > 0:  # LAPACK wants something to reflect
        matrix, right = np.pad(matrix, (0, missing)), np.pad(right, ((0, missing), (0, 0)))
    solved = np.empty((len(matrix), len(alphas) * n_right), order="F", dtype=matrix.dtype)
    sytrd, ormqr, ptsv = lapack.get_lapack_funcs(("sytrd", "ormqr", "ptsv"), (matrix,))
    with one_blas_thread():
        reflected, diagonal, beside, scales, _ = sytrd(matrix, lower=1, lwork=len(matrix) * _BLOCK)

        def rotate(columns: Floats, trans: str) -> Floats:
            out = np.array(columns, order="F")
            lwork = max(columns.shape) * _BLOCK
            out[1:] = ormqr("L", trans, reflected[1:, :-1], scales, out[1:], lwork=lwork)[0]
            return out

        rotated = rotate(right, "T")
        for index, alpha in enumerate(np.maximum(alphas, least)):
            columns = slice(index * n_right, (index + 1) * n_right)
            solved[:, columns] = ptsv(diagonal + alpha, beside, rotated)[2]
        return rotate(solved, "N")[:size].reshape(size, len(alphas), n_right)


def _rounding(matrix: Floats) -> float:
    """The smallest eigenvalue, or penalty, of a covariance that rounding leaves a meaning."""
    precision = np.finfo(matrix.dtype)
    return float(np.trace(matrix) * precision.eps) * (len(matrix) if precision.bits > 32 else 1)


def _sums(X: Floats, Y: Floats) -> list[Floats]:
    """Sums over rows: of features, of targets, and of their products."""
    return [X.sum(axis=0), Y.sum(axis=0), X.T @ X, X.T @ Y]


def _folds(rows: FitRows, *, max_folds: int) -> list[Fold]:
    """Groups of the training rows, each left out once, and the validation rows, predicted from all training rows."""
    folds = rows.held_out(max_folds=max_folds)
    if not folds:
        msg = "one training row is not enough: nothing is left to choose the penalty on"
        raise ValueError(msg)
    return folds


def _decompose(known: _Known) -> tuple[Floats, ...]:
    """Means of features and targets, eigenvectors of the covariance of the features, their covariance with the targets, and the eigenvalues.

    Without the null space; the smaller side of the features is decomposed.
    """
    X, Y, n = known.X[known.train], known.Y[known.train], len(known.train)
    matrix = X @ X.T if known.total is None else known.total[2]
    with one_blas_thread():
        values, vectors = eigh(matrix / n, driver="evd")
    if known.total is None:
        vectors = X.T @ (vectors / np.sqrt(n * np.maximum(values, np.finfo(matrix.dtype).tiny)))
    keep = values > _rounding(matrix / n)
    vectors = vectors[:, keep]
    return known.x_mean, known.y_mean, vectors, vectors.T @ (X.T @ Y) / n, values[keep]


def _solve(parts: tuple[Floats, ...], alpha: Floats) -> tuple[Floats, Floats]:
    """Coefficients ``(n_features, n_targets)`` and intercept from a decomposition, one penalty per target."""
    x_mean, y_mean, vectors, projected, values = parts
    coefficients = vectors @ (projected / (values[:, None] + alpha))
    return coefficients, y_mean - x_mean @ coefficients


def _row_errors(known: _Known, parts: tuple[Floats, ...], alphas: Floats) -> Floats:
    """Mean squared error of training rows left out one by one, ``(n_alphas, n_targets)``; of many, of some of them.

    In closed form: what a fit misses of a row, divided by the share of the row that it does not determine itself.
    """
    _, _, vectors, projected, values = parts
    n = len(known.train)
    rows = known.train[np.linspace(0, n - 1, min(n, _ROWS)).round().astype(np.intp)]
    scores, truth = known.X[rows] @ vectors, known.Y[rows]
    free = 1 - np.square(scores) @ (1 / np.add.outer(values, alphas)) / n - 1 / n
    errors = np.full((len(alphas), truth.shape[1]), np.inf)
    usable = np.flatnonzero(free.min(axis=0) > max(_LEAST_FREE, np.finfo(free.dtype).eps ** 0.5))
    for some in (usable[part] for part in _parts(len(usable), truth.size)):
        coefficients = projected[:, None] / np.add.outer(values, alphas[some])[:, :, None]
        predicted = (scores @ coefficients.reshape(len(values), -1)).reshape(len(rows), len(some), -1)
        errors[some] = (((truth[:, None] - predicted) / free[:, some, None]) ** 2).mean(axis=0)
    return errors


def _parts(n_alphas: int, n_entries: int) -> list[Ints]:
    """Penalties whose predictions of `n_entries` numbers each are made at once."""
    return np.array_split(np.arange(n_alphas), min(max(n_alphas, 1), 1 + n_alphas * n_entries // _ENTRIES))


def _in_units(errors: Floats, variance: Floats) -> Floats:
    """Errors in units of the variance of each target, so that targets can be averaged; constant ones say nothing."""
    return np.divide(errors, variance, out=np.full(errors.shape, np.nan), where=variance > 0)
