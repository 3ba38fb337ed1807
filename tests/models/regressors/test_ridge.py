from __future__ import annotations

import numpy as np
import pytest

from histocell import metrics
from histocell.models import Mean, Ridge
from histocell.models.folds import FitRows, Fold
from histocell.models.regressors import ridge
from histocell.models.regressors.ridge import Path, _decompose, _Known, _row_errors, _solve


def naive_ridge(X, Y, alpha):
    """The normal equations of ||Y - XB||^2 / n + alpha ||B||^2 on centred data."""
    Xc, Yc = X - X.mean(0), Y - Y.mean(0)
    B = np.linalg.solve(Xc.T @ Xc / len(X) + alpha * np.eye(X.shape[1]), Xc.T @ Yc / len(X))
    return B, Y.mean(0) - X.mean(0) @ B


@pytest.mark.parametrize("shape", [(50, 7), (12, 30)])
def test_closed_form(shape):
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=shape), rng.normal(size=(shape[0], 3))
    alphas = np.array([0.01, 0.3, 5.0])
    known = _Known.of(X, Y, np.arange(len(X)))
    B, intercept = _solve(_decompose(known), alphas)
    (path,) = Path.of_folds(known, [Fold(np.arange(len(X)), np.arange(4))], alphas)
    for j, alpha in enumerate(alphas):
        expected, offset = naive_ridge(X, Y, alpha)
        np.testing.assert_allclose(B[:, j], expected[:, j], atol=1e-10)
        np.testing.assert_allclose(intercept[j], offset[j], atol=1e-10)
        np.testing.assert_allclose(path.at([j]), X[:4] @ expected + offset, atol=1e-9)
        np.testing.assert_allclose(path.best(np.arange(3))[:, j], path.at([j])[:, j], atol=1e-12)


@pytest.mark.parametrize(
    "n_features", [1, 2, 9, 90]
)  # 90 is more than the rows of some folds, less than those of others
def test_folds_are_each_fitted_on_their_own_rows(n_features):
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(120, n_features)) + 3, rng.normal(size=(120, 2)) - 50
    if n_features > 2:
        X[:, 1], X[:, 2] = X[:, 0], 0  # singular
    held = [np.arange(20), np.arange(20, 30), np.arange(30, 90)]
    train = np.arange(110)
    folds = [Fold(np.setdiff1d(train, rows), rows) for rows in held] + [Fold(train, np.arange(110, 120))]
    alphas = np.array([1e-4, 2.0])
    for path, (fit, new) in zip(Path.of_folds(_Known.of(X, Y, train), folds, alphas), folds, strict=True):
        for j, alpha in enumerate(alphas):
            B, intercept = naive_ridge(X[fit], Y[fit], alpha)
            expected = X[new] @ B + intercept
            np.testing.assert_allclose(path.at([j]), expected, atol=1e-7)
            np.testing.assert_allclose(path.at([0, 1])[:, 2 * j : 2 * j + 2], expected, atol=1e-7)
            np.testing.assert_allclose(path.best(np.array([j, j])), expected, atol=1e-7)


def test_cross_validation_is_over_groups(cohort):
    settings = {"criterion": "mse", "sharing": 0, "target_transform": "none"}
    model = Ridge(**settings).fit(cohort.X, cohort.Y, groups=cohort.groups)
    X = (cohort.X - cohort.X.mean(0)) / cohort.X.std(0)
    errors = []
    for alpha in model.config.alphas:
        error = 0
        for name in np.unique(cohort.groups):
            held = cohort.groups == name
            B, offset = naive_ridge(X[~held], cohort.Y[~held], alpha)
            error += ((X[held] @ B + offset - cohort.Y[held]) ** 2).mean(0) / cohort.Y[held].var(0)
        errors.append(error)
    best = np.argmin(errors, axis=0)
    np.testing.assert_allclose(model.weights["alpha"], np.array(model.config.alphas)[best])


@pytest.mark.parametrize("shape", [(25, 4), (12, 30)])
def test_rows_left_out_one_by_one(shape):
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=shape), rng.normal(size=(shape[0], 2))
    alphas = np.array([0.1, 2.0])
    known = _Known.of(X, Y, np.arange(len(X)))
    found = _row_errors(known, _decompose(known), alphas)
    n = len(X)
    for index, alpha in enumerate(alphas):
        missed = []
        for row in range(n):
            rest = np.arange(n) != row
            # The penalty counts in units of all rows, the mean is fitted too.
            centre, mean = X[rest].mean(0), Y[rest].mean(0)
            Xc, Yc = X[rest] - centre, Y[rest] - mean
            B = np.linalg.solve(Xc.T @ Xc / n + alpha * np.eye(X.shape[1]), Xc.T @ Yc / n)
            missed.append(Y[row] - mean - (X[row] - centre) @ B)
        np.testing.assert_allclose(found[index], np.mean(np.square(missed), axis=0), rtol=1e-9)


