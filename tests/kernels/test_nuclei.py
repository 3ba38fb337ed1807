from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.measure import regionprops

from histocell.kernels.nuclei import MEASURES, flood, measure, surround

EIGHT = np.ones((3, 3))


def bumps(*centers: tuple[int, int], sigma: float = 4.0) -> np.ndarray:
    y, x = np.mgrid[:40, :60]
    return sum(np.exp(-((y - a) ** 2 + (x - b) ** 2) / (2 * sigma**2)) for a, b in centers).astype(np.float32)


def test_two_touching_nuclei_are_split_at_the_pass_between_them():
    surface = bumps((20, 22), (20, 38))
    mask = surface > 0.2
    assert ndimage.label(mask)[1] == 1
    labels, n = flood(surface, mask, 0.05)
    assert n == 2
    assert labels[20, 22] != labels[20, 38]
    np.testing.assert_array_equal(labels > 0, mask)
    assert np.abs(np.diff(np.bincount(labels.ravel())[1:])).max() <= 0.1 * mask.sum()


def test_a_shallow_pass_does_not_split():
    surface = bumps((20, 22), (20, 38))
    drop = surface.max() - surface[20, 30]
    assert flood(surface, surface > 0.2, drop * 1.05)[1] == 1
    assert flood(surface, surface > 0.2, drop * 0.9)[1] == 2


@given(st.integers(1, 14), st.integers(1, 14), st.floats(0.1, 0.9), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_with_no_depth_enough_the_labels_are_the_connected_components(height, width, share, seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((height, width)) < share
    labels, n = flood(rng.random((height, width), dtype=np.float32), mask, 10.0)
    expected, n_expected = ndimage.label(mask, EIGHT)
    assert n == n_expected
    pairs = {(a, b) for a, b in zip(labels.ravel(), expected.ravel(), strict=True)}
    assert len(pairs) == n + (not mask.all())


@given(st.integers(0, 1000))
@example(367)
@settings(max_examples=20, deadline=None)
def test_every_basin_is_connected_and_the_mask_is_covered(seed):
    rng = np.random.default_rng(seed)
    surface = ndimage.gaussian_filter(rng.random((20, 20)), 1.5).astype(np.float32)
    mask = rng.random((20, 20)) < 0.8
    labels, n = flood(surface, mask, 0.0)
    np.testing.assert_array_equal(labels > 0, mask)
    assert set(np.unique(labels)) - {0} == set(range(1, n + 1))
    assert all(ndimage.label(labels == k, EIGHT)[1] == 1 for k in range(1, n + 1))


def test_flood_of_nothing():
    labels, n = flood(np.zeros((4, 4), np.float32), np.zeros((4, 4), bool), 0.1)
    assert n == 0
    assert not labels.any()
    assert measure(labels, 0, np.zeros((2, 4, 4), np.float32)).shape == (0, len(MEASURES))


def test_measures_agree_with_regionprops():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:40, :60]
    labels = np.zeros((40, 60), np.int32)
    labels[((y - 12) / 4) ** 2 + ((x - 15) / 9) ** 2 < 1] = 1
    labels[(y - 28) ** 2 + (x - 40) ** 2 < 36] = 2
    maps = rng.random((2, 40, 60), dtype=np.float32)
    got = dict(zip(MEASURES, measure(labels, 2, maps).T, strict=True))
    for i, region in enumerate(regionprops(labels)):
        inside = labels == region.label
        assert (got["y"][i], got["x"][i]) == pytest.approx(region.centroid)
        assert got["area"][i] == region.area
        # there a pixel is a point, here a unit square of variance 1/12
        long, short = (length**2 / 16 + 1 / 12 for length in (region.axis_major_length, region.axis_minor_length))
        assert got["elongation"][i] == pytest.approx(np.sqrt(long / short))
        assert got["fill"][i] == pytest.approx(1, abs=0.03)
        assert got["h_mean"][i] == pytest.approx(maps[0][inside].mean(), rel=1e-5)
        assert got["h_sd"][i] == pytest.approx(maps[0][inside].std(), rel=1e-4)
        assert got["e_mean"][i] == pytest.approx(maps[1][inside].mean(), rel=1e-5)
    assert (got["cos2"][0], got["sin2"][0]) == pytest.approx((1, 0), abs=1e-6)


def test_a_single_pixel_has_a_shape():
    labels = np.zeros((3, 3), np.int32)
    labels[1, 1] = 1
    row = dict(zip(MEASURES, measure(labels, 1, np.ones((2, 3, 3), np.float32))[0], strict=True))
    assert (row["y"], row["x"], row["area"], row["elongation"]) == (1, 1, 1, 1)
    assert np.isfinite(list(row.values())).all()


def test_surround_is_the_mean_outside_of_the_labels():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (12, 15)).astype(np.int32)
    labels[:3, :3] = 1
    maps = rng.random((2, 12, 15), dtype=np.float32)
    centers = np.array([[0.0, 0.0], [5.2, 6.9], [11.0, 14.0]])
    got = surround(labels, maps, centers, 2)
    np.testing.assert_array_equal(got[0], 0)
    for i, (y, x) in ((1, (5, 7)), (2, (11, 14))):
        window = np.s_[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
        outside = labels[window] == 0
        np.testing.assert_allclose(got[i], [m[window][outside].mean() for m in maps], rtol=1e-5)
