"""Resampling of image windows in the pixel-area convention: pixel k covers the interval from k to k + 1."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from histocell.kernels.compiled import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray


def cover(start: float, stop: float, n_out: int, length: int) -> tuple[int, int]:
    """Pixels needed to resample the interval from `start` to `stop` into `n_out` pixels.

    A neighbour beyond the interval is needed for interpolation; beyond an image of `length` pixels it is needed
    only where the interval itself leaves the image.
    """
    step = (stop - start) / n_out
    if step < 1:
        first = int(np.floor(start + step / 2 - 0.5))
        last = int(np.floor(stop - step / 2 - 0.5)) + 2
    else:
        first, last = int(np.floor(start + 1e-9)), int(np.ceil(stop - 1e-9))
    if start >= 0:
        first = max(first, 0)
    if stop <= length:
        last = min(last, length)
    return first, last


@lru_cache(maxsize=512)
def weights(n_in: int, start: float, stop: float, n_out: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """First pixel and weights, shapes ``(n_out,)`` and ``(n_out, taps)``, of each cell of an interval cut into `n_out`.

    Shrinking weighs each pixel by the part of it that lies in the cell (area average); enlarging is linear between pixel
    centres. Weights sum to one.
    """
    step = (stop - start) / n_out
    if step >= 1:
        edges = np.round(start + step * np.arange(n_out + 1), 9)
        index = np.floor(edges[:-1]).astype(np.int64)[:, None] + np.arange(int(np.ceil(step)) + 1)
        part = np.minimum(edges[1:, None], index + 1) - np.maximum(edges[:-1, None], index)
        part = np.clip(part, 0, None) * ((index >= 0) & (index < n_in))
        part /= part.sum(axis=1, keepdims=True)
    else:
        centre = np.round(start + step * (np.arange(n_out) + 0.5) - 0.5, 9)
        below = np.floor(centre)
        index = below.astype(np.int64)[:, None] + np.arange(2)
        part = np.stack([1 - (centre - below), centre - below], axis=1)
    taps = min(index.shape[1], n_in)
    first = np.clip(index[:, 0], 0, n_in - taps)
    # the weight of what lies beyond the array falls to the pixel at its border
    tap = np.clip(np.clip(index, 0, n_in - 1) - first[:, None], 0, taps - 1)
    inside = np.zeros((n_out, taps))
    np.add.at(inside, (np.arange(n_out)[:, None], tap), part)
    return first, inside.astype(np.float32)


def resample(
    pixels: NDArray[np.uint8], y_span: tuple[float, float], x_span: tuple[float, float], *, out_shape: tuple[int, int]
) -> NDArray[np.uint8]:
    """Resample a part of an RGB array.

    Parameters
    ----------
    pixels
        Array (h, w, 3).
    y_span, x_span
        The part to resample, in pixels of the array, with fractions.
    out_shape
        Height and width of the result.
    """
    height, width, _ = pixels.shape
    down = weights(height, *y_span, out_shape[0])
    across = weights(width, *x_span, out_shape[1])
    return _weighted(np.ascontiguousarray(pixels), *down, *across)


@njit(nogil=True, cache=True, fastmath={"contract", "reassoc"})
def _weighted(
    pixels: NDArray[np.uint8],
    top: NDArray[np.int64],
    down: NDArray[np.float32],
    left: NDArray[np.int64],
    across: NDArray[np.float32],
) -> NDArray[np.uint8]:
    """Weighted sums over rows, then over columns, one output row at a time."""
    width = pixels.shape[1]
    flat = pixels.reshape(pixels.shape[0], width * 3)
    out = np.empty((len(top), len(left), 3), np.uint8)
    line = np.empty(width * 3, np.float32)
    for i in range(len(top)):
        line[:] = 0.5
        for k in range(down.shape[1]):
            weight = down[i, k]
            if weight != 0:
                source = flat[top[i] + k]
                for x in range(width * 3):
                    line[x] += weight * source[x]
        for j in range(len(left)):
            red, green, blue = np.float32(0), np.float32(0), np.float32(0)
            for k in range(across.shape[1]):
                weight = across[j, k]
                x = 3 * (left[j] + k)
                red += weight * line[x]
                green += weight * line[x + 1]
                blue += weight * line[x + 2]
            out[i, j, 0], out[i, j, 1], out[i, j, 2] = red, green, blue
    return out
