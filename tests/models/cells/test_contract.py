"""What every model of cell types promises."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import pytest

import histocell as hc
from histocell.models import registry
from histocell.models.places import Places
from histocell.models.registry import model_class

N_GENES, N_IMAGE = 6, 5
TINY = {"width": 16, "feedforward": 16, "max_epochs": 3, "batch_size": 64}
MODELS = [
    *((name, {}) for name in ("knn", "logistic", "majority")),
    ("cell_transformer", TINY),
    ("cell_transformer", TINY | {"preset": "paper", "n_layers": 1, "n_heads": 2}),
    ("cell_transformer", TINY | {"architecture": "multi_input"}),
    ("cell_transformer", TINY | {"architecture": "multi_input", "n_neighbors": 3}),
]


class Cohort(NamedTuple):
    X: np.ndarray
    Y: np.ndarray
    groups: np.ndarray
    places: Places


@pytest.fixture(scope="module")
def cells() -> Cohort:
    """Three types, told apart by a gene and by a feature of the image, on four sections."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(320, N_GENES + N_IMAGE)).astype(np.float32)
    labels = np.argmax(np.column_stack([3 * X[:, 0], 3 * X[:, 8], np.ones(320)]), axis=1)
    groups = np.repeat([f"g{i}" for i in range(4)], 80)
    return Cohort(X, np.eye(3)[labels], groups, Places.of(rng.uniform(0, 150, (320, 2)), groups))


def fit(cells, name, config, **options):
    model = model_class(name)(gene_columns=N_GENES, **config)
    options = {"groups": cells.groups, "places": cells.places, "rng": 0} | options
    return model.fit(options.pop("X", cells.X), options.pop("Y", cells.Y), **options)


def test_all_models_of_the_task_are_here():
    named = {name for name in registry.MODELS if "cell_types" in model_class(name).tasks}
    assert named == {name for name, _ in MODELS}


