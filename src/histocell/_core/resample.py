"""Resampling of image windows in the pixel-area convention: pixel k covers the interval from k to k + 1."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

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
def weights(n_in: int, start: float, stop: float, n_out: int) -> Any:
    """Sparse matrix (n_out, n_in) that maps pixels to the interval from `start` to `stop` cut into `n_out`.

    Shrinking weighs each pixel by the part of it that lies in the output pixel (area average); enlarging is linear
    between pixel centres. Rows sum to one.
    """
    from scipy.sparse import csr_array

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
    index = np.clip(index, 0, n_in - 1)
    rows = np.repeat(np.arange(n_out), index.shape[1])
    matrix = csr_array((part.ravel().astype(np.float32), (rows, index.ravel())), shape=(n_out, n_in))
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


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
    height, width, channels = pixels.shape
    out_height, out_width = out_shape
    down = weights(height, *y_span, out_height)
    across = weights(width, *x_span, out_width)
    rows = down @ pixels.reshape(height, width * channels).astype(np.float32)
    rows = rows.reshape(out_height, width, channels).transpose(1, 0, 2).reshape(width, out_height * channels)
    result = across @ rows
    result += 0.5
    result = result.astype(np.uint8).reshape(out_width, out_height, channels)
    return np.ascontiguousarray(result.transpose(1, 0, 2))
