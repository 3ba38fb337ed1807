"""Methods of segmentation by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histocell._core.errors import MissingKeyError, listing
from histocell.images.stain.estimate import estimate_stains
from histocell.kernels.texture import unmix
from histocell.nuclei.watershed import segment_nuclei

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histocell.images.stain.estimate import StainEstimate


@dataclass(frozen=True)
class SlideContext:
    """What is the same in all blocks of a slide: its stains."""

    stains: StainEstimate


class Watershed:
    """The segmentation inside `morphology`."""

    name = "watershed"
    mpp = 0.5
    halo_um = 20.0

    def context(self, sample: Sequence[NDArray[np.uint8]], mpp: float) -> SlideContext:
        """Stains of a slide, from images of its tissue."""
        pixels = np.concatenate([image.reshape(-1, 3) for image in sample])
        return SlideContext(estimate_stains(pixels, background=np.percentile(pixels, 99.5, axis=0)))

    def __call__(self, image: NDArray[np.uint8], mpp: float, context: SlideContext | None = None) -> NDArray[np.int32]:
        """Labels of an image."""
        stains = (context or self.context([image], mpp)).stains
        maps = unmix(image, stains.density, stains.unmixing)
        labels, _ = segment_nuclei(maps[0], threshold=stains.nuclear_threshold, mpp=mpp)
        n = np.bincount(labels.ravel()) * mpp**2
        ok = (n >= 10) & (n <= 400)
        ok[0] = False
        return np.where(ok[labels], labels, 0).astype(np.int32)


METHODS = {"watershed": Watershed}


def load_method(name: str, **settings: object) -> Watershed:
    """A method by its name."""
    if name not in METHODS:
        msg = f"no method {name!r}; there are {listing(METHODS)}"
        raise MissingKeyError(msg)
    return METHODS[name](**settings)
