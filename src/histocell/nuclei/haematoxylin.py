"""The built-in method of segmentation: nuclei of H&E images by their haematoxylin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from histocell._core.arguments import check_positive, check_share
from histocell.kernels.level_sets.objects import label_sums
from histocell.nuclei.context import SlideContext, estimate_context, is_haematoxylin, stain_map
from histocell.nuclei.level_sets import find_nuclei

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

COARSEST_MPP = 1.0
LEAST_MEAN = 0.5  # of a nucleus, between its surroundings, 0, and typical nuclei, 1


@dataclass(frozen=True)
class Watershed:
    """Segmentation by the level sets of haematoxylin and a watershed between nuclei that touch.

    Parameters
    ----------
    min_area_um2, max_area_um2
        Nuclei of another area are left out.
    sensitivity
        From 0 to 1: the higher, the paler the nuclei that count. At 0.5 a nucleus is at least half as much darker than
        its surroundings as the typical nucleus of the slide.
    mpp
        Resolution in um per px that slides are read at, unless theirs is coarser. At 0.5 it takes a quarter of the
        time, and outlines are coarser.

    Notes
    -----
    Haematoxylin is unmixed with the stains of the slide and scaled between its stroma, 0, and its nuclei, 1. What is
    found must have the colour of haematoxylin, which leaves out ink, DAB, pigment and red cells. See
    :func:`histocell.nuclei.level_sets.find_nuclei`.

    Examples
    --------
    >>> import numpy as np
    >>> y, x = np.mgrid[:120, :120] * 0.5
    >>> nuclei = np.hypot(y % 20 - 10, x % 20 - 10) < 4
    >>> image = np.where(nuclei[..., None], (90, 60, 140), (230, 190, 220)).astype(np.uint8)
    >>> labels = Watershed()(image, 0.5)
    >>> int(labels.max())
    9
    """

    min_area_um2: float = 6.5
    max_area_um2: float = 250.0
    sensitivity: float = 0.5
    mpp: float = 0.25

    name: ClassVar[str] = "watershed"
    halo_um: ClassVar[float] = 28.0

    def __post_init__(self) -> None:
        for name in ("min_area_um2", "max_area_um2", "mpp"):
            check_positive(getattr(self, name), name)
        check_share(self.sensitivity, "sensitivity")
        if self.min_area_um2 >= self.max_area_um2:
            msg = f"min_area_um2 ({self.min_area_um2:g}) must be below max_area_um2 ({self.max_area_um2:g})"
            raise ValueError(msg)
        _check_mpp(self.mpp)

    def context(self, sample: Sequence[NDArray[np.uint8]], mpp: float) -> SlideContext:
        """What is the same in all blocks of a slide.

        Parameters
        ----------
        sample
            Images (h, w, 3), uint8, of its tissue, all of one resolution: the more of it, the better.
        mpp
            um per px of the images, at most 1.
        """
        images = [_check_image(image) for image in sample]
        if not images:
            msg = "sample holds no image; give at least one of the tissue"
            raise ValueError(msg)
        return estimate_context(images, _check_mpp(mpp))

    def __call__(self, image: NDArray[np.uint8], mpp: float, context: SlideContext | None = None) -> NDArray[np.int32]:
        """Label the nuclei of an image.

        Parameters
        ----------
        image
            Shape (h, w, 3), uint8.
        mpp
            um per px, at most 1.
        context
            That of the slide, by default estimated from the image alone.

        Returns
        -------
        Shape (h, w), int32: nuclei from 1, 0 elsewhere.
        """
        image, mpp = _check_image(image), _check_mpp(mpp)
        if image.size == 0:
            return np.zeros(image.shape[:2], np.int32)
        if context is None:
            context = estimate_context([image], mpp)
        if context.problem is not None:
            return np.zeros(image.shape[:2], np.int32)
        stained = self._map(image, mpp, context)
        contrast = 2 * (1 - self.sensitivity)
        labels, n, smooth = find_nuclei(stained, mpp=mpp, max_area_um2=self.max_area_um2, contrast=contrast)
        sums = label_sums(labels, n, smooth, image, context.stains.density)
        return _numbered(labels, self._is_nucleus(sums, mpp, contrast))

    def _map(self, image: NDArray[np.uint8], mpp: float, context: SlideContext) -> NDArray[np.float32]:
        """What the level sets are of, (h, w): 0 in stroma, 1 in nuclei."""
        del mpp
        return stain_map(image, context.stains, low=context.low, high=context.high)

    def _is_nucleus(self, sums: NDArray[np.float64], mpp: float, contrast: float) -> NDArray[np.bool_]:
        """Which labels have the size, the strength and the colour of nuclei."""
        area, total = sums[:, 0], sums[:, 1]
        dark = total >= contrast * LEAST_MEAN * area
        fits = (area * mpp**2 >= self.min_area_um2) & (area * mpp**2 <= self.max_area_um2)
        return (area > 0) & fits & dark & is_haematoxylin(sums[:, 2:])


def _numbered(labels: NDArray[np.int32], kept: NDArray[np.bool_]) -> NDArray[np.int32]:
    """The labels that are kept, numbered from 1, in place."""
    number = np.where(kept, np.cumsum(kept, dtype=np.int32), np.int32(0))
    return number.take(labels, out=labels, mode="clip")


def _check_image(image: object) -> NDArray[np.uint8]:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        found = f"{image.dtype} array" if isinstance(image, np.ndarray) else type(image).__name__
        msg = f"an image must be a uint8 array (h, w, 3), not {found}"
        raise TypeError(msg)
    if image.ndim != 3 or image.shape[2] != 3:
        msg = f"an image must have shape (h, w, 3), not {image.shape}"
        raise ValueError(msg)
    return np.ascontiguousarray(image)


def _check_mpp(mpp: object) -> float:
    if mpp is None:
        msg = "the resolution of the image is not known; give mpp=, its um per px"
        raise ValueError(msg)
    value = check_positive(mpp, "mpp")
    if value > COARSEST_MPP:
        msg = f"nuclei cannot be outlined at {value:g} um/px; at most {COARSEST_MPP:g} um/px is possible"
        raise ValueError(msg)
    return value
