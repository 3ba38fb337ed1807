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


@njit(nogil=True, cache=True)
def blur(image: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """Convolve rows and columns with a symmetric filter; the border is repeated.

    Parameters
    ----------
    image
        Shape (h, w), float32.
    taps
        Shape (radius + 1,), float32, centre first.
    """
    height, width = image.shape
    radius = taps.size - 1
    rows = np.empty_like(image)
    padded = np.empty(width + 2 * radius, np.float32)
    for y in range(height):
        padded[:radius] = image[y, 0]
        padded[radius : radius + width] = image[y]
        padded[radius + width :] = image[y, width - 1]
        target = rows[y]
        for x in range(width):
            target[x] = taps[0] * padded[x + radius]
        for k in range(1, radius + 1):
            tap = taps[k]
            for x in range(width):
                target[x] += tap * (padded[x + radius - k] + padded[x + radius + k])
    out = np.empty_like(image)
    for y in range(height):
        target = out[y]
        source = rows[y]
        for x in range(width):
            target[x] = taps[0] * source[x]
        for k in range(1, radius + 1):
            tap = taps[k]
            above = rows[max(y - k, 0)]
            below = rows[min(y + k, height - 1)]
            for x in range(width):
                target[x] += tap * (above[x] + below[x])
    return out


@njit(nogil=True, cache=True)
def box_mean(image: np.ndarray, radius: int) -> np.ndarray:
    """Mean over a (2 radius + 1)² window, cut at the border.

    Parameters
    ----------
    image
        Shape (h, w), float32.
    radius
        Half width of the window in px.
    """
    height, width = image.shape
    rows = np.empty_like(image)
    for y in range(height):
        total = 0.0
        for x in range(min(radius, width)):
            total += image[y, x]
        for x in range(width):
            if x + radius < width:
                total += image[y, x + radius]
            if x - radius - 1 >= 0:
                total -= image[y, x - radius - 1]
            rows[y, x] = total / (min(x + radius, width - 1) - max(x - radius, 0) + 1)
    out = np.empty_like(image)
    totals = np.zeros(width, np.float64)
    for y in range(min(radius, height)):
        for x in range(width):
            totals[x] += rows[y, x]
    for y in range(height):
        if y + radius < height:
            for x in range(width):
                totals[x] += rows[y + radius, x]
        if y - radius - 1 >= 0:
            for x in range(width):
                totals[x] -= rows[y - radius - 1, x]
        scale = 1.0 / (min(y + radius, height - 1) - max(y - radius, 0) + 1)
        for x in range(width):
            out[y, x] = totals[x] * scale
    return out


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