@pytest.mark.parametrize("n_features", [20, 200])  # fewer and more than rows
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_single_precision_of_wide_features_is_enough(n_features, noise, monkeypatch):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, n_features)) @ np.diag(0.9 ** np.arange(n_features))
    Y = X[:, :3] + noise * rng.normal(size=(120, 3))
    groups, new = np.repeat(list("abcd"), 30), rng.normal(size=(50, n_features))
    double = Ridge(target_transform="none", nonnegative=False).fit(X, Y, groups=groups, rng=0)
    monkeypatch.setattr(ridge, "_WIDE", 1)
    single = Ridge(target_transform="none", nonnegative=False).fit(X, Y, groups=groups, rng=0)
    if noise:  # without it the least penalty is best, and rounding asks for a little more
        np.testing.assert_array_equal(single.weights["alpha"], double.weights["alpha"])
    np.testing.assert_allclose(single.predict(new), double.predict(new), atol=(1e-3 if noise else 1e-2) * Y.std())


def test_single_precision_keeps_what_is_small_beside_the_mean(monkeypatch):
    monkeypatch.setattr(ridge, "_WIDE", 1)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 10))
    Y = X[:, :2] + 1e8
    model = Ridge(target_transform="none").fit(X, Y, groups=np.repeat(list("abcd"), 50), rng=0)
    np.testing.assert_allclose(model.predict(X) - 1e8, X[:, :2], atol=0.02)


def test_penalty_by_rows_and_groups_together(cohort):
    model = Ridge(target_transform="none").fit(cohort.X, cohort.Y, groups=cohort.groups)
    X = (cohort.X - cohort.X.mean(0)) / cohort.X.std(0)
    names, variance, total = np.unique(cohort.groups), cohort.Y.var(axis=0), []
    known = _Known.of(X, cohort.Y, np.arange(len(X)))
    for alpha in model.config.alphas:
        error = _row_errors(known, _decompose(known), np.array([alpha]))[0]
        for name in names:
            held = cohort.groups == name
            B, offset = naive_ridge(X[~held], cohort.Y[~held], alpha)
            error = error + ((X[held] @ B + offset - cohort.Y[held]) ** 2).mean(0) / len(names)
        total.append((error / variance).mean())
    np.testing.assert_allclose(model.weights["alpha"], model.config.alphas[np.argmin(total)])
    np.testing.assert_allclose(-model.history["cv_score"].mean(axis=1), total)


def test_views_are_averaged(cohort):
    """Each view has a fit and a penalty of its own."""
    other = cohort.X**3
    two = Ridge(n_views=2, target_transform="none", nonnegative=False)
    two.fit(np.hstack([cohort.X, other]), cohort.Y, groups=cohort.groups)
    parts = []
    for X in (cohort.X, other):
        one = Ridge(target_transform="none", nonnegative=False).fit(X, cohort.Y, groups=cohort.groups)
        parts.append(one.predict(X))
    np.testing.assert_allclose(two.predict(np.hstack([cohort.X, other])), np.mean(parts, axis=0))
    assert two.weights["alpha"].shape == (2, 3)
    with pytest.raises(ValueError, match="not 2 views"):
        Ridge(n_views=2).fit(cohort.X[:, :5], cohort.Y, groups=cohort.groups)


def test_one_wild_feature_does_no_harm(cohort):
    """A feature of a new row that is far out of the training range counts as if it lay at its end."""
    model = Ridge(nonnegative=False).fit(cohort.X, cohort.Y, groups=cohort.groups)
    wild = cohort.X[:20].copy()
    wild[:, 0] = 1e6
    end = cohort.X[:20].copy()
    end[:, 0] = cohort.X[:, 0].mean() + 4 * cohort.X[:, 0].std()
    np.testing.assert_allclose(model.predict(wild), model.predict(end))
    del model.weights["input_clip"]  # as it was before: models of older versions predict as they did
    assert np.abs(model.predict(wild)).max() > 100 * np.abs(model.predict(end)).max()


def test_roots_keep_the_mean(make):
    """The square of a predicted root is too small; the sum of held-out predictions is that of the truth."""
    data = make(n_groups=6, noise=0.0)
    Y = np.random.default_rng(0).gamma(1.0, size=(len(data.X), 3)) * np.exp(0.3 * data.X[:, :3])
    model = Ridge().fit(data.X, Y, groups=data.groups)
    assert model.weights["target_gain"] == pytest.approx(1 / 0.785, rel=0.1)  # 1 / Gamma(3/2)^2
    np.testing.assert_allclose(model.predict(data.X).sum(axis=0), Y.sum(axis=0), rtol=0.05)


