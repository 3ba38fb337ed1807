"""Canonical correlation analysis with shrinkage: the linear way to bring two views into one space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np
from scipy.linalg import cholesky, solve_triangular, svd

from histocell.models.alignment.base import VIEWS, AlignmentModel, unit
from histocell.models.alignment.ranks import partner_ranks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histocell._core.types import Arrays, Floats, Ints
    from histocell.models.alignment.base import View
    from histocell.models.base import Model
    from histocell.models.folds import FitRows

SHRINKAGES = (0.001, 0.01, 0.1, 1.0)
_DEFAULT = 0.1  # where no row chooses
_CHOOSING = 2000  # validation rows that do
_CHUNK = 16_384


class CCA(AlignmentModel):
    """Pairs of directions along which the views correlate most, each weighted by its correlation.

    Covariances are shrunk towards multiples of the identity by the share, of 0.001, 0.01, 0.1 and 1, with the best mean
    reciprocal rank on validation rows; 0.1 where there are none.

    References
    ----------
    Hotelling 1936, Biometrika 28; Vinod 1976, Journal of Econometrics 4 (with shrinkage).

    Examples
    --------
    >>> import numpy as np
    >>> import histocell as hc
    >>> rng = np.random.default_rng(0)
    >>> state = rng.normal(size=(200, 3))
    >>> image, genes = state @ rng.normal(size=(3, 8)), state @ rng.normal(size=(3, 6))
    >>> hc.models.CCA().fit(image, genes).project("genes", genes).shape
    (200, 6)
    """

    name = "cca"
    summary = "Canonical correlation analysis with shrinkage: the linear alignment of image and genes."
    limits = "linear; at most as many dimensions as the narrower view"
    cost = "seconds"
    reference = "Hotelling 1936, Biometrika"

    def _fit(self, X: np.ndarray, Y: Floats, rows: FitRows, rng: np.random.Generator, device: str | None) -> None:
        del device
        train, held = np.flatnonzero(rows.train), np.flatnonzero(~rows.train)
        self._fit_scales(X, Y, train, rng)
        moments = self._moments(X, Y, train)
        if len(held) > _CHOOSING:
            held = rng.choice(held, _CHOOSING, replace=False)
        options = SHRINKAGES if len(held) > 1 else (_DEFAULT,)
        solved = {share: _solve(*moments, share, self.config.dim) for share in options}
        best = max(options, key=lambda share: self._score(X[held], Y[held], solved[share]) if len(held) > 1 else 0)
        self.weights |= solved[best] | {"input_shrinkage": np.array([best])}

    def _moments(self, X: np.ndarray, Y: np.ndarray, train: Ints) -> tuple[Floats, Floats, Floats]:
        """Covariances of the image, of the genes and between both, from chunks of the training rows."""
        total = np.zeros((X.shape[1] + Y.shape[1],) * 2)
        for start in range(0, len(train), _CHUNK):
            some = train[start : start + _CHUNK]
            both = np.hstack([self._scaled("image", X[some]), self._scaled("genes", Y[some])]).astype(np.float64)
            total += both.T @ both
        total /= len(train)
        cut = X.shape[1]
        return total[:cut, :cut], total[cut:, cut:], total[:cut, cut:]

    def _score(self, X: np.ndarray, Y: np.ndarray, weights: Arrays) -> float:
        """Mean reciprocal rank of held-out rows, both ways."""
        image, genes = (
            unit(self._scaled(view, values) @ weights[f"{view}.coefficients"]).astype(np.float32)
            for view, values in zip(VIEWS, (X, Y), strict=True)
        )
        rows, one = np.arange(len(X)), np.zeros(len(X), dtype=np.intp)
        ways = (
            partner_ranks(*pair, rows, groups=one, scopes=("all",))["all"] for pair in ((image, genes), (genes, image))
        )
        return float(np.mean([(1 / way.rank).mean() for way in ways]))

    def _project(self, view: View, values: NDArray[np.float32], device: str | None) -> np.ndarray:
        del device
        return (values @ self.weights[f"{view}.coefficients"]).astype(np.float32)

    @property
    def _dim(self) -> int:
        return self.weights["image.coefficients"].shape[1]

    @classmethod
    def baseline_for(cls, model: Model) -> Self:
        """An analysis of as many dimensions as the model."""
        return cls(dim=model.config.dim) if isinstance(model, AlignmentModel) else cls()

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes that weights must have by settings and features."""
        expected = super().weight_shapes()
        sizes = [expected[f"input_{view}_mean"] for view in VIEWS]
        if not all(sizes):
            return expected
        dim = min(self.config.dim, *(size[0] for size in sizes))
        return expected | {f"{view}.coefficients": (*size, dim) for view, size in zip(VIEWS, sizes, strict=True)}


def _solve(image: Floats, genes: Floats, between: Floats, share: float, dim: int) -> Arrays:
    """Coefficients of both views from their covariances, shrunk by `share`."""
    factors = []
    for one in (image, genes):
        n = len(one)
        level = np.trace(one) / n
        factors.append(cholesky(one + share * level * np.eye(n) + 1e-9 * level * np.eye(n), lower=True))
    whitened = solve_triangular(factors[1], solve_triangular(factors[0], between, lower=True).T, lower=True).T
    left, correlation, right = svd(whitened, full_matrices=False)
    kept = slice(0, min(dim, len(correlation)))
    weight = np.sqrt(correlation[kept])  # on both sides: products weigh a pair by its correlation
    return {
        f"{view}.coefficients": solve_triangular(factor, axes[:, kept], lower=True, trans="T") * weight
        for view, factor, axes in zip(VIEWS, factors, (left, right.T), strict=True)
    }
