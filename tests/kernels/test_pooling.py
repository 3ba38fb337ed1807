from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from histocell.kernels.pooling import pool_gaussian


@given(st.integers(1, 10), st.integers(1, 10), st.floats(0.3, 4), st.floats(0.5, 8), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_pooling_is_a_weighted_mean(rows, columns, sigma, reach, seed):
    rng = np.random.default_rng(seed)
    grid = rng.random((rows, columns, 3), dtype=np.float32)
    centers = rng.uniform(-3, 13, (4, 2))
    y, x = np.mgrid[:rows, :columns] + 0.5
    expected = np.zeros((4, 3))
    for i, (cy, cx) in enumerate(centers):
        square = (y - cy) ** 2 + (x - cx) ** 2
        weight = np.exp(-square / (2 * sigma**2)) * (square <= reach**2)
        if weight.sum() > 0:
            expected[i] = np.einsum("yx,yxk->k", weight, grid) / weight.sum()
    np.testing.assert_allclose(pool_gaussian(grid, centers, sigma, reach), expected, rtol=1e-6, atol=1e-9)


def test_a_constant_stays():
    grid = np.full((20, 20, 2), 3, np.float32)
    np.testing.assert_allclose(pool_gaussian(grid, np.array([[10.0, 10.0], [0.0, 19.0]]), 3.0, 6.0), 3)