@pytest.mark.parametrize(("name", "config"), MODELS)
class TestContract:
    def test_probabilities_and_missing_modalities(self, cells, name, config):
        X = cells.X.copy()
        X[3, :N_GENES] = np.nan
        X[4, N_GENES] = np.inf
        X[5] = np.nan
        with pytest.warns(UserWarning, match="1 of 320 rows"):
            model = fit(cells, name, config, X=X)
        probability = model.predict(X, places=cells.places)
        assert probability.shape == cells.Y.shape
        assert np.flatnonzero(np.isnan(probability).any(axis=1)).tolist() == [5]
        np.testing.assert_allclose(np.delete(probability, 5, axis=0).sum(axis=1), 1)

    def test_same_rng_same_model_and_no_global_state(self, cells, name, config):
        import torch

        before, threads = torch.get_rng_state(), torch.get_num_threads()
        one, other = (fit(cells, name, config, rng=5) for _ in range(2))
        for key, array in one.weights.items():
            np.testing.assert_array_equal(array, other.weights[key])
        assert torch.equal(before, torch.get_rng_state())
        assert torch.get_num_threads() == threads

    def test_rows_do_not_depend_on_each_other(self, cells, name, config):
        model = fit(cells, name, config)
        some = np.arange(80, 160)  # a section whole

        def predict(rows):
            return model.predict(cells.X[rows], places=cells.places.rows(rows))

        everything = predict(np.arange(320))
        np.testing.assert_allclose(predict(some[::-1]), everything[some[::-1]], rtol=1e-4, atol=1e-6)
        assert predict(some[:0]).shape == (0, 3)

    def test_constant_features_are_ignored(self, cells, name, config):
        X = np.hstack([cells.X, np.full((320, 1), 0.1, dtype=np.float32)])
        model = fit(cells, name, config, X=X)
        shifted = X.copy()
        shifted[:, -1] = 1e6
        np.testing.assert_array_equal(*(model.predict(each, places=cells.places) for each in (X, shifted)))
        if name != "majority":
            with pytest.raises(ValueError, match="all features are constant over the 320"):
                fit(cells, name, config, X=np.ones_like(cells.X))

    def test_nothing_of_rows_that_are_not_given_is_seen(self, cells, name, config):
        index = np.flatnonzero(cells.groups != "g3")
        X, Y = cells.X.copy(), cells.Y.copy()
        X[cells.groups == "g3"], Y[cells.groups == "g3"] = 1e9, 0
        options = {"index": index, "groups": cells.groups[index], "places": cells.places.rows(index)}
        one, other = fit(cells, name, config, **options), fit(cells, name, config, X=X, Y=Y, **options)
        for key, array in one.weights.items():
            np.testing.assert_array_equal(array, other.weights[key])

    def test_validation_rows_are_not_fitted(self, cells, name, config):
        validation = cells.groups == "g2"
        model = fit(cells, name, config, validation=validation)
        assert model.facts == {"n_train": 240, "n_validation": 80}
        scale = (cells.X[~validation] - cells.X[~validation].mean(0)).std(0)
        np.testing.assert_allclose(1 / model.weights["input_scale"], scale, rtol=1e-4)

    def test_bad_targets(self, cells, name, config):
        with pytest.raises(ValueError, match="of one class"):
            fit(cells, name, config, Y=np.tile([1.0, 0, 0], (320, 1)))
        with pytest.raises(ValueError, match="a single 1 in the column"):
            fit(cells, name, config, Y=cells.Y * 2)
        with pytest.raises(ValueError, match=r"\(n, 11\)"):
            fit(cells, name, config).predict(cells.X[:, :5], places=cells.places)
        with pytest.raises(ValueError, match="not fitted"):
            model_class(name)(**config).predict(cells.X, places=cells.places)
        with pytest.raises(TypeError, match="no setting colour"):
            model_class(name)(colour="red")

    def test_a_class_without_training_rows_is_never_likely(self, cells, name, config):
        Y = np.column_stack([cells.Y, np.zeros(320)])
        probability = fit(cells, name, config, Y=Y).predict(cells.X, places=cells.places)
        assert (probability.argmax(axis=1) < 3).all()

    def test_saved_and_loaded(self, cells, name, config, tmp_path):
        model = fit(cells, name, config)
        model.save(tmp_path)
        again = registry.load(tmp_path)
        assert again.config == model.config
        np.testing.assert_array_equal(
            again.predict(cells.X, places=cells.places), model.predict(cells.X, places=cells.places)
        )


