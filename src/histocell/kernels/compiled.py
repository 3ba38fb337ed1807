"""Compilation by numba, kept on disk where there is a place for it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numba

from histocell._core.errors import warn

if TYPE_CHECKING:
    from collections.abc import Callable


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


@cache  # once, not for each kernel
def _warn_of_cache() -> None:
    warn(
        "neither the folder of histocell nor the home folder can be written, so compiled code is not kept: each process "
        "compiles anew, which takes a minute. Set the environment variable NUMBA_CACHE_DIR to a folder that can be written"
    )
