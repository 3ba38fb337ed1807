"""The built-in method with a small network beside haematoxylin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from histocell.nuclei.haematoxylin import Watershed

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from histocell.nuclei.context import SlideContext

SHARE = 0.5  # of the network in the map
NUCLEAR, DEPTH = 0.5, 0.7  # weights of its two outputs: about 1 in the middle of a nucleus
DENSEST = 1.2  # of the map of density: more is in no tissue that the network knows, but in ink
_COARSEST_MPP = 0.75


@dataclass(frozen=True)
class UNet(Watershed):
    """Segmentation by the level sets of haematoxylin and of what a small network sees, half each.

    Parameters
    ----------
    min_area_um2, max_area_um2, sensitivity, mpp
        As for :class:`histocell.nuclei.haematoxylin.Watershed`; 0.75 um per px is the coarsest that the network knows.
    device
        Torch device of the network.

    Notes
    -----
    The network of 390,000 parameters learned from synthetic tissue and tiles of NuCLS (CC0):
    tests/benchmarks/train_nuclei_network.py. It sees haematoxylin and eosin in the units of the slide, at about 0.5 um per
    px. Where an image is denser than tissue, as under a black pen, haematoxylin counts alone. Level sets,
    outlines and splitting are those of ``"watershed"``.
    """

    device: str | None = None

    name: ClassVar[str] = "unet"
    halo_um: ClassVar[float] = 60.0
    grid_um: ClassVar[float] = 4.0

    def _map(self, image: NDArray[np.uint8], mpp: float, context: SlideContext) -> NDArray[np.float32]:
        """Mean of haematoxylin and of the network."""
        from histocell.nuclei.network import nuclear_fields, stain_maps

        if mpp > _COARSEST_MPP:
            msg = f'method "unet" sees at most {_COARSEST_MPP:g} um/px, and the image has {mpp:g}; "watershed" takes up to 1'
            raise ValueError(msg)
        maps = stain_maps(image, context)
        nuclear, depth = nuclear_fields(self._network(), maps, mpp)
        out = (1 - SHARE) * maps[0] + SHARE * (NUCLEAR * nuclear + DEPTH * depth)
        return np.where(maps[2] > DENSEST, maps[0], out)

    def _network(self) -> nn.Module:
        from histocell._core.device import pick_device
        from histocell.nuclei.network import load_network

        return load_network(str(pick_device(self.device)))