@pytest.mark.parametrize("name", ["logistic", "knn", "cell_transformer"])
def test_learns(cells, name):
    """Better than the most frequent class on a group that was not seen; the transformer with genes or image alone, too."""
    config = {"max_epochs": 40, "width": 32, "batch_size": 32} if name == "cell_transformer" else {}
    index = np.flatnonzero(cells.groups != "g3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = fit(cells, name, config, index=index, groups=cells.groups[index], places=cells.places.rows(index))
    test = cells.groups == "g3"
    X, Y = cells.X[test], cells.Y[test]
    most = Y.mean(axis=0).max()
    assert hc.metrics.accuracy(Y, model.predict(X))[0] > most + 0.15
    if name == "cell_transformer":
        for hidden, kept in ((slice(0, N_GENES), 1), (slice(N_GENES, None), 0)):
            part = X.copy()
            part[:, hidden] = np.nan
            assert hc.metrics.recall(Y, model.predict(part))[kept] > 0.6


def told_apart(n, rng):
    """Three types; genes tell the first from the others nearly always, the image hardly."""
    labels = rng.integers(3, size=n)
    genes = 4.0 * np.eye(3)[np.minimum(labels, 1)] + rng.normal(size=(n, 3))
    image = 0.6 * np.eye(3)[labels] + rng.normal(size=(n, 3))
    return np.hstack([genes, image]).astype(np.float32), np.eye(3)[labels]


@pytest.mark.parametrize("name", ["logistic", "cell_transformer"])
def test_cells_without_genes_have_a_calibration_of_their_own(name):
    """By the temperature of genes and image together, those of the image alone would be far too sure."""
    rng = np.random.default_rng(1)
    config = {"max_epochs": 15, "width": 16, "feedforward": 16} if name == "cell_transformer" else {}
    X, Y = told_apart(3000, rng)
    model = model_class(name)(gene_columns=3, **config).fit(X, Y, groups=np.arange(3000) % 5)
    X, Y = told_apart(6000, rng)
    assert model.weights["calibration"].shape == (3, 3)
    without = [X.copy(), X.copy()]
    without[0][:, :3] = without[1][:, 3:] = np.nan

    def errors():
        return np.array([hc.metrics.calibration_error(Y, model.predict(part))[0] for part in without])

    own = errors()
    model.weights["calibration"][:] = model.weights["calibration"][0]
    shared = errors()
    assert (own < (0.06 if name == "cell_transformer" else 0.08)).all()
    assert shared.max() > own.max() + 0.03


def test_few_cells_with_genes_alone(cells):
    """A subset of the modalities that hardly any held-out cell has goes by the calibration of all."""
    X = cells.X.copy()
    X[3:, N_GENES:] = np.nan  # three images
    model = fit(cells, "logistic", {}, X=X)
    both, genes, image = model.weights["calibration"]
    np.testing.assert_array_equal(both, image)
    np.testing.assert_array_equal(both, genes)


def test_a_logistic_regression_is_blended_in():
    """Where classes are a linear matter and cells are few, its share is most, and the loss that of it alone or less."""
    rng = np.random.default_rng(3)
    centers = 0.45 * rng.normal(size=(3, 60))
    labels = rng.integers(3, size=5240)
    X, Y = (centers[labels] + rng.normal(size=(5240, 60))).astype(np.float32), np.eye(3)[labels]
    few, many = slice(0, 240), slice(240, None)
    groups = np.arange(240) % 6
    models = {
        name: model_class(name)(**config).fit(X[few], Y[few], groups=groups)
        for name, config in {"cell_transformer": {"max_epochs": 15}, "logistic": {}}.items()
    }
    models["alone"] = hc.models.CellTransformer(max_epochs=15, logistic_share=0).fit(X[few], Y[few], groups=groups)
    loss = {name: -np.log(model.predict(X[many])[Y[many] == 1]).mean() for name, model in models.items()}
    assert loss["cell_transformer"] < loss["alone"]
    assert loss["cell_transformer"] < loss["logistic"] + 0.02
    assert not [name for name in models["alone"].weights if name.startswith("logistic")]
    whole = hc.models.CellTransformer(max_epochs=2, logistic_share=1).fit(X[few], Y[few], groups=groups)
    np.testing.assert_allclose(whole.predict(X[many]), models["logistic"].predict(X[many]), atol=1e-4)


def test_half_a_model_is_none(cells, monkeypatch):
    """Interrupted in its second fit, a model is not fitted; the next fit is as if nothing had happened."""
    from histocell.models.cells import transformer

    def interrupted(net, *_):
        raise KeyboardInterrupt

    model = hc.models.CellTransformer(gene_columns=N_GENES, **TINY)
    with monkeypatch.context() as patched:
        patched.setattr(transformer, "_validate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.fit(cells.X, cells.Y, groups=cells.groups)
    with pytest.raises(ValueError, match="not fitted"):
        model.predict(cells.X)
    again = model.fit(cells.X, cells.Y, groups=cells.groups).predict(cells.X)
    other = hc.models.CellTransformer(gene_columns=N_GENES, **TINY).fit(cells.X, cells.Y, groups=cells.groups)
    np.testing.assert_array_equal(again, other.predict(cells.X))
