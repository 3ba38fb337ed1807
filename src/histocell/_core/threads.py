"""Threads of linear algebra."""

from __future__ import annotations

from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


def one_blas_thread() -> AbstractContextManager[object]:
    """Within it BLAS and LAPACK keep to one thread.

    For decompositions: their steps are so small that several threads wait for each other longer than they work.
    """
    return threadpool_limits(1, user_api="blas")
