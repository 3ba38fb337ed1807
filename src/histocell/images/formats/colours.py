"""Colours of print and video as RGB: CMYK, L*a*b*, YCbCr and palettes."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from PIL.ImageCms import ImageCmsTransform

    type Pixels = NDArray[np.uint8]


def cmyk_to_rgb(inks: Pixels, profile: bytes | None = None) -> Pixels:
    """Inks (h, w, 4), 255 for all of it, by the ICC profile of the file; without one each ink takes its share of light."""
    if profile:
        return _by_profile(inks, "CMYK", profile)
    light = 255 - inks.astype(np.uint16)
    product = light[..., :3] * light[..., 3:]
    return ((product + 127) // 255).astype(np.uint8)


def lab_to_rgb(lab: Pixels) -> Pixels:
    """L*a*b* (h, w, 3) of ICC (white of D50): L from 0 to 255, a and b around 128."""
    return _by_profile(lab ^ np.array([0, 128, 128], np.uint8), "LAB", None)


def ycbcr_to_rgb(pixels: Pixels, weights: Sequence[float], black_white: Sequence[float]) -> Pixels:
    """YCbCr (h, w, 3) by the weights of red, green and blue in Y, and by black and white of each sample, as in TIFF 6.0."""
    black, white = np.reshape(np.asarray(black_white, np.float32), (3, 2)).T
    y, cb, cr = np.moveaxis((pixels - black) * (np.array([255, 127, 127], np.float32) / (white - black)), -1, 0)
    of_red, of_green, of_blue = weights
    red, blue = y + (2 - 2 * of_red) * cr, y + (2 - 2 * of_blue) * cb
    green = (y - of_red * red - of_blue * blue) / of_green
    return np.clip(np.stack([red, green, blue], axis=-1) + 0.5, 0, 255).astype(np.uint8)


def _by_profile(pixels: Pixels, mode: str, profile: bytes | None) -> Pixels:
    """Pixels of a mode of Pillow by an ICC profile, of L*a*b* without one."""
    from PIL import Image, ImageCms

    height, width = pixels.shape[:2]
    image = Image.frombytes(mode, (width, height), np.ascontiguousarray(pixels).tobytes())
    converted = ImageCms.applyTransform(image, _transform(mode, profile))
    return np.array(converted)


@lru_cache(maxsize=8)
def _transform(mode: str, profile: bytes | None) -> ImageCmsTransform:
    from PIL import ImageCms

    source = ImageCms.createProfile("LAB") if profile is None else ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
