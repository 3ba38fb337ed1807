"""Batches: patches that pass the network together, the rows that come out of them, and their reading in threads."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from numpy.typing import NDArray

    from histocell.encoders.inference.nucleus_tokens import TokenPooler
    from histocell.images.patch_source import PatchSource

_AHEAD = 2  # batches that wait, read or being read
_SLICE = 8  # patches that one thread reads at a time


@dataclass(frozen=True)
class Points:
    """Nuclei on a batch of patches, and the tokens that make up each; in the order of their patches.

    Attributes
    ----------
    patch
        Shape (m,): the patch of each nucleus.
    index, weight
        Shape (m, q): its tokens in that patch and their weights.
    """

    patch: NDArray[np.int64]
    index: NDArray[np.int64]
    weight: NDArray[np.float32]

    def of_patches(self, start: int, stop: int) -> Points:
        """The nuclei on some of the patches."""
        a, b = np.searchsorted(self.patch, (start, stop))
        return Points(self.patch[a:b] - start, self.index[a:b], self.weight[a:b])


@dataclass(frozen=True)
class Batch:
    """Patches that pass the network together.

    Attributes
    ----------
    centers
        Shape (b, 2): x, y in level-0 px.
    rows
        The rows that come out, in this order.
    points
        The nuclei on the patches; `None` for one row per patch.
    """

    centers: NDArray[np.float64]
    rows: NDArray[np.int64]
    points: Points | None = None


def plan_batches(
    centers: NDArray[np.float64], source: PatchSource, *, batch_size: int, size_px: float, nuclei: TokenPooler | None
) -> Iterator[Batch]:
    """The batches that embed some points.

    Parameters
    ----------
    centers
        Shape (n, 2): x, y in level-0 px.
    source
        Patches of the slide.
    batch_size
        Patches per batch.
    size_px
        Edge of a patch in level-0 px.
    nuclei
        Pooling of tokens near nuclei; `None` for one embedding per patch.
    """
    patches, patch_of_row = (
        (centers, np.arange(len(centers))) if nuclei is None else nuclei.tiles(centers, size_px=size_px)
    )
    rows = np.argsort(patch_of_row, kind="stable")
    starts = range(0, len(patches), batch_size)
    bounds = np.searchsorted(patch_of_row[rows], np.arange(0, len(patches) + batch_size, batch_size))
    for start, a, b in zip(starts, bounds, bounds[1:], strict=False):
        in_batch, batch_rows = patches[start : start + batch_size], rows[a:b]
        points = None
        if nuclei is not None:
            patch = patch_of_row[batch_rows] - start
            inside = (centers[batch_rows, ::-1] - source.corners(in_batch)[patch]) / source.scale()
            points = Points(patch, *nuclei.weights(inside * (nuclei.input_px / source.edge)))
        yield Batch(in_batch, batch_rows, points)


def read_batches(
    source: PatchSource, batches: Iterable[NDArray[np.float64]], *, pin: bool = False
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
    """
    waiting: deque[tuple[torch.Tensor, list[Future[None]]]] = deque()
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="histocell-read")
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
