from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histocell import metrics


@pytest.fixture(scope="module")
def awkward(parity_dir):
    arrays = np.load(parity_dir / "metrics" / "abundance.npz")
    values = json.loads((parity_dir / "metrics" / "values.json").read_text())
    return arrays["y_true"], arrays["y_pred"], arrays["slide"], values


def assert_same(found, expected):
    expected = np.array([np.nan if value is None else value for value in expected])
    tolerance = np.full(len(expected), 1e-9)
    tolerance[10:11] = 1e-5  # truth 1e6 with a tiny spread: cancellation
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    assert np.all(np.isnan(expected) | (np.abs(found - expected) <= tolerance))


class TestParity:
    def test_pooled(self, awkward):
        y, p, _, values = awkward
        found = metrics.pearson(y, p)
        assert_same(found, values["pooled_pairwise_complete"]["per_type"])
        expected = values["pooled_pairwise_complete"]["mean_over_defined"]
        assert metrics.nan_mean(found) == pytest.approx(expected, abs=1e-6)

    def test_per_slide(self, awkward):
        y, p, slide, values = awkward
        found = metrics.pearson(y, p, groups=slide)
        for row, name in zip(found, np.unique(slide), strict=True):
            assert_same(row, values["per_slide"]["slides"][str(int(name))]["per_type"])
        assert_same(metrics.nan_mean(found), values["per_slide"]["per_type_mean_over_slides"])

    def test_l1(self, awkward):
        y, p, slide, values = awkward
        np.testing.assert_allclose(metrics.l1(y, p), values["l1"]["per_type"], rtol=1e-12, atol=1e-9)
        keep = [i for i in range(y.shape[1]) if i != 10]
        entries = metrics.absolute_error(y, p)[:, keep]
        assert np.nanmean(entries) == pytest.approx(values["l1"]["without_type10"], abs=1e-9)


@given(seed=st.integers(0, 10**6), scale=st.floats(1e-9, 1e9), shift=st.floats(-1e3, 1e3))
@settings(max_examples=50, deadline=None)
def test_pearson_properties(seed, scale, shift):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, 30, 3))
    r = metrics.pearson(x, y)
    np.testing.assert_allclose(r, [np.corrcoef(x[:, j], y[:, j])[0, 1] for j in range(3)], atol=1e-9)
    np.testing.assert_allclose(metrics.pearson(y, x), r, atol=1e-12)
    np.testing.assert_allclose(metrics.pearson(x, scale * (y + shift)), r, atol=1e-6)
    np.testing.assert_allclose(metrics.pearson(x, -y), -r, atol=1e-12)


def test_undefined_is_nan():
    y = np.array([[1.0, 0.1, np.nan], [2.0, 0.1, 1.0], [3.0, 0.1, np.nan]])
    assert metrics.pearson(y, y)[0] == pytest.approx(1)
    assert np.isnan(metrics.pearson(y, y)[1:]).all()
    assert np.isnan(metrics.pearson(np.empty((0, 2)), np.empty((0, 2)))).all()
    assert np.isnan(metrics.l1(np.full((3, 1), np.nan), np.ones((3, 1)))).all()


def test_coverage_counts_bounds_and_skips_nan():
    y = np.array([[0.0], [1.0], [2.0], [np.nan]])
    assert metrics.coverage(y, np.zeros((4, 1)), np.ones((4, 1)))[0] == pytest.approx(2 / 3)


def test_bootstrap_matches_naive_resampling():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 2))
    y = x + rng.normal(size=(40, 2))
    replicates = metrics.bootstrap_pearson(x, y, n_bootstrap=300, rng=1)
    # The same draws, spot by spot.
    counts = np.random.default_rng(1).multinomial(40, np.full(40, 1 / 40), size=300)
    for found, count in zip(replicates[:20], counts, strict=False):
        rows = np.repeat(np.arange(40), count)
        np.testing.assert_allclose(found, metrics.pearson(x[rows], y[rows]), atol=1e-9)
    low, high = metrics.percentile_interval(replicates)
    assert np.all((low < metrics.pearson(x, y)) & (metrics.pearson(x, y) < high))


def test_bootstrap_of_mean_has_the_standard_error_of_the_mean():
    values = np.random.default_rng(0).normal(size=(200, 1))
    replicates = metrics.bootstrap_mean(values, n_bootstrap=4000, rng=0)
    assert replicates.std() == pytest.approx(values.std() / np.sqrt(200), rel=0.05)
    assert metrics.bootstrap_mean(values, n_bootstrap=0).shape == (0, 1)
    assert np.isnan(metrics.percentile_interval(np.empty((0, 1)))).all()


def test_constant_resample_is_undefined():
    y = np.array([[0.0], [0.0], [0.1]])
    replicates = metrics.bootstrap_pearson(y, y, n_bootstrap=200, rng=0)
    assert np.isnan(replicates).any()
    np.testing.assert_allclose(replicates[np.isfinite(replicates)], 1)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="one shape"):
        metrics.pearson(np.ones((3, 2)), np.ones((2, 2)))
    with pytest.raises(ValueError, match="groups has 2"):
        metrics.l1(np.ones((3, 2)), np.ones((3, 2)), groups=["a", "b"])
