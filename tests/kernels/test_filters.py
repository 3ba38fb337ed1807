from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from histocell.kernels.filters import blur, box_mean, gaussian_taps, halve


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width), dtype=np.float32)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5])
def test_taps_sum_to_one_and_have_the_variance_of_the_gaussian(sigma):
    taps = gaussian_taps(sigma).astype(float)
    assert taps[0] + 2 * taps[1:].sum() == pytest.approx(1, abs=1e-6)
    if sigma >= 1:
        assert 2 * (taps[1:] * np.arange(1, len(taps)) ** 2).sum() == pytest.approx(sigma**2, rel=0.05)


@given(st.integers(1, 12), st.integers(1, 12), st.floats(0.3, 3))
@settings(max_examples=25, deadline=None)
def test_blur_is_a_separable_convolution(height, width, sigma):
    image, taps = noise(height, width), gaussian_taps(sigma)
    kernel = np.concatenate([taps[:0:-1], taps])
    expected = ndimage.correlate1d(ndimage.correlate1d(image, kernel, 1, mode="nearest"), kernel, 0, mode="nearest")
    np.testing.assert_allclose(blur(image, taps), expected, atol=1e-5)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 12))
@settings(max_examples=25, deadline=None)
def test_box_mean_is_the_mean_of_the_window(height, width, radius):
    image = noise(height, width)
    expected = [
        [image[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1].mean() for x in range(width)]
        for y in range(height)
    ]
    np.testing.assert_allclose(box_mean(image, radius), expected, atol=1e-5)


def test_a_box_mean_counts_no_pixel_above_the_ceiling():
    image = noise(20, 30)
    np.testing.assert_array_equal(box_mean(image, 4, 0.4), box_mean(np.minimum(image, np.float32(0.4)), 4))


def test_halve_averages_two_by_two_and_drops_an_odd_edge():
    image = noise(7, 10)
    np.testing.assert_allclose(halve(image), image[:6].reshape(3, 2, 5, 2).mean(axis=(1, 3)), atol=1e-6)
