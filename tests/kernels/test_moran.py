from __future__ import annotations

import numba
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.sparse import csr_array, load_npz
from scipy.spatial.distance import cdist

from histocell.kernels import moran
from histocell.kernels.neighbors import rbf_weights


def naive_r(xy, values, length_scale, cutoff, include_self):
    """Every sum spelt out."""
    n, k = values.shape
    z = (values - values.mean(axis=0)) / values.std(axis=0)
    total, products = 0.0, np.zeros((k, k))
    for i in range(n):
        for j in range(n):
            weight = np.exp(-((xy[i] - xy[j]) ** 2).sum() / (2 * length_scale**2))
            if weight >= cutoff and (include_self or i != j):
                total += weight
                products += weight * np.outer(z[i], z[j])
    return products / total


def our_r(xy, values, **kernel):
    z, _ = moran.standardize(values)
    return moran.mean_products(z, moran.rbf_lag(xy, z, **kernel).values)


@pytest.mark.parametrize("include_self", [True, False])
def test_double_loop(include_self):
    rng = np.random.default_rng(0)
    xy, values = rng.uniform(size=(40, 2)), rng.gamma(1, size=(40, 3))
    kernel = {"length_scale": 0.2, "cutoff": 0.1, "include_self": include_self}
    np.testing.assert_allclose(our_r(xy, values, **kernel), naive_r(xy, values, **kernel), atol=1e-12)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    shift=st.floats(-1e3, 1e3),
    factor=st.floats(0.01, 100),
    angle=st.floats(0, 6.3),
    include_self=st.booleans(),
)
def test_invariances(seed, shift, factor, angle, include_self):
    rng = np.random.default_rng(seed)
    xy, values = rng.uniform(size=(60, 2)), rng.gamma(1, size=(60, 4))
    kernel = {"length_scale": 0.13, "include_self": include_self}
    r = our_r(xy, values, **kernel)
    np.testing.assert_allclose(r, r.T, atol=1e-12)
    np.testing.assert_allclose(our_r(xy, values * factor + shift, **kernel), r, atol=1e-8)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    np.testing.assert_allclose(our_r(xy @ turn + shift, values, **kernel), r, atol=1e-8)
    order = rng.permutation(60)
    np.testing.assert_allclose(our_r(xy[order], values[order], **kernel), r, atol=1e-12)
    flipped = values * [-1, 1, 1, 1]
    np.testing.assert_allclose(our_r(xy, flipped, **kernel)[0, 1:], -r[0, 1:], atol=1e-12)


def test_float32_is_close_and_stays_float32():
    rng = np.random.default_rng(1)
    xy, values = rng.uniform(size=(3000, 2)), rng.gamma(1, size=(3000, 5)) + 1000
    z, _ = moran.standardize(values.astype(np.float32))
    assert z.dtype == np.float32
    lag = moran.rbf_lag(xy, z, length_scale=0.02)
    assert lag.values.dtype == np.float32
    exact = our_r(xy, values.astype(np.float32).astype(np.float64), length_scale=0.02)
    np.testing.assert_allclose(moran.mean_products(z, lag.values), exact, atol=1e-6)


def test_threads_change_nothing():
    rng = np.random.default_rng(2)
    xy, values = rng.uniform(size=(3000, 2)), rng.gamma(1, size=(3000, 5))
    threads = numba.get_num_threads()
    found = []
    for count in (1, threads):
        numba.set_num_threads(count)
        found.append(our_r(xy, values, length_scale=0.02))
    numba.set_num_threads(threads)
    np.testing.assert_array_equal(*found)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), n_labels=st.integers(2, 8), include_self=st.booleans())
def test_labels_are_indicators(seed, n_labels, include_self):
    rng = np.random.default_rng(seed)
    xy, labels = rng.uniform(size=(300, 2)), rng.integers(n_labels, size=300)
    kernel = {"length_scale": 0.06, "include_self": include_self}
    counted = moran.rbf_label_lag(xy, labels, n_labels, **kernel)
    z, constant = moran.standardize(moran.indicators(labels, n_labels))
    assert not constant.any()
    dense = moran.rbf_lag(xy, z, **kernel)
    np.testing.assert_allclose(counted.values, dense.values, atol=2e-5)
    np.testing.assert_allclose(counted.rows, dense.rows, atol=1e-12)
    np.testing.assert_allclose(moran.mean_products(z, counted.values), moran.mean_products(z, dense.values), atol=1e-6)


