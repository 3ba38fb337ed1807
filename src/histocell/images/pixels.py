"""Pixels as 8-bit RGB, their optical density and the colour of the background."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from histocell.images.intensities import Range

_CHANNELS = (1, 3, 4)  # grey, RGB, RGBA


def channel_axis(shape: Sequence[int], dims: Sequence[str] | None = None) -> int | None:
    """Axis of the channels, the last or the first; `None` for a grey image of two dimensions.

    Parameters
    ----------
    shape
        Shape of the array.
    dims
        Names of its axes where known, of ``c`` (or ``s``), ``y`` and ``x`` in this order or with the channels last.
    """
    known = "an image is (y, x), (y, x, channel) or (channel, y, x) with 1, 3 or 4 channels"
    if dims is not None:
        order = "".join("c" if str(name).lower() in {"c", "s"} else str(name).lower() for name in dims)
        if order not in {"yx", "yxc", "cyx"}:
            msg = f"image with dimensions {tuple(dims)} cannot be read: {known}"
            raise ValueError(msg)
        axis = order.find("c") if "c" in order else None
    elif len(shape) == 2:
        axis = None
    elif len(shape) == 3 and shape[2] in _CHANNELS:
        axis = 2
    elif len(shape) == 3 and shape[0] in _CHANNELS:
        axis = 0
    else:
        msg = f"array of shape {shape} is no brightfield image: {known}"
        raise ValueError(msg)
    if axis is not None and shape[axis] not in _CHANNELS:
        msg = f"image of shape {tuple(shape)} has {shape[axis]} channels: {known}"
        raise ValueError(msg)
    return axis


def to_rgb(pixels: np.ndarray, axis: int | None, values: Range | None = None) -> NDArray[np.uint8]:
    """8-bit RGB (h, w, 3), a view where nothing has to change.

    Parameters
    ----------
    pixels
        Part of an image.
    axis
        Axis of its channels, as `channel_axis` gives it.
    values
        The values of black and white, `None` for 8-bit values and booleans.

    Notes
    -----
    Grey becomes R = G = B. Transparency is laid over white.
    """
    if axis is None:
        pixels = pixels[..., None]
    elif axis == 0:
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    elif values is not None:
        low, high = values.low, values.high
        scaled = pixels.astype(np.float32) - np.float32(low) if low else pixels.astype(np.float32)
        pixels = np.clip(scaled * np.float32(255 / (high - low)) + 0.5, 0, 255).astype(np.uint8)
    if pixels.shape[-1] == 4:
        alpha = pixels[..., 3:].astype(np.float32) / 255
        return (pixels[..., :3] * alpha + 255 * (1 - alpha) + 0.5).astype(np.uint8)
    if pixels.shape[-1] == 1:
        return np.repeat(pixels, 3, axis=-1)
    return pixels


def optical_density(background: ArrayLike) -> NDArray[np.float64]:
    """Optical density of each 8-bit value of each channel, shape (256, 3), not below 0.

    Parameters
    ----------
    background
        Colour of the empty slide, RGB.
    """
    light = np.maximum(np.arange(256.0), 1.0)[:, None] / np.maximum(background, 1.0)
    return np.maximum(-np.log10(light), 0)


def look_up(table: NDArray[np.floating], pixels: NDArray[np.uint8]) -> NDArray[np.floating]:
    """Values (n, 3) of pixels (n, 3) in a table (256, 3), such as optical densities."""
    # channel by channel: fast where numpy's indexing by two arrays is slow
    return np.column_stack([table[:, k].take(pixels[:, k]) for k in range(3)])


def background_colour(sample: NDArray[np.uint8]) -> tuple[int, int, int]:
    """Colour of the empty slide: the mode of bright pixels of low saturation, white where there are none.

    Parameters
    ----------
    sample
        Pixels (n, 3) from all over the slide.
    """
    # channel by channel: a reduction over an axis of three is slow
    darkest = np.minimum(np.minimum(sample[:, 0], sample[:, 1]), sample[:, 2])
    brightest = np.maximum(np.maximum(sample[:, 0], sample[:, 1]), sample[:, 2])
    background = sample[(darkest > 170) & (brightest - darkest < 40)]
    if len(background) < max(1, 0.002 * len(sample)):
        return 255, 255, 255
    red5, green5, blue5 = (background >> 3).astype(np.int32).T
    bins = 1024 * red5 + 32 * green5 + blue5
    mode = np.bincount(bins).argmax()
    red, green, blue = np.median(background[bins == mode], axis=0).astype(int).tolist()
    return red, green, blue
