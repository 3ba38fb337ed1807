"""Maps of how much darker in haematoxylin a place is than its surroundings, in windows of a slide."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy import fft, ndimage

from histocell.images.stain.estimate import stains_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histocell._core.types import Bools, Floats
    from histocell.images.slide_image import SlideImage

    type Floats32 = NDArray[np.float32]
    type Spectrum = NDArray[np.complex64]

MOST_PIXELS = 2048**2  # of a map of the whole image; a larger slide is looked at in windows
WINDOW_PX = 512
N_WINDOWS = 16
TISSUE_DENSITY = 0.05  # smoothed optical density above which there is tissue
GREYEST = 25  # difference of the channels of a background
TISSUE_UM, VARIATION_UM = 8.0, 30.0  # scales of the outline of the tissue and of the local spread
MARGIN_UM = 2 * VARIATION_UM
HIGHEST = 3.0  # dust is darker than any nucleus, and must not count for more
SURROUND = 3.0  # scale of the surroundings of a nucleus, in radii


@dataclass
class Window:
    """A window of a contrast map.

    Attributes
    ----------
    corner
        Its upper left corner (x, y) in um.
    contrast
        Shape (h, w): haematoxylin of a spot of a nucleus' size less that of its surroundings, in standard deviations of
        the neighbourhood; 0 where there is no tissue, mean 0 over the tissue.
    tissue
        Shape (h, w): 1 where there is tissue, else 0.
    """

    corner: Floats
    contrast: Floats32
    tissue: Floats32
    spectra: dict[int, tuple[Spectrum, Spectrum]] = field(default_factory=dict)

    def transforms(self, pad: int) -> tuple[Spectrum, Spectrum]:
        """Fourier transforms of contrast and tissue with `pad` empty px around them."""
        if pad not in self.spectra:
            shape = padded_shape(self.contrast.shape, pad)
            self.spectra[pad] = tuple(
                fft.rfft2(np.pad(plane, ((pad, pad), (pad, pad))), shape) for plane in (self.contrast, self.tissue)
            )
        return self.spectra[pad]


def padded_shape(shape: tuple[int, ...], pad: int) -> list[int]:
    """Lengths of the transforms of a window with `pad` px around it, and as many more that no shift may wrap into."""
    return [fft.next_fast_len(length + 2 * pad + 1, real=True) for length in shape]


class ContrastMaps:
    """The windows of a slide that nuclei are compared with; each is read once.

    Parameters
    ----------
    image
        The slide.
    mpp
        um per px of its full resolution.
    resolution_um
        um per px of the maps.
    radius_um
        Radius of a nucleus.
    """

    def __init__(self, image: SlideImage, *, mpp: float, resolution_um: float, radius_um: float) -> None:
        self._image, self._mpp = image, mpp
        self.resolution_um, self._radius_um = resolution_um, radius_um
        shape = [int(np.ceil(length * mpp / resolution_um)) for length in image.shape]
        self._edges = shape if np.prod(shape) <= MOST_PIXELS else [WINDOW_PX, WINDOW_PX]
        self._grid = [-(-length // edge) for length, edge in zip(shape, self._edges, strict=True)]
        self._windows: dict[int, Window] = {}
        self.stains = stains_of(image, mpp=mpp)

    @property
    def whole(self) -> bool:
        """Whether one window is the whole image."""
        return self._grid == [1, 1]

    @property
    def extent_um(self) -> float:
        """Longer edge of a window."""
        return max(self._edges) * self.resolution_um

    def windows_of(self, xy_um: Floats, most: int = N_WINDOWS) -> dict[int, Floats]:
        """The windows with the most points, and the points in each, shape (k, 2), in um."""
        column, row = np.floor(xy_um / (np.array(self._edges[::-1]) * self.resolution_um)).astype(np.int64).T
        inside = (column >= 0) & (row >= 0) & (column < self._grid[1]) & (row < self._grid[0])
        number = row[inside] * self._grid[1] + column[inside]
        counts = np.bincount(number, minlength=1)
        chosen = np.argsort(-counts, kind="stable")[:most]
        points = xy_um[inside]
        return {int(each): points[number == each] for each in chosen if counts[each]}

    def window(self, number: int) -> Window:
        """A window by its number, row by row."""
        if number not in self._windows:
            if len(self._windows) > 2 * N_WINDOWS:
                self._windows.pop(next(iter(self._windows)))
            self._windows[number] = self._read(number)
        return self._windows[number]

    def _read(self, number: int) -> Window:
        row, column = divmod(number, self._grid[1])
        step = self.resolution_um
        margin = int(np.ceil(MARGIN_UM / step))
        y0, x0 = row * self._edges[0] - margin, column * self._edges[1] - margin
        shape = (self._edges[0] + 2 * margin, self._edges[1] + 2 * margin)
        scale = step / self._mpp
        box = (y0 * scale, x0 * scale, (y0 + shape[0]) * scale, (x0 + shape[1]) * scale)
        pixels = self._image.read(*box, out_shape=shape)
        inside = [
            (np.arange(start, start + length) + 0.5) * scale < edge
            for start, length, edge in zip((y0, x0), shape, self._image.shape, strict=True)
        ]
        inside = [
            each & (np.arange(start, start + len(each)) >= 0) for each, start in zip(inside, (y0, x0), strict=True)
        ]
        contrast, tissue = self._contrast(pixels, np.outer(*inside))
        inner = np.s_[margin : shape[0] - margin, margin : shape[1] - margin]
        contrast, tissue = contrast[inner], tissue[inner]
        if tissue.any():
            contrast = (contrast - contrast[tissue > 0].mean()) * tissue
        corner = np.array([x0 + margin, y0 + margin]) * step
        return Window(corner, np.ascontiguousarray(contrast), np.ascontiguousarray(tissue))

    def _contrast(self, pixels: NDArray[np.uint8], inside: Bools) -> tuple[Floats32, Floats32]:
        """Contrast and tissue of pixels (h, w, 3), of which some lie inside of the image."""
        step, radius = self.resolution_um, self._radius_um
        density = self.stains.density[pixels, np.arange(3)]
        mean = density.mean(axis=-1)
        stained = (density @ self.stains.unmixing)[..., 0] if self.stains.estimated else mean
        covered = ndimage.gaussian_filter(mean, TISSUE_UM / step) > TISSUE_DENSITY
        if np.ptp(self.stains.background) > GREYEST:  # glass has no colour: the image shows nothing but tissue
            covered[:] = True
        tissue = (covered & inside).astype(np.float32)
        around = _local_mean(stained, tissue, SURROUND * radius / step)
        contrast = (ndimage.gaussian_filter(stained, radius / 2 / step) - around) * tissue
        spread = np.sqrt(_local_mean(contrast**2, tissue, VARIATION_UM / step))
        if tissue.any():
            spread = np.maximum(spread, max(0.5 * float(np.median(spread[tissue > 0])), 1e-6))
        # smooth, not cut off: a flat top would hide where the middle of a nucleus is
        return HIGHEST * np.tanh(contrast / np.maximum(spread, 1e-6) / HIGHEST), tissue


def _local_mean(values: Floats32, tissue: Floats32, sigma: float) -> Floats32:
    """Gaussian mean over the tissue around each px."""
    weight = ndimage.gaussian_filter(tissue, sigma)
    return ndimage.gaussian_filter(values * tissue, sigma) / np.maximum(weight, 1e-3)
