"""The largest eigenvalues of a symmetric matrix and their vectors, in several threads at once."""

from __future__ import annotations

import ctypes
import functools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba.extending import get_cython_function_address
from scipy.linalg import cython_lapack

if TYPE_CHECKING:
    from collections.abc import Callable

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
        _call("dormtr", "L", "U", side, d, g, self.reflectors, d, self.scales, out, d, work, work.size)
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
    if 2 * k > d or not _callable():
        values, vectors = np.linalg.eigh(matrix, UPLO="U")
        return Eigen(values[-k:], vectors[:, -k:])
    reflectors = np.array(matrix, dtype=np.float64, order="F")
    values, beside, scales, work = np.empty(d), np.empty(d), np.empty(d), np.empty(_BLOCK * d)
    _call("dsytrd", "U", d, reflectors, d, values, beside, scales, work, work.size)
    inner, work, steps = np.empty((d, d), order="F"), np.empty(1 + 4 * d + d * d), np.empty(3 + 5 * d, dtype=np.intc)
    _call("dstedc", "I", d, values, beside, inner, d, work, work.size, steps, steps.size)
    return Eigen(values[-k:], inner[:, -k:], reflectors, scales)


def _call(name: str, *arguments: str | int | np.ndarray) -> None:
    """One routine of LAPACK; the last of its arguments, which says how it went, is added."""
    held = [_held(argument) for argument in arguments]
    info = ctypes.c_int(0)
    addresses = [each if isinstance(each, int) else ctypes.addressof(each) for each in (*held, info)]
    _routine(name, len(addresses))(*addresses)
    if info.value:
        msg = f"LAPACK's {name} ended with {info.value}"
        raise np.linalg.LinAlgError(msg)


def _held(argument: str | int | np.ndarray) -> ctypes.c_char | ctypes.c_int | int:
    """What has an address: a character, an integer, or the address of an array."""
    if isinstance(argument, str):
        return ctypes.c_char(argument.encode())
    return ctypes.c_int(argument) if isinstance(argument, int) else argument.ctypes.data


@functools.cache
def _routine(name: str, n_arguments: int) -> Callable[..., None]:
    """A routine of the LAPACK of scipy; ctypes frees the interpreter while it runs."""
    address = get_cython_function_address("scipy.linalg.cython_lapack", name)
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * n_arguments)(address)


@functools.cache
def _callable() -> bool:
    """Whether LAPACK is there with integers of 32 bits, as these calls have them."""
    routines = getattr(cython_lapack, "__pyx_capi__", {})
    return all(name in routines and "int *" in repr(routines[name]) for name in ("dsytrd", "dstedc", "dormtr"))
