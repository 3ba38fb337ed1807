"""Routines of the BLAS and LAPACK of scipy, called so that other threads work meanwhile; scipy's own calls do not allow that."""

from __future__ import annotations

import ctypes
import functools
from typing import TYPE_CHECKING

import numpy as np
from numba.extending import get_cython_function_address
from scipy.linalg import blas as scipy_blas
from scipy.linalg import cython_blas, cython_lapack

if TYPE_CHECKING:
    from collections.abc import Callable

    from histocell._core.types import Floats

    type Argument = str | int | float | np.ndarray

_ROUTINES = {"cython_blas": ("dsyrk",), "cython_lapack": ("dsytrd", "dstedc", "dormtr")}


def add_products(A: Floats, out: Floats) -> None:
    """Add ``A.T @ A`` to `out`, on and above its diagonal alone.

    Parameters
    ----------
    A
        Shape ``(n, d)``, lines together in memory.
    out
        Shape ``(d, d)``, columns together.
    """
    n, d = A.shape
    if is_there():
        _call("cython_blas", "dsyrk", "U", "N", d, n, 1.0, A, d, 1.0, out, d)
    else:
        scipy_blas.dsyrk(1.0, A.T, beta=1.0, c=out, overwrite_c=1)


def lapack(name: str, *arguments: Argument) -> None:
    """One routine of LAPACK; the last of its arguments, which says how it went, is added.

    Raises
    ------
    numpy.linalg.LinAlgError
        When it says that it failed.
    """
    info = np.zeros(1, dtype=np.intc)
    _call("cython_lapack", name, *arguments, info)
    if info[0]:
        msg = f"LAPACK's {name} ended with {info[0]}"
        raise np.linalg.LinAlgError(msg)


@functools.cache
def is_there() -> bool:
    """Whether the routines are there with integers of 32 bits, as these calls have them."""
    for module in (cython_blas, cython_lapack):
        known = getattr(module, "__pyx_capi__", {})
        names = _ROUTINES[module.__name__.rpartition(".")[2]]
        if not all(name in known and "int *" in repr(known[name]) for name in names):
            return False
    return True


def _call(module: str, name: str, *arguments: Argument) -> None:
    held = [_held(argument) for argument in arguments]
    addresses = [each if isinstance(each, int) else ctypes.addressof(each) for each in held]
    _routine(module, name, len(addresses))(*addresses)


def _held(argument: Argument) -> ctypes.c_char | ctypes.c_int | ctypes.c_double | int:
    """What has an address: a character, a number, or the address of an array."""
    if isinstance(argument, str):
        return ctypes.c_char(argument.encode())
    if isinstance(argument, int):
        return ctypes.c_int(argument)
    return ctypes.c_double(argument) if isinstance(argument, float) else argument.ctypes.data


@functools.cache
def _routine(module: str, name: str, n_arguments: int) -> Callable[..., None]:
    address = get_cython_function_address(f"scipy.linalg.{module}", name)
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * n_arguments)(address)
