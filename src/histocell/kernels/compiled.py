"""Compilation by numba: kept on disk where there is a place for it, parallel kernels safe in threads and forked processes."""

from __future__ import annotations

import os
import threading
from functools import cache as remember
from functools import wraps
from types import FunctionType
from typing import TYPE_CHECKING

import numba

from histocell._core.errors import warn
from histocell._core.forks import is_forked

if TYPE_CHECKING:
    from collections.abc import Callable

# Numba's workqueue layer, the only one where neither TBB nor OpenMP is installed, ends the process when two threads
# enter parallel regions at once. A kernel keeps all cores busy by itself, so waiting costs nothing on the others.
_one_at_a_time = threading.Lock()


def _free_lock() -> None:
    """A thread of the parent may have held the lock, which nobody opens in the child."""
    global _one_at_a_time
    _one_at_a_time = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_lock)


def njit[**P, R](
    *, nogil: bool = True, cache: bool = True, parallel: bool = False, fastmath: bool | set[str] = False
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """`numba.njit` that goes without its cache, with a warning, where no folder for it can be written."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        try:
            return numba.njit(nogil=nogil, cache=cache, parallel=parallel, fastmath=fastmath)(function)
        except RuntimeError as error:
            if "cannot cache function" not in str(error):
                raise
            _warn_of_cache()
            return numba.njit(nogil=nogil, parallel=parallel, fastmath=fastmath)(function)

    return decorate


@remember  # once, not for each kernel
def _warn_of_cache() -> None:
    warn(
        "neither the folder of histocell nor the home folder can be written, so compiled code is not kept: each process "
        "compiles anew, which takes a minute. Set the environment variable NUMBA_CACHE_DIR to a folder that can be written"
    )


def parallel_njit[**P, R](
    *, fastmath: bool | set[str] = False, cache: bool = True
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Compile a function with ``prange`` loops; calls from several threads run one after the other.

    In a forked process the loops run on one thread: the threads of OpenMP stayed in the parent.

    Parameters
    ----------
    fastmath
        As in `numba.njit`.
    cache
        Whether the compiled code is kept on disk.

    Returns
    -------
    A decorator. What it returns is a Python function: compiled code cannot call it.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        kernel = njit(nogil=True, cache=cache, parallel=True, fastmath=fastmath)(function)

        @remember
        def serial() -> Callable[P, R]:
            # under a name of its own, as numba's files on disk do not tell parallel code from serial code
            name = f"{function.__qualname__}_serial"
            copy = FunctionType(
                function.__code__, function.__globals__, name, function.__defaults__, function.__closure__
            )
            copy.__qualname__ = name
            return njit(nogil=True, cache=cache, fastmath=fastmath)(copy)

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if is_forked():
                return serial()(*args, **kwargs)
            with _one_at_a_time:
                return kernel(*args, **kwargs)

        return call

    return decorate
