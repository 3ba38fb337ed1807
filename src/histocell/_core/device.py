"""Choice of the device that torch computes on, and of the threads of linear algebra."""

from __future__ import annotations

from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

from histocell._core.forks import is_forked
from histocell._core.settings import settings

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import torch


def pick_device(device: str | None = None) -> torch.device:
    """The device asked for, the one in ``hc.settings``, or the best there is; a `ValueError` for one that is not here."""
    import torch

    survive_fork()
    name = device or settings.device
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(name)
    except (RuntimeError, TypeError) as error:
        msg = f"device {name!r} is not known; use cpu, cuda, cuda:1 (the second GPU) or mps"
        raise ValueError(msg) from error
    n_gpus = torch.cuda.device_count() if chosen.type == "cuda" else 0
    if chosen.type == "cuda" and (chosen.index or 0) >= n_gpus:
        msg = (
            f"device {name!r} is not on this machine: torch finds {n_gpus} GPUs; leave device out for the best there is"
        )
        raise ValueError(msg)
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        msg = f"device {name!r} is not on this machine; leave device out for the best there is"
        raise ValueError(msg)
    return chosen


def survive_fork() -> None:
    """In a forked process, keep torch from waiting for threads that it has not; to be called before it computes."""
    import torch

    if is_forked() and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


def one_blas_thread() -> AbstractContextManager[object]:
    """Within it BLAS and LAPACK keep to one thread.

    For decompositions: their steps are so small that several threads wait for each other longer than they work.
    """
    return threadpool_limits(1, user_api="blas")
