from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.sparse import csr_array

from histocell.kernels import labels, moran
from histocell.kernels.neighbors import rbf_weights

TYPES = np.array([0, 0, 0, 1, 1, 2, 2])


@pytest.mark.parametrize("symmetric", [True, False])
def test_moments_equal_those_of_all_arrangements(symmetric):
    rng = np.random.default_rng(0)
    weights = rng.random((7, 7)) * (rng.random((7, 7)) < 0.6)
    weights = weights + weights.T if symmetric else weights
    weights *= 7 / weights.sum()
    z, _ = moran.standardize(moran.indicators(TYPES, 3).astype(np.float64))
    r = np.array([z[list(order)].T @ weights @ z[list(order)] / 7 for order in itertools.permutations(range(7))])
    mean, variance = labels.random_labels(labels.WeightSums.of_matrix(csr_array(weights)), np.bincount(TYPES) / 7)
    np.testing.assert_allclose(mean, r.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(variance, r.var(axis=0), atol=1e-12)


@pytest.mark.parametrize("include_self", [True, False])
def test_sums_of_a_lag_are_those_of_its_weights(include_self):
    rng = np.random.default_rng(1)
    xy, kernel = rng.random((200, 2)), {"length_scale": 0.1, "include_self": include_self}
    lag = moran.rbf_label_lag(xy, rng.integers(0, 3, 200), 3, **kernel)
    weights = moran.normalize_weights(rbf_weights(xy, cutoff=0.2, **kernel))
    ours, truth = labels.WeightSums.of_lag(lag), labels.WeightSums.of_matrix(csr_array(weights))
    for name, value in vars(truth).items():
        assert getattr(ours, name) == pytest.approx(value, rel=1e-9, abs=1e-9), name