def test_recovers_a_linear_truth_and_ignores_noise_features(make):
    data = make(noise=0.1)
    rng = np.random.default_rng(1)
    X = np.hstack([data.X, rng.normal(size=(len(data.X), 60))])
    train = data.groups != "g3"
    model = Ridge().fit(X[train], data.Y[train], groups=data.groups[train])
    predicted = model.predict(X[~train])
    assert metrics.pearson(data.Y[~train], predicted).min() > 0.98


def test_sharing_makes_one_penalty(cohort):
    model = Ridge(sharing=1).fit(cohort.X, cohort.Y, groups=cohort.groups)
    assert len(np.unique(model.weights["alpha"])) == 1


def test_shift_of_a_group_does_not_change_the_choice(cohort):
    shifted = cohort.Y + 5 * (cohort.groups == "g1")[:, None]
    rows = cohort.groups == "g1"
    variance = cohort.Y.var(axis=0)
    np.testing.assert_allclose(Ridge(criterion="pearson")._score(cohort.Y[rows], shifted[rows], variance), 1)
    for criterion in ("mse", "error"):
        assert Ridge(criterion=criterion)._score(cohort.Y[rows], shifted[rows], variance).max() < 0


def test_score_is_the_correlation():
    rng = np.random.default_rng(0)
    predicted, truth = rng.normal(size=(2, 20, 2))
    truth[:, 1] = 0.1
    found = Ridge(criterion="pearson")._score(predicted, truth, truth.var(axis=0))
    assert found[0] == pytest.approx(np.corrcoef(predicted[:, 0], truth[:, 0])[0, 1])
    assert np.isnan(found[1])


@pytest.mark.parametrize("criterion", ["pearson", "mse", "error"])
def test_penalties_scored_together_or_one_by_one(cohort, criterion, monkeypatch):
    together = Ridge(criterion=criterion).fit(cohort.X, cohort.Y, groups=cohort.groups)
    monkeypatch.setattr(ridge, "_ENTRIES", 1)
    apart = Ridge(criterion=criterion).fit(cohort.X, cohort.Y, groups=cohort.groups)
    np.testing.assert_array_equal(together.history["cv_score"], apart.history["cv_score"])


def test_zero_variance_target_is_predicted_as_constant(cohort):
    Y = cohort.Y.copy()
    Y[:, 1] = 0.1
    with pytest.warns(UserWarning, match="1 of 3 targets do not vary"):
        model = Ridge().fit(cohort.X, Y, groups=cohort.groups)
    np.testing.assert_allclose(model.predict(cohort.X)[:, 1], 0.1)
    assert np.isfinite(model.predict(cohort.X)).all()


def test_mean_is_the_mean_of_training_rows(cohort):
    validation = cohort.groups == "g0"
    model = Mean().fit(cohort.X, cohort.Y, groups=cohort.groups, validation=validation)
    np.testing.assert_allclose(model.predict(cohort.X[:3]), np.tile(cohort.Y[~validation].mean(0), (3, 1)))


def test_validation_rows_are_not_fitted(cohort):
    validation = cohort.groups == "g0"
    changed = cohort.Y.copy()
    changed[validation] = changed[validation][::-1]
    alphas = {"alphas": (0.1,)}
    first = Ridge(**alphas).fit(cohort.X, cohort.Y, groups=cohort.groups, validation=validation)
    second = Ridge(**alphas).fit(cohort.X, changed, groups=cohort.groups, validation=validation)
    np.testing.assert_array_equal(first.weights["coefficients"], second.weights["coefficients"])


@pytest.mark.parametrize(
    ("config", "match"), [({"criterion": "r2"}, "criterion"), ({"alphas": (0.0,)}, "alphas must be above 0")]
)
def test_bad_settings(cohort, config, match):
    with pytest.raises(ValueError, match=match):
        Ridge(**config).fit(cohort.X, cohort.Y)


class TestFolds:
    def test_groups_stay_whole(self):
        groups = np.random.default_rng(0).integers(0, 7, 100)
        folds = FitRows(np.ones(100, dtype=bool), groups).folds(max_folds=3)
        assert len(folds) == 3
        assert sorted(np.concatenate([f.held for f in folds])) == list(range(100))
        for fold in folds:
            assert not set(groups[fold.fit]) & set(groups[fold.held])
            assert len(fold.fit) + len(fold.held) == 100

    def test_one_group_becomes_blocks_of_rows(self):
        folds = FitRows(np.ones(20, dtype=bool), np.array(["a"] * 20)).folds(max_folds=10)
        assert [len(fold.held) for fold in folds] == [4] * 5
        assert all(np.ptp(fold.held) == 3 for fold in folds)

    def test_too_few_rows(self):
        with pytest.raises(ValueError, match="1 training rows"):
            FitRows(np.ones(1, dtype=bool), np.array(["a"])).folds(max_folds=10)
