from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest

import histocell as hc
from histocell._core import keys
from histocell.bench.folds import left_out_folds
from histocell.bench.jobs import Job, run_job
from histocell.tables.sections import Sections
from histocell.tl.engine.abundance import ABUNDANCE
from histocell.tl.engine.fit import Dataset

TINY = {"mlp": {"hidden": (8,) * 6, "max_epochs": 2, "n_members": 1}}


def overall(scores, model, metric="cc"):
    return scores.query("group == 'all' and cell_type == 'mean' and model == @model and metric == @metric").iloc[0]


def without_costs(scores):
    return scores[~scores["metric"].isin(["seconds", "peak_memory_mb"])].reset_index(drop=True)


def test_leave_one_group_out_by_hand(table):
    slots = set(table.obsm), set(table.uns), list(table.obs)
    scores = hc.bench.leave_one_group_out(table, models=("mean", "ridge"), standardize_by=None, n_bootstrap=50, rng=0)
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
    assert overall(scores, "mean")["n_undefined"] == 12


def test_same_rng_same_table(table):
    first, second = (
        hc.bench.leave_one_group_out(table, models=("mlp",), config=TINY, n_bootstrap=20, rng=3) for _ in range(2)
    )
    pd.testing.assert_frame_equal(without_costs(first), without_costs(second))


def test_cross_dataset(table):
    train, test = table[table.obs["patient"] != "C"].copy(), table[table.obs["patient"] == "C"].copy()
    test.obsm["cell_abundance"] = test.obsm["cell_abundance"][["c", "a", "d", "b"]]
    raw = {"standardize_by": None, "n_bootstrap": 20, "rng": 0}
    scores = hc.bench.cross_dataset(train, test, models={"one": "ridge", "none": "mean"}, **raw)
    model = hc.models.Ridge().fit(train.obsm["X_toy"], train.obsm["cell_abundance"], groups=train.obs["patient"])
    truth = test.obsm["cell_abundance"][["a", "b", "c", "d"]].to_numpy()
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
    other.obsm["cell_abundance"].columns = list("wxyz")
    with pytest.raises(ValueError, match="share no target"):
        hc.bench.cross_dataset(table, other)


def test_agreement_is_that_of_the_public_functions(table):
    scores = hc.bench.leave_one_group_out(table, standardize_by=None, models=["ridge"], n_bootstrap=0)
    X, Y, patient = table.obsm["X_toy"], table.obsm["cell_abundance"], table.obs["patient"].to_numpy()
    table.obsm["predicted"] = Y.copy()
    for name in "ABC":
        model = hc.models.Ridge().fit(X[patient != name], Y[patient != name], groups=patient[patient != name])
        table.obsm["predicted"].loc[patient == name] = model.predict(X[patient == name])
    for measure in ("cosine", "pearson"):
        metric = "cosine" if measure == "cosine" else "correlation"
        of_patients = []
        for name in "ABC":
            of_sections = []
            for section in (f"{name}1", f"{name}2"):
                part = table[table.obs["section"] == section].copy()
                maps = [hc.tl.colocalization(part, key, inplace=False) for key in ("cell_abundance", "predicted")]
                found = hc.tl.evaluate_colocalization(*maps, n_bootstrap=0).query(
                    "measure == @measure and not diagonal"
                )
                of_sections.append(found["value"].item())
            of_patients.append(np.mean(of_sections))
        one = scores.query(f"metric == 'colocalization_{metric}' and group == 'B'")
        assert one["value"].item() == pytest.approx(of_patients[1])
        assert overall(scores, "ridge", f"colocalization_{metric}")["value"] == pytest.approx(np.mean(of_patients))


def test_agreement_of_a_constant_is_undefined(table):
    scores = hc.bench.leave_one_group_out(table, models=["mean"], n_bootstrap=0)
    row = overall(scores, "mean", "colocalization_cosine")
    assert np.isnan(row["value"])
    assert row["n_undefined"] == 6  # sections


