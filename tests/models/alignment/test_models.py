"""Alignment models on views that share a known state."""

from __future__ import annotations

import numpy as np
import pytest

import histocell as hc
from histocell.models.alignment.ranks import partner_ranks

SMALL = {"hidden": 32, "dim": 16, "max_epochs": 8, "batch_size": 128}


def views(n=600, *, noise=0.1, seed=0):
    """Image and genes that show one state of three numbers, each bent in its own way."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99)
    state = rng.normal(size=(n, 3))
    image = np.tanh(state @ mix.normal(size=(3, 12))) + noise * rng.normal(size=(n, 12))
    genes = state @ mix.normal(size=(3, 9)) + noise * rng.normal(size=(n, 9))
    return image.astype(np.float32), genes


def recall(model, image, genes, k=10):
    rows = np.arange(len(image))
    found = partner_ranks(
        model.project("image", image), model.project("genes", genes), rows, groups=0 * rows, scopes=("all",)
    )["all"]
    return found.recall(k).mean()


MODELS = [hc.models.Contrastive(**SMALL), hc.models.CCA(dim=16)]


@pytest.mark.parametrize("model", MODELS, ids=["contrastive", "cca"])
class TestBoth:
    def test_finds_partners_of_new_rows(self, model):
        image, genes = views()
        model.fit(image, genes, validation=np.arange(600) < 100)
        assert recall(model, *views(300, seed=1)) > 0.4  # chance: 0.03
        rng = np.random.default_rng(0)
        model.fit(image, rng.permutation(genes), validation=np.arange(600) < 100)
        assert recall(model, *views(300, seed=1)) < 0.1

    def test_same_seed_same_model_whatever_the_test_rows(self, model, tmp_path):
        image, genes = views(200)
        found = [model.fit(image, genes, validation=np.arange(200) < 50, rng=3).project("image", image) for _ in "ab"]
        np.testing.assert_array_equal(*found)
        model.save(tmp_path / "model")
        loaded = hc.models.load(tmp_path / "model")
        np.testing.assert_array_equal(loaded.project("image", image), found[0])
        np.testing.assert_array_equal(loaded.project("genes", genes), model.project("genes", genes))
        np.testing.assert_allclose(np.linalg.norm(found[0], axis=1), 1, rtol=1e-5)

    def test_rows_that_are_not_finite(self, model):
        image, genes = views(200)
        image[3, 0], genes[7, 1] = np.nan, np.inf
        with pytest.warns(UserWarning, match="2 of 200 rows"):
            model.fit(image, genes, validation=np.arange(200) < 50)
        assert np.flatnonzero(np.isnan(model.project("image", image)).all(axis=1)).tolist() == [3]
        assert np.flatnonzero(np.isnan(model.project("genes", genes)).any(axis=1)).tolist() == [7]

    def test_constant_view(self, model):
        image, genes = views(60)
        with pytest.raises(ValueError, match="embedding of the genes says nothing: all features are constant"):
            model.fit(image, np.ones_like(genes), validation=np.arange(60) < 20)

    def test_another_width(self, model):
        image, genes = views(200)
        model.fit(image, genes, validation=np.arange(200) < 50)
        with pytest.raises(ValueError, match=r"the image must have shape \(n, 12\)"):
            model.project("image", genes)

    def test_validation_rows_do_not_scale(self, model):
        image, genes = views(200)
        held = np.arange(200) < 50
        model.fit(image, genes, validation=held)
        np.testing.assert_allclose(model.weights["input_image_mean"], image[~held].mean(axis=0), rtol=1e-5)


def test_without_validation_rows_all_epochs_count():
    with pytest.warns(UserWarning, match="0 validation rows: the training is not stopped early, all 3 epochs"):
        model = hc.models.Contrastive(**SMALL | {"max_epochs": 3}).fit(*views(200))
    assert len(model.history["train_loss"]) == 3


def test_batch_larger_than_rows():
    with pytest.warns(UserWarning, match="150 training rows are fewer than batch_size=1024"):
        hc.models.Contrastive(**SMALL | {"batch_size": 1024}).fit(*views(200), validation=np.arange(200) < 50)


def test_temperature_is_learnt_or_kept():
    rows = {"validation": np.arange(200) < 50}
    learnt = hc.models.Contrastive(**SMALL).fit(*views(200), **rows)
    kept = hc.models.Contrastive(**SMALL, learn_temperature=False).fit(*views(200), **rows)
    assert kept.temperature == pytest.approx(0.07)
    assert learnt.temperature != pytest.approx(0.07, abs=1e-4)
    assert learnt.temperature >= 0.01


def test_alike_cells_are_no_negatives():
    """Of cells of two kinds without differences within, the loss without false negatives goes towards 0."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, 400)
    image, genes = (5.0 * np.eye(2)[kind] + 0.01 * rng.normal(size=(400, 2)) for _ in "ab")
    rows = {"validation": np.arange(400) < 100}
    plain = hc.models.Contrastive(**SMALL).fit(image, genes, **rows).history["val_loss"].min()
    left_out = hc.models.Contrastive(**SMALL, alike=0.9).fit(image, genes, **rows).history["val_loss"].min()
    assert left_out < 0.5
    assert plain > 3  # the logarithm of half a batch


def test_hardly_a_negative_is_left():
    image, genes = views(200)
    genes[:190] = genes[0]
    with pytest.warns(UserWarning, match="[89].% of the pairs of a batch count as alike"):
        hc.models.Contrastive(**SMALL, alike=0.9).fit(image, genes, validation=np.arange(200) % 4 == 0)


def test_one_training_row():
    with pytest.raises(ValueError, match="training rows with both views finite must be at least 2, not 1"):
        hc.models.Contrastive(**SMALL).fit(*views(3), validation=[True, True, False])
