"""Patches through a torch module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histocell._core.images import SlideImage
    from histocell.encoders.spec import Encoder, EncoderSpec


class PatchEncoder:
    """A torch module that embeds one patch at a time, whatever lies around it.

    Parameters
    ----------
    module
        Maps normalised float images, shape ``(n, 3, h, w)``, to embeddings, shape ``(n, dim)``.
    spec
        Input size and normalisation.
    version
        Which weights.
    device
        Torch device.
    batch_size
        Patches in one forward pass.
    """

    def __init__(
        self, module: torch.nn.Module, spec: EncoderSpec, *, version: str, device: torch.device, batch_size: int
    ) -> None:
        self.module = module.to(device).eval()
        self.spec = spec
        self.name = spec.name
        self.version = version
        self.device = device
        self.batch_size = batch_size
        self._mean = torch.tensor(spec.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(spec.std, device=device).view(1, 3, 1, 1)
        probe = np.zeros((1, spec.input_px, spec.input_px, 3), dtype=np.uint8)
        self.dim = self.forward(probe).shape[1]

    def __repr__(self) -> str:
        return (
            f"PatchEncoder({self.name!r}, dim={self.dim}, input_px={self.spec.input_px}, device={str(self.device)!r})"
        )

    @torch.inference_mode()
    def forward(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeddings of uint8 patches, shape ``(n, h, w, 3)``; converted and normalised on the device."""
        batch = torch.from_numpy(np.ascontiguousarray(patches)).to(self.device).permute(0, 3, 1, 2)
        out = self.module((batch.float() / 255 - self._mean) / self._std)
        if out.ndim != 2:
            msg = f"{self.name} must give embeddings of shape (n, dim); it gives {tuple(out.shape)}"
            raise ValueError(msg)
        return out.float().cpu().numpy()

    def embed(
        self, image: SlideImage, centers: NDArray[np.float64], *, mpp: float, size_um: float, progress: Any = None
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
            Edge of a patch in um; the patch is resampled to the input size of the module.
        progress
            A bar that is advanced by the patches done.
        """
        half, edge = size_um / mpp / 2, self.spec.input_px
        out = np.empty((len(centers), self.dim), dtype=np.float32)
        for start in range(0, len(centers), self.batch_size):
            part = centers[start : start + self.batch_size]
            batch = np.stack(
                [image.read(y - half, x - half, y + half, x + half, out_shape=(edge, edge)) for x, y in part]
            )
            out[start : start + len(part)] = self.forward(batch)
            if progress is not None:
                progress.update(len(part))
        return out


def encode(encoder: Encoder, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Embed images that are patches already.

    Parameters
    ----------
    encoder
        What :func:`histocell.encoders.load` returned for a torch model.
    images
        uint8, shape ``(n, h, w, 3)``, at the encoder's input size.
    """
    if not isinstance(encoder, PatchEncoder):
        msg = f"{encoder.name!r} looks at the surroundings of a patch, too, so it embeds slides: use its embed method"
        raise TypeError(msg)
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        msg = f"images must be uint8 of shape (n, h, w, 3), not {images.dtype} of shape {images.shape}"
        raise ValueError(msg)
    if len(images) == 0:
        return np.empty((0, encoder.dim), dtype=np.float32)
    starts = range(0, len(images), encoder.batch_size)
    return np.concatenate([encoder.forward(images[start : start + encoder.batch_size]) for start in starts])
