"""Execution of batches on one or several devices, while the next ones are read."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle, tee
from typing import TYPE_CHECKING

import torch

from histocell._core.device import survive_fork
from histocell._core.errors import warn
from histocell.encoders.inference.batches import Batch, Points, read_batches
from histocell.encoders.inference.nucleus_tokens import NucleusPooling, pool_tokens

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from histocell.encoders.inference.preprocessing import Preprocessing
    from histocell.encoders.networks.backbone import Backbone
    from histocell.images.patch_source import PatchSource
    from histocell.images.stain.normalize import StainTransform

    type _OnHost = tuple[torch.Tensor, torch.cuda.Event | None]

_CPU_BATCH = 32
_GPU_BATCHES = (32, 64, 128, 256, 512)
_MIN_SPEEDUP = 1.05  # a larger batch is taken if it is faster by this factor


class Executor:
    """Runs batches on devices: reads ahead, computes, copies back.

    Parameters
    ----------
    replicas
        The network on each device; they share the batches.
    batch_size
        Patches per batch; by default 32 on a processor, and found by trial on a GPU.

    Attributes
    ----------
    batch_size
        `None` until it was found; halved when memory does not suffice.
    """

    def __init__(self, replicas: Sequence[Replica], batch_size: int | None) -> None:
        self.replicas = replicas
        self.batch_size = batch_size or (_CPU_BATCH if replicas[0].device.type == "cpu" else None)
        self._too_large: int | None = None

    def run(self, pixels: torch.Tensor, points: Points | None) -> NDArray[np.float32]:
        """Embeddings of one batch of uint8 patches, shape ``(b, h, w, 3)``."""
        survive_fork()
        features = self._run(self.replicas[0], pixels, points).cpu().numpy()
        self._warn_of_memory()
        return features

    def stream(
        self, batches: Iterator[Batch], source: PatchSource, stain: StainTransform | None
    ) -> Generator[tuple[Batch, NDArray[np.float32]]]:
        """Batches with their embeddings, in order; two are under way on each device.

        Parameters
        ----------
        batches
            The batches.
        source
            Patches of the slide.
        stain
            Stain normalisation.
        """
        survive_fork()
        to_read, to_run = tee(batches)
        on_gpu = self.replicas[0].device.type == "cuda"
        patches = read_batches(source, (batch.centers for batch in to_read), pin=on_gpu)
        workers = [ThreadPoolExecutor(1, thread_name_prefix="histocell-run") for _ in self.replicas]
        turns = cycle(zip(workers, self.replicas, strict=True))
        waiting: deque[tuple[Batch, Future[_OnHost]]] = deque()

        def run(replica: Replica, pixels: torch.Tensor, points: Points | None) -> _OnHost:
            return _to_host(self._run(replica, pixels, points, stain))

        def finish() -> tuple[Batch, NDArray[np.float32]]:
            batch, running = waiting.popleft()
            features, arrived = running.result()
            if arrived is not None:
                arrived.synchronize()
            self._warn_of_memory()
            return batch, features.numpy()

        try:
            for batch, pixels, (worker, replica) in zip(to_run, patches, turns, strict=False):
                waiting.append((batch, worker.submit(run, replica, pixels, batch.points)))
                if len(waiting) >= 2 * len(workers):
                    yield finish()
            while waiting:
                yield finish()
        finally:
            patches.close()
            for worker in workers:
                worker.shutdown(wait=True, cancel_futures=True)

    def find_batch_size(self, edge: int) -> int:
        """The batch size beyond which the first device is not faster, tried with black patches of `edge` px."""
        best, best_rate = _GPU_BATCHES[0], 0.0
        replica = self.replicas[0]
        for size in _GPU_BATCHES:
            pixels = torch.zeros((size, edge, edge, 3), dtype=torch.uint8)
            try:
                replica(pixels)[:1].cpu()  # waits, and copies little
                start = time.perf_counter()
                replica(pixels)[:1].cpu()
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                torch.cuda.empty_cache()
                break
            rate = size / (time.perf_counter() - start)
            if rate < best_rate * _MIN_SPEEDUP:
                break
            best, best_rate = size, rate
        return best

    def _run(
        self, replica: Replica, pixels: torch.Tensor, points: Points | None, stain: StainTransform | None = None
    ) -> torch.Tensor:
        """Embeddings of a batch on the device, in parts where memory does not suffice for all of it."""
        size = min(len(pixels), self.batch_size or len(pixels))
        parts: list[torch.Tensor] = []
        start = 0
        while start < len(pixels):
            stop = min(start + size, len(pixels))
            part = None if points is None else points.of_patches(start, stop)
            try:
                parts.append(replica(pixels[start:stop], part, stain))
                start = stop
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                size = self._halve_batch(stop - start, error)
        return torch.cat(parts) if len(parts) != 1 else parts[0]

    def _halve_batch(self, tried: int, error: RuntimeError) -> int:
        if tried == 1:
            network = type(self.replicas[0].backbone.trunk).__name__
            msg = (
                f"not even one patch fits into the memory of the device with {network} ({error}); use another device, "
                "a smaller encoder or a half precision"
            )
            raise MemoryError(msg) from error
        torch.cuda.empty_cache()
        size = tried // 2
        self.batch_size = min(size, self.batch_size or size)
        self._too_large = tried
        return size

    def _warn_of_memory(self) -> None:
        """Warn of batches that were too large, in the thread of the caller, so that the warning shows their line."""
        if tried := self._too_large:
            size = self.batch_size
            warn(f"out of memory with a batch of {tried}: going on with {size}; batch_size={size} avoids this")
            self._too_large = None


class Replica:
    """The network on one device, with its preprocessing: uint8 patches in, embeddings out.

    Parameters
    ----------
    backbone
        The network.
    prepare
        The preprocessing, with the device and the type that the network computes in.
    pool
        A pooling of the backbone, or the tokens near nuclei.
    """

    def __init__(self, backbone: Backbone, prepare: Preprocessing, pool: str | NucleusPooling | None) -> None:
        self.device = prepare.device
        self.backbone = backbone.to(self.device, prepare.dtype).to(memory_format=torch.channels_last).eval()
        self.prepare = prepare
        self._pool = pool

    @torch.inference_mode()
    def __call__(
        self, pixels: torch.Tensor, points: Points | None = None, stain: StainTransform | None = None
    ) -> torch.Tensor:
        """Embeddings of patches, shape ``(b, h, w, 3)``; with a pooling for nuclei those of `points`, or all tokens."""
        images = self.prepare(pixels.to(self.device, non_blocking=True), stain)
        if not isinstance(self._pool, NucleusPooling):
            return self.backbone(images, pool=self._pool).float()
        tokens = self.backbone.tokens(images, block=self._pool.block)
        return tokens if points is None else pool_tokens(tokens, points.patch, points.index, points.weight)


def _to_host(features: torch.Tensor) -> _OnHost:
    """Features in main memory; from a GPU they are there once the event has passed."""
    if features.device.type != "cuda":
        return features.cpu(), None
    host = torch.empty(features.shape, dtype=features.dtype, pin_memory=True)
    host.copy_(features, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record(torch.cuda.current_stream(features.device))
    return host, arrived


def _is_out_of_memory(error: RuntimeError) -> bool:
    signs = ("out of memory", "not enough memory", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error).lower() for sign in signs)
