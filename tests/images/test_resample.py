"""Resampling against naive loops and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histocell.images.resample import cover, resample, weights


def matrix(n_in: int, start: float, stop: float, n_out: int) -> np.ndarray:
    """The weights as a dense matrix (n_out, n_in)."""
    first, part = weights(n_in, start, stop, n_out)
    out = np.zeros((n_out, n_in))
    for row, (begin, taps) in enumerate(zip(first, part, strict=True)):
        out[row, begin : begin + len(taps)] += taps
    return out


def area_average(values: np.ndarray, start: float, stop: float, n_out: int) -> np.ndarray:
    """One axis, one value at a time: the integral of a step function over each output pixel."""
    step = (stop - start) / n_out
    out = []
    for i in range(n_out):
        a, b = start + i * step, start + (i + 1) * step
        total = sum(value * max(0.0, min(b, k + 1) - max(a, k)) for k, value in enumerate(values))
        out.append(total / step)
    return np.array(out)


@given(
    n_in=st.integers(1, 40),
    ends=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    n_out=st.integers(1, 12),
    rng=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_shrinking_is_the_area_average(n_in: int, ends: tuple[float, float], n_out: int, rng: int) -> None:
    start, stop = sorted(round(end * n_in, 3) for end in ends)
    if stop - start < n_out:
        return
    values = np.random.default_rng(rng).uniform(0, 255, n_in)
    expected = area_average(values, start, stop, n_out)
    np.testing.assert_allclose(matrix(n_in, start, stop, n_out) @ values, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("size", "out"), [(160, 224), (163, 61), (100, 100), (7, 3), (5, 40)])
def test_a_ramp_stays_a_ramp(size: int, out: int) -> None:
    """The value of a linear image at the centre of an output pixel is the value of the ramp there."""
    ramp = np.linspace(5, 250, size)
    step = size / out
    centre = (np.arange(out) + 0.5) * step - 0.5
    expected = 5 + centre * (245 / (size - 1))
    got = matrix(size, 0, size, out) @ ramp
    inner = (centre >= 0) & (centre <= size - 1)
    if step > 1:  # area averages of fractional windows of a step function differ from the ramp by less than a step
        np.testing.assert_allclose(got[inner], expected[inner], atol=245 / (size - 1) / 2)
    else:
        np.testing.assert_allclose(got[inner], expected[inner], atol=1e-3)


def test_whole_factor_is_the_mean_of_blocks() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8)
    expected = pixels.reshape(8, 3, 9, 4, 3).mean(axis=(1, 3))
    got = resample(pixels, (0, 24), (0, 36), out_shape=(8, 9))
    assert np.abs(got.astype(float) - expected).max() <= 0.5


def test_rows_sum_to_one_and_constants_stay() -> None:
    for n_out in (1, 3, 17, 90):
        np.testing.assert_allclose(matrix(31, 0.3, 30.2, n_out).sum(axis=1), 1, rtol=1e-5)
    white = np.full((31, 31, 3), 255, dtype=np.uint8)
    assert (resample(white, (0.3, 30.2), (0, 31), out_shape=(50, 9)) == 255).all()


def test_cover_takes_a_neighbour_inside_of_the_image_only() -> None:
    assert cover(10, 20, 40, 100) == (9, 21)  # enlarging needs the neighbours of the centres
    assert cover(0, 100, 400, 100) == (0, 100)  # none beyond the image
    assert cover(-5, 5, 40, 100) == (-6, 6)  # but where the window leaves it
    assert cover(10.2, 20.9, 5, 100) == (10, 21)