def test_agreement_where_it_cannot_be(table):
    few = table.copy()
    few.obsm["cell_abundance"] = few.obsm["cell_abundance"].iloc[:, :3]
    scores = hc.bench.leave_one_group_out(few, models=["ridge"], n_bootstrap=0)
    assert not scores["metric"].str.startswith("colocalization").any()
    with pytest.raises(ValueError, match="3 targets are fewer than 4"):
        hc.bench.leave_one_group_out(few, models=["ridge"], colocalization=True)
    without = table.copy()
    del without.obsm["spatial"]
    with pytest.raises(ValueError, match="no obsm"):
        hc.bench.leave_one_group_out(without, models=["ridge"], colocalization=True)
    del table.obs["mpp"]
    with pytest.warns(UserWarning, match="not scored: the resolution is unknown"):
        hc.bench.leave_one_group_out(table, models=["ridge"], n_bootstrap=0, length_scale_um=200)


def test_costs(table):
    scores = hc.bench.leave_one_group_out(
        table, models=["ridge", "mlp"], config=TINY, standardize_by=None, n_bootstrap=0
    )
    costs = scores[scores["metric"].isin(["seconds", "peak_memory_mb", "n_parameters"])]
    assert set(costs["cell_type"]) == {"mean"}
    by_group = costs.pivot(index=["model", "metric"], columns="group", values="value")
    groups = by_group[["A", "B", "C"]]
    assert by_group.xs("seconds", level="metric")["all"].to_numpy() == pytest.approx(
        groups.xs("seconds", level="metric").sum(axis=1).to_numpy()
    )
    assert (by_group["all"] == groups.max(axis=1)).xs("peak_memory_mb", level="metric").all()
    assert by_group.loc[("ridge", "n_parameters"), "all"] == 6 * 4 + 4
    perceptron = 6 * 8 + 8 + 5 * (8 * 8 + 8) + 6 * 2 * 8 + 8 * 4 + 4  # layer norms, too
    assert by_group.loc[("mlp", "n_parameters"), "all"] == perceptron + 6 * 4 + 4
    assert 50 < by_group.loc[("ridge", "peak_memory_mb"), "all"] < 1e5
    assert "peak_gpu_memory_mb" not in set(costs["metric"])


def test_peak_memory_is_that_of_the_process():
    from histocell.bench.costs import measured

    with measured("cpu") as before:
        pass
    with measured("cpu") as costs:
        block = np.ones(40_000_000)  # 320 MB
        time.sleep(0.1)
        del block
    assert costs["peak_memory_mb"] - before["peak_memory_mb"] == pytest.approx(320, abs=60)
    assert costs["seconds"] > 0.1


def test_workers_change_nothing(table):
    settings = {"models": ["mean", "ridge"], "n_bootstrap": 20, "rng": 3}
    one = hc.bench.leave_one_group_out(table, **settings)
    two, three = (hc.bench.leave_one_group_out(table, n_workers=n, **settings) for n in (2, 3))
    pd.testing.assert_frame_equal(without_costs(two), without_costs(three), rtol=0, atol=0)
    pd.testing.assert_frame_equal(without_costs(one), without_costs(two), rtol=1e-9)


def test_workers_repeat_their_warnings(table):
    table.obsm["cell_abundance"]["a"] = 1.0
    with pytest.warns(UserWarning, match="1 of 4 targets do not vary"):
        hc.bench.leave_one_group_out(table, models=["ridge"], n_bootstrap=0, n_workers=2)


def test_folds_of_an_mlp_are_those_of_single_fits(table):
    scores = hc.bench.leave_one_group_out(table, models=["mlp"], config=TINY, standardize_by=None, n_bootstrap=0, rng=3)
    X, Y, patient = table.obsm["X_toy"], table.obsm["cell_abundance"].to_numpy(), table.obs["patient"].to_numpy()
    for index, name in enumerate("ABC"):
        held = patient == name
        seed = int(np.random.default_rng(3).spawn(4)[index].integers(2**31 - 1))
        model = hc.models.MLP(**TINY["mlp"]).fit(X[~held], Y[~held], groups=patient[~held], rng=seed)
        expected = hc.metrics.pearson(Y[held], model.predict(X[held])).mean()
        row = scores.query("metric == 'cc' and cell_type == 'mean' and group == @name")
        assert row["value"].item() == pytest.approx(expected, abs=1e-4)


