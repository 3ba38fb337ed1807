from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import histocell as hc
from histocell._core import keys

TINY = {"mlp": {"hidden": (8,) * 6, "max_epochs": 2, "n_members": 1}}


@pytest.fixture
def table() -> AnnData:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(240, 6)).astype(np.float32)
    Y = np.exp(0.4 * X @ rng.normal(size=(6, 3)) + 0.1 * rng.normal(size=(240, 3)))
    patient = np.repeat(["A", "B", "C"], 80)
    table = AnnData(np.ones((240, 1), np.float32), obs=pd.DataFrame({"patient": patient}, index=map(str, range(240))))
    table.obs["section"] = np.repeat([f"{p}{i}" for p in "ABC" for i in (1, 2)], 40)
    table.obsm["X_toy"] = X
    table.obsm["cell_abundance"] = pd.DataFrame(Y, index=table.obs_names, columns=["a", "b", "c"])
    return table


def overall(scores, model, metric="cc"):
    return scores.query("group == 'all' and cell_type == 'mean' and model == @model and metric == @metric").iloc[0]


def without_costs(scores):
    return scores[~scores["metric"].isin(["seconds", "peak_memory_mb"])].reset_index(drop=True)


def test_leave_one_group_out_by_hand(table):
    slots = set(table.obsm), set(table.uns), list(table.obs)
    scores = hc.bench.leave_one_group_out(table, models=("mean", "ridge"), n_bootstrap=50, rng=0)
    assert (set(table.obsm), set(table.uns), list(table.obs)) == slots
    assert set(scores["group"]) == {"A", "B", "C", "all"}
    X, Y = table.obsm["X_toy"], table.obsm["cell_abundance"].to_numpy()
    patient = table.obs["patient"].to_numpy()
    expected = []
    for name in "ABC":
        held = patient == name
        model = hc.models.Ridge().fit(X[~held], Y[~held], groups=patient[~held])
        expected.append(hc.metrics.pearson(Y[held], model.predict(X[held])).mean())
    row = overall(scores, "ridge")
    assert row["value"] == pytest.approx(np.mean(expected))
    assert min(expected) - 1e-9 <= row["low"] <= row["value"] <= row["high"] <= max(expected) + 1e-9
    assert overall(scores, "mean")["n_undefined"] == 9


def test_same_rng_same_table(table):
    first, second = (
        hc.bench.leave_one_group_out(table, models=("mlp",), config=TINY, n_bootstrap=20, rng=3) for _ in range(2)
    )
    pd.testing.assert_frame_equal(without_costs(first), without_costs(second))


def test_cross_dataset(table):
    train, test = table[table.obs["patient"] != "C"].copy(), table[table.obs["patient"] == "C"].copy()
    test.obsm["cell_abundance"] = test.obsm["cell_abundance"][["c", "a", "b"]]
    scores = hc.bench.cross_dataset(train, test, models={"one": "ridge", "none": "mean"}, n_bootstrap=20, rng=0)
    model = hc.models.Ridge().fit(train.obsm["X_toy"], train.obsm["cell_abundance"], groups=train.obs["patient"])
    truth = test.obsm["cell_abundance"][["a", "b", "c"]].to_numpy()
    expected = hc.metrics.pearson(truth, model.predict(test.obsm["X_toy"])).mean()
    assert overall(scores, "one")["value"] == pytest.approx(expected)
    assert overall(scores, "one", "coverage")["value"] > 0.7
    assert np.isnan(overall(hc.bench.cross_dataset(train, test, models=["ridge"], n_bootstrap=0), "ridge")["low"])


def test_own_models(table):
    strong = hc.models.Ridge(alphas=(1000.0,), interval=None)
    scores = hc.bench.leave_one_group_out(
        table, models={"cv": "ridge", "strong": strong}, standardize_by="section", n_bootstrap=0
    )
    assert overall(scores, "strong", "l1")["value"] > overall(scores, "cv", "l1")["value"]
    assert "coverage" not in set(scores.query("model == 'strong'")["metric"])


def test_errors(table):
    with pytest.raises(ValueError, match="at least two are needed"):
        hc.bench.leave_one_group_out(table[table.obs["patient"] == "A"].copy())
    with pytest.raises(KeyError, match="donor"):
        hc.bench.leave_one_group_out(table, group_key="donor")
    with pytest.raises(ValueError, match="two models are called 'ridge'"):
        hc.bench.leave_one_group_out(table, models=("ridge", hc.models.Ridge()))
    other = table.copy()
    keys.write_provenance(table, "X_toy", encoder="a")
    keys.write_provenance(other, "X_toy", encoder="b")
    with pytest.raises(ValueError, match="encoder is b, the model was fitted with a"):
        hc.bench.cross_dataset(table, other)
    keys.write_provenance(other, "X_toy", encoder="a")
    other.obsm["cell_abundance"].columns = list("xyz")
    with pytest.raises(ValueError, match="share no target"):
        hc.bench.cross_dataset(table, other)
