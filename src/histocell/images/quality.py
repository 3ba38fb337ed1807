"""Quality of a patch: share of background, edges, focus."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histocell.images.tissue import BLACK

if TYPE_CHECKING:
    from numpy.typing import NDArray

WHITE = 220  # a px whose smallest channel is above this is background


def background_fraction(patch: NDArray[np.uint8]) -> float:
    """Share of px of a patch (h, w, 3) that are near white, or black."""
    return float(((patch.min(axis=2) > WHITE) | (patch.max(axis=2) < BLACK)).mean())


def mean_edges(patch: NDArray[np.uint8]) -> float:
    """Mean response of a 3 x 3 edge filter."""
    from PIL import Image, ImageFilter

    return float(np.asarray(Image.fromarray(patch).filter(ImageFilter.FIND_EDGES), dtype=np.float64).mean())


def focus(patch: NDArray[np.uint8]) -> float:
    """Log variance of the Laplacian of the grey patch; low when blurred."""
    from scipy import ndimage

    return float(np.log1p(ndimage.laplace(patch.mean(axis=2)).var()))
