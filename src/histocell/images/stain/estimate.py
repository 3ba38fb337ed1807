"""Stains of a slide: which colours haematoxylin and eosin have on it, and how strong they are."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from histocell.images.slide_image import SlideImage

# Optical density of R, G, B of the pure stains, unit length (Ruifrok and Johnston 2001).
REFERENCE = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105]])
REFERENCE /= np.linalg.norm(REFERENCE, axis=1, keepdims=True)

_MIN_PIXELS = 500
_PROBE_PX = 16
_MAX_PROBES = 1600
_TILE_UM = 128.0
_TILE_MPP = 2.0
_N_TILES = 32
_DARKEST_GLASS = 150
_MIN_DENSITY = 0.15
# A pair of vectors further than this from the reference is not H&E: a pen mark, a fold, a single stain.
_MIN_COSINE = (0.80, 0.75)
_MIN_SEPARATION = 0.97
_REFERENCE_WEIGHT = 0.2


@dataclass(frozen=True)
class StainEstimate:
    """How haematoxylin and eosin look on one slide.

    Attributes
    ----------
    background
        Shape (3,): colour of empty glass, RGB.
    vectors
        Shape (2, 3): optical density of R, G, B per unit of haematoxylin and of eosin, unit length.
    strength
        Shape (2,): the 99th percentile of the amount of each stain in tissue; amounts are reported in this unit.
    nuclear_threshold
        Amount of haematoxylin (in units of `strength`) that best separates nuclei from the rest (Otsu).
    estimated
        False where the pixels did not look like H&E and the reference vectors stand in.
    """

    background: np.ndarray
    vectors: np.ndarray
    strength: np.ndarray
    nuclear_threshold: float
    estimated: bool

    @property
    def density(self) -> np.ndarray:
        """Optical density of each 8-bit value of each channel, shape (256, 3), float32, not below 0."""
        values = np.maximum(np.arange(256.0), 1.0)[:, None]
        return np.maximum(-np.log10(values / np.maximum(self.background, 1.0)), 0).astype(np.float32)

    @property
    def unmixing(self) -> np.ndarray:
        """Optical density to amounts of haematoxylin, eosin and what neither explains, shape (3, 3), float32."""
        residual = np.cross(*self.vectors)
        vectors = np.vstack([self.vectors, residual / np.linalg.norm(residual)])
        return (np.linalg.inv(vectors) / [*self.strength, 1.0]).astype(np.float32)


def estimate_stains(pixels: np.ndarray, *, background: Sequence[float] | np.ndarray) -> StainEstimate:
    """Find the two stains of a slide in a sample of its pixels.

    The plane of the two stains is spanned by the first two eigenvectors of the optical densities; the stains are the
    robust extremes of the angle in it. Both are drawn a little towards reference vectors, and replaced by them when
    they are too few, too alike or too far from haematoxylin and eosin.

    Parameters
    ----------
    pixels
        Shape (n, 3), uint8.
    background
        Colour of empty glass.

    References
    ----------
    Macenko et al. (2009), A method for normalizing histology slides for quantitative analysis; Ruifrok and Johnston
    (2001), Quantification of histochemical staining by color deconvolution; Otsu (1979).
    """
    glass = np.asarray(background, np.float64)
    blank = StainEstimate(glass, REFERENCE.copy(), np.ones(2), 0.5, estimated=False)
    density = blank.density[pixels, np.arange(3)].astype(np.float64)
    density = density[density.mean(axis=1) > _MIN_DENSITY]
    if len(density) < _MIN_PIXELS:
        return blank
    vectors = extreme_vectors(density)
    plausible = is_he(vectors)
    if plausible:
        vectors = (1 - _REFERENCE_WEIGHT) * vectors + _REFERENCE_WEIGHT * REFERENCE
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    else:
        vectors = REFERENCE.copy()
    amounts = np.maximum(density @ np.linalg.pinv(vectors), 0)
    strength = np.maximum(np.percentile(amounts, 99, axis=0), 0.05)
    threshold = _otsu(np.clip(amounts[:, 0] / strength[0], 0, 1.5))
    return StainEstimate(glass, vectors, strength, threshold, estimated=plausible)


def stains_of(image: SlideImage, *, mpp: float) -> StainEstimate:
    """The stains of a slide, from tiles of tissue spread evenly over it: always the same for the same slide.

    Parameters
    ----------
    image
        The slide.
    mpp
        um per px of its full resolution.
    """
    pixels, glass = sample_tissue(image, mpp=mpp)
    return estimate_stains(pixels, background=glass)


def sample_tissue(
    image: SlideImage, *, mpp: float, least_density: float = _MIN_DENSITY / 2
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of tiles of tissue spread evenly over a slide, at 2 um/px, and the colour of its glass.

    Parameters
    ----------
    image
        The slide.
    mpp
        um per px of its full resolution.
    least_density
        Mean optical density from which a place counts as tissue. Where there is none, the places that were looked at
        are the sample.

    Returns
    -------
    Arrays (n, 3), uint8, and (3,), float64: always the same for the same slide, n at most some 400,000.
    """
    side = max(_TILE_UM / mpp, 1.0)
    rows, columns = (max(1, int(np.ceil(s / side))) for s in image.shape)
    places = _spread_places(rows, columns)
    # small windows as they are on the slide show glass and tissue; nothing is resampled for them
    probe = min(_PROBE_PX, *image.shape)
    windows = []
    for place in places:
        y, x = (min(int((k + 0.5) * side), length - probe) for k, length in zip(place, image.shape, strict=True))
        windows.append(image.read(y, x, y + probe, x + probe))
    probes = np.stack(windows)
    glass = _glass(probes, image.background)
    density = -np.log10(np.clip(probes / glass, 1e-3, 1)).mean(axis=(1, 2, 3))
    found = np.flatnonzero(density > least_density)
    if found.size == 0:
        return probes.reshape(-1, 3), glass
    chosen = found[np.unique(np.linspace(0, found.size - 1, min(_N_TILES, found.size)).round().astype(int))]
    n = max(8, round(min(_TILE_UM, side * mpp) / _TILE_MPP))
    tiles = []
    for r, c in (places[i] for i in chosen):
        tiles.append(image.read(r * side, c * side, (r + 1) * side, (c + 1) * side, out_shape=(n, n)).reshape(-1, 3))
    return np.concatenate(tiles), glass


