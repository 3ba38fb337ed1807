from __future__ import annotations

import numpy as np
import pytest

from histocell.images.intensities import extremes, range_of
from histocell.images.pixels import background_colour, channel_axis, to_rgb


@pytest.mark.parametrize(
    ("shape", "dims", "axis"),
    [
        ((9, 8), None, None),
        ((9, 8, 3), None, 2),
        ((3, 9, 8), None, 0),
        ((4, 9, 8), None, 0),
        ((3, 9, 3), None, 2),
        ((3, 9, 3), ("c", "y", "x"), 0),
        ((9, 8, 3), ("y", "x", "s"), 2),
    ],
)
def test_channel_axis(shape: tuple[int, ...], dims: tuple[str, ...] | None, axis: int | None) -> None:
    assert channel_axis(shape, dims) == axis


@pytest.mark.parametrize(
    ("shape", "dims"), [((9, 8, 5), None), ((2, 9, 8), None), ((9,), None), ((3, 2, 9), ("c", "x", "y"))]
)
def test_no_brightfield_image(shape: tuple[int, ...], dims: tuple[str, ...] | None) -> None:
    with pytest.raises(ValueError, match="channel"):
        channel_axis(shape, dims)


def test_every_kind_of_value_becomes_the_same_8_bit() -> None:
    eight = np.array([[0, 51, 204, 255]], dtype=np.uint8)
    expected = np.repeat(eight[..., None], 3, axis=-1)
    for pixels in (
        (eight / 255).astype(np.float32),
        eight.astype(np.float64),
        eight.astype(np.uint16),
        eight.astype(np.int64),
        eight.astype(np.uint16) * 257,
        np.rint(eight / 255 * 4095).astype(np.uint16),
    ):
        np.testing.assert_array_equal(to_rgb(pixels, None, range_of(*extremes(pixels, None), pixels.dtype)), expected)
    np.testing.assert_array_equal(to_rgb(eight > 60, None), np.where(expected > 60, 255, 0))


@pytest.mark.parametrize("values", [[-1.0, 2.0], [np.nan, 0.5], [0.0, 3000.0], [np.inf, 1.0], [0.1, 1.2]])
def test_values_that_are_no_image(values: list[float]) -> None:
    with pytest.raises(ValueError, match="pixels|pixel values"):
        range_of(*extremes(np.array([values]), None), np.dtype(float))


def test_transparency_lies_over_white() -> None:
    pixels = np.array([[[0, 0, 0, 0], [100, 100, 100, 255], [0, 0, 0, 51]]], dtype=np.uint8)
    assert to_rgb(pixels, 2)[0].tolist() == [[255] * 3, [100] * 3, [204] * 3]


def test_background_is_the_mode_of_the_glass() -> None:
    rng = np.random.default_rng(0)
    glass = np.array([240, 236, 238]) + rng.integers(-2, 3, (300, 3))
    tissue = np.array([180, 90, 140]) + rng.integers(-30, 30, (2000, 3))
    found = background_colour(np.concatenate([tissue, glass]).astype(np.uint8))
    assert np.abs(np.array(found) - [240, 236, 238]).max() <= 3
    assert background_colour(tissue.astype(np.uint8)) == (255, 255, 255)
