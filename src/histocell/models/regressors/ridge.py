"""The baselines: the mean of the training rows, and ridge regression in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from scipy.linalg import lapack

from histocell import metrics
from histocell.models import scaling
from histocell.models.folds import Fold
from histocell.models.regressors.base import Regressor, RegressorConfig
from histocell.models.settings import limited

if TYPE_CHECKING:
    from collections.abc import Sequence

    from histocell._core.types import Floats, Ints
    from histocell.models.base import Model
    from histocell.models.folds import FitRows


_ENTRIES = 25_000  # predictions that are scored at once
_LEAST_FREE = 1e-6  # share of a row below which what it leaves to the others is rounding
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
    penalties and all targets; in float64, so that predictions repeat bit by bit. Of several views of the features
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
        alphas = np.asarray(self.config.alphas, dtype=np.float64)
        if not alphas.size:
            msg = "alphas is empty; give at least one penalty"
            raise ValueError(msg)
        views = [self._fit_view(view, Y, rows, alphas) for view in np.split(X, self.config.n_views, axis=1)]
        held, coefficients, intercept, best, score = (np.stack(each) for each in zip(*views, strict=True))
        self.weights |= {
            "coefficients": coefficients.reshape(X.shape[1], -1) / len(views),
            "intercept": intercept.mean(axis=0),
            "alpha": best if len(views) > 1 else best[0],
        }
        self.history = {"alphas": alphas, "cv_score": score.mean(axis=0)}
        return held.mean(axis=0)

    def _fit_view(self, X: Floats, Y: Floats, rows: FitRows, alphas: Floats) -> tuple[Floats, ...]:
        """Held-out predictions, coefficients, intercept, penalties and the scores of all penalties."""
        folds = _folds(rows, max_folds=self.config.max_folds)
        paths = Path.of_folds(X, Y, folds)
        X, known = X[rows.train], Y[rows.train]
        parts, variance = _decompose(X, known), known.var(axis=0)
        scores = [
            self._score_path(path, alphas, Y[fold.held], variance) for path, fold in zip(paths, folds, strict=True)
        ]
        score = metrics.nan_mean(np.array(scores))
        if self.config.criterion == "error":
            score = score - _in_units(_row_errors(X, known, parts, alphas), variance)
        best = self._choose(score)
        held = np.full(Y.shape, np.nan)
        for path, fold in zip(paths, folds, strict=True):
            held[fold.held] = path.at(alphas[best])
        return held, *_solve(parts, alphas[best]), alphas[best], score

    def _predict(self, X: Floats, device: str | None) -> Floats:
        return X @ self.weights["coefficients"] + self.weights["intercept"]

    def _shapes(self, n_features: int, n_targets: int) -> dict[str, tuple[int, ...]]:
        n_views = self.config.n_views
        alpha = (n_targets,) if n_views == 1 else (n_views, n_targets)
        return {"coefficients": (n_features, n_targets), "intercept": (n_targets,), "alpha": alpha}

    def _score_path(self, path: Path, alphas: Floats, truth: Floats, variance: Floats) -> Floats:
        """Scores of all penalties, ``(n_alphas, n_targets)``: in one call where there are few rows."""
        n_calls = min(len(alphas), 1 + len(alphas) * truth.size // _ENTRIES)
        scores = [
            self._score(
                np.hstack([path.at(alpha) for alpha in some]), *(np.tile(each, len(some)) for each in (truth, variance))
            )
            for some in np.array_split(alphas, n_calls)
        ]
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


class Path(NamedTuple):
    """Predictions for new rows at any penalty, from one tridiagonal form of the covariance of the features.

    That takes a third of the time of an eigendecomposition, and solves for a penalty in no time, too.

    Attributes
    ----------
    scores
        New rows in the basis of the form, ``(n_new, rank)``.
    projected
        Covariance of the basis with the targets, ``(rank, n_targets)``.
    diagonal, beside
        The form: its diagonal, ``(rank,)``, and what is beside it, ``(rank - 1,)``.
    least
        Smallest penalty that rounding leaves a meaning.
    offset
        Means of the targets.
    """

    scores: Floats
    projected: Floats
    diagonal: Floats
    beside: Floats
    least: float
    offset: Floats

    @classmethod
    def of(cls, X: Floats, Y: Floats, X_new: Floats) -> Self:
        """Fit on `X` and `Y`, predict `X_new`."""
        rows = np.arange(len(X) + len(X_new))
        fold = Fold(rows[: len(X)], rows[len(X) :])
        (path,) = cls.of_folds(np.vstack([X, X_new]), np.vstack([Y, np.zeros((len(X_new), Y.shape[1]))]), [fold])
        return path

    @classmethod
    def of_folds(cls, X: Floats, Y: Floats, folds: Sequence[Fold]) -> list[Self]:
        """Fit on the rows to fit of each fold, predict those held out.

        Sums of products over all rows are taken once; for a fold, those over the rows that it leaves out are taken off.
        """
        every = np.unique(np.concatenate([fold.fit for fold in folds]))
        x_mean, y_mean = X[every].mean(axis=0), Y[every].mean(axis=0)
        X, Y = X - x_mean, Y - y_mean
        total: list[Floats] | None = None
        paths = []
        for fold in folds:
            if X.shape[1] > len(fold.fit):  # the smaller side of `X`
                x, y = X[fold.fit], Y[fold.fit]
                center, mean = x.mean(axis=0), y.mean(axis=0)
                x = x - center
                path = cls._of(x @ x.T / len(x), (y - mean) / len(x), (X[fold.held] - center) @ x.T, mean + y_mean)
            else:
                total = _sums(X[every], Y[every]) if total is None else total
                out = np.setdiff1d(every, fold.fit, assume_unique=True)
                left = zip(total, _sums(X[out], Y[out]), strict=True)
                center, mean, xx, xy = (each / len(fold.fit) for each in (a - b for a, b in left))
                held = X[fold.held] - center
                path = cls._of(xx - np.outer(center, center), xy - np.outer(center, mean), held, mean + y_mean)
            paths.append(path)
        return paths

    @classmethod
    def _of(cls, matrix: Floats, right: Floats, new: Floats, offset: Floats) -> Self:
        """Predictions ``new @ solve(matrix + alpha, right) + offset``."""
        if (missing := 3 - len(matrix)) > 0:  # LAPACK wants something to reflect
            matrix = np.pad(matrix, (0, missing))
            right, new = np.pad(right, ((0, missing), (0, 0))), np.pad(new, ((0, 0), (0, missing)))
        least = float(np.trace(matrix)) * len(matrix) * np.finfo(float).eps
        size = len(matrix) * _BLOCK
        reflected, diagonal, beside, scales, _ = lapack.dsytrd(matrix, lower=1, lwork=size)

        def rotate(columns: Floats) -> Floats:
            out = np.array(columns, order="F")
            size = max(columns.shape) * _BLOCK
            out[1:] = lapack.dormqr("L", "T", reflected[1:, :-1], scales, out[1:], lwork=size)[0]
            return out

        return cls(rotate(new.T).T, rotate(right), diagonal, beside, least, offset)

    def at(self, alpha: float | Floats) -> Floats:
        """Predictions ``(n_new, n_targets)`` with one penalty, or one for each target."""
        alphas = np.broadcast_to(np.maximum(alpha, self.least), self.projected.shape[1:])
        solved = np.empty_like(self.projected)
        for each in np.unique(alphas):
            columns = alphas == each
            solved[:, columns] = lapack.dptsv(self.diagonal + each, self.beside, self.projected[:, columns])[2]
        return self.scores @ solved + self.offset


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


def _decompose(X: Floats, Y: Floats) -> tuple[Floats, ...]:
    """Means of `X` and `Y`, eigenvectors of the covariance of `X`, their covariance with `Y`, and the eigenvalues.

    Without the null space; the smaller side of `X` is decomposed.
    """
    x_mean, y_mean = X.mean(axis=0), Y.mean(axis=0)
    X, (n, p) = X - x_mean, X.shape
    if p <= n:
        values, vectors = np.linalg.eigh(X.T @ X / n)
    else:
        values, left = np.linalg.eigh(X @ X.T / n)
        vectors = X.T @ (left / np.sqrt(n * np.maximum(values, np.finfo(float).tiny)))
    keep = values > max(values[-1], 0.0) * max(n, p) * np.finfo(float).eps
    vectors = vectors[:, keep]
    return x_mean, y_mean, vectors, vectors.T @ (X.T @ (Y - y_mean)) / n, values[keep]


def _solve(parts: tuple[Floats, ...], alpha: Floats) -> tuple[Floats, Floats]:
    """Coefficients ``(n_features, n_targets)`` and intercept from a decomposition, one penalty per target."""
    x_mean, y_mean, vectors, projected, values = parts
    coefficients = vectors @ (projected / (values[:, None] + alpha))
    return coefficients, y_mean - x_mean @ coefficients


def _row_errors(X: Floats, Y: Floats, parts: tuple[Floats, ...], alphas: Floats) -> Floats:
    """Mean squared error of rows left out one by one, ``(n_alphas, n_targets)``.

    In closed form: what a fit misses of a row, divided by the share of the row that it does not determine itself.
    """
    x_mean, y_mean, vectors, projected, values = parts
    scores = (X - x_mean) @ vectors
    leverage = scores**2 @ (1 / np.add.outer(values, alphas)) / len(X) + 1 / len(X)
    errors = np.full((len(alphas), Y.shape[1]), np.inf)
    for index, alpha in enumerate(alphas):
        free = 1 - leverage[:, index]
        if free.min() > _LEAST_FREE:
            missed = Y - y_mean - scores @ (projected / (values[:, None] + alpha))
            errors[index] = ((missed / free[:, None]) ** 2).mean(axis=0)
    return errors


def _in_units(errors: Floats, variance: Floats) -> Floats:
    """Errors in units of the variance of each target, so that targets can be averaged; constant ones say nothing."""
    return np.divide(errors, variance, out=np.full(errors.shape, np.nan), where=variance > 0)
