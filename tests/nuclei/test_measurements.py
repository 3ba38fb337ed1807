from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from histocell.nuclei.measurements import nearest_distance, nuclei_table


@given(st.integers(0, 40), st.floats(0.5, 20), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_nearest_distance_against_all_pairs(n, limit, seed):
    points = np.random.default_rng(seed).uniform(-20, 20, (n, 2))
    expected = np.full(n, limit)
    if n > 1:
        expected = np.minimum(np.sort(cdist(points, points), axis=1)[:, 1], limit)
    np.testing.assert_allclose(nearest_distance(points, limit), expected)


def test_nuclei_are_measured_in_physical_units():
    y, x = np.mgrid[:60, :80]
    labels = np.zeros((60, 80), np.int32)
    labels[(y - 20) ** 2 + (x - 20) ** 2 < 64] = 1
    labels[(y - 20) ** 2 + (x - 50) ** 2 < 64] = 2
    labels[50, 70] = 3  # a speck
    maps = np.stack([0.1 + 0.8 * (labels > 0), 0.2 * (labels == 0)]).astype(np.float32)
    got = nuclei_table(labels, 3, maps, threshold=0.5, mpp=0.5)
    assert {len(column) for column in got.values()} == {2}
    np.testing.assert_allclose(got["area"], [(labels == k).sum() / 4 for k in (1, 2)])
    np.testing.assert_allclose(got["x"], [10.25, 25.25])
    np.testing.assert_allclose(got["nearest"], 15)
    np.testing.assert_allclose(got["h_mean"], 1.8, rtol=1e-6)
    np.testing.assert_allclose(got["around_e"], 0.2, rtol=1e-6)
