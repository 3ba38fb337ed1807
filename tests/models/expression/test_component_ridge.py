from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge as SklearnRidge

from histocell.models import ComponentRidge
from histocell.models.expression.component_ridge import _Basis, _components

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 6))
Y = X @ RNG.normal(size=(6, 5)) + RNG.normal(size=(90, 5)) + 3
WEIGHTS = RNG.uniform(0.2, 5, size=90)
GROUPS = np.repeat(["a", "b", "c"], 30)
ALL = {"n_components": 5, "kernel_share": 0.0, "interval": None, "nonnegative": False}


def test_one_penalty_is_a_weighted_ridge():
    model = ComponentRidge(alphas=(0.3,), row_weight=1.0, **ALL).fit(X, Y, groups=GROUPS, weights=WEIGHTS)
    scaled = (X - X.mean(axis=0)) / X.std(axis=0)
    w = WEIGHTS / WEIGHTS.sum()  # sum of weights 1, as the penalty wants it
    truth = SklearnRidge(alpha=0.3).fit(scaled, Y, sample_weight=w).predict(scaled)
    np.testing.assert_allclose(model.predict(X), truth, atol=1e-8)


def test_kernel_in_closed_form():
    settings = ALL | {"kernel_share": 1.0, "kernel_width": 0.3}
    model = ComponentRidge(alphas=(0.3,), row_weight=0.0, **settings).fit(X, Y, groups=GROUPS)
    scaled = (X - X.mean(axis=0)) / X.std(axis=0)
    distance = ((scaled[:, None] - scaled[None]) ** 2).sum(axis=2)
    kernel, center = 6 * np.exp(-0.3 / 6 * distance), np.eye(90) - 1 / 90
    kernel = center @ kernel @ center
    truth = kernel @ np.linalg.solve(kernel + 90 * 0.3 * np.eye(90), Y - Y.mean(axis=0)) + Y.mean(axis=0)
    np.testing.assert_allclose(model.predict(X), truth, atol=1e-6)


def test_errors_of_rows_left_out_are_those_of_fits_without_them():
    Z, alphas = Y - Y.mean(axis=0), np.array([0.1, 2.0])
    basis = _Basis.of(X, Z, WEIGHTS)
    found = basis.errors(X, Z, WEIGHTS, alphas, own=True)
    for alpha, row in zip(alphas, found, strict=True):
        errors = []
        for i in range(90):
            rest = np.arange(90) != i
            w = WEIGHTS / WEIGHTS.sum()  # the penalty stays that of all rows
            fit = SklearnRidge(alpha=alpha).fit(X[rest], Z[rest], sample_weight=w[rest])
            errors.append((Z[i] - fit.predict(X[i : i + 1])[0]) ** 2)
        np.testing.assert_allclose(row, np.average(errors, axis=0, weights=WEIGHTS), rtol=1e-6)


def test_wide_and_tall_are_the_same():
    for many in (X[:5], X):  # fewer rows than features, and more
        Z, w = Y[: len(many)] - Y[: len(many)].mean(axis=0), np.ones(len(many))
        coefficients = _Basis.of(many, Z, w).coefficients(0.2)
        centred = many - many.mean(axis=0)
        truth = np.linalg.solve(centred.T @ centred / len(many) + 0.2 * np.eye(6), centred.T @ Z / len(many))
        np.testing.assert_allclose(coefficients, truth, atol=1e-8)
    np.testing.assert_allclose(
        np.abs(_components(Y[:3] - Y[:3].mean(axis=0), np.ones(3), 2)),
        np.abs(np.linalg.svd(Y[:3] - Y[:3].mean(axis=0))[2][:2]),
        atol=1e-8,
    )


def test_further_targets_are_those_of_a_fit_to_all():
    rng = np.random.default_rng(1)
    factors = X[:, :2] @ rng.normal(size=(2, 8))  # eight targets of two components, without noise
    settings = {"n_components": 2, "interval": None, "nonnegative": False}
    whole = ComponentRidge(**settings).fit(X, factors, groups=GROUPS, weights=WEIGHTS, rng=0)
    some = ComponentRidge(**settings).fit(X, factors[:, :5], groups=GROUPS, weights=WEIGHTS, rng=0)
    some.extend(factors[:, :5], [factors[:, 5:7], factors[:, 7:]], weights=WEIGHTS)
    assert some.predict(X).shape == (90, 8)
    np.testing.assert_allclose(some.predict(X), whole.predict(X), atol=0.05)
    again = ComponentRidge(**settings).fit(X, Y, groups=GROUPS, rng=0)
    before = again.predict(X)
    again.extend(Y, [Y])
    np.testing.assert_allclose(
        again.predict(X), np.hstack([before, before]), atol=1e-10
    )  # the same from the components
    with pytest.raises(ValueError, match="target_transform='root' cannot be extended"):
        ComponentRidge(target_transform="root").fit(X, Y, groups=GROUPS).extend(Y, [Y])


def test_noise_of_rows_with_few_counts_is_kept_out():
    rng = np.random.default_rng(2)
    features = rng.normal(size=(300, 20))
    truth = features @ rng.normal(size=(20, 10))
    counts = np.where(np.arange(300) % 2, 1000.0, 10.0)
    noisy = truth + rng.normal(size=truth.shape) * np.where(counts > 100, 1, 30)[:, None]
    groups = np.repeat(list("abcdef"), 50)
    errors = [
        np.square(
            ComponentRidge(nonnegative=False).fit(features, noisy, groups=groups, weights=w).predict(features) - truth
        ).mean()
        for w in (counts, None)
    ]
    assert errors[0] < 0.8 * errors[1]


def test_bad_weights():
    for wrong in (np.ones(3), np.zeros(90), np.full(90, np.nan)):
        with pytest.raises(ValueError, match="weights"):
            ComponentRidge().fit(X, Y, weights=wrong)


def test_constant_targets_and_one_target():
    flat = Y.copy()
    flat[:, 1] = 2.0
    with pytest.warns(UserWarning, match="1 of 5 targets do not vary"):
        predicted = ComponentRidge().fit(X, flat, groups=GROUPS).predict(X)
    np.testing.assert_allclose(predicted[:, 1], 2.0)
    assert ComponentRidge().fit(X, Y[:, :1], groups=GROUPS).predict(X).shape == (90, 1)
    with pytest.warns(UserWarning, match="5 of 5 targets do not vary"):
        np.testing.assert_allclose(ComponentRidge().fit(X, 0 * Y + 2, groups=GROUPS).predict(X), 2.0)
