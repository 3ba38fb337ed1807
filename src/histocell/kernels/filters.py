"""Smoothing and shrinking of pixel maps."""

from __future__ import annotations

import math

import numpy as np

from histocell.kernels.compiled import njit


def gaussian_taps(sigma: float) -> np.ndarray:
    """Weights of one half of a normalised Gaussian, centre first.

    Parameters
    ----------
    sigma
        Standard deviation in px.

    Returns
    -------
    Shape (radius + 1,), float32; the two-sided filter sums to 1.
    """
    radius = max(1, math.ceil(3 * sigma))
    taps = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2)
    return (taps / (taps[0] + 2 * taps[1:].sum())).astype(np.float32)


def blur(image: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """Convolve rows and columns with a symmetric filter; the border is repeated.

    Parameters
    ----------
    image
        Shape (h, w), float32.
    taps
        Shape (radius + 1,), float32, centre first.
    """
    out = np.empty_like(image)  # here and not in compiled code: numpy asks for large pages, which are faster
    _blur(image, taps, out)
    return out


@njit(nogil=True, cache=True)
def _blur(image: np.ndarray, taps: np.ndarray, out: np.ndarray) -> None:
    height, width = image.shape
    radius = taps.size - 1
    # slices, not sums of indices: these would be checked for being negative, pixel by pixel
    n = 2 * radius + 1
    rows = np.empty((n, width), np.float32)  # the last rows that were convolved
    padded = np.empty(width + 2 * radius, np.float32)
    for step in range(height + radius):
        if step < height:
            padded[:radius] = image[step, 0]
            padded[radius : radius + width] = image[step]
            padded[radius + width :] = image[step, width - 1]
            target, source = rows[step % n], padded[radius:]
            for x in range(width):
                target[x] = taps[0] * source[x]
            for k in range(1, radius + 1):
                _add_both(target, taps[k], padded[radius - k :], padded[radius + k :])
        y = step - radius
        if y >= 0:
            target, source = out[y], rows[y % n]
            for x in range(width):
                target[x] = taps[0] * source[x]
            for k in range(1, radius + 1):
                _add_both(target, taps[k], rows[max(y - k, 0) % n], rows[min(y + k, height - 1) % n])


@njit(nogil=True, cache=True)
def _add_both(target: np.ndarray, tap: float, one: np.ndarray, other: np.ndarray) -> None:
    for x in range(target.size):
        target[x] += tap * (one[x] + other[x])


def box_mean(image: np.ndarray, radius: int, ceiling: float = np.inf) -> np.ndarray:
    """Mean over a (2 radius + 1)² window, cut at the border.

    Parameters
    ----------
    image
        Shape (h, w), float32.
    radius
        Half width of the window in px.
    ceiling
        Pixels count no more than this.
    """
    out = np.empty_like(image)
    _box_mean(image, radius, np.float32(ceiling), out)
    return out


@njit(nogil=True, cache=True)
def _box_mean(image: np.ndarray, radius: int, most: np.float32, out: np.ndarray) -> None:
    height, width = image.shape
    totals = np.zeros(width + 2 * radius + 1)  # of the columns, with zeros around
    inner = totals[radius + 1 : radius + 1 + width]
    columns = np.arange(width)
    shares = 1 / (np.minimum(columns + radius, width - 1) - np.maximum(columns - radius, 0) + 1)
    for step in range(height + radius):
        if step < height:
            source = image[step]
            for x in range(width):
                inner[x] += min(source[x], most)
        y = step - radius
        if y > radius:
            source = image[y - radius - 1]
            for x in range(width):
                inner[x] -= min(source[x], most)
        if y >= 0:
            share = 1 / (min(step, height - 1) - max(y - radius, 0) + 1)
            target, entering = out[y], totals[2 * radius + 1 :]
            total = 0.0
            for x in range(min(radius, width)):
                total += inner[x]
            for x in range(width):
                total += entering[x] - totals[x]
                target[x] = total * (share * shares[x])


@njit(nogil=True, cache=True)
def halve(image: np.ndarray) -> np.ndarray:
    """Mean of every 2 x 2 px.

    Parameters
    ----------
    image
        Shape (h, w), float32; an odd last row or column is dropped.
    """
    height, width = image.shape[0] // 2, image.shape[1] // 2
    out = np.empty((height, width), np.float32)
    quarter = np.float32(0.25)
    for y in range(height):
        for x in range(width):
            out[y, x] = quarter * (
                image[2 * y, 2 * x] + image[2 * y, 2 * x + 1] + image[2 * y + 1, 2 * x] + image[2 * y + 1, 2 * x + 1]
            )
    return out
