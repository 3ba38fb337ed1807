"""Colours and strengths of haematoxylin and eosin, estimated from pixels of tissue."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from histocell.images.pixels import look_up, optical_density
from histocell.images.stain.sample import sample_tissue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histocell.images.slide_image import SlideImage

# Optical density of R, G, B of the pure stains, unit length (Ruifrok and Johnston 2001).
REFERENCE = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105]])
REFERENCE /= np.linalg.norm(REFERENCE, axis=1, keepdims=True)

MIN_PIXELS = 500
MIN_DENSITY = 0.15  # mean optical density of tissue
# A pair of vectors further than this from the reference is not H&E: a pen mark, a fold, a single stain.
_MIN_COSINE = (0.80, 0.75)
_MIN_SEPARATION = 0.97
_REFERENCE_WEIGHT = 0.2
_SPARSITY = 0.1
_N_SPARSE, _SPARSE_PASSES = 5000, 4  # enough to converge, in about a second


@dataclass(frozen=True)
class StainEstimate:
    """How haematoxylin and eosin look on one slide.

    Attributes
    ----------
    background
        Shape (3,): colour of the empty slide, RGB.
    vectors
        Shape (2, 3): optical density of R, G, B per unit of haematoxylin and of eosin, unit length.
    strength
        Shape (2,): the 99th percentile of the amount of each stain in tissue; amounts are reported in this unit.
    nuclear_threshold
        Amount of haematoxylin (in units of `strength`) that best separates nuclei from the rest (Otsu).
    estimated
        False where the pixels did not look like H&E and the reference vectors stand in.
    """

    background: NDArray[np.float64]
    vectors: NDArray[np.float64]
    strength: NDArray[np.float64]
    nuclear_threshold: float
    estimated: bool

    @property
    def density(self) -> NDArray[np.float32]:
        """Optical density of each 8-bit value of each channel, shape (256, 3)."""
        return optical_density(self.background).astype(np.float32)

    @property
    def unmixing(self) -> NDArray[np.float32]:
        """Optical density to amounts of haematoxylin, eosin and what neither explains, shape (3, 3)."""
        residual = np.cross(*self.vectors)
        vectors = np.vstack([self.vectors, residual / np.linalg.norm(residual)])
        return (np.linalg.inv(vectors) / [*self.strength, 1.0]).astype(np.float32)


def estimate_stains(pixels: NDArray[np.uint8], *, background: Sequence[float] | NDArray[np.float64]) -> StainEstimate:
    """Find the two stains of a slide in a sample of its pixels.

    The plane of the two stains is spanned by the first two eigenvectors of the optical densities; the stains are the
    robust extremes of the angle in it. Both are drawn a little towards reference vectors, and replaced by them when
    they are too few, too alike or too far from haematoxylin and eosin.

    Parameters
    ----------
    pixels
        Shape (n, 3), uint8.
    background
        Colour of the empty slide.

    References
    ----------
    Macenko et al. (2009), A method for normalizing histology slides for quantitative analysis; Ruifrok and Johnston
    (2001), Quantification of histochemical staining by color deconvolution; Otsu (1979).
    """
    from skimage.filters import threshold_otsu

    blank = StainEstimate(np.asarray(background, np.float64), REFERENCE.copy(), np.ones(2), 0.5, estimated=False)
    density = look_up(blank.density, pixels).astype(np.float64)
    density = density[density @ np.full(3, 1 / 3) > MIN_DENSITY]
    if len(density) < MIN_PIXELS:
        return blank
    vectors = extreme_vectors(density)
    plausible = is_he(vectors)
    if plausible:
        vectors = (1 - _REFERENCE_WEIGHT) * vectors + _REFERENCE_WEIGHT * REFERENCE
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    else:
        vectors = REFERENCE.copy()
    amounts, strength = stain_amounts(density, vectors)
    threshold = float(threshold_otsu(np.clip(amounts[:, 0] / strength[0], 0, 1.5)))
    return replace(blank, vectors=vectors, strength=strength, nuclear_threshold=threshold, estimated=plausible)


def stains_of(image: SlideImage, *, mpp: float) -> StainEstimate:
    """The stains of a slide, from tiles of tissue spread evenly over it: always the same for the same slide.

    Parameters
    ----------
    image
        The slide. It is measured once for as long as it is open.
    mpp
        um per px of its full resolution.
    """

    def measure() -> StainEstimate:
        pixels, background = sample_tissue(image, mpp=mpp, least_density=MIN_DENSITY / 2)
        return estimate_stains(pixels, background=background)

    return image.measured(("stains", mpp), measure)


def stain_amounts(
    density: NDArray[np.float64], vectors: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Amounts (n, 2) of two stains in optical densities (n, 3), and their strengths (2,): 99th percentiles."""
    amounts = density @ np.linalg.pinv(vectors)
    return amounts, np.maximum(np.percentile(amounts, 99, axis=0), 0.05)


def extreme_vectors(density: NDArray[np.float64]) -> NDArray[np.float64]:
    """Macenko's two vectors of optical densities (n, 3), haematoxylin first, unit length, shape (2, 3)."""
    _, axes = np.linalg.eigh(np.cov(density.T))
    plane = axes[:, [2, 1]]
    plane = plane * np.where(plane.sum(axis=0) < 0, -1, 1)
    projected = density @ plane
    angles = np.arctan2(projected[:, 1], projected[:, 0])
    extremes = np.percentile(angles, [1, 99])
    vectors = np.stack([np.cos(extremes), np.sin(extremes)], axis=1) @ plane.T
    return haematoxylin_first(vectors)


def sparse_vectors(density: NDArray[np.float64]) -> NDArray[np.float64]:
    """Vahadane's two vectors: optical densities as sparse sums of two non-negative stains."""
    from sklearn.decomposition import MiniBatchDictionaryLearning
    from sklearn.exceptions import ConvergenceWarning

    learner = MiniBatchDictionaryLearning(
        n_components=2,
        alpha=_SPARSITY,
        fit_algorithm="cd",
        positive_code=True,
        positive_dict=True,
        dict_init=REFERENCE,
        batch_size=256,
        max_iter=_SPARSE_PASSES,
        tol=0,
        max_no_improvement=None,
        random_state=0,
    )
    absorbed = np.log(10) * density[:: max(1, len(density) // _N_SPARSE)]  # the sparsity is one of natural logarithms
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of the amounts; whether the vectors are right is checked
        return haematoxylin_first(learner.fit(absorbed).components_)


def haematoxylin_first(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Two stains in their order, not below 0, of unit length."""
    vectors = np.maximum(vectors, 0)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors[np.argsort(-(vectors @ (REFERENCE[0] - REFERENCE[1])))]


def is_he(vectors: NDArray[np.float64]) -> bool:
    """Whether two unit vectors can be haematoxylin and eosin: near the reference and not the same stain twice."""
    near = ((vectors * REFERENCE).sum(axis=1) >= _MIN_COSINE).all()
    return bool(near and vectors[0] @ vectors[1] <= _MIN_SEPARATION)
