"""From uint8 patches to what a network wants, on the device that computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from histocell.encoders.spec import EncoderSpec
    from histocell.encoders.stain_normalization import StainTransform


class Preprocessing:
    """Resizing, stain normalisation and scaling of a batch.

    Parameters
    ----------
    spec
        Input size, interpolation, mean and deviation.
    device
        Where batches lie.
    dtype
        What the network computes in.
    """

    def __init__(self, spec: EncoderSpec, device: torch.device, dtype: torch.dtype) -> None:
        self._edge = spec.input_px
        self._mode = spec.interpolation
        self._dtype = dtype
        mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
        self._scale = 1 / (255 * std)
        self._shift = -mean / std

    def __call__(self, patches: torch.Tensor, stain: StainTransform | None = None) -> torch.Tensor:
        """Normalised images, shape ``(n, 3, edge, edge)``, of uint8 patches, shape ``(n, h, w, 3)``."""
        images = patches.permute(0, 3, 1, 2)  # channels last in memory, as convolutions like it
        if images.shape[-2:] != (self._edge, self._edge):
            images = self._resized(images)
        if stain is not None:
            images = stain(images)
        return torch.addcmul(self._shift, images.float(), self._scale).to(self._dtype)

    def _resized(self, images: torch.Tensor) -> torch.Tensor:
        """The shorter edge brought to the size of the input, the middle cut out."""
        edge = self._edge
        height, width = images.shape[-2:]
        short = min(height, width)
        size = (int(edge * height / short), int(edge * width / short))
        if images.device.type != "cpu":  # only the processor resizes bytes
            images = images.float()
        images = functional.interpolate(images, size, mode=self._mode, antialias=True, align_corners=False)
        if images.dtype != torch.uint8:
            images = images.round_().clamp_(0, 255)
        top, left = round((size[0] - edge) / 2), round((size[1] - edge) / 2)
        return images[..., top : top + edge, left : left + edge]
