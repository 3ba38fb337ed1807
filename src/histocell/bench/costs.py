"""Costs of a training: seconds, the largest memory of the process, and that of the GPU."""

from __future__ import annotations

import importlib
import sys
import time
from contextlib import contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING

from histocell._core.device import pick_device

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from histocell.models.base import Model

SECONDS, MEMORY, GPU_MEMORY, PARAMETERS = "seconds", "peak_memory_mb", "peak_gpu_memory_mb", "n_parameters"
COSTS = (SECONDS, MEMORY, GPU_MEMORY, PARAMETERS)
_EVERY = 0.02  # seconds
_MB = 1e6


@contextmanager
def measured(device: str | None) -> Iterator[dict[str, float]]:
    """Seconds and memory of what the block does, which are known when it ends.

    The memory is that of the whole process, data and libraries included, looked at fifty times a second. The GPU's is
    what torch allocated on it, and is there only where `device` is a CUDA device.
    """
    import psutil

    process, done, largest = psutil.Process(), Event(), [0]

    def watch() -> None:
        while True:
            largest[0] = max(largest[0], process.memory_info().rss)
            if done.wait(_EVERY):
                return

    if gpu := _gpu(device):
        gpu.start()
    costs: dict[str, float] = {}
    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    start = time.perf_counter()
    try:
        yield costs
        if gpu := _gpu(device):  # torch may have been imported meanwhile
            costs[GPU_MEMORY] = gpu.peak() / _MB
        costs[SECONDS] = time.perf_counter() - start
    finally:
        done.set()
        watcher.join()
    costs[MEMORY] = max(largest[0], process.memory_info().rss) / _MB


def warm_up(model: Model) -> None:
    """Import what torch imports when its first optimiser is made, which takes seconds and is no training."""
    if hasattr(sys.modules[type(model).__module__], "torch"):
        importlib.import_module("torch._dynamo")


def device_type(device: str | None) -> str:
    """Kind of the device that `device` stands for: cpu, cuda or mps."""
    return pick_device(device).type


class _GPU:
    """Memory that torch allocates on a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def start(self) -> None:
        """Forget earlier peaks."""
        import torch

        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)

    def peak(self) -> int:
        """The most bytes since, when all work is done."""
        import torch

        torch.cuda.synchronize(self._device)
        return torch.cuda.max_memory_allocated(self._device)


def _gpu(device: str | None) -> _GPU | None:
    """The CUDA device, `None` for any other; where torch was not imported, nothing can have used one."""
    if "torch" not in sys.modules:
        return None
    chosen = pick_device(device)
    return _GPU(chosen) if chosen.type == "cuda" else None
