from __future__ import annotations

import numpy as np
import pytest

from histocell.kernels import moran
from histocell.kernels.latent import border_shares
from histocell.kernels.preference import is_whole, no_preference

LENGTH = 220.0


def scattered(n, rng):
    return rng.random((n, 2)) * 93 * np.sqrt(n)


def analyse(xy, types, *, values=None):
    k = int(types.max()) + 1 if values is None else values.shape[1]
    values = moran.indicators(types, k) if values is None else values
    z, _ = moran.standardize(values)
    lag = moran.rbf_lag(xy, z, length_scale=LENGTH, include_self=False)
    r = moran.mean_products(z, lag.values)
    r = (r + r.T) / 2
    return r, no_preference(xy, values, lag.values, length_scale=LENGTH, categories=types is not None)


def largest(xy, k, smoothing, rng, smooth_fields, *, shift=0.0, planted=0.0):
    drawn = smooth_fields(xy, smoothing, k, rng=rng)
    drawn = drawn / drawn.std(axis=0)
    drawn[:, 1] = planted * drawn[:, 0] + np.sqrt(1 - planted**2) * drawn[:, 1]
    return (drawn + shift * np.linspace(0.5, -0.5, k)).argmax(axis=1)


def test_expectation_is_the_share_of_what_x_leaves():
    """From join counts on a ring: of the neighbours of x that are not x, a share p_y / (1 - p_x) is y."""
    n, rng = 400, np.random.default_rng(0)
    types = np.repeat(rng.choice(4, n // 2, p=[0.4, 0.3, 0.2, 0.1]), 2)
    x = moran.indicators(types, 4).astype(np.float64)
    around = sum(np.roll(np.eye(n), step, axis=1) for step in (-2, -1, 1, 2)) / 4
    z, _ = moran.standardize(x)
    angle = 2 * np.pi * np.arange(n) / n
    xy = 100 * n / (2 * np.pi) * np.column_stack([np.cos(angle), np.sin(angle)])
    null = no_preference(xy, x, around @ z, length_scale=LENGTH, categories=True)
    p = x.mean(axis=0)
    own = np.diag(x.T @ around @ x) / x.sum(axis=0)
    joins = p[:, None] * (1 - own[:, None]) * p / (1 - p[:, None])
    by_hand = (joins - np.outer(p, p)) / np.sqrt(np.outer(p * (1 - p), p * (1 - p)))
    off = ~np.eye(4, dtype=bool)
    nearest = np.minimum(np.abs(null.low - by_hand), np.abs(null.high - by_hand))
    assert nearest[off].max() < 1e-9
    assert (null.high - null.low)[off].max() < 0.05


@pytest.mark.parametrize(("k", "smoothing", "shift"), [(3, 0, 0), (5, 0, 1), (5, 150, 0), (12, 150, 1)])
def test_type_one_error(k, smoothing, shift, smooth_fields):
    rng, found = np.random.default_rng(3), []
    for _ in range(40 if k == 3 else 15):
        xy = scattered(800, rng)
        r, null = analyse(xy, largest(xy, k, smoothing, rng, smooth_fields, shift=shift))
        found.append(null.p_values(r, "two-sided")[~np.eye(len(r), dtype=bool)])
    assert 0.015 < np.mean(np.concatenate(found) < 0.05) < 0.085


@pytest.mark.parametrize(("planted", "alternative"), [(0.7, "greater"), (-0.7, "less")])
def test_finds_a_planted_pair(planted, alternative, smooth_fields):
    rng, found = np.random.default_rng(4), []
    for _ in range(3):
        xy = scattered(12_000, rng)
        r, null = analyse(xy, largest(xy, 5, 150, rng, smooth_fields, planted=planted))
        found.append(null.p_values(r, alternative)[[0, 1], [1, 0]])
    assert np.median(found) < 0.01


def test_borders_of_independent_fields(smooth_fields):
    """Between smooth fields of unequal abundance, rare types border each other more than abundance says."""
    rng = np.random.default_rng(5)
    xy = scattered(60_000, rng)
    types = largest(xy, 4, 150, rng, smooth_fields, shift=2.0)
    x = moran.indicators(types, 4)
    lag = moran.rbf_lag(xy, x.astype(np.float64), length_scale=LENGTH, include_self=False)
    joins = x.T @ lag.values / len(x)
    abundance = x.mean(axis=0, dtype=np.float64)
    shares = border_shares(abundance, float(np.trace(joins)))
    np.fill_diagonal(joins, 0)
    seen, strict = joins / joins.sum(axis=1, keepdims=True), abundance / (1 - abundance[:, None])
    off = ~np.eye(4, dtype=bool)
    assert np.abs(shares - seen)[off].max() < 0.03
    assert np.abs(strict - seen)[off].max() > 0.06


def test_borders_where_nothing_clusters():
    """Labels at random: in proportion to abundance."""
    abundance = np.array([0.5, 0.3, 0.15, 0.05])
    shares = border_shares(abundance, float((abundance**2).sum()))
    strict = abundance / (1 - abundance[:, None])
    np.fill_diagonal(strict, 0)
    np.testing.assert_allclose(shares, strict, atol=1e-3)
    np.testing.assert_allclose(shares.sum(axis=1), 1)


def test_independent_shares_of_a_whole(hexagonal_grid, smooth_fields):
    """Independent fields divided by their sum: those of three are far from 0 by the division alone."""
    rng, found, before = np.random.default_rng(6), [], []
    xy = hexagonal_grid(30)
    off = ~np.eye(3, dtype=bool)
    for _ in range(40):
        shares = np.exp(smooth_fields(xy, 150.0, 3, rng=rng))
        shares /= shares.sum(axis=1, keepdims=True)
        assert is_whole(shares)
        r, null = analyse(xy, None, values=shares)
        found.append(null.p_values(r, "two-sided")[off])
        before.append((r / np.sqrt(null.spread.variance))[off])
    assert np.mean(np.concatenate(found) < 0.05) < 0.085
    assert np.mean(np.abs(np.concatenate(before)) > 2) > 0.4
    assert not is_whole(np.exp(smooth_fields(xy, 150.0, 5, rng=rng)))
