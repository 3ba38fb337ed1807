"""Random fields on tissue-like points, for tests of null distributions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import fft


def _hexagonal_grid(size: int = 45, pitch: float = 100.0) -> np.ndarray:
    row, column = np.mgrid[:size, :size]
    return np.column_stack([(column + 0.5 * (row % 2)).ravel(), (np.sqrt(3) / 2 * row).ravel()]) * pitch


def _smooth_fields(xy: np.ndarray, smoothing: float, count: int, *, rng: np.random.Generator) -> np.ndarray:
    """Independent stationary Gaussian fields: white noise under a Gaussian kernel, shape (n, count)."""
    if smoothing == 0:
        return rng.standard_normal((len(xy), count))
    pixel, margin = max(25.0, smoothing / 6), 4 * smoothing
    shape = ((np.ptp(xy, axis=0) + 2 * margin) / pixel).astype(int) + 2
    frequency = fft.fftfreq(shape[0])[:, None] ** 2 + fft.rfftfreq(shape[1])[None] ** 2
    kernel = np.exp(-2 * (np.pi * smoothing / pixel) ** 2 * frequency)
    place = (xy - xy.min(axis=0) + margin) / pixel
    corner = place.astype(int)
    dx, dy = (place - corner).T
    out = np.empty((len(xy), count))
    for field in range(count):
        image = fft.irfft2(fft.rfft2(rng.standard_normal(shape)) * kernel, s=shape)
        image /= image.std()
        x, y = corner.T
        low = image[x, y] * (1 - dx) + image[x + 1, y] * dx
        high = image[x, y + 1] * (1 - dx) + image[x + 1, y + 1] * dx
        out[:, field] = low * (1 - dy) + high * dy
    return out


@pytest.fixture(scope="session")
def hexagonal_grid():
    return _hexagonal_grid


@pytest.fixture(scope="session")
def smooth_fields():
    return _smooth_fields
