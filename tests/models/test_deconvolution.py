"""Mixtures of signatures against scipy's NNLS, closed forms and simulated truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import nnls
from scipy.sparse import csr_matrix

from histocell.models.deconvolution.mixtures import fit_mixtures, shares, similar_pairs
from histocell.models.deconvolution.solver import PairProducts, solve_nonnegative

N_TYPES, N_GENES = 5, 600


def simulate(seed, *, platform_sd=0.0, depth=2000, n=150):
    """Signatures with markers, shares of spots, counts, and the factors of the platform."""
    rng = np.random.default_rng(seed)
    signatures = rng.gamma(0.5, 1, N_GENES) * np.exp(rng.normal(0, 1, (N_TYPES, N_GENES)))
    truth = rng.dirichlet([2, 1, 1, 0.5, 0.2], n)
    factors = np.exp(rng.normal(0, platform_sd, N_GENES))
    rates = truth @ signatures * factors
    rates *= depth / rates.sum(axis=1).mean()
    return signatures, truth, csr_matrix(rng.poisson(rates).astype(np.float32)), factors


def naive_shares(counts, signatures):
    """Unweighted NNLS of each spot by scipy."""
    found = np.array([nnls(signatures.T, row)[0] for row in counts.toarray()])
    return found / found.sum(axis=1, keepdims=True)


def error(found, truth):
    return np.abs(found - truth).sum(axis=1).mean()


class TestSolver:
    @pytest.mark.parametrize("seed", range(3))
    def test_equals_scipy(self, seed):
        rng = np.random.default_rng(seed)
        design, y = rng.gamma(0.5, 1, (40, 6)), rng.normal(1, 2, (20, 40))
        weights = rng.gamma(1, 1, (20, 40))
        gram = PairProducts(design.T).gram(weights)
        found = solve_nonnegative(gram, (y * weights) @ design)
        expected = [nnls(design * np.sqrt(w)[:, None], row * np.sqrt(w))[0] for row, w in zip(y, weights, strict=True)]
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert (np.array(expected) == 0).any()  # the bound matters

    def test_start_does_not_matter(self):
        rng = np.random.default_rng(0)
        gram = PairProducts(rng.gamma(1, 1, (4, 30))).gram(np.ones((3, 30)))
        moments = rng.normal(1, 5, (3, 4))
        cold = solve_nonnegative(gram, moments)
        np.testing.assert_allclose(solve_nonnegative(gram, moments, cold + 3), cold, atol=1e-4)

    def test_signature_of_zeros(self):
        gram = np.diag([2.0, 0.0])[None]
        np.testing.assert_allclose(solve_nonnegative(gram, np.array([[4.0, 1.0]])), [[2, 0]])


class TestMixtures:
    def test_noiseless(self):
        signatures, truth, _, _ = simulate(0)
        found = fit_mixtures(csr_matrix(truth @ signatures * 100), signatures)
        np.testing.assert_allclose(shares(found.weights, found.covariance)[0], truth, atol=1e-3)
        np.testing.assert_allclose(found.platform, 1, atol=0.01)

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize(("platform_sd", "limit"), [(0.0, 1.1), (0.8, 0.75)])
    def test_nearer_the_truth_than_naive_nnls(self, seed, platform_sd, limit):
        """By far where genes differ between platforms; about as near where they do not."""
        signatures, truth, counts, _ = simulate(seed, platform_sd=platform_sd)
        found = fit_mixtures(counts, signatures)
        ours = error(shares(found.weights, found.covariance)[0], truth)
        assert ours < limit * error(naive_shares(counts, signatures), truth)

    @pytest.mark.parametrize("seed", range(3))
    def test_platform_factors_help_and_are_found(self, seed):
        signatures, truth, counts, factors = simulate(seed, platform_sd=0.8)
        found, without = fit_mixtures(counts, signatures), fit_mixtures(counts, signatures, n_rounds=0)
        assert error(shares(*found[:2])[0], truth) < error(shares(*without[:2])[0], truth)
        seen = np.asarray(counts.sum(axis=0)).ravel() > 100
        assert np.corrcoef(np.log(found.platform[seen]), np.log(factors[seen]))[0, 1] > 0.85

    @pytest.mark.parametrize("depth", [500, 5000])
    def test_standard_errors_are_honest(self, depth):
        """About 90 % of the truth lies within 1.645 standard errors, of types well above the bound at 0."""
        signatures, truth, counts, _ = simulate(1, depth=depth, n=400)
        part, se = shares(*fit_mixtures(counts, signatures)[:2])
        inner = truth > 0.2
        assert 0.84 < (np.abs(part - truth) <= 1.645 * se)[inner].mean() < 0.95

    def test_depth_and_order_of_spots_do_not_matter(self):
        signatures, _, counts, _ = simulate(2)
        found = fit_mixtures(counts, signatures)
        order = np.random.default_rng(0).permutation(counts.shape[0])
        again = fit_mixtures(counts[order], signatures * 7)
        np.testing.assert_allclose(again.weights * 7, found.weights[order], rtol=1e-3, atol=1e-4)

    def test_chunks_do_not_matter(self, monkeypatch):
        signatures, _, counts, _ = simulate(2)
        whole = fit_mixtures(counts, signatures)
        monkeypatch.setattr("histocell.models.deconvolution.mixtures._CHUNK", 7 * N_GENES)
        chunked = fit_mixtures(counts, signatures)
        np.testing.assert_allclose(chunked.weights, whole.weights, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(chunked.covariance, whole.covariance, rtol=1e-5, atol=1e-10)

    def test_spot_without_counts(self):
        signatures, _, counts, _ = simulate(2, n=20)
        dense = counts.toarray()
        dense[3] = 0
        found = fit_mixtures(csr_matrix(dense), signatures)
        assert (found.weights[3] == 0).all()
        part, se = shares(found.weights, found.covariance)
        assert np.isnan(part[3]).all()
        assert np.isnan(se[3]).all()
        assert np.isfinite(part[np.arange(20) != 3]).all()


def test_shares_by_simulation():
    rng = np.random.default_rng(0)
    weights, covariance = np.array([[3.0, 1.0, 2.0]]), np.array([[[0.02, 0.01, 0], [0.01, 0.03, 0], [0, 0, 0.01]]])
    draws = rng.multivariate_normal(weights[0], covariance[0], 200_000)
    part, se = shares(weights, covariance)
    np.testing.assert_allclose(part[0], [0.5, 1 / 6, 1 / 3])
    np.testing.assert_allclose(se[0], (draws / draws.sum(axis=1, keepdims=True)).std(axis=0), rtol=0.02)


def test_similar_pairs():
    signatures = simulate(0)[0]
    assert similar_pairs(signatures, 0.99) == []
    assert similar_pairs(np.vstack([signatures, 3 * signatures[1]]), 0.99) == [(1, N_TYPES)]
