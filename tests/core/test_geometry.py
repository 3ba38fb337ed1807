from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from histocell._core import geometry


def grid(pitch: float) -> np.ndarray:
    y, x = np.mgrid[:6, :7]
    return np.column_stack([x.ravel(), y.ravel()]) * pitch


def test_pitch_of_a_grid_survives_jitter_and_a_missing_spot():
    xy = np.delete(grid(290.0), 9, axis=0) + np.random.default_rng(0).normal(0, 4, (41, 2))
    assert geometry.spot_pitch(xy) == pytest.approx(290, rel=0.02)
    assert geometry.mpp_from_pitch(grid(290.0), 200.0) == pytest.approx(200 / 290)


def test_pitch_needs_two_places():
    with pytest.raises(ValueError, match="two spots"):
        geometry.spot_pitch(np.ones((5, 2)))


@pytest.mark.parametrize("mpp", [0.0, -1.0, 0.01, 500.0, np.nan, np.inf])
def test_absurd_mpp(mpp):
    with pytest.raises(ValueError, match="between"):
        geometry.check_mpp(mpp)


@given(
    hnp.arrays(np.float64, (5, 2), elements=st.floats(-1e4, 1e5)),
    st.floats(1, 2000),
)
def test_windows_are_square_and_centred(xy, size):
    windows = geometry.square_windows(xy, size)
    edge = windows[:, 2] - windows[:, 0]
    assert (edge == windows[:, 3] - windows[:, 1]).all()
    assert (np.abs(edge - size) <= 0.5).all()
    centre = np.column_stack([windows[:, [1, 3]].mean(axis=1), windows[:, [0, 2]].mean(axis=1)])
    assert np.abs(centre - xy).max() <= 1.0


def test_windows_inside():
    windows = np.array([[0, 0, 10, 20], [-1, 0, 9, 20], [0, 1, 10, 21]])
    assert geometry.windows_inside(windows, (10, 20)).tolist() == [True, False, False]


def test_swapped_coordinates_are_told():
    xy = np.random.default_rng(0).uniform([0, 0], [900, 90], (50, 2))
    assert geometry.check_inside(xy, (100, 1000), "spots").all()
    with pytest.raises(ValueError, match="swapped"):
        geometry.check_inside(xy[:, ::-1], (100, 1000), "spots")


def test_points_of_another_image_are_told():
    with pytest.raises(ValueError, match="none of the 3 points"):
        geometry.check_inside(np.full((3, 2), 5000.0), (100, 100), "spots")