def _glass(probes: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    """The colour of empty glass: never brighter than the brightest that there is on the slide.

    Strongly tinted glass is not recognised as such; white would then stand in for it, and all of it look stained.
    """
    brightest = np.percentile(probes.reshape(-1, 3), 99.5, axis=0)
    glass = np.asarray(background, np.float64)
    return np.where(brightest > _DARKEST_GLASS, np.minimum(glass, brightest), glass)


def _spread_places(rows: int, columns: int) -> list[tuple[int, int]]:
    """At most `_MAX_PROBES` cells of a grid, evenly spread."""
    step = max(1, int(np.ceil(np.sqrt(rows * columns / _MAX_PROBES))))
    down, across = (range(min(step // 2, n - 1), n, step) for n in (rows, columns))
    return list(product(down, across))


def extreme_vectors(density: np.ndarray) -> np.ndarray:
    """Macenko's two vectors of optical densities (n, 3), haematoxylin first, unit length, shape (2, 3)."""
    _, axes = np.linalg.eigh(np.cov(density.T))
    plane = axes[:, [2, 1]]
    plane = plane * np.where(plane.sum(axis=0) < 0, -1, 1)
    projected = density @ plane
    angles = np.arctan2(projected[:, 1], projected[:, 0])
    extremes = np.percentile(angles, [1, 99])
    vectors = np.stack([np.cos(extremes), np.sin(extremes)], axis=1) @ plane.T
    return haematoxylin_first(vectors)


def haematoxylin_first(vectors: np.ndarray) -> np.ndarray:
    """Two stains in their order, not below 0, of unit length."""
    vectors = np.maximum(vectors, 0)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors[np.argsort(-(vectors @ (REFERENCE[0] - REFERENCE[1])))]


def is_he(vectors: np.ndarray) -> bool:
    """Whether two unit vectors can be haematoxylin and eosin: near the reference and not the same stain twice."""
    near = ((vectors * REFERENCE).sum(axis=1) >= _MIN_COSINE).all()
    return bool(near and vectors[0] @ vectors[1] <= _MIN_SEPARATION)


def _otsu(values: np.ndarray) -> float:
    """The threshold with the largest variance between the two classes; the middle where a gap makes many equal."""
    counts, edges = np.histogram(values, 256)
    middle = 0.5 * (edges[1:] + edges[:-1])
    below = counts.cumsum()
    above = below[-1] - below
    total = (counts * middle).cumsum()
    valid = (below > 0) & (above > 0)
    if not valid.any():
        return float(middle[0])
    mean_below = total[valid] / below[valid]
    mean_above = (total[-1] - total[valid]) / above[valid]
    between = below[valid] * above[valid] * (mean_above - mean_below) ** 2
    return float(middle[valid][between >= between.max() * (1 - 1e-9)].mean())
