"""Slides that OpenSlide reads."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from histocell._core.errors import import_optional
from histocell.images.formats.damage import decoding
from histocell.images.levels import ImageFile
from histocell.images.pixels import to_rgb
from histocell.images.resolution import isotropic_mpp

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import openslide
    from numpy.typing import NDArray


class OpenSlideLevel:
    """A level of a slide that OpenSlide reads; it keeps a cache of its own."""

    def __init__(self, path: Path, slide: openslide.OpenSlide, level: int) -> None:
        self._path = path
        self._slide = slide
        self._level = level
        width, height = slide.level_dimensions[level]
        self.shape = (height, width)
        self._factors = (slide.dimensions[1] / height, slide.dimensions[0] / width)

    def window(self, y0: int, x0: int, y1: int, x1: int) -> NDArray[np.uint8]:
        """Pixels of a window; regions that were not scanned are white."""
        corner = (round(x0 * self._factors[1]), round(y0 * self._factors[0]))
        with decoding(self._path, f"the region at x {corner[0]}, y {corner[1]}"):
            region = np.asarray(self._slide.read_region(corner, self._level, (x1 - x0, y1 - y0)))
        return to_rgb(region, 2)


def open_openslide(path: Path) -> ImageFile:
    """Open a slide with OpenSlide; a `ValueError` where it does not know the format."""
    openslide = import_optional("openslide", "wsi")
    try:
        slide = openslide.OpenSlide(path)
    except openslide.OpenSlideError as error:
        msg = f"{path} is no slide that OpenSlide reads ({error})"
        raise ValueError(msg) from error
    with decoding(path):
        levels = [OpenSlideLevel(path, slide, number) for number in range(slide.level_count)]
    return ImageFile(levels, partial(_mpp, path, slide.properties))


def _mpp(path: Path, properties: Mapping[str, str]) -> tuple[float | None, str]:
    x, y = properties.get("openslide.mpp-x"), properties.get("openslide.mpp-y")
    if x is None or y is None:
        return None, "unknown"
    with decoding(path, "its resolution"):
        per_px = float(x), float(y)
    return isotropic_mpp(*per_px, "the slide"), "openslide"
