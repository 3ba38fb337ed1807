"""Pixels of tissue spread evenly over a slide, for measuring its stains."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histocell.images.slide_image import SlideImage

    type Tile = tuple[int, ...]

_PROBE_PX = 16
_MAX_PROBES = 1600
_TILE_UM = 128.0
_TILE_MPP = 2.0
_N_TILES = 32
_DARKEST_BACKGROUND = 150


def sample_tissue(
    image: SlideImage, *, mpp: float, least_density: float
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Pixels of tiles of tissue at 2 um/px, and the colour of the slide's background.

    Parameters
    ----------
    image
        The slide. It is probed once for as long as it is open.
    mpp
        um per px of its full resolution.
    least_density
        Mean optical density from which a tile counts as tissue. Where there is none, the probes are the sample.

    Returns
    -------
    Arrays (n, 3), uint8, and (3,), float64: always the same for the same slide, n at most some 400,000.
    """
    side = max(_TILE_UM / mpp, 1.0)
    tiles, probes = image.measured(("probes", mpp), lambda: _probe(image, side))
    background = _background(probes, image.background)
    density = -np.log10(np.clip(probes / background, 1e-3, 1)).mean(axis=(1, 2, 3))
    stained = np.flatnonzero(density > least_density)
    if stained.size == 0:
        return probes.reshape(-1, 3), background
    chosen = stained[np.unique(np.linspace(0, stained.size - 1, min(_N_TILES, stained.size)).round().astype(int))]
    n = max(8, round(min(_TILE_UM, side * mpp) / _TILE_MPP))
    if max(image.shape) <= side:  # smaller than a tile: as many pixels, or all
        finer = max(1.0, max(image.shape) / n)
        height, width = (max(1, round(length / finer)) for length in image.shape)
        return image.read(0, 0, *image.shape, out_shape=(height, width)).reshape(-1, 3), background
    windows = [np.array([r, c, r + 1, c + 1]) * side for r, c in (tiles[i] for i in chosen)]
    pixels = [image.read(*window.tolist(), out_shape=(n, n)).reshape(-1, 3) for window in windows]
    return np.concatenate(pixels), background


def _probe(image: SlideImage, side: float) -> tuple[list[Tile], NDArray[np.uint8]]:
    """At most `_MAX_PROBES` tiles of a grid, evenly spread, and a small window in the middle of each.

    The windows are as they are on the slide, which is enough to tell tissue from background: nothing is resampled.
    """
    grid = [max(1, int(np.ceil(length / side))) for length in image.shape]
    step = max(1, int(np.ceil(np.sqrt(grid[0] * grid[1] / _MAX_PROBES))))
    tiles = list(product(*(range(min(step // 2, n - 1), n, step) for n in grid)))
    probe = min(_PROBE_PX, *image.shape)
    windows = []
    for tile in tiles:
        y, x = (min(int((k + 0.5) * side), length - probe) for k, length in zip(tile, image.shape, strict=True))
        windows.append(image.read(y, x, y + probe, x + probe))
    return tiles, np.stack(windows)


def _background(probes: NDArray[np.uint8], background: tuple[int, int, int]) -> NDArray[np.float64]:
    """The colour of the background: never brighter than the brightest that there is on the slide.

    A strongly tinted background is not recognised as such; white would then stand in for it, and all of it look stained.
    """
    brightest = np.percentile(probes.reshape(-1, 3), 99.5, axis=0)
    colour = np.asarray(background, np.float64)
    return np.where(brightest > _DARKEST_BACKGROUND, np.minimum(colour, brightest), colour)
