"""The largest eigenvalues of a symmetric matrix and their vectors, in several threads at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from histocell.models.expression import blas

if TYPE_CHECKING:
    from histocell._core.types import Floats

_BLOCK = 64  # columns that a step of LAPACK takes together


class Eigen(NamedTuple):
    """The largest eigenvalues of a symmetric matrix, ascending, and their vectors as a product that is not multiplied out.

    Attributes
    ----------
    values
        Shape ``(k,)``.
    inner
        Vectors of the tridiagonal matrix, ``(d, k)``; where `reflectors` is `None`, those of the matrix itself.
    reflectors, scales
        What turns them into those of the matrix, as LAPACK's ``dsytrd`` leaves it.
    """

    values: Floats
    inner: Floats
    reflectors: Floats | None = None
    scales: Floats | None = None

    def onto(self, B: Floats) -> Floats:
        """Products of the vectors with columns, ``(d, g)``: shape ``(k, g)``."""
        return self.inner.T @ self._turned("T", B)

    def back(self, W: Floats) -> Floats:
        """Sums of the vectors that are weighted by columns, ``(k, g)``: shape ``(d, g)``."""
        return self._turned("N", self.inner @ W)

    def _turned(self, side: str, B: Floats) -> Floats:
        if self.reflectors is None or self.scales is None:
            return B
        d, g = B.shape
        out, work = np.array(B, order="F"), np.empty(_BLOCK * max(d, g))
        blas.lapack("dormtr", "L", "U", side, d, g, self.reflectors, d, self.scales, out, d, work, work.size)
        return out


def largest_eigen(matrix: Floats, k: int) -> Eigen:
    """The `k` largest eigenvalues and their vectors, those of `numpy.linalg.eigh`, sooner.

    The matrix is made tridiagonal and that one decomposed, as LAPACK's ``dsyevd`` does; it would then turn all vectors back,
    which takes as long again. Other threads work meanwhile, which scipy's own calls of LAPACK do not allow.

    Parameters
    ----------
    matrix
        Symmetric, shape ``(d, d)``; what is below the diagonal is not read.
    k
        From 1 to d.

    Raises
    ------
    numpy.linalg.LinAlgError
        When the iteration does not converge.
    """
    d = len(matrix)
    if 2 * k > d or not blas.is_there():
        values, vectors = np.linalg.eigh(matrix, UPLO="U")
        return Eigen(values[-k:], vectors[:, -k:])
    reflectors = np.array(matrix, dtype=np.float64, order="F")
    values, beside, scales, work = np.empty(d), np.empty(d), np.empty(d), np.empty(_BLOCK * d)
    blas.lapack("dsytrd", "U", d, reflectors, d, values, beside, scales, work, work.size)
    inner, work, steps = np.empty((d, d), order="F"), np.empty(1 + 4 * d + d * d), np.empty(3 + 5 * d, dtype=np.intc)
    blas.lapack("dstedc", "I", d, values, beside, inner, d, work, work.size, steps, steps.size)
    return Eigen(values[-k:], inner[:, -k:], reflectors, scales)
