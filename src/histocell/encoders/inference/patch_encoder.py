"""Encoder of patches: a network that embeds the patches of a slide, or images that are patches already."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from histocell._core.arguments import as_names, check_count
from histocell._core.device import pick_device
from histocell._core.geometry import check_patches, local_order
from histocell.encoders.inference.batches import Points, plan_batches
from histocell.encoders.inference.executor import Executor, Replica
from histocell.encoders.inference.nucleus_tokens import NucleusPooling, TokenPooler
from histocell.encoders.inference.preprocessing import DTYPES, Preprocessing, pick_precision
from histocell.images.patch_source import PatchSource

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from numpy.typing import NDArray

    from histocell._core.settings import Progress
    from histocell.encoders.networks.backbone import Backbone
    from histocell.encoders.spec import EncoderSpec
    from histocell.images.slide_image import SlideImage
    from histocell.images.stain.normalize import StainTransform

_CHUNK_BATCHES = 8  # a chunk of a store is this many full batches
_CELLS_PER_TILE = 16  # about how many cells share a tile, for the size of chunks


class PatchEncoder:
    """A network that embeds each patch on its own.

    Parameters
    ----------
    backbone
        The network.
    spec
        Input size and normalisation.
    version
        Which weights.
    pool, device, precision, batch_size, compile
        As in :func:`histocell.encoders.load`.

    Attributes
    ----------
    dim
        Width of the embedding.
    pool, precision
        As they are used, as words.
    """

    def __init__(
        self,
        backbone: Backbone,
        spec: EncoderSpec,
        version: str,
        *,
        pool: str | NucleusPooling | None = None,
        device: str | Sequence[str] | None = None,
        precision: str = "auto",
        batch_size: int | None = None,
        compile: bool = False,
    ) -> None:
        if batch_size is not None:
            check_count(batch_size, "batch_size", least=1)
        names = [None] if device is None else as_names(device)
        if not names:
            msg = "device is an empty list; name a torch device, or leave it out"
            raise ValueError(msg)
        devices = [pick_device(name) for name in names]
        self.name = spec.name
        self.version = version
        self.precision = pick_precision(precision, spec.precision, devices[0])
        pooling = NucleusPooling() if pool == "nucleus" else pool
        self._nuclei: TokenPooler | None = None
        if isinstance(pooling, NucleusPooling):
            backbone.check_block(pooling.block)
            self._nuclei = TokenPooler(pooling, spec.input_px, backbone.patch_px or 1)
            self.pool = str(pooling)
            if self._nuclei.shared:  # a nucleus sees all of its tile, and may lie this near to the border
                spec = replace(spec, field_patches=spec.field_patches * (2 - pooling.overlap))
        else:
            self.pool = backbone.check_pool(pooling)
        self.spec = spec
        # the user's module stays as it is
        networks = [copy.deepcopy(backbone) if i or spec.library == "module" else backbone for i in range(len(devices))]
        inputs = [Preprocessing(spec, device, DTYPES[self.precision]) for device in devices]
        replicas = [Replica(network, prepare, pooling) for network, prepare in zip(networks, inputs, strict=True)]
        if compile:
            for replica in replicas:
                replica.backbone.compile_blocks()
        self._executor = Executor(replicas, batch_size)

    def __repr__(self) -> str:
        devices = ", ".join(str(replica.device) for replica in self._executor.replicas)
        return (
            f"PatchEncoder({self.name!r}, dim={self.dim}, pool={self.pool!r}, input_px={self.spec.input_px}, "
            f"precision={self.precision!r}, device={devices!r})"
        )

    @property
    def batch_size(self) -> int | None:
        """Patches in one forward pass; `None` until it was found."""
        return self._executor.batch_size

    @batch_size.setter
    def batch_size(self, value: int | None) -> None:
        self._executor.batch_size = value

    @cached_property
    def dim(self) -> int:
        """Width of the embedding."""
        edge = self.spec.input_px
        return self.forward(np.zeros((1, edge, edge, 3), np.uint8)).shape[1]

    @property
    def chunk_rows(self) -> int:
        """Rows of a chunk, where it writes into a store: some full batches."""
        rows_per_patch = _CELLS_PER_TILE if self._nuclei and self._nuclei.shared else 1
        return _CHUNK_BATCHES * self._full_batch(self.spec.input_px) * rows_per_patch

    def _full_batch(self, edge: int) -> int:
        """Patches per batch; on a GPU the first time by trial, with patches of `edge` px."""
        if self.batch_size is None:
            self.batch_size = self._executor.find_batch_size(edge)
        return self.batch_size

    def order(self, centers: NDArray[np.float64], *, mpp: float, size_um: float) -> NDArray[np.intp]:
        """Order of the points in which near ones are computed one after the other.

        Parameters
        ----------
        centers
            x, y in level-0 px.
        mpp, size_um
            As in :meth:`embed`.
        """
        if self._nuclei and self._nuclei.shared:
            return np.lexsort((*centers.T, self._nuclei.tiles(centers, size_px=size_um / mpp)[1]))
        return local_order(centers)

    def forward(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeddings, shape ``(n, dim)``, of uint8 patches, shape ``(n, h, w, 3)``; nuclei in the middle of each."""
        middle = np.full((len(patches), 2), self.spec.input_px / 2)
        points = Points(np.arange(len(patches)), *self._nuclei.weights(middle)) if self._nuclei else None
        return self._executor.run(torch.from_numpy(np.array(patches)), points)  # a copy: it may be read-only

    def embed(
        self,
        image: SlideImage,
        centers: NDArray[np.float64],
        *,
        mpp: float,
        size_um: float,
        stain: StainTransform | None = None,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """Embed square patches of a slide.

        Parameters
        ----------
        image
            The slide.
        centers
            Centres of the patches, shape ``(n, 2)``, x and y in full-resolution px.
        mpp
            Micrometres per full-resolution px.
        size_um
            Edge of a patch in um; the patch is resampled to the input size of the network.
        stain
            Stain normalisation of this slide.
        progress
            A bar that is advanced by the rows done.

        Returns
        -------
        Shape ``(n, dim)``.
        """
        return next(self.embed_chunks(image, [centers], mpp=mpp, size_um=size_um, stain=stain, progress=progress))

    def embed_chunks(
        self,
        image: SlideImage,
        chunks: Sequence[NDArray[np.float64]],
        *,
        mpp: float,
        size_um: float,
        stain: StainTransform | None = None,
        progress: Progress | None = None,
    ) -> Generator[NDArray[np.float32]]:
        """Embed one chunk of patches after the other; reading continues across the chunks.

        A batch never spans two chunks, so the values of a chunk do not depend on which others are computed.

        Parameters
        ----------
        image, mpp, size_um, stain, progress
            As in :meth:`embed`.
        chunks
            Centres of the patches of each chunk.

        Yields
        ------
        The embeddings of each chunk, shape ``(k, dim)``.
        """
        chunks = [check_patches(part, mpp=mpp, size_um=size_um, shape=image.shape) for part in chunks]
        size_px = size_um / mpp
        source = PatchSource(image, size_px=size_px, input_px=self.spec.input_px)
        size = self._full_batch(source.edge)
        batches = (
            batch
            for part in chunks
            for batch in plan_batches(part, source, batch_size=size, size_px=size_px, nuclei=self._nuclei)
        )
        computed = self._executor.stream(batches, source, stain)
        try:
            for part in chunks:
                out = np.full((len(part), self.dim), np.nan, np.float32)
                done = 0
                while done < len(part):
                    batch, features = next(computed)
                    out[batch.rows] = features
                    done += len(batch.rows)
                    if progress is not None:
                        progress.update(len(batch.rows))
                yield out
        finally:
            computed.close()
