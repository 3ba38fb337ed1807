"""Means over discs beside a double loop."""

from __future__ import annotations

import numpy as np
import pytest

from histocell.kernels.tissue.discs import disc_means


@pytest.mark.parametrize("radius", [0.5, 3.0, 40.0])
def test_beside_a_double_loop(radius):
    rng = np.random.default_rng(0)
    xy = np.vstack([rng.uniform(0, 30, (300, 2)), [[500.0, 500.0], [500.0, 500.0]]])
    values = rng.normal(size=(302, 5))
    near = np.linalg.norm(xy[:, None] - xy[None], axis=2) <= radius
    expected = (near[..., None] * values[None]).sum(axis=1) / near.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(disc_means(xy, values, radius), expected, rtol=1e-5, atol=1e-6)


def test_a_point_at_the_very_distance_counts():
    np.testing.assert_array_equal(disc_means([[0.0, 0], [2, 0]], [[1.0], [3.0]], 2.0), [[2], [2]])
