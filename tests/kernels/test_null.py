from __future__ import annotations

import numba
import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist

from histocell.kernels import moran, null

LENGTH = 220.0


def pairs_of(fields, xy, **kernel):
    z, _ = moran.standardize(fields)
    lag = moran.rbf_lag(xy, z, length_scale=LENGTH, **kernel).values
    return z, lag, moran.mean_products(z, lag)


@pytest.mark.parametrize("shape", [(12, 12), (1, 30), (7, 3)])
def test_pair_sums_equal_all_pairs(shape):
    rng = np.random.default_rng(0)
    xy = rng.integers(0, shape, size=(80, 2)) * 10.0  # on the raster, several points on a pixel
    values = rng.normal(size=80)
    raster = null.Raster(xy, 10.0, 20.0)
    bins = np.rint(cdist(xy, xy) / 20).astype(int) + 1
    np.fill_diagonal(bins, 0)
    size = len(raster.n_pairs)
    np.testing.assert_array_equal(raster.n_pairs, np.bincount(bins.ravel(), minlength=size))
    products = np.bincount(bins.ravel(), weights=np.outer(values, values).ravel(), minlength=size)
    np.testing.assert_allclose(raster.pair_sums(values), products, atol=1e-10)


def test_variance_of_a_known_covariance(hexagonal_grid, smooth_fields):
    """Averaged over many fields, the estimate is what the true covariances give."""
    rng = np.random.default_rng(1)
    xy, smoothing = hexagonal_grid(30), 150.0
    z, lag, r = pairs_of(smooth_fields(xy, smoothing, 80, rng=rng), xy)
    spread = null.stationary_spread(xy, z, lag, length_scale=LENGTH)
    off = ~np.eye(80, dtype=bool)
    weights = np.exp(-(cdist(xy, xy) ** 2) / (2 * LENGTH**2))
    weights[weights < 0.2] = 0
    weights *= len(xy) / weights.sum()
    covariance = np.exp(-(cdist(xy, xy) ** 2) / (4 * smoothing**2))
    truth = np.sum((weights @ covariance @ weights.T) * covariance) / len(xy) ** 2
    assert spread.variance[off].mean() == pytest.approx(truth, rel=0.15)
    assert r[off].var() == pytest.approx(truth, rel=0.25)


@pytest.mark.parametrize("smoothing", [0.0, 300.0])
@pytest.mark.parametrize("skewed", [False, True])
def test_type_one_error(smoothing, skewed, hexagonal_grid, smooth_fields):
    rng = np.random.default_rng(2)
    xy = hexagonal_grid(40)
    fields = smooth_fields(xy, smoothing, 100, rng=rng)
    z, lag, r = pairs_of(np.exp(fields) if skewed else fields, xy)
    upper, lower = null.tail_probabilities(r, null.stationary_spread(xy, z, lag, length_scale=LENGTH))
    off = np.triu(np.ones(r.shape, dtype=bool), 1)
    for alternative in ("two-sided", "greater", "less"):
        rate = np.mean(null.combine_tails(upper, lower, alternative)[off] < 0.05)
        assert 0.025 < rate < 0.085, alternative
    if smoothing:
        analytic = null.analytic_spread(moran.rbf_lag(xy, z, length_scale=LENGTH).analytic_variance, lag)
        assert np.mean(stats.norm.sf(r / np.sqrt(analytic.variance))[off] < 0.05) > 0.35


def test_power(parity_dir, smooth_fields):
    xy = np.load(parity_dir / "moran" / "calibration" / "grid.npz")["xy_um"]
    rng = np.random.default_rng(3)
    first, second = np.split(smooth_fields(xy, 150.0, 200, rng=rng), 2, axis=1)
    z, lag, r = pairs_of(np.hstack([first, 0.6 * first + 0.8 * second]), xy)
    upper, _ = null.tail_probabilities(r, null.stationary_spread(xy, z, lag, length_scale=LENGTH))
    assert np.mean(upper[np.arange(100), np.arange(100, 200)] < 0.05) > 0.97


def test_simulated_fields_agree_with_the_fixture(parity_dir):
    folder = parity_dir / "moran" / "calibration"
    xy, truth = np.load(folder / "grid.npz")["xy_um"], np.load(folder / "calibration.npz")
    fields = np.random.default_rng(41000).standard_normal((8649, 400))
    row, column = np.divmod(np.arange(8649), 93)
    inner = (row >= 24) & (row < 69) & (column >= 24) & (column < 69)
    _, _, r = pairs_of(fields[inner], xy)
    np.testing.assert_allclose(r[np.arange(200), np.arange(200, 400)], truth["null0_R"], atol=1e-10)


def test_symmetric_weights_give_symmetric_p(smooth_fields):
    rng = np.random.default_rng(4)
    xy = rng.uniform(0, 3000, size=(700, 2))
    z, lag, r = pairs_of(smooth_fields(xy, 200.0, 6, rng=rng), xy)
    spread = null.stationary_spread(xy, z, lag, length_scale=LENGTH)
    for part in (spread.variance, spread.scale, spread.skew, spread.n_eff, *null.tail_probabilities(r, spread)):
        np.testing.assert_allclose(part, part.T, rtol=1e-9)
    assert (np.abs(r) <= spread.scale + 1e-12).all()


