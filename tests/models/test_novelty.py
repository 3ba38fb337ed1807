"""Novelty of rows, and intervals that widen with it."""

from __future__ import annotations

import numpy as np
import pytest

from histocell.metrics import coverage
from histocell.models import MLP, Mean, Ridge
from histocell.models.folds import Fold
from histocell.models.novelty import fit_novelty, novelty


@pytest.fixture
def fitted(make):
    data = make(n_groups=6, n_rows=60, n_features=30)
    return Ridge().fit(data.X[:240], data.Y[:240], groups=data.groups[:240]), data


def test_by_hand():
    """Few directions: Mahalanobis along the components, what is left beside them in units of what training rows leave."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 6)) * [10, 8, 6, 1.5, 1.5, 1.5]
    nothing = np.empty(0, dtype=np.intp)
    arrays, held = fit_novelty(X, [Fold(np.arange(200), nothing)])
    assert np.isnan(held).all()
    centred = X - X.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred / 200)
    scores = centred @ vectors[:, ::-1]
    values, k = values[::-1], len(arrays["novelty_axes"])
    assert k == 3
    expected = (scores[:, :k] ** 2 / values[:k]).mean(1) + (scores[:, k:] ** 2).sum(1) / values[k:].sum()
    np.testing.assert_allclose(novelty(X, arrays), np.sqrt(expected / 2))


def test_one_is_a_group_held_out(fitted):
    model, data = fitted
    unseen = model.novelty(data.X[240:])
    assert 0.8 < np.median(unseen) < 1.25
    assert model.outputs(data.X[240:])["_novelty"] == pytest.approx(unseen)


def test_grows_with_the_distance(fitted):
    """Another stain shifts all features, a blank patch is far from all: the further, the newer; at the end in proportion."""
    model, data = fitted
    shift = np.random.default_rng(0).normal(size=data.X.shape[1])
    medians = [np.median(model.novelty(data.X[240:] + far * shift)) for far in (0, 1, 2, 4, 8, 16)]
    assert np.all(np.diff(medians) > 0)
    assert medians[2] > 1.2
    assert medians[-1] / medians[-2] == pytest.approx(2, rel=0.1)


def test_rows_off_the_directions_of_the_training_set_are_new():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 2)) @ rng.normal(size=(2, 20)) + 0.05 * rng.normal(size=(300, 20))
    groups = np.repeat(["a", "b", "c"], 100)
    model = Ridge().fit(X, X[:, :2] + 20, groups=groups)
    beside = X + rng.normal(size=X.shape)  # features within their range, but not together
    assert np.median(model.novelty(beside)) > 3


def test_intervals_widen_and_never_shrink(fitted):
    model, data = fitted
    known, shifted = data.X[240:], data.X[240:] + 5
    for X in (known, shifted):
        out = model.outputs(X)
        width, plain = out["_upper"] - out[""], model.interval(out[""])[1] - out[""]
        np.testing.assert_allclose(width, plain * np.maximum(model.novelty(X), 1)[:, None])


def test_coverage_of_a_group_that_is_another_kind(make):
    """Errors that grow with the distance from the training groups: without the novelty the interval promises too much."""
    held, plain = [], []
    for seed in range(6):
        data = make(n_groups=5, n_rows=100, n_features=12, seed=seed)
        rng = np.random.default_rng(seed)
        X = data.X + np.repeat(rng.normal(size=(5, 12)), 100, axis=0)
        far = X[400:] + 3 * rng.normal(size=12)
        distance = np.vstack([np.ones((400, 1)), np.full((100, 1), 3.0)])
        Y = data.Y + 0.5 * distance * rng.normal(size=data.Y.shape)
        model = Ridge(nonnegative=False).fit(X[:400], Y[:400], groups=data.groups[:400])
        out = model.outputs(far)
        held.append(coverage(Y[400:], out["_lower"], out["_upper"]).mean())
        plain.append(coverage(Y[400:], *model.interval(out[""])).mean())
    assert np.mean(held) > np.mean(plain) + 0.1
    assert np.mean(held) > 0.7


@pytest.mark.parametrize("model", [Mean(), Ridge(interval=None), MLP(hidden=(8,) * 6, max_epochs=2, n_members=1)])
def test_every_model_knows_it(cohort, model):
    model.fit(cohort.X, cohort.Y, groups=cohort.groups, rng=0)
    X = cohort.X.copy()
    X[3, 0] = np.nan
    found = model.outputs(X)["_novelty"]
    assert found.shape == (len(X),)
    np.testing.assert_array_equal(np.isnan(found), np.arange(len(X)) == 3)


def test_models_of_older_versions_have_none(cohort):
    model = Ridge().fit(cohort.X, cohort.Y, groups=cohort.groups)
    for name in [name for name in model.weights if name.startswith("novelty_")]:
        del model.weights[name]
    assert set(model.outputs(cohort.X)) == {"", "_lower", "_upper"}
    with pytest.raises(ValueError, match="older version"):
        model.novelty(cohort.X)


@pytest.mark.parametrize("n_rows", [2, 3, 7])
def test_few_rows(n_rows):
    X = np.random.default_rng(0).normal(size=(n_rows, 5))
    model = Ridge().fit(X, X[:, :2] + 5, groups=np.arange(n_rows))
    assert np.isfinite(model.novelty(X)).all()
    assert np.isfinite(model.outputs(X)["_upper"]).all()