def test_ablation_is_one_protocol_for_each_set(table):
    table.obsm["X_first"] = table.obsm["X_toy"][:, :3]
    settings = {"models": ["ridge", "mean"], "n_bootstrap": 20}
    both = hc.bench.ablation(table, ["X_first", ["X_toy", "X_first"]], **settings)
    assert both["features"].unique().tolist() == ["X_first", "X_toy + X_first"]
    for name, features in (("X_first", "X_first"), ("X_toy + X_first", ["X_toy", "X_first"])):
        alone = hc.bench.leave_one_group_out(table, features, **settings)
        part = both[both["features"] == name].reset_index(drop=True)
        pd.testing.assert_frame_equal(without_costs(part), without_costs(alone))
    sets = {"three": "X_first", "six": "X_toy"}
    named = hc.bench.leave_one_group_out(table, {"three": "X_first", "all": ["X_toy"]}, **settings)
    assert named["features"].unique().tolist() == ["three", "all"]
    crossed = hc.bench.cross_dataset(table[80:].copy(), table[:80].copy(), sets, models="ridge")
    assert crossed["features"].unique().tolist() == ["three", "six"]


def test_ablation_errors(table):
    with pytest.raises(TypeError, match="several sets of embeddings"):
        hc.bench.ablation(table, "X_toy")
    with pytest.raises(ValueError, match="'X_toy' is there twice"):
        hc.bench.ablation(table, ["X_toy", ["X_toy"]])
    with pytest.raises(ValueError, match="features is empty"):
        hc.bench.ablation(table, [])
    with pytest.raises(KeyError, match="X_other"):
        hc.bench.ablation(table, ["X_toy", "X_other"])
    with pytest.raises(ValueError, match="models is empty"):
        hc.bench.leave_one_group_out(table, models=[])
    with pytest.raises(ValueError, match="n_workers must be at least 1"):
        hc.bench.leave_one_group_out(table, n_workers=0)


def test_a_group_called_all(table):
    table.obs["patient"] = table.obs["patient"].astype(str).replace("B", "all")
    with pytest.warns(UserWarning, match="'all' is called 'all_'"):
        scores = hc.bench.leave_one_group_out(table, models=["ridge"], n_bootstrap=0)
    assert set(scores["group"]) == {"A", "all_", "C", "all"}
    assert not scores.duplicated(["model", "features", "group", "metric", "cell_type"]).any()
    assert set(scores.query("metric == 'seconds'")["group"]) == {"A", "all_", "C", "all"}


def test_nothing_is_chosen_on_the_group_that_is_left_out(table):
    """Features and labels of the group change nothing that was fitted, so its scores are those of the same predictions."""
    changed = table.copy()
    is_c = (table.obs["patient"] == "C").to_numpy()
    changed.obsm["cell_abundance"].loc[is_c] = np.random.default_rng(1).permuted(
        table.obsm["cell_abundance"].to_numpy()[is_c], axis=0
    )
    kept = []
    for each in (table, changed):
        sections = Sections(each)
        dataset = Dataset.read(ABUNDANCE, sections.table, "X_toy", "cell_abundance", None)
        labels = each.obs["patient"].to_numpy()
        folds = left_out_folds(ABUNDANCE, sections, dataset, labels, "patient", seeds=[0, 1, 2], reach_um=0.0)
        kept.append(run_job(Job(hc.models.MLP(**TINY["mlp"]), folds[2].rows), "cpu").outputs)
    for ending in kept[0]:
        np.testing.assert_array_equal(kept[0][ending], kept[1][ending])
