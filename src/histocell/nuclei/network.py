"""A small U-Net of nuclei: whether a pixel is nuclear, and how deep it lies in its nucleus."""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn.functional import interpolate, max_pool2d

from histocell.kernels.texture import unmix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histocell.nuclei.context import SlideContext

WEIGHTS = Path(__file__).with_name("unet.safetensors")
WIDTHS = (16, 32, 64, 96)
STRIDE = 2 ** (len(WIDTHS) - 1)  # px of the deepest level
MPP = 0.5  # at which it was trained
WINDOW_PX, MARGIN_PX = 272, 56  # of one pass, which fits into the cache; an output depends on no px further away
_IN_TURN = threading.Lock()  # one pass at a time bounds memory, and uses all threads of torch


class Network(nn.Module):
    """From stain maps (n, 4, h, w) to logits of nucleus and depth (n, 2, h, w); h and w divide by 8.

    Depth is 0 at the edge of a nucleus and 1 in its middle.

    References
    ----------
    Ronneberger et al. (2015), U-Net: convolutional networks for biomedical image segmentation.
    """

    def __init__(self) -> None:
        super().__init__()
        ups = [a + b for a, b in zip(WIDTHS, WIDTHS[1:], strict=False)]
        self.down = nn.ModuleList(_block(a, b) for a, b in zip((4, *WIDTHS), WIDTHS, strict=False))
        self.up = nn.ModuleList(_block(a, b) for a, b in zip(ups, WIDTHS, strict=False))
        self.head = nn.Conv2d(WIDTHS[0], 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of maps."""
        levels = []
        for k, block in enumerate(self.down):
            x = block(max_pool2d(x, 2) if k else x)
            levels.append(x)
        for block, level in zip(reversed(self.up), levels[-2::-1], strict=True):
            x = block(torch.cat([interpolate(x, scale_factor=2.0), level], dim=1))
        return self.head(x)


def _block(n_in: int, n_out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n in (n_in, n_out):
        layers += [nn.Conv2d(n, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]
    return nn.Sequential(*layers)


@functools.cache
def load_network(device: str = "cpu") -> Network:
    """The network with the weights of the package, batch norms folded into convolutions."""
    from safetensors.torch import load_file
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    network = Network()
    network.load_state_dict({name: values.float() for name, values in load_file(WEIGHTS).items()})
    network.eval()
    for block in (*network.down, *network.up):
        for k in (0, 3):
            block[k] = fuse_conv_bn_eval(block[k], block[k + 1])
            block[k + 1], block[k + 2] = nn.Identity(), nn.ReLU(inplace=True)
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def stain_maps(image: NDArray[np.uint8], context: SlideContext) -> NDArray[np.float32]:
    """What the network sees of an image, (4, h, w): haematoxylin, eosin, mean density and what the stains leave over.

    Haematoxylin is 0 in the stroma of the slide and 1 in its nuclei, so that stains and light of a slide matter little.
    """
    maps = unmix(image, context.stains.density, context.stains.unmixing)
    strength = float(context.stains.strength.mean())
    maps[0] = (maps[0] - context.low) / (context.high - context.low)
    maps[1] = 1.5 * maps[1] - 0.75
    maps[2] = (1.5 / strength) * maps[2] - 0.75
    maps[3] *= 3 / strength
    return maps


def step_px(mpp: float) -> int:
    """Px of an image that the network sees as one, so that its px are near `MPP`."""
    return max(1, round(MPP / mpp))


def nuclear_fields(network: nn.Module, maps: NDArray[np.float32], mpp: float) -> NDArray[np.float32]:
    """Probability that a px is nuclear and its depth, (2, h, w), of stain maps (4, h, w)."""
    step = step_px(mpp)
    height, width = maps.shape[1:]
    edges = [-(-n // (step * STRIDE)) * step * STRIDE - n for n in (height, width)]
    padded = np.pad(maps, ((0, 0), (0, edges[0]), (0, edges[1])), mode="symmetric")
    device = next(network.parameters()).device
    out = np.empty((2, *(n // step for n in padded.shape[1:])), np.float32)
    with _IN_TURN, torch.inference_mode():
        seen = nn.functional.avg_pool2d(torch.from_numpy(padded)[None], step)
        seen = seen.contiguous(memory_format=torch.channels_last)
        for top in range(0, seen.shape[2], WINDOW_PX):
            for left in range(0, seen.shape[3], WINDOW_PX):
                y, x = max(top - MARGIN_PX, 0), max(left - MARGIN_PX, 0)
                window = seen[:, :, y : top + WINDOW_PX + MARGIN_PX, x : left + WINDOW_PX + MARGIN_PX].to(device)
                found = torch.sigmoid(network(window))[0, :, top - y :, left - x :].cpu().numpy()
                part = out[:, top : top + WINDOW_PX, left : left + WINDOW_PX]
                part[...] = found[:, : part.shape[1], : part.shape[2]]
        if step > 1:
            out = interpolate(torch.from_numpy(out)[None], scale_factor=float(step), mode="bicubic")[0].numpy()
    return out[:, :height, :width]
