"""Labels that occur together: counts by hand, and p of dependent and of independent fields."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from histocell.kernels.tissue.shifts import occur_together


def field(rng, xy, *, side=1000.0, scale=40.0):
    """A smooth field at points of a square."""
    raster = gaussian_filter(rng.normal(size=(100, 100)), scale / side * 100, mode="wrap")
    row, column = np.minimum(xy / side * 100, 99).astype(int).T
    return raster[row, column]


def run(xy, first, second, *, n=99, seed=0):
    k = (max(map(np.max, first)) + 1, max(map(np.max, second)) + 1)
    return occur_together(xy, first, second, n_labels=k, n_permutations=n, rng=np.random.default_rng(seed))


def test_counts_are_stratified_by_section():
    rng = np.random.default_rng(0)
    xy = [rng.uniform(0, 1000, (900, 2)) for _ in "ab"]
    first = [rng.integers(0, 2, 900), np.zeros(900, dtype=int)]  # the second section holds one label of each only
    second = [rng.integers(0, 3, 900), np.full(900, 2)]
    found = run(xy, first, second)
    counts = np.zeros((2, 3))
    for one, other in zip(first, second, strict=True):
        np.add.at(counts, (one, other), 1)
    np.testing.assert_array_equal(found.observed, counts)
    alone = np.bincount(first[0])[:, None] * np.bincount(second[0])[None] / 900
    alone[0, 2] += 900
    np.testing.assert_allclose(found.expected, alone)
    assert (found.p > 0.02).all()


def test_dependent_fields_are_found_and_independent_ones_are_not():
    hits, power = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        xy = rng.uniform(0, 1000, (3000, 2))
        one, other = field(rng, xy), field(rng, xy)
        hits.append((run([xy], [(one > 0).astype(int)], [(other > 0).astype(int)]).p < 0.05).any())
        shared = one + 0.5 * np.std(one) * rng.normal(size=len(xy))
        power.append((run([xy], [(one > 0).astype(int)], [(shared > 0).astype(int)]).p < 0.05).all())
    assert np.mean(hits) <= 0.2  # a test that permutes cells would find nearly all
    assert np.mean(power) >= 0.9


def test_too_small_to_shift():
    xy = np.random.default_rng(0).uniform(0, 100, (60, 2))
    labels = np.arange(60) % 2
    found = run([xy], [labels], [labels])
    assert np.isnan(found.p).all()
    assert np.isfinite(found.z).all()


def test_a_label_on_all_points_has_no_p():
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, 1000, (2000, 2))
    found = run([xy], [np.zeros(2000, dtype=int)], [rng.integers(0, 2, 2000)])
    assert np.isnan(found.p).all()
    assert np.isnan(found.z).all()
