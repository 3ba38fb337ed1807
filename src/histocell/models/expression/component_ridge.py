"""Ridge regression of the principal components of many targets, linear and of a kernel, on rows of unequal certainty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from scipy.linalg import eigh
from scipy.spatial.distance import cdist

from histocell._core.device import one_blas_thread
from histocell.models import scaling
from histocell.models.regressors.base import Regressor, RegressorConfig
from histocell.models.regressors.ridge import RidgeConfig
from histocell.models.settings import limited

if TYPE_CHECKING:
    from collections.abc import Iterable

    from histocell._core.types import Floats, Ints
    from histocell.models.folds import FitRows, Fold

_ROWS = 4096  # that are left out one by one at most, and that are looked at at once
_SMALL = 1e-10  # of the largest eigenvalue
_LEAST_FREE = 1e-6  # share of a row that the others do not determine


@dataclass(frozen=True)
class ComponentRidgeConfig(RegressorConfig):
    """Settings of `ComponentRidge`.

    Attributes
    ----------
    n_components
        Number of principal components of the targets.
    row_weight
        Power of the weights of the rows, such as their total counts; 0 for all rows alike.
    sharing
        From 0 (each component has its own penalty) to 1 (all have one).
    kernel_share
        Share of the kernel regression in the prediction.
    kernel_width
        Of the kernel exp(-width |a - b|^2 / d) of d features of unit variance.
    n_landmarks
        Most training rows that the kernel is taken with; more are drawn from.
    alphas
        Penalties to choose from, in units of the number of training rows; features have unit variance.
    max_folds
        Groups are held out in at most this many folds.
    """

    target_transform: str = limited("standard", choices=scaling.TRANSFORMS)
    n_components: int = limited(30, least=1)
    row_weight: float = limited(0.5, least=0)
    sharing: float = limited(0.2, least=0, most=1)
    kernel_share: float = limited(0.5, least=0, most=1)
    kernel_width: float = limited(0.5, above=0)
    n_landmarks: int = limited(1000, least=10)
    alphas: tuple[float, ...] = limited(RidgeConfig.alphas, above=0)
    max_folds: int = limited(5, least=2)


class ComponentRidge(Regressor):
    r"""Ridge regression of the principal components of the targets, half linear, half with a Gaussian kernel.

    Genes vary together, and what varies with the tissue is found in the first principal components of all of them. Each
    component has a penalty of its own, chosen on rows and on whole groups that were left out, so components of noise are
    shrunk away, and a gene keeps what it shares with the others. Rows weigh by a power of their counts: where few were
    counted, a spot says little. Of several views of the features (`n_views`) each has a linear fit; the kernel sees the
    first, with at most `n_landmarks` rows (Nyström).

    References
    ----------
    Breiman and Friedman: Predicting multivariate responses in multiple linear regression (JRSS B 1997). Williams and
    Seeger: Using the Nyström method to speed up kernel machines (NIPS 2000).

    Examples
    --------
    >>> import numpy as np
    >>> import histocell as hc
    >>> X = np.random.default_rng(0).normal(size=(60, 4))
    >>> model = hc.models.ComponentRidge(n_components=2).fit(
    ...     X, X[:, :3] + 5, groups=np.repeat(["a", "b", "c"], 20), rng=0
    ... )
    >>> model.predict(X).shape
    (60, 3)
    """

    name = "component_ridge"
    summary = (
        "Ridge regression of the principal components of the targets, linear and with a Gaussian kernel, each component with "
        "its own penalty, chosen on whole groups that were left out; rows weigh by their counts."
    )
    tasks = ("expression",)
    limits = "predicts what genes have in common, not what one alone does; looks at each row by itself"
    cost = "eigendecompositions on a processor: seconds; one number per component and feature, landmark and gene"
    reference = "Breiman and Friedman 1997, JRSS B, doi:10.1111/1467-9868.00054"
    config_class = ComponentRidgeConfig
    config: ComponentRidgeConfig
    _output = "center"

    def _fit_scaled(self, X: Floats, Y: Floats, rows: FitRows, rng: np.random.Generator, device: str | None) -> Floats:
        config, train = self.config, np.flatnonzero(rows.train)
        weights = self._row_weights(rows)
        center = np.average(Y[train], axis=0, weights=weights[train])
        loadings = _components(Y[train] - center, weights[train], config.n_components)
        Z = (Y - center) @ loadings.T
        folds = rows.held_out(max_folds=config.max_folds)
        views = np.split(X, config.n_views, axis=1)
        sets, share = list(views), np.full(len(views), (1 - config.kernel_share) / len(views))
        if config.kernel_share:
            landmarks = np.sort(rng.choice(train, min(len(train), config.n_landmarks), replace=False))
            kernel = _Kernel.of(views[0][landmarks], config.kernel_width)
            sets, share = [*sets, kernel.features(views[0])], np.append(share, config.kernel_share)
        parts = [_fit_view(each, Z, weights, train, folds, config) for each in sets]
        held = sum(a * part.held for a, part in zip(share, parts, strict=True))
        linear = [a * part.coefficients for a, part in zip(share, parts, strict=True)]
        self.weights |= {
            "center": center,
            "loadings": loadings,
            "coefficients": np.concatenate(linear[: len(views)]),
            "component_intercept": sum(a * part.intercept for a, part in zip(share, parts, strict=True)),
            "alpha": np.stack([part.alpha for part in parts]),
        }
        if config.kernel_share:
            self.weights |= {"landmarks": kernel.landmarks, "kernel": kernel.map @ linear[-1]}
        return held @ loadings + center

    def _predict(self, X: Floats, device: str | None) -> Floats:
        weights = self.weights
        Z = X @ weights["coefficients"] + weights["component_intercept"]
        if "landmarks" in weights:
            first = X[:, : weights["landmarks"].shape[1]]
            Z = Z + _gaussian(first, weights["landmarks"], self.config.kernel_width) @ weights["kernel"]
        return Z @ weights["loadings"] + weights["center"]

    def extend(self, Y: Floats, more: Iterable[Floats], *, weights: Floats | None = None) -> None:
        """Predict further targets, too, by how they vary with the components in the training rows.

        That is what a fit to all of them would give, but for the components, which stay those of the first targets.

        Parameters
        ----------
        Y
            The targets that the model was fitted on, of its training rows, shape ``(n, n_targets)``.
        more
            Blocks of further targets of the same rows.
        weights
            How much is known of each row, as in the fit.

        Raises
        ------
        ValueError
            When the targets are transformed by other than ``"none"`` or ``"standard"``.
        """
        if self.config.target_transform not in {"none", "standard"}:
            msg = f"target_transform={self.config.target_transform!r} cannot be extended to further targets; use 'standard'"
            raise ValueError(msg)
        power = np.ones(len(Y)) if weights is None else np.asarray(weights, dtype=np.float64) ** self.config.row_weight
        power /= power.sum()
        scaled = scaling.forward_target(Y, self.config.target_transform, self.weights)
        Z = (scaled - self.weights["center"]) @ self.weights["loadings"].T
        spread = power @ Z**2
        grown: dict[str, list[Floats]] = {
            name: [self.weights[name]]
            for name in ("center", "loadings", "target_mean", "target_std")
            if name in self.weights
        }
        for block in more:
            arrays = scaling.fit_target(block, self.config.target_transform)
            z = scaling.forward_target(block, self.config.target_transform, arrays)
            center = power @ z
            products = (power[:, None] * Z).T @ (z - center)
            loadings = np.divide(products, spread[:, None], out=np.zeros_like(products), where=spread[:, None] > 0)
            for name, value in {"center": center, "loadings": loadings, **arrays}.items():
                grown[name].append(value)
        self.weights |= {name: np.concatenate(parts, axis=-1) for name, parts in grown.items()}
        for name in [each for each in self.weights if each.startswith("interval_")]:
            del self.weights[name]

    def _row_weights(self, rows: FitRows) -> Floats:
        if rows.weights is None or self.config.row_weight == 0:
            return np.ones(len(rows.train))
        weights = rows.weights**self.config.row_weight
        return weights / weights[rows.train].mean()

    def _shapes(self, n_features: int, n_targets: int) -> dict[str, tuple[int, ...]]:
        sizes = {name: self.weights[name].shape for name in ("loadings", "landmarks", "alpha") if name in self.weights}
        n_components = sizes.get("loadings", (0,))[0]
        shapes: dict[str, tuple[int, ...]] = {
            "center": (n_targets,),
            "loadings": (n_components, n_targets),
            "coefficients": (n_features, n_components),
            "component_intercept": (n_components,),
            "alpha": (self.config.n_views + (self.config.kernel_share > 0), n_components),
        }
        if self.config.kernel_share:
            n_landmarks = sizes.get("landmarks", (0,))[0]
            shapes |= {
                "landmarks": (n_landmarks, n_features // self.config.n_views),
                "kernel": (n_landmarks, n_components),
            }
        return shapes


class _Kernel(NamedTuple):
    """The Gaussian kernel of some rows as features: their products are its values, times the number of features.

    Attributes
    ----------
    landmarks
        Shape ``(m, d)``.
    map
        Shape ``(m, rank)``: from values of the kernel with the landmarks to features.
    width
        Of the kernel.
    """

    landmarks: Floats
    map: Floats
    width: float

    @classmethod
    def of(cls, landmarks: Floats, width: float) -> Self:
        with one_blas_thread():
            values, vectors = eigh(_gaussian(landmarks, landmarks, width), driver="evd")
        keep = values > _SMALL * values[-1]
        return cls(landmarks, vectors[:, keep] * np.sqrt(landmarks.shape[1] / values[keep]), width)

    def features(self, X: Floats) -> Floats:
        return np.concatenate(
            [
                _gaussian(X[start : start + _ROWS], self.landmarks, self.width) @ self.map
                for start in range(0, len(X), _ROWS)
            ]
        )


class _View(NamedTuple):
    """A fit of the components on one view of the features: predictions of held-out rows, coefficients, penalties."""

    held: Floats
    coefficients: Floats
    intercept: Floats
    alpha: Floats


class _Basis(NamedTuple):
    """Weighted least squares in the directions in which a penalty is a division."""

    x_mean: Floats
    z_mean: Floats
    vectors: Floats
    values: Floats
    projected: Floats

    @classmethod
    def of(cls, X: Floats, Z: Floats, weights: Floats) -> Self:
        weights = weights / weights.sum()
        x_mean, z_mean = weights @ X, weights @ Z
        root = np.sqrt(weights)[:, None]
        A, B = root * (X - x_mean), root * (Z - z_mean)
        wide = X.shape[1] > len(X)
        with one_blas_thread():
            values, vectors = eigh(A @ A.T if wide else A.T @ A, driver="evd")
        keep = values > max(values[-1], 0.0) * _SMALL
        values, vectors = values[keep], vectors[:, keep]
        if wide:
            vectors = A.T @ (vectors / np.sqrt(values))
        return cls(x_mean, z_mean, vectors, values, vectors.T @ (A.T @ B))

    def coefficients(self, alpha: Floats | float) -> Floats:
        return self.vectors @ (self.projected / (self.values[:, None] + alpha))

    def errors(self, X: Floats, Z: Floats, weights: Floats, alphas: Floats, *, own: bool) -> Floats:
        """Weighted squared errors, ``(n_alphas, n_components)``, of rows that are new, or of its `own`, left out one by one."""
        if own and len(X) > _ROWS:
            some = np.linspace(0, len(X) - 1, _ROWS).round().astype(np.intp)
            share = weights[some] / weights.sum()
            X, Z, weights = X[some], Z[some], weights[some]
        else:
            share = weights / weights.sum()
        scores, missed = (X - self.x_mean) @ self.vectors, Z - self.z_mean
        out = np.full((len(alphas), Z.shape[1]), np.inf)
        for index, alpha in enumerate(alphas):
            errors = missed - scores @ (self.projected / (self.values[:, None] + alpha))
            if own:
                free = 1 - share * (1 + np.square(scores) @ (1 / (self.values + alpha)))
                if free.min() < _LEAST_FREE:
                    continue
                errors = errors / free[:, None]
            out[index] = np.average(errors**2, axis=0, weights=weights)
        return out


def _fit_view(
    X: Floats, Z: Floats, weights: Floats, train: Ints, folds: list[Fold], config: ComponentRidgeConfig
) -> _View:
    alphas = np.asarray(config.alphas)
    whole = _Basis.of(X[train], Z[train], weights[train])
    parts = [_Basis.of(X[fold.fit], Z[fold.fit], weights[fold.fit]) for fold in folds]
    errors = [
        part.errors(X[fold.held], Z[fold.held], weights[fold.held], alphas, own=False)
        for part, fold in zip(parts, folds, strict=True)
    ]
    error = np.mean(errors, axis=0) + whole.errors(X[train], Z[train], weights[train], alphas, own=True)
    variance = np.average(np.square(Z[train]), axis=0, weights=weights[train])
    error = error / np.where(variance > 0, variance, 1.0)
    error = (1 - config.sharing) * error + config.sharing * error.mean(axis=1, keepdims=True)
    best = alphas[len(alphas) - 1 - error[::-1].argmin(axis=0)]  # of equal ones the strongest penalty
    held = np.full(Z.shape, np.nan)
    for part, fold in zip(parts, folds, strict=True):
        held[fold.held] = (X[fold.held] - part.x_mean) @ part.coefficients(best) + part.z_mean
    coefficients = whole.coefficients(best)
    return _View(held, coefficients, whole.z_mean - whole.x_mean @ coefficients, best)


def _components(Y: Floats, weights: Floats, n: int) -> Floats:
    """The first principal components of centred rows, ``(n_components, n_targets)``, signs fixed."""
    A = np.sqrt(weights / weights.sum())[:, None] * Y
    wide = A.shape[1] > len(A)
    with one_blas_thread():
        values, vectors = eigh(A @ A.T if wide else A.T @ A, driver="evd")
    n = min(n, max(1, int((values > max(values[-1], 0.0) * _SMALL).sum())))
    values, vectors = values[::-1][:n], vectors[:, ::-1][:, :n]
    if wide:
        vectors = A.T @ (vectors / np.sqrt(np.maximum(values, np.finfo(float).tiny)))
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(n)]
    return (vectors * np.where(largest < 0, -1.0, 1.0)).T


def _gaussian(a: Floats, b: Floats, width: float) -> Floats:
    return np.exp(-width / a.shape[1] * cdist(a, b, "sqeuclidean"))
