from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, mutual_info_score

from histocell import metrics


@pytest.mark.parametrize(
    ("n", "n_first", "n_second"),
    [(10, 2, 2), (200, 5, 7), (50, 50, 2), (6, 6, 6), (30, 1, 4), (30, 1, 1), (2000, 20, 5)],
)
def test_agreement_as_scikit_learn(n, n_first, n_second):
    rng = np.random.default_rng(n)
    first = rng.permutation(np.arange(n) % n_first)
    second = (
        np.where(rng.random(n) < 0.5, first % n_second, rng.integers(0, n_second, n)) if n != 6 else rng.permutation(6)
    )
    counts = np.zeros((n_first, n_second))
    np.add.at(counts, (first, second), 1)
    found = metrics.agreement(counts)
    assert found["ari"] == pytest.approx(adjusted_rand_score(first, second), abs=1e-9)
    assert found["ami"] == pytest.approx(adjusted_mutual_info_score(first, second), abs=1e-9)
    assert found["mi"] == pytest.approx(mutual_info_score(first, second), abs=1e-9)


def test_neighbours_by_hand():
    labels = np.array([0, 0, 1, 1])
    near = np.array([[1, 2], [0, -1], [0, 1], [-1, -1]])
    candidates = np.array([1 / 3, 1 / 3, 1 / 3, 1 / 3])
    purity = metrics.neighbor_purity(labels, near, candidates)
    np.testing.assert_allclose(purity, [(1 / 2 - 1 / 3) / (2 / 3), 1.0, -1 / 2, np.nan])


def test_robustness_index_by_hand():
    biology, batch = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    near = np.array([[1, 2], [0, 3], [3, -1], [0, 1]])
    favourable, adverse = metrics.robustness_index(biology, batch, near)
    assert favourable.tolist() == [1, 1, 1, 0]
    assert adverse.tolist() == [1, 1, 0, 1]
