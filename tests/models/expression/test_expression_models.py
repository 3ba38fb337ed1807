from __future__ import annotations

import numpy as np
import pytest

import histocell as hc
from histocell.models import Bleep, Hest, SealDecoder, Similarity, STNet
from histocell.models.expression.probe import ALPHAS
from histocell.models.registry import load, make_model

MODELS = {
    "component_ridge": {},
    "hest": {},
    "st_net": {"max_epochs": 10},
    "bleep": {"max_epochs": 10, "n_similar": 5, "batch_size": 64},
    "similarity": {},
    "seal_decoder": {"max_epochs": 20, "batch_size": 32},
}


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(240, 8))
    Y = np.log1p(np.exp(X[:, :2] @ rng.normal(size=(2, 6)))) + 0.1 * rng.normal(size=(240, 6)) + 1
    return X, Y, np.repeat(list("abcdef"), 40)


@pytest.mark.parametrize("name", MODELS)
def test_learns_and_comes_back(name, rows, tmp_path):
    X, Y, groups = rows
    model = make_model(name, MODELS[name], "expression").fit(X[:200], Y[:200], groups=groups[:200], rng=0)
    predicted = model.predict(X[200:])
    assert hc.metrics.pearson(Y[200:], predicted).mean() > 0.5
    assert np.abs(predicted.mean(axis=0) - Y[200:].mean(axis=0)).max() < 0.6
    model.save(tmp_path / name)
    np.testing.assert_array_equal(load(tmp_path / name).predict(X[200:]), predicted)
    lower, upper = model.interval(predicted)
    assert 0.7 < np.mean((Y[200:] >= lower) & (Y[200:] <= upper)) <= 1
    with pytest.raises(ValueError, match="is a model for expression, not for abundance"):
        make_model(name, {}, "abundance")


class TestHest:
    @pytest.mark.parametrize("fold", [0, 1])
    def test_parity(self, parity_dir, fold):
        inputs, expected = (
            np.load(parity_dir / "hest_probe" / f"fold{fold}_{name}.npz") for name in ("inputs", "expected")
        )
        train, test = (inputs[f"X_{part}"].astype(np.float32) for part in ("train", "test"))
        Y, truth = (
            np.log1p(inputs[f"{name}_{part}"]) for name, part in ((_counts(inputs), "train"), (_counts(inputs), "test"))
        )
        predicted = Hest(interval=None).fit(train, Y).predict(test)
        found = hc.metrics.pearson(truth, predicted)
        np.testing.assert_allclose(found, expected["pearson_per_gene_exact_svd_fp64"], atol=1e-6)
        np.testing.assert_allclose(predicted - Y.mean(axis=0), expected["preds_exact_svd_fp64"], atol=1e-5)
        atol = (2e-3, 3e-4) if fold == 0 else (0.06, 3e-3)  # lsqr stops early; the randomised solver does not converge
        np.testing.assert_allclose(found, expected["pearson_per_gene"], atol=atol[0])
        np.testing.assert_allclose(found.mean(), expected["pearson_per_gene"].mean(), atol=atol[1])

    def test_penalty(self, rows):
        X, Y, groups = rows
        assert Hest().fit(X, Y, groups=groups).weights["alpha"][0] == pytest.approx(100 / (8 * 6))
        assert Hest(alpha="cv").fit(X, Y, groups=groups).weights["alpha"][0] in ALPHAS
        assert Hest(alpha="2.5").fit(X, Y, groups=groups).weights["alpha"][0] == 2.5
        with pytest.raises(ValueError, match="alpha must be 'hest', 'cv' or a number"):
            Hest(alpha="best").fit(X, Y, groups=groups)

    def test_sees_features_as_they_are(self, rows):
        X, Y, groups = rows
        both = Hest(n_views=2).fit(np.hstack([X, X[::-1]]), Y, groups=groups).predict(np.hstack([X, 0 * X]))
        np.testing.assert_allclose(both, Hest().fit(X, Y, groups=groups).predict(X))


def _counts(inputs) -> str:
    return next(name.removesuffix("_train") for name in inputs if name.endswith("_train") and not name.startswith("X"))


def test_similarity_by_a_loop(rows):
    X, Y, groups = rows
    model = Similarity(temperatures=(0.1,)).fit(X[:100], Y[:100], groups=groups[:100])
    scaled = np.clip((X - X[:100].mean(axis=0)) / X[:100].std(axis=0), -4, 4)
    unit = scaled / np.linalg.norm(scaled, axis=1, keepdims=True)
    for row in (100, 150):
        weights = np.exp(unit[:100] @ unit[row] / 0.1)
        np.testing.assert_allclose(model.predict(X[[row]])[0], weights @ Y[:100] / weights.sum(), rtol=1e-5)


def test_bleep_averages_training_rows(rows):
    X, Y, groups = rows
    model = Bleep(max_epochs=2, n_similar=1, batch_size=64, interval=None).fit(X, Y, groups=groups, rng=0)
    distance = np.abs(model.predict(X[:20])[:, None] - Y[None]).max(axis=2).min(axis=1)
    assert distance.max() < 1e-5  # each prediction is a training row


@pytest.mark.parametrize("cls", [STNet, SealDecoder, Bleep])
def test_the_same_seed_gives_the_same_net(cls, rows):
    X, Y, groups = rows
    first, second, other = (cls(max_epochs=2).fit(X, Y, groups=groups, rng=seed).predict(X[:5]) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)
