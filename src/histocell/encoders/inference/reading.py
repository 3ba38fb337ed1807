"""Reading of patches in threads, ahead of the network."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    import numpy as np
    from numpy.typing import NDArray

    from histocell.images.patch_source import PatchSource

_AHEAD = 2  # batches that wait, read or being read
_SLICE = 8  # patches that one thread reads at a time


def read_batches(
    source: PatchSource, batches: Iterable[NDArray[np.float64]], *, pin: bool = False, n_threads: int | None = None
) -> Generator[torch.Tensor]:
    """Patches around each batch of centres, uint8 tensors ``(n, edge, edge, 3)``, in order.

    Threads read while the caller computes, at most two batches ahead; closing the iterator stops it.

    Parameters
    ----------
    source
        Patches of a slide.
    batches
        Centres (x, y) in level-0 px.
    pin
        Whether to use page-locked memory, from which a GPU copies on its own.
    n_threads
        Number of reading threads; by default that of the processors, at most eight.
    """
    waiting: deque[tuple[torch.Tensor, list[Future[None]]]] = deque()
    pool = ThreadPoolExecutor(n_threads or min(8, os.cpu_count() or 1), thread_name_prefix="histocell-read")
    try:
        for centers in batches:
            buffer = torch.empty((len(centers), source.edge, source.edge, 3), dtype=torch.uint8, pin_memory=pin)
            pixels = buffer.numpy()
            parts = [slice(start, start + _SLICE) for start in range(0, len(centers), _SLICE)]
            waiting.append((buffer, [pool.submit(source.read, centers[part], pixels[part]) for part in parts]))
            if len(waiting) > _AHEAD:
                yield _complete(*waiting.popleft())
        while waiting:
            yield _complete(*waiting.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _complete(buffer: torch.Tensor, parts: list[Future[None]]) -> torch.Tensor:
    for part in parts:
        part.result()
    return buffer
