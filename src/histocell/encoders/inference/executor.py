"""Batches of patches through copies of a network on one or several devices."""

from __future__ import annotations

import copy
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import tee
from typing import TYPE_CHECKING

import numpy as np
import torch

from histocell._core.errors import warn
from histocell.encoders.inference.nucleus_tokens import NucleusPooling, pool_tokens
from histocell.encoders.inference.precision import DTYPES
from histocell.encoders.inference.preprocessing import Preprocessing
from histocell.encoders.inference.reading import read_batches

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from numpy.typing import NDArray

    from histocell.encoders.networks.backbone import Backbone
    from histocell.encoders.spec import EncoderSpec
    from histocell.images.patch_source import PatchSource
    from histocell.images.stain.normalize import StainTransform

_CPU_BATCH = 32
_GPU_BATCHES = (32, 64, 128, 256, 512)
_WORTH = 1.05  # a larger batch must be faster by this factor to be taken


@dataclass(frozen=True)
class Points:
    """Which tokens of a batch of tiles make up each point; points in the order of their tiles.

    Attributes
    ----------
    tile
        Shape (m,): the tile of each point.
    index, weight
        Shape (m, q): its tokens in that tile and their weights.
    """

    tile: NDArray[np.int64]
    index: NDArray[np.int64]
    weight: NDArray[np.float32]

    def of_tiles(self, start: int, stop: int) -> Points:
        """The points of some of the tiles."""
        a, b = np.searchsorted(self.tile, (start, stop))
        return Points(self.tile[a:b] - start, self.index[a:b], self.weight[a:b])


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
        What is pooled where; `None` for one row per patch.
    """

    centers: NDArray[np.float64]
    rows: NDArray[np.int64]
    points: Points | None = None


class Executor:
    """Keeps devices busy: reads ahead, computes, copies back.

    Parameters
    ----------
    backbone
        The network.
    spec
        Input size and normalisation.
    devices
        Where it runs; batches are dealt out among them.
    precision
        ``"fp32"``, ``"bf16"`` or ``"fp16"``.
    pool
        A pooling of the backbone, or the tokens near nuclei.
    batch_size
        Patches per batch; by default 32 on a processor, and found by trial on a GPU.

    Attributes
    ----------
    batch_size
        `None` until it was found; halved when memory does not suffice.
    """

    def __init__(
        self,
        backbone: Backbone,
        spec: EncoderSpec,
        devices: Sequence[torch.device],
        *,
        precision: str,
        pool: str | NucleusPooling | None,
        batch_size: int | None,
    ) -> None:
        self.devices = list(devices)
        self.batch_size = batch_size or (_CPU_BATCH if self.devices[0].type == "cpu" else None)
        self._name = spec.name
        self._pool = pool
        self._too_large: int | None = None
        copies = [backbone, *(copy.deepcopy(backbone) for _ in self.devices[1:])]
        dtype = DTYPES[precision]
        self._lanes = [
            _Lane(network, spec, device, dtype) for network, device in zip(copies, self.devices, strict=True)
        ]

    def compile(self) -> None:
        """Compile the networks."""
        for lane in self._lanes:
            lane.backbone.compile_blocks()

    def run(self, pixels: torch.Tensor, points: Points | None) -> NDArray[np.float32]:
        """Embeddings of one batch of uint8 patches, shape ``(b, h, w, 3)``."""
        out = self._run(self._lanes[0], pixels, points, None).cpu().numpy()
        self._report()
        return out

    def stream(
        self, batches: Iterator[Batch], source: PatchSource, stain: StainTransform | None
    ) -> Generator[tuple[Batch, NDArray[np.float32]]]:
        """Batches with their embeddings, in order; two are under way on each device.

        Parameters
        ----------
        batches
            What to compute.
        source
            Where patches come from.
        stain
            Stain normalisation.
        """
        to_read, to_run = tee(batches)
        pin = self.devices[0].type == "cuda"
        patches = read_batches(source, (batch.centers for batch in to_read), pin=pin)
        workers = [ThreadPoolExecutor(1, thread_name_prefix="histocell-run") for _ in self._lanes]
        waiting: deque[tuple[Batch, Future[_Output]]] = deque()
        try:
            for turn, (batch, pixels) in enumerate(zip(to_run, patches, strict=True)):
                place = turn % len(self._lanes)
                job = workers[place].submit(self._start, self._lanes[place], pixels, batch.points, stain)
                waiting.append((batch, job))
                if len(waiting) >= 2 * len(self._lanes):
                    yield self._finish(*waiting.popleft())
            while waiting:
                yield self._finish(*waiting.popleft())
        finally:
            patches.close()
            for worker in workers:
                worker.shutdown(wait=True, cancel_futures=True)

    def find_batch_size(self, edge: int) -> int:
        """The batch beyond which the first device is not faster, found with black patches of `edge` px."""
        best, rate = _GPU_BATCHES[0], 0.0
        for size in _GPU_BATCHES:
            pixels = torch.zeros((size, edge, edge, 3), dtype=torch.uint8)
            try:
                self._forward(self._lanes[0], pixels, None, None)[:1].cpu()  # waits, and copies little
                start = time.perf_counter()
                self._forward(self._lanes[0], pixels, None, None)[:1].cpu()
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                _free_memory()
                break
            now = size / (time.perf_counter() - start)
            if now < rate * _WORTH:
                break
            best, rate = size, now
        return best

    def _start(self, lane: _Lane, pixels: torch.Tensor, points: Points | None, stain: StainTransform | None) -> _Output:
        """Run a batch; on a GPU the result is still on its way when this returns."""
        return _Output(self._run(lane, pixels, points, stain))

    def _finish(self, batch: Batch, job: Future[_Output]) -> tuple[Batch, NDArray[np.float32]]:
        features = job.result().wait()
        self._report()
        return batch, features.numpy()

    def _run(
        self, lane: _Lane, pixels: torch.Tensor, points: Points | None, stain: StainTransform | None
    ) -> torch.Tensor:
        """Embeddings of a batch on the device, in parts where memory does not suffice for all of it."""
        size = min(len(pixels), self.batch_size or len(pixels))
        parts: list[torch.Tensor] = []
        start = 0
        while start < len(pixels):
            stop = min(start + size, len(pixels))
            try:
                part = None if points is None else points.of_tiles(start, stop)
                parts.append(self._forward(lane, pixels[start:stop], part, stain))
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                size = self._smaller(stop - start, error)
                continue
            start = stop
        return torch.cat(parts) if len(parts) != 1 else parts[0]

    @torch.inference_mode()
    def _forward(
        self, lane: _Lane, pixels: torch.Tensor, points: Points | None, stain: StainTransform | None
    ) -> torch.Tensor:
        images = lane.prepare(pixels.to(lane.device, non_blocking=True), stain)
        if not isinstance(self._pool, NucleusPooling):
            return lane.backbone(images, pool=self._pool).float()
        tokens = lane.backbone.tokens(images, block=self._pool.block)
        return tokens if points is None else pool_tokens(tokens, points.tile, points.index, points.weight)

    def _smaller(self, tried: int, error: RuntimeError) -> int:
        """Half of a batch that did not fit."""
        if tried == 1:
            msg = (
                f"not even one patch fits into the memory of the device with {self._name!r} ({error}); use another device, "
                "a smaller encoder or a half precision"
            )
            raise MemoryError(msg) from error
        _free_memory()
        size = tried // 2
        self.batch_size = min(size, self.batch_size or size)
        self._too_large = tried
        return size

    def _report(self) -> None:
        """Tell of batches that were too large; from the thread of the caller, so that the warning shows their line."""
        if self._too_large is not None:
            size = self.batch_size
            warn(
                f"out of memory with a batch of {self._too_large}: going on with {size}; batch_size={size} avoids this"
            )
            self._too_large = None


class _Lane:
    """A device with a copy of the network."""

    def __init__(self, backbone: Backbone, spec: EncoderSpec, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self.backbone = backbone.to(device=device, dtype=dtype).to(memory_format=torch.channels_last).eval()
        self.prepare = Preprocessing(spec, device, dtype)


class _Output:
    """Embeddings on their way from the device to the memory of the computer."""

    def __init__(self, features: torch.Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if features.device.type == "cuda":
            self._features = torch.empty(features.shape, dtype=features.dtype, pin_memory=True)
            self._features.copy_(features, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(features.device))
        else:
            self._features = features.cpu()

    def wait(self) -> torch.Tensor:
        """The embeddings, once they have arrived."""
        if self._event is not None:
            self._event.synchronize()
        return self._features


def _free_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _is_out_of_memory(error: RuntimeError) -> bool:
    if isinstance(error, torch.OutOfMemoryError):
        return True
    words = str(error).lower()
    return "not enough memory" in words or "can't allocate memory" in words or "out of memory" in words