def test_a_label_that_nobody_has():
    labels = np.array([0, 0, 2, 2])
    lag = moran.rbf_label_lag(np.arange(8.0).reshape(4, 2), labels, 3, length_scale=3.0)
    assert np.isfinite(lag.values).all()
    np.testing.assert_array_equal(lag.values[:, 1], 0)


def test_isolated_points_and_no_neighbours_at_all():
    xy = np.array([[0.0, 0], [1, 0], [0, 1], [100, 100]])
    z, _ = moran.standardize(np.random.default_rng(0).normal(size=(4, 2)))
    lag = moran.rbf_lag(xy, z, length_scale=1.0, include_self=False)
    assert lag.rows[3] == 0
    np.testing.assert_array_equal(lag.values[3], 0)
    assert lag.rows.sum() == pytest.approx(4)
    alone = moran.rbf_lag(xy * 1000, z, length_scale=1.0, include_self=False)
    np.testing.assert_array_equal(alone.values, 0)
    np.testing.assert_array_equal(moran.sparse_lag(csr_array((4, 4)), z).values, 0)


def test_constants_are_found():
    values = np.column_stack([np.full(50, 0.1), np.full(50, 1e8), np.arange(50.0), 1e6 + np.arange(50.0)])
    for dtype in (np.float64, np.float32):
        z, constant = moran.standardize(values.astype(dtype))
        np.testing.assert_array_equal(constant, [True, True, False, False])
        np.testing.assert_array_equal(z[:, :2], 0)
        np.testing.assert_allclose(z[:, 2:].std(axis=0), 1, rtol=1e-5)


def test_moments_are_those_of_the_matrix():
    rng = np.random.default_rng(3)
    xy, z = rng.uniform(size=(200, 2)), rng.normal(size=(200, 2))
    weights = moran.normalize_weights(rbf_weights(xy, length_scale=0.1))
    dense = weights.toarray()
    for lag in (moran.rbf_lag(xy, z, length_scale=0.1), moran.sparse_lag(weights, z)):
        np.testing.assert_allclose(lag.values, dense @ z, atol=1e-12)
        np.testing.assert_allclose(lag.rows, dense.sum(axis=1))
        np.testing.assert_allclose(lag.squares, (dense**2).sum(axis=1))
        assert lag.trace == pytest.approx(np.trace(dense))
        assert lag.mutual == pytest.approx((dense * dense.T).sum())
        assert lag.cross == pytest.approx(dense.sum(axis=1) @ dense.sum(axis=0))
        assert lag.symmetric
    centering = np.eye(200) - 1 / 200
    closed_form = np.trace(centering @ dense @ centering @ dense.T) / 199**2
    assert moran.rbf_lag(xy, z, length_scale=0.1).analytic_variance == pytest.approx(closed_form)


def test_weights_of_another_size():
    with pytest.raises(ValueError, match="weights have shape"):
        moran.sparse_lag(csr_array(np.eye(3)), np.zeros((4, 2)))


