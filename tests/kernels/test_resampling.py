from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array, load_npz

from histocell.kernels import moran, resampling
from histocell.kernels.neighbors import rbf_weights
from histocell.kernels.resampling import Draws


@pytest.fixture
def small():
    rng = np.random.default_rng(0)
    xy, values = rng.uniform(size=(60, 2)), rng.gamma(1, size=(60, 3))
    weights = rbf_weights(xy, length_scale=0.15).toarray()
    weights[np.triu_indices(60, 20)] = 0  # not symmetric
    z, _ = moran.standardize(values)
    return moran.normalize_weights(csr_array(weights)), z


@pytest.mark.parametrize("joint", [True, False])
def test_permutations_spelt_out(small, joint):
    weights, z = small
    dense, n = weights.toarray(), len(z)
    permute = resampling.permute_points if joint else resampling.permute_second
    found = permute(weights, z, Draws(70, np.random.default_rng(1)))
    rng = np.random.default_rng(1)
    draws = []
    for _ in range(70):
        other = z[rng.permutation(n)]
        draws.append((other if joint else z).T @ dense @ other / n)
    draws, observed = np.array(draws), z.T @ dense @ z / n
    np.testing.assert_allclose(found.mean, draws.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(found.sd, draws.std(axis=0, ddof=1), atol=1e-12)
    np.testing.assert_allclose(found.upper, (1 + (draws >= observed).sum(axis=0)) / 71)
    np.testing.assert_allclose(found.lower, (1 + (draws <= observed).sum(axis=0)) / 71)


@pytest.mark.parametrize("section", ["A1", "B1", "D1"])
@pytest.mark.parametrize("name", ["diag", "nodiag"])
def test_joint_permutation_agrees_with_spatialdm(parity_dir, section, name):
    folder = parity_dir / "moran" / section
    values = pd.read_csv(folder / "proportions.tsv", sep="\t", index_col=0).to_numpy()
    weights = csr_array(load_npz(folder / f"W_spatialdm_{name}.npz"))
    z, _ = moran.standardize(values)
    found = resampling.permute_points(weights, z, Draws(999, np.random.default_rng(0)))
    truth = np.load(folder / f"spatialdm_perm_{name}.npz")
    pair = tuple(truth["pairs"].T)
    assert (np.abs(found.mean[pair] - truth["null_mean"]) < 5 * truth["null_sd"] * np.sqrt(2 / 999)).all()
    np.testing.assert_allclose(found.sd[pair], truth["null_sd"], rtol=0.12)
    p = truth["p_plus1"]
    assert (np.abs(found.upper[pair] - p) < 4 * np.sqrt(2 * p * (1 - p) / 999) + 0.002).all()
    # its mean in closed form: a kept diagonal moves it
    lag, n = moran.sparse_lag(weights, z), len(z)
    share = lag.trace / n - (n - lag.trace) / (n * (n - 1))
    expected = moran.mean_products(z, z) * share
    assert (np.abs(found.mean - expected)[pair] < 5 * found.sd[pair] / np.sqrt(999)).all()


@pytest.mark.parametrize("section", ["A1", "D1"])
def test_permuting_the_second_agrees_with_esda(parity_dir, section):
    folder = parity_dir / "moran" / section
    values = pd.read_csv(folder / "proportions.tsv", sep="\t", index_col=0).to_numpy()
    z, _ = moran.standardize(values)
    weights = moran.normalize_weights(csr_array(load_npz(folder / "W_esda_knn8_row.npz")), row_standardize=True)
    found = resampling.permute_second(weights, z, Draws(999, np.random.default_rng(0)))
    truth = np.load(folder / "esda_bv.npz")
    pair = tuple(truth["pairs"].T)
    np.testing.assert_allclose(found.sd[pair], truth["seI_sim"], rtol=0.12)
    assert (np.abs(found.mean[pair] - truth["EI_sim"]) < 5 * truth["seI_sim"] * np.sqrt(2 / 999)).all()
    folded = np.minimum(found.upper, found.lower)[pair]
    p = truth["p_sim"]
    assert (np.abs(folded - p) < 4 * np.sqrt(2 * p * (1 - p) / 999) + 0.004).all()


def test_shifts_are_calibrated_and_see_what_is_there(hexagonal_grid, smooth_fields):
    rng = np.random.default_rng(2)
    xy = hexagonal_grid(40)
    first, second = np.split(smooth_fields(xy, 150.0, 60, rng=rng), 2, axis=1)
    z, _ = moran.standardize(np.hstack([first, 0.2 * second + 0.98 * first]))
    lag = moran.rbf_lag(xy, z, length_scale=220.0).values
    found = resampling.shift_fields(xy, z, lag, Draws(199, rng), pixel=220.0)
    related = found.upper[np.arange(30), np.arange(30, 60)]
    assert (related < 0.02).all()
    unrelated = found.upper[:30, :30][np.triu_indices(30, 1)]
    assert 0.02 < np.mean(unrelated <= 0.05) < 0.1


def test_tissue_too_small_to_shift():
    xy = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    z, _ = moran.standardize(np.random.default_rng(0).normal(size=(4, 2)))
    with pytest.raises(ValueError, match="too small"):
        resampling.shift_fields(xy, z, z, Draws(9, np.random.default_rng(0)), pixel=5.0)


def test_too_few_draws(small):
    with pytest.raises(ValueError, match="at least two draws"):
        resampling.permute_points(*small, Draws(1, np.random.default_rng(0)))
