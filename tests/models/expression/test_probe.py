"""The probe in closed form against HEST-Bench's fixtures, scikit-learn in float64, and inner folds by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from histocell import metrics
from histocell.models.expression.probe import Moments, choose_alpha, fit_probe, hest_alpha, probe_folds


def sample(n, rng, d=40, g=6, constant=()):
    X = (rng.normal(size=(n, d)) * np.linspace(3, 0.1, d) + rng.normal(size=d) * 5).astype(np.float32)
    Y = np.log1p(rng.poisson(np.exp(X[:, :g] * 0.1))).astype(np.float64)
    Y[:, list(constant)] = np.log1p(2)
    return X, Y


def by_scikit_learn(train, test, *, n_components, alpha):
    X, Y = train[0].astype(np.float64), train[1]
    T, T_test = X, test[0].astype(np.float64)
    if n_components:
        reduce = make_pipeline(StandardScaler(), PCA(n_components, svd_solver="full"))
        T, T_test = reduce.fit_transform(X), reduce.transform(T_test)
    return Ridge(alpha=alpha, solver="cholesky", fit_intercept=False).fit(T, Y).predict(T_test)


@pytest.mark.parametrize("fold", [0, 1])
def test_hest_fixtures(parity_dir, fold):
    given, known = (np.load(parity_dir / "hest_probe" / f"fold{fold}_{what}.npz") for what in ("inputs", "expected"))
    X, X_test = (given[f"X_{side}"].astype(np.float32) for side in ("train", "test"))
    Y, Y_test = (np.log1p(given[f"counts_{side}"]) for side in ("train", "test"))
    train, test = Moments.of(X, Y), Moments.of(X_test, Y_test)
    (score,) = probe_folds([train, test], [([0], [1])])
    assert score.alpha == 0.0078125
    np.testing.assert_allclose(score.pearson, known["pearson_per_gene_exact_svd_fp64"], atol=1e-10)
    np.testing.assert_allclose(fit_probe(train).predict(X_test), known["preds_exact_svd_fp64"], atol=1e-9)
    # the official code stops lsqr early, and in fold 1 its randomised components have not converged
    per_gene, mean = ((2e-3, 3e-4), (0.06, 3e-3))[fold]
    np.testing.assert_allclose(score.pearson, known["pearson_per_gene"], atol=per_gene)
    assert score.pearson.mean() == pytest.approx(known["pearson_per_gene"].mean(), abs=mean)
    (plain,) = probe_folds([train, test], [([0], [1])], n_components=None)
    assert plain.alpha == 100 / (X.shape[1] * 50)
    np.testing.assert_allclose(plain.pearson, known["pearson_per_gene_no_pca"], atol=4e-3)
    assert plain.pearson.mean() == pytest.approx(known["pearson_per_gene_no_pca"].mean(), abs=3e-4)


@pytest.mark.parametrize("fold", [0, 1])
def test_components_of_the_fixtures(parity_dir, fold):
    """From the components that the official code found, its ridge is ours but for its early stop."""
    given, known = (np.load(parity_dir / "hest_probe" / f"fold{fold}_{what}.npz") for what in ("inputs", "expected"))
    Y, Y_test = (np.log1p(given[f"counts_{side}"]) for side in ("train", "test"))
    parts = [Moments.of(known["pca_train"], Y), Moments.of(known["pca_test"], Y_test)]
    (score,) = probe_folds(parts, [([0], [1])], n_components=None)
    np.testing.assert_allclose(score.pearson, known["pearson_per_gene"], atol=2e-3)
    assert score.pearson.mean() == pytest.approx(known["pearson_per_gene"].mean(), abs=3e-4)


@pytest.mark.parametrize("n_components", [12, None])
@pytest.mark.parametrize("alpha", [None, 30.0])
def test_folds_equal_scikit_learn_in_float64(n_components, alpha):
    rng = np.random.default_rng(0)
    samples = [sample(n, rng) for n in (150, 90, 60, 200)]
    units = [Moments.of(*each) for each in samples]
    folds = [([0, 1], [2, 3]), ([1, 2, 3], [0])]
    for (train, test), score in zip(
        folds, probe_folds(units, folds, n_components=n_components, alpha=alpha), strict=True
    ):
        rows, held = (tuple(np.concatenate([samples[i][k] for i in side]) for k in (0, 1)) for side in (train, test))
        penalty = alpha or hest_alpha(n_components or 40, 6)
        predicted = by_scikit_learn(rows, held, n_components=n_components, alpha=penalty)
        np.testing.assert_allclose(score.pearson, metrics.pearson(held[1], predicted), atol=1e-9)
        fitted = fit_probe(Moments.of(*rows), n_components=n_components, alpha=alpha)
        np.testing.assert_allclose(fitted.predict(held[0]), predicted, atol=1e-8)
        assert (score.n_train, score.n_test) == (len(rows[0]), len(held[0]))


def test_pooled_sums_are_those_of_the_rows():
    rng = np.random.default_rng(1)
    samples = [sample(n, rng) for n in (5, 70, 4200)]  # more than are in float64 at once
    pooled = Moments.pooled([Moments.of(*each) for each in samples])
    X, Y = (np.concatenate([each[k] for each in samples]).astype(np.float64) for k in (0, 1))
    xx = np.triu((X - X.mean(0)).T @ (X - X.mean(0)))
    np.testing.assert_allclose(np.triu(pooled.xx), xx, rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(pooled.xy, (X - X.mean(0)).T @ (Y - Y.mean(0)), rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(pooled.yy, ((Y - Y.mean(0)) ** 2).sum(0))
    assert pooled.n == len(X)


def test_penalty_by_inner_folds_is_the_best_of_a_naive_loop():
    rng = np.random.default_rng(2)
    samples = [sample(40, rng, d=60) for _ in range(3)]
    alphas = [1e-2, 1.0, 1e2, 1e4]
    scores = []
    for alpha in alphas:
        held_out = []
        for left in range(3):
            rest = [np.concatenate([samples[i][k] for i in range(3) if i != left]) for k in (0, 1)]
            predicted = by_scikit_learn(rest, samples[left], n_components=20, alpha=alpha)
            held_out.append(metrics.pearson(samples[left][1], predicted).mean())
        scores.append(np.mean(held_out))
    units = [Moments.of(*each) for each in samples]
    best = choose_alpha(units, n_components=20, alphas=alphas)
    assert best == alphas[int(np.argmax(scores))]
    assert len(set(np.round(scores, 6))) > 1
    # the sample that is tested has no say
    (score,) = probe_folds(
        [*units, Moments.of(*sample(50, rng, d=60))], [([0, 1, 2], [3])], n_components=20, alpha="cv", alphas=alphas
    )
    assert score.alpha == best


def test_constant_targets_and_features():
    rng = np.random.default_rng(3)
    train, test = sample(80, rng, constant=[1]), sample(50, rng, constant=[4])
    for X, _ in (train, test):
        X[:, 7] = 3.3
    (score,) = probe_folds([Moments.of(*train), Moments.of(*test)], [([0], [1])], n_components=10)
    assert np.isnan(score.pearson[[1, 4]]).all()  # no prediction that varies; no truth that varies
    assert np.isfinite(np.delete(score.pearson, [1, 4])).all()
    predicted = by_scikit_learn(train, test, n_components=10, alpha=score.alpha)
    rest = [0, 2, 3, 5]
    np.testing.assert_allclose(score.pearson[rest], metrics.pearson(test[1], predicted)[rest], atol=1e-9)
    with pytest.raises(ValueError, match="no target varies"):
        choose_alpha([Moments.of(*sample(20, rng, g=1, constant=[0])) for _ in range(3)])


def test_bad_input():
    rng = np.random.default_rng(4)
    X, Y = sample(20, rng)
    with pytest.raises(ValueError, match=r"same rows, and some, not shapes \(19, 40\) and \(20, 6\)"):
        Moments.of(X[:19], Y)
    with pytest.raises(ValueError, match="hold NaN"):
        Moments.of(np.where(X == X[3, 3], np.nan, X), Y)
    with pytest.raises(ValueError, match="hold NaN"):
        Moments.of(X, np.where(Y == Y[3, 3], np.inf, Y))
    with pytest.raises(ValueError, match="and there is one"):
        choose_alpha([Moments.of(X, Y)])
    with pytest.raises(ValueError, match="alpha"):
        fit_probe(Moments.of(X, Y), alpha=-1.0)
    assert fit_probe(Moments.of(X[:5], Y[:5])).n_components == 4
