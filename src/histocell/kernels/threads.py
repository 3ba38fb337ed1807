"""Parallel numba kernels that may be called from several threads."""

from __future__ import annotations

import threading
from functools import wraps
from typing import TYPE_CHECKING

from numba import njit

if TYPE_CHECKING:
    from collections.abc import Callable

# Numba's workqueue layer, the only one where neither TBB nor OpenMP is installed, ends the process when two threads
# enter parallel regions at once. A kernel keeps all cores busy by itself, so waiting costs nothing on the others.
_one_at_a_time = threading.Lock()


def parallel_njit[**P, R](
    *, fastmath: bool | set[str] = False, cache: bool = True
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Compile a function with ``prange`` loops; calls from several threads run one after the other.

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

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            with _one_at_a_time:
                return kernel(*args, **kwargs)

        return call

    return decorate
