"""A second task on the engine: labels in obs, a nearest-centroid model, accuracy."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import histocell as hc
from histocell.models.base import Model
from histocell.models.registry import MODELS, make_model
from histocell.tables.sections import Sections
from histocell.tl.engine import evaluate, predict
from histocell.tl.engine.fit import Dataset, fit
from histocell.tl.engine.frames import Frames
from histocell.tl.engine.rows import training_rows
from histocell.tl.engine.task import Metric, Task, Values


def read_labels(table, key):
    dummies = pd.get_dummies(table.obs[key].astype(object)).where(table.obs[key].notna(), np.nan)
    return Values(dummies.to_numpy(dtype=float), list(dummies.columns))


def correct(truth, probability):
    """Whether the class is right, in the column of the true class."""
    right = truth.argmax(axis=1) == probability.argmax(axis=1)
    return np.where(truth == 1, right[:, None], np.nan)


class Labels(Frames):
    """The likeliest class in ``obs``, the probabilities in ``obsm``."""

    def read(self, table, key):
        return super().read(table, f"{key}_probability")

    def slots(self, key, values, index):
        likeliest = pd.Categorical.from_codes(values.array.argmax(axis=1), values.names)
        return {("obs", key): pd.Series(likeliest, index)} | super().slots(f"{key}_probability", values, index)


# The task itself:
CELL_TYPES = Task(
    "cell_types",
    target=read_labels,
    metrics=(Metric.of_entries("accuracy", correct),),
    writer=Labels("Run predict first."),
    baselines=("majority",),
    column="cell_type",
)


class Centroids(Model):
    """Probability of a class by the distance to the mean of its rows."""

    name = "centroids"

    def _fit(self, X, Y, rows, rng, device):
        self.weights = {"centroids": np.stack([X[rows.train & (column == 1)].mean(axis=0) for column in Y.T])}

    def predict(self, X, *, device=None):
        distance = np.linalg.norm(np.asarray(X)[:, None] - self.weights["centroids"], axis=2)
        weight = np.exp(-distance)
        return weight / weight.sum(axis=1, keepdims=True)


class Majority(Model):
    name = "majority"

    def _fit(self, X, Y, rows, rng, device):
        self.weights = {"share": Y[rows.train].mean(axis=0)}

    def predict(self, X, *, device=None):
        return np.tile(self.weights["share"], (len(X), 1))


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setitem(MODELS, "centroids", Centroids)
    monkeypatch.setitem(MODELS, "majority", Majority)


@pytest.fixture
def cells(make):
    """Cells whose class moves their embedding; a few have no label."""
    table = make()
    rng = np.random.default_rng(0)
    labels = rng.choice(["lymphocyte", "stroma", "tumour"], p=[0.2, 0.2, 0.6], size=table.n_obs)
    table.obsm["X_toy"] += np.where(labels == "tumour", 3, np.where(labels == "stroma", -3, 0))[:, None]
    table.obs["cell_type"] = pd.Categorical(np.where(rng.random(table.n_obs) < 0.05, None, labels))
    return table


def fit_cells(table):
    sections = Sections(table)
    dataset = Dataset.read(CELL_TYPES, table, "X_toy", "cell_type", None)
    rows = training_rows(sections, dataset.known, split_key="split")
    return fit(CELL_TYPES, make_model("centroids", {}), dataset, rows, rng=0, device=None)


def scored(table, **settings):
    settings = {"key": "predicted", "target": "cell_type", "split_key": "split", "n_bootstrap": 20, "rng": 0} | settings
    return evaluate.evaluate(CELL_TYPES, Sections(table), **settings)


@pytest.mark.filterwarnings("ignore:.*have a target that is not finite")
class TestClassification:
    def test_fit_predict_evaluate(self, cells):
        model = fit_cells(cells)
        slots = predict.predict(CELL_TYPES, cells, model, key="predicted", device=None)
        assert set(slots) == {
            ("obs", "predicted"),
            ("obsm", "predicted_probability"),
            ("obs", "predicted_majority"),
            ("obsm", "predicted_majority_probability"),
        }
        predict.write(cells, slots, key="predicted", model=model)
        probability = cells.obsm["predicted_probability"]
        assert list(probability.columns) == ["lymphocyte", "stroma", "tumour"]
        assert (cells.obs["predicted"].astype(str) == probability.idxmax(axis=1)).all()
        scores = scored(cells)
        test = (cells.obs["split"] == "test") & cells.obs["cell_type"].notna()
        found = scores.query("model == 'centroids' and group == 'all'").set_index("cell_type")["value"]
        for name in probability:
            rows = test & (cells.obs["cell_type"] == name)
            assert found[name] == pytest.approx((cells.obs["predicted"][rows] == name).mean())
        assert found["mean"] > 0.95
        majority = scores.query("model == 'majority' and group == 'all'").set_index("cell_type")["value"]
        assert dict(majority) == {"lymphocyte": 0, "stroma": 0, "tumour": 1, "mean": pytest.approx(1 / 3)}
        assert (scores["n_training"] == 0).all()
        with pytest.warns(UserWarning, match="flatters the model"):
            scored(cells, split_key="none")

    def test_save_and_load(self, cells, tmp_path):
        model = fit_cells(cells)
        model.save(tmp_path / "m")
        cells.uns["cell_types_model"] = model.to_dict()
        for loaded in (hc.models.load(tmp_path / "m"), hc.models.load(cells, model_key="cell_types_model")):
            assert isinstance(loaded, Centroids)
            np.testing.assert_array_equal(loaded.predict(cells.obsm["X_toy"]), model.predict(cells.obsm["X_toy"]))
            assert isinstance(loaded.baselines["majority"], Majority)
            assert loaded.targets == ["lymphocyte", "stroma", "tumour"]
        assert json.loads(cells.uns["cell_types_model"]["config"])["facts"]["task"] == "cell_types"
        with pytest.raises(ValueError, match="predicts cell_types, not abundance"):
            hc.tl.predict_abundance(cells, model=model)

    def test_leftovers_go(self, cells):
        model = fit_cells(cells)
        for baselines in (True, False):
            slots = predict.predict(CELL_TYPES, cells, model, key="predicted", device=None, baselines=baselines)
            predict.write(cells, slots, key="predicted", model=model, baselines=baselines)
            assert ("predicted_majority" in cells.obs) == baselines
            assert ("predicted_majority_probability" in cells.obsm) == baselines

    def test_leave_one_group_out(self, cells):
        scores = hc.bench.leave_one_group_out(
            cells, task=CELL_TYPES, models=("majority", "centroids"), target="cell_type", n_bootstrap=20, rng=0
        )
        assert set(scores["group"]) == {"P0", "P1", "P2", "P3", "all"}
        overall = scores.query("group == 'all' and cell_type == 'mean' and metric == 'accuracy'")
        overall = overall.set_index("model")["value"]
        assert overall["centroids"] > 0.95
        assert overall["majority"] == pytest.approx(1 / 3)
