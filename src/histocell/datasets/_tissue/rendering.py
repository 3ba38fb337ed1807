"""Pixels of a synthetic section: haematoxylin and eosin concentrations, then Beer-Lambert colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.ndimage as ndi

from histocell.datasets._tissue.fields import GRID_UM, ramp, smooth_noise, upsample
from histocell.datasets._tissue.shapes import draw_granules, draw_shapes, paint
from histocell.kernels.compiled import njit

if TYPE_CHECKING:
    import pandas as pd

    from histocell.datasets._tissue.anatomy import Anatomy, Subject


def render(
    anatomy: Anatomy, cells: pd.DataFrame, subject: Subject, *, size_px: int, mpp: float, rng: np.random.Generator
) -> np.ndarray:
    """Draw the section as a scanner would see it.

    Parameters
    ----------
    anatomy, cells
        The section and its cells.
    subject
        Gives the colours of the stains.
    size_px
        Side of the image, px.
    mpp
        um per px.
    rng
        Generator.

    Returns
    -------
    uint8 array (size_px, size_px, 3), RGB.
    """
    haematoxylin, eosin = _background(anatomy, size_px, rng)
    granules = draw_granules(rng)
    shapes = draw_shapes(anatomy.vessels, cells, rng)
    paint(haematoxylin, eosin, shapes, granules, mpp)
    sigma = 0.3 / mpp  # optics
    stains = [
        ndi.gaussian_filter(plane, sigma) * np.float32(strength)
        for plane, strength in zip((haematoxylin, eosin), subject.strength, strict=True)
    ]
    return _scan(stains, subject, rng)


def _background(a: Anatomy, size_px: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Concentrations of both stains before any cell is drawn, float32 (size_px, size_px)."""
    shape = (size_px, size_px)
    n = a.tissue.shape[0]
    seeds = rng.standard_normal((2, n, n), dtype=np.float32)
    seeds[1] = ndi.gaussian_filter(seeds[1], 1.6 / GRID_UM, mode="wrap") * 5.6
    strands, bundles = _streaks(seeds, a.angle.astype(np.float32), round(9 / GRID_UM), round(20 / GRID_UM))
    strands /= strands.std()
    bundles /= bundles.std()
    cloud = smooth_noise(rng, a.side_um, scale_um=45.0)
    speckle = smooth_noise(rng, a.side_um, scale_um=3.0)

    # stroma: collagen bundles with clefts, loosened among immune cells
    pale = np.maximum.reduce([0.55 * a.loose, 0.55 * a.immune, 0.75 * a.myeloid, 0.4 * a.plasma])
    eosin = (0.29 + 0.04 * strands + 0.05 * bundles + 0.02 * cloud) * (1 - 0.55 * pale)
    cleft = ramp(-bundles - 0.35 * strands, 1.15, 1.75) * (1 - 0.7 * np.maximum(a.immune, a.myeloid))
    eosin *= 1 - 0.88 * cleft
    haematoxylin = (0.035 + 0.012 * strands + 0.07 * a.immune + 0.05 * a.plasma) * (1 - 0.9 * cleft)

    # tumour nests: continuous amphophilic cytoplasm, pulled off the stroma here and there
    nest = ramp(a.nest, -0.8, 1.2)
    eosin += nest * (0.16 + 0.02 * cloud + 0.02 * speckle - eosin)
    haematoxylin += nest * (0.08 + 0.012 * cloud + 0.012 * speckle - haematoxylin)
    gap = np.exp(-(((a.nest + 2.2) / 1.3) ** 2)) * ramp(cloud, 0.2, 1.2)
    brim = np.exp(-(((a.lumen + 1.5) / 1.5) ** 2))  # apical border of the glands
    eosin += 0.10 * brim
    secretion = 0.25 * ramp(cloud, 0.3, 1.5) * ramp(a.lumen, 2.0, 5.0) * np.clip(1 + 0.3 * speckle, 0, 2)
    open_ = np.maximum(ramp(a.lumen, -1.0, 1.0) * (1 - secretion), 0.85 * gap)

    # fat cells are empty but for their walls
    wall = np.exp(-((np.maximum(a.membrane, 0) / 0.8) ** 2))
    fat = ramp(a.fat, -1.0, 1.5)
    eosin += fat * (0.20 * wall - eosin)
    haematoxylin += fat * (0.03 * wall - haematoxylin)

    # dense rim of the tissue, uneven thickness of the section
    edge = np.exp(-np.maximum(a.tissue, 0) / 5.0)
    thickness = (1 + 0.07 * smooth_noise(rng, a.side_um, scale_um=130.0)) * (1 - open_) * ramp(a.tissue, -0.7, 0.9)
    eosin = np.maximum(eosin + 0.10 * edge, 0) * thickness
    haematoxylin = np.maximum(haematoxylin + 0.04 * edge, 0) * thickness
    return upsample(haematoxylin, shape), upsample(eosin, shape)


def _scan(stains: list[np.ndarray], subject: Subject, rng: np.random.Generator) -> np.ndarray:
    """Transmitted light, ``white * 10**-(concentrations @ stains)``, with the noise of a camera, as uint8."""
    image = np.empty((*stains[0].shape, 3), dtype=np.uint8)
    grey = rng.standard_normal(stains[0].shape, dtype=np.float32)
    for channel in range(3):
        density = sum(np.float32(-np.log(10) * v[channel]) * c for v, c in zip(subject.stains, stains, strict=True))
        light = np.exp(density) * np.float32(subject.white[channel])
        light += 1.4 * grey + 1.2 * rng.standard_normal(light.shape, dtype=np.float32)
        image[..., channel] = np.clip(light + 0.5, 0, 255).astype(np.uint8)
    return image


@njit(cache=True)
def _streaks(
    seeds: np.ndarray, angle: np.ndarray, short: int, long: int
) -> tuple[np.ndarray, np.ndarray]:  # pragma: no cover
    """Line integral convolution: average two noise images along the fibres, over `short` and `long` px each way."""
    h, w = angle.shape
    cos, sin = np.cos(angle), np.sin(angle)
    out = np.empty_like(seeds)
    for i in range(h):
        for j in range(w):
            first, second = seeds[0, i, j], seeds[1, i, j]
            for sign in (-1.0, 1.0):
                y, x = i + 0.5, j + 0.5
                r, c = i, j
                dy, dx = sign * sin[i, j], sign * cos[i, j]
                for step in range(long):
                    y += dy
                    x += dx
                    r, c = int(y), int(x)
                    if y < 0 or x < 0 or r >= h or c >= w:
                        break
                    if step < short:
                        first += seeds[0, r, c]
                    second += seeds[1, r, c]
                    # a direction has two senses: keep going the same way
                    if cos[r, c] * dx + sin[r, c] * dy < 0:
                        dy, dx = -sin[r, c], -cos[r, c]
                    else:
                        dy, dx = sin[r, c], cos[r, c]
            out[0, i, j], out[1, i, j] = first, second
    return out[0], out[1]
