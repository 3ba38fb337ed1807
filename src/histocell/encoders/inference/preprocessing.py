"""Input of a network: its floating-point format, and resizing, stain normalisation and scaling on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histocell.encoders.spec import EncoderSpec
    from histocell.images.stain.normalize import StainTransform

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Preprocessing:
    """Resizing, stain normalisation and scaling of a batch.

    Parameters
    ----------
    spec
        Input size, interpolation, mean and deviation.
    device
        Device of the batches.
    dtype
        Type that the network computes in.
    """

    def __init__(self, spec: EncoderSpec, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self._edge = spec.input_px
        self._mode = spec.interpolation
        mean, std = (torch.tensor(values, device=device) for values in (spec.mean, spec.std))
        # for a whole row of pixels at once: three channels alone would make a loop of length three
        self._scale = (1 / (255 * std)).repeat(spec.input_px)
        self._shift = (-mean / std).repeat(spec.input_px)

    def __call__(self, patches: torch.Tensor, stain: StainTransform | None = None) -> torch.Tensor:
        """Normalised images, shape ``(n, 3, edge, edge)``, of uint8 patches, shape ``(n, h, h, 3)``."""
        images = self.resize(patches)
        if stain is not None:
            images = stain(images)
        pixels = images.permute(0, 2, 3, 1).float().contiguous()
        rows = pixels.flatten(2)
        torch.addcmul(self._shift, rows, self._scale, out=rows)
        return pixels.permute(0, 3, 1, 2).to(self.dtype)

    def resize(self, patches: torch.Tensor) -> torch.Tensor:
        """Patches of the size of the input, shape ``(n, 3, edge, edge)``, values 0-255, of uint8 ones ``(n, h, h, 3)``."""
        images = patches.permute(0, 3, 1, 2)  # channels last in memory, as convolutions like it
        if images.shape[-2:] != (self._edge, self._edge):
            if images.device.type != "cpu":  # only the processor resizes bytes
                images = images.float()
            size = (self._edge, self._edge)
            images = functional.interpolate(images, size, mode=self._mode, antialias=True, align_corners=False)
            images = images if images.dtype == torch.uint8 else images.round_().clamp_(0, 255)
        return images


def fit_to_input(images: NDArray[np.uint8], spec: EncoderSpec) -> NDArray[np.uint8]:
    """Resize the shorter edge of images to the input size and crop the centre.

    Pillow does it, with the same result to the last bit as the published transforms.

    Parameters
    ----------
    images
        Shape ``(n, h, w, 3)``.
    spec
        Input size and interpolation.
    """
    from PIL import Image

    edge = spec.input_px
    height, width = images.shape[1:3]
    if height == width == edge:
        return images
    short = min(height, width)
    rows, columns = int(edge * height / short), int(edge * width / short)
    filter_ = Image.Resampling[spec.interpolation.upper()]
    top, left = round((rows - edge) / 2), round((columns - edge) / 2)
    resized = [np.asarray(Image.fromarray(image).resize((columns, rows), filter_)) for image in images]
    return np.stack(resized)[:, top : top + edge, left : left + edge]


def pick_precision(asked: str, usual: str, device: torch.device) -> str:
    """``"fp32"``, ``"bf16"`` or ``"fp16"``.

    Parameters
    ----------
    asked
        One of them, or ``"auto"``: on a GPU the usual precision of the encoder; on a processor bf16 in place of a half
        precision where it has instructions for it, else fp32.
    usual
        What the authors of the encoder run it with.
    device
        Where it runs.
    """
    if asked != "auto":
        if asked not in DTYPES:
            msg = f"precision must be auto, {', '.join(DTYPES)}, not {asked!r}"
            raise ValueError(msg)
        return asked
    if usual == "fp32":
        return "fp32"
    if device.type == "cuda":
        return "fp16" if usual == "bf16" and not torch.cuda.is_bf16_supported() else usual
    return "bf16" if device.type == "cpu" and processor_has_bf16() else "fp32"


def processor_has_bf16() -> bool:
    """Whether the processor multiplies bf16 matrices faster than fp32 ones (AMX or AVX512-bf16)."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and any(
        getattr(torch.cpu, name, bool)() for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    )
