"""Square patches of one size, cut out of a slide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histocell.images.slide_image import SlideImage

_MAX_SHRINK = 4.0  # patches of more px than this, per edge of the input, are shrunk where they are read


class PatchSource:
    """Patches of `size_px` around points, as whole pixels of the level that suits an input of `input_px`.

    Nothing is resampled here but what would be far too large: resizing many patches at once is the work of the device.
    Patches of neighbouring points share the decoded blocks of the slide; it may be read from many threads.

    Parameters
    ----------
    image
        The slide.
    size_px
        Edge of a patch in level-0 px.
    input_px
        Edge of the image that the patch becomes, in px.

    Attributes
    ----------
    edge
        Edge in px of the patches that :meth:`read` gives.
    """

    def __init__(self, image: SlideImage, *, size_px: float, input_px: int) -> None:
        if not (size_px > 0 and input_px > 0):
            msg = f"a patch must have a size, not {size_px:g} px (input {input_px} px)"
            raise ValueError(msg)
        self._image = image
        scaled = image.level_for(size_px / input_px)
        self._level = scaled.level
        self._factors = np.array([scaled.y, scaled.x])
        self._cut = max(1, round(size_px / self._factors.max()))
        self._shrunk = self._cut > _MAX_SHRINK * input_px
        self.edge = input_px if self._shrunk else self._cut

    def corners(self, centers: NDArray[np.float64]) -> NDArray[np.float64]:
        """Top left corners (y, x) of the patches around `centers` (x, y), in level-0 px: where they lie after rounding."""
        return self._starts(centers) * self._factors

    def scale(self) -> NDArray[np.float64]:
        """Level-0 px (y, x) per px of the patches that :meth:`read` gives."""
        return self._factors * self._cut / self.edge

    def _starts(self, centers: NDArray[np.float64]) -> NDArray[np.int64]:
        return np.rint(centers[:, ::-1] / self._factors - self._cut / 2).astype(np.int64)

    def read(self, centers: NDArray[np.float64], out: NDArray[np.uint8]) -> None:
        """Fill `out`, shape ``(n, edge, edge, 3)``, with the patches around `centers` (x, y) in level-0 px."""
        for start, patch in zip(self._starts(centers).tolist(), out, strict=True):
            y0, x0 = start
            y1, x1 = y0 + self._cut, x0 + self._cut
            if self._shrunk:
                down, across = self._factors.tolist()
                patch[:] = self._image.read(
                    y0 * down, x0 * across, y1 * down, x1 * across, out_shape=(self.edge, self.edge)
                )
            else:
                self._image.padded(self._level, (y0, x0, y1, x1), out=patch)