def test_independent_points_are_worth_one_each(hexagonal_grid):
    rng = np.random.default_rng(5)
    xy = hexagonal_grid(40)
    z, lag, _ = pairs_of(rng.normal(size=(1600, 40)), xy)
    n_eff = null.stationary_spread(xy, z, lag, length_scale=LENGTH).n_eff
    assert np.median(n_eff) == pytest.approx(1600, rel=0.05)


def test_p_is_never_zero_and_intervals_hold_r():
    r = np.array([[0.9999999, -0.9999999, 0.0]])
    spread = null.Spread(np.full((1, 3), 1e-6), np.ones((1, 3)), np.zeros((1, 3)))
    upper, lower = null.tail_probabilities(r, spread)
    assert (upper > 0).all()
    assert (lower > 0).all()
    assert upper[0, 2] == pytest.approx(0.5)
    low, high = null.confidence_interval(r, spread)
    assert (low <= r).all()
    assert (r <= high).all()
    wide = null.Spread(np.ones((1, 3)), np.ones((1, 3)), np.zeros((1, 3)))  # two effective points
    low, high = null.confidence_interval(np.zeros((1, 3)), wide)
    np.testing.assert_array_equal([low[0, 0], high[0, 0]], [-1, 1])


def test_t_test_of_independent_points():
    """With n_eff = n and scale 1 it is the t test of a correlation."""
    n, r = 30, np.array([[0.37]])
    spread = null.Spread(np.full((1, 1), 1 / (n - 1)), np.ones((1, 1)), np.zeros((1, 1)))
    upper, lower = null.tail_probabilities(r, spread)
    t = 0.37 * np.sqrt((n - 2) / (1 - 0.37**2))
    assert upper[0, 0] == pytest.approx(stats.t.sf(t, n - 2))
    assert lower[0, 0] == pytest.approx(stats.t.cdf(t, n - 2))
    assert null.combine_tails(upper, lower, "two-sided")[0, 0] == pytest.approx(2 * stats.t.sf(t, n - 2))


def test_large_rasters():
    spread_out = np.array([[0.0, 0.0], [1e6, 1e6]])
    with pytest.warns(UserWarning, match="autocovariances are estimated on a raster"):
        assert null.choose_pixel(spread_out, 10.0) > 5
    assert null.choose_pixel(spread_out, 1e5) == 25_000
    assert null.choose_pixel(spread_out, 2e3) == 1000


def test_threads_change_nothing(smooth_fields):
    rng = np.random.default_rng(6)
    xy = rng.uniform(0, 3000, size=(2000, 2))
    fields = smooth_fields(xy, 150.0, 5, rng=rng)
    threads, found = numba.get_num_threads(), []
    for count in (1, threads):
        numba.set_num_threads(count)
        z, lag, r = pairs_of(fields, xy)
        found.append(null.tail_probabilities(r, null.stationary_spread(xy, z, lag, length_scale=LENGTH))[0])
    numba.set_num_threads(threads)
    np.testing.assert_array_equal(*found)


def test_false_discovery():
    p = np.array([0.01, np.nan, 0.04, 0.03])
    np.testing.assert_allclose(null.false_discovery(p), [0.03, np.nan, 0.04, 0.04])
    assert np.isnan(null.false_discovery(np.full(3, np.nan))).all()


def test_local_p_is_calibrated_where_the_normal_approximation_is_not(hexagonal_grid, smooth_fields):
    rng = np.random.default_rng(7)
    xy = hexagonal_grid(30)
    z, lag, _ = pairs_of(smooth_fields(xy, 300.0, 60, rng=rng), xy)
    found = [null.local_tail(z[:, a], lag[:, a + 30], rng=rng) for a in range(30)]
    p = np.concatenate([each[1] for each in found])
    assert np.mean(p < 0.05) == pytest.approx(0.05, abs=0.015)
    assert p.min() > 0
    np.testing.assert_allclose(found[0][0].mean(), np.mean(z[:, 0] * lag[:, 30]))


def test_absence_together_is_not_co_localization():
    rng = np.random.default_rng(8)
    own, lagged = rng.normal(size=200), rng.normal(size=200)
    own[0], lagged[0] = -9, -9
    own[1], lagged[1] = 9, 9
    r, p = null.local_tail(own, lagged, rng=rng)
    assert r[0] == r[1] == 81
    assert p[0] > 0.2
    assert p[1] < 1e-3


def test_a_field_without_variance_has_no_probability():
    spread = null.Spread(np.full((2, 2), 0.01), np.array([[0.0, 0.5], [0.5, 0.5]]), np.zeros((2, 2)))
    upper, lower = null.tail_probabilities(np.array([[1e-17, 0.1], [0.1, 0.2]]), spread)
    assert np.isnan(upper[0, 0])
    assert np.isnan(lower[0, 0])
    assert np.isfinite(upper[1]).all()
    assert np.isfinite(lower[1]).all()