class TestSpatialDM:
    @pytest.fixture(params=["A1", "B1", "D1"])
    def section(self, request, parity_dir):
        folder = parity_dir / "moran" / request.param
        xy = pd.read_csv(folder / "coords.tsv", sep="\t")[["x_um", "y_um"]].to_numpy()
        values = pd.read_csv(folder / "proportions.tsv", sep="\t", index_col=0).to_numpy()
        return folder, xy, values

    @pytest.mark.parametrize("diagonal", [True, False])
    def test_global_and_local(self, section, diagonal):
        folder, xy, values = section
        name = "diag" if diagonal else "nodiag"
        z, _ = moran.standardize(values)
        lag = moran.rbf_lag(xy, z, length_scale=440.0, cutoff=0.2, include_self=diagonal)
        r = moran.mean_products(z, lag.values)
        truth = np.load(folder / f"spatialdm_global_{name}.npz")
        np.testing.assert_allclose(r, truth["R"], atol=1e-10)
        score = r / np.sqrt(lag.analytic_variance)
        np.testing.assert_allclose(score, truth["z"], atol=1e-9)
        np.testing.assert_allclose(stats.norm.sf(score), truth["p"], atol=1e-10)
        local = np.load(folder / f"spatialdm_local_{name}.npz")
        a, b = local["pairs"].T
        np.testing.assert_allclose(z[:, a] * lag.values[:, b], local["local_I"], atol=1e-10)
        np.testing.assert_allclose(z[:, b] * lag.values[:, a], local["local_I_R"], atol=1e-10)

    @pytest.mark.parametrize("diagonal", [True, False])
    def test_weights(self, section, diagonal):
        folder, xy, _ = section
        ours = moran.normalize_weights(rbf_weights(xy, length_scale=440.0, include_self=diagonal))
        theirs = load_npz(folder / f"W_spatialdm_{'diag' if diagonal else 'nodiag'}.npz")
        assert abs(ours - csr_array(theirs)).max() < 1e-10

    def test_row_standardised_weights_of_esda(self, section):
        folder, _, values = section
        weights = csr_array(load_npz(folder / "W_esda_knn8_row.npz"))
        z, _ = moran.standardize(values)
        lag = moran.sparse_lag(weights, z, row_standardize=True)
        assert not lag.symmetric
        np.testing.assert_allclose(moran.mean_products(z, lag.values), np.load(folder / "esda_bv.npz")["I"], atol=1e-10)

    def test_truncated_weights_have_a_direction(self, parity_dir):
        folder = parity_dir / "moran" / "edge_cases"
        values = pd.read_csv(parity_dir / "moran" / "A1" / "proportions.tsv", sep="\t", index_col=0).to_numpy()
        z, _ = moran.standardize(values)
        weights = csr_array(load_npz(folder / "W_knn20_truncated.npz"))
        lag = moran.sparse_lag(csr_array(weights.T), z)  # SpatialDM lags the first variable, here it is the second
        truth = np.load(folder / "edge_cases.npz")
        assert not lag.symmetric
        np.testing.assert_allclose(moran.mean_products(z, lag.values), truth["knn20_R"], atol=1e-10)
        np.testing.assert_allclose(truth["knn20_R"] / np.sqrt(lag.analytic_variance), truth["knn20_z"], atol=1e-8)


def test_sids(data_dir):
    folder = data_dir / "esda_sids2"
    values = pd.read_csv(folder / "vars.csv")
    weights = csr_array(np.loadtxt(folder / "W_binary.csv", delimiter=","))
    z, _ = moran.standardize(values.to_numpy())
    lag = moran.sparse_lag(weights, z, row_standardize=True)
    r = pd.DataFrame(moran.mean_products(z, lag.values), values.columns, values.columns)
    for row in pd.read_csv(folder / "moran_bv_I.csv").itertuples():
        assert r.loc[row.x, row.y] == pytest.approx(row.I, abs=1e-10)
    local = np.loadtxt(folder / "local_bv_SIDR74_SIDR79.csv")
    ours = z[:, 0] * lag.values[:, 1] * (len(z) - 1) / len(z)
    np.testing.assert_allclose(ours, local, atol=1e-10)


def test_coincident_points(parity_dir):
    truth = np.load(parity_dir / "moran" / "edge_cases" / "edge_cases.npz")
    weights = moran.normalize_weights(rbf_weights(truth["coincident_xy"], length_scale=300.0))
    np.testing.assert_allclose(weights.toarray(), truth["coincident_W_correct"], atol=1e-10)
    r = our_r(truth["coincident_xy"], truth["coincident_fields"], length_scale=300.0)
    assert r[0, 1] == pytest.approx(0.017508993212312852, abs=1e-10)


def test_coincident_points_have_the_weight_of_a_point_with_itself():
    xy = np.random.default_rng(0).uniform(size=(30, 2))
    xy[7] = xy[3]
    weights = rbf_weights(xy, length_scale=0.2).toarray()
    assert weights[3, 7] == weights[7, 3] == weights[3, 3] == 1
    np.testing.assert_allclose(weights, np.where((w := np.exp(-(cdist(xy, xy) ** 2) / 0.08)) < 0.2, 0, w), atol=1e-12)
