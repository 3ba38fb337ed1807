"""Choice of the device that torch computes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histocell._core.forks import is_forked
from histocell._core.settings import settings

if TYPE_CHECKING:
    import torch


def pick_device(device: str | None = None) -> torch.device:
    """The device asked for, the one in ``hc.settings``, or the best there is."""
    import torch

    survive_fork()
    name = device or settings.device
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return torch.device(name)


def survive_fork() -> None:
    """In a forked process, keep torch from waiting for threads that it has not; to be called before it computes."""
    import torch

    if is_forked() and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
