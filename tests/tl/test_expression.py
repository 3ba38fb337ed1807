from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

import histocell as hc
from histocell.tables.expression import GenePanel, read_expression
from histocell.tl._expression import expression as expression_module
from histocell.tl._expression import fitting
from histocell.tl._expression.patterns import morans_i
from histocell.tl.tasks.expression import bootstrap_top_variable, top_variable

FAST = {"model": "ridge", "genes": 12}


@pytest.fixture
def table(cohort):
    counted = np.asarray(cohort["table"].X.sum(axis=1)).ravel() > 0
    cohort.tables["table"] = cohort["table"][counted].copy()
    hc.pp.split(cohort, by="patient", test="P4")
    return cohort["table"]


def fitted(table, **settings):
    hc.tl.fit_expression(table, **(FAST | settings))
    return hc.models.load(table, model_key="expression_model")


class TestFit:
    def test_default_sees_no_test_row(self, table):
        changed = table.copy()
        test = (table.obs["split"] == "test").to_numpy()
        counts = changed.X.toarray()
        counts[test] = np.random.default_rng(0).poisson(30, size=counts[test].shape)
        changed.X = csr_matrix(counts)
        first, second = (fitted(each, model="component_ridge") for each in (table, changed))
        assert first.facts["panel"] == second.facts["panel"]
        for name, array in first.weights.items():
            np.testing.assert_array_equal(array, second.weights[name])
        assert set(first.baselines) == {"mean", "ridge"}
        assert first.facts["panel"]["genes"] == first.targets

    def test_panel(self, table):
        panel = GenePanel.from_dict(
            fitted(table, genes=["ERBB2"] if "ERBB2" in table.var_names else [table.var_names[3]]).facts["panel"]
        )
        train = (table.obs["split"] == "train").to_numpy()
        values = read_expression(table, panel)[train]
        np.testing.assert_allclose(panel.mean, values.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(panel.std, values.std(axis=0, ddof=1), rtol=1e-5)

    def test_rows_weigh_by_their_counts(self, table):
        first = fitted(table, model="component_ridge")
        second = fitted(table, model="component_ridge", config={"row_weight": 0.0})
        assert not np.allclose(first.weights["coefficients"], second.weights["coefficients"])
        logs = fitted(table, model="component_ridge", scale="log1p")  # no totals, no weights
        assert logs.facts["panel"]["scale"] == "log1p"

    def test_default_settings(self, table):
        assert fitted(table, model="ridge").config.target_transform == "standard"
        assert fitted(table, model="ridge", target_transform="root").config.target_transform == "root"
        assert fitted(table, model="ridge", config={"target_transform": "none"}).config.target_transform == "none"
        assert fitted(table, model=hc.models.Ridge()).config.target_transform == "root"  # keeps its own
        assert fitted(table, interval=None).has_interval is False

    def test_layer(self, table, user_sees):
        table.layers["counts"] = table.X.copy()
        table.X = csr_matrix(np.log1p(table.X.toarray()))
        match = r"X does not hold raw counts.*layer= names the layer with raw counts: counts"
        with user_sees("Expression", "normalised counts, with the raw ones in a layer", ValueError, match=match):
            hc.tl.fit_expression(table, **FAST)
        assert fitted(table, layer="counts").facts["layer"] == "counts"
        hc.tl.predict_expression(table)
        hc.tl.evaluate_expression(table, n_bootstrap=0)  # reads the same layer
        assert hc.get.provenance(table, "expression_evaluation")["layer"] == "counts"

    def test_inplace(self, table):
        state = hc.tl.fit_expression(table, **FAST, inplace=False)
        assert "expression_model" not in table.uns
        slots = hc.tl.predict_expression(table, model=state, inplace=False)
        assert {"predicted_expression", "predicted_expression_lower", "predicted_expression_mean"} <= set(slots)
        assert "predicted_expression" not in table.obsm

    def test_context_of_spots_keeps_neighbours_of_test_rows_out(self, table):
        mpp = table.obs["mpp"].iloc[0]
        pitch = 50 / mpp
        xy = table.obsm["spatial"]
        table.obs["array_row"] = np.rint(xy[:, 1] / pitch).astype(int)
        table.obs["array_col"] = 2 * np.rint(xy[:, 0] / pitch).astype(int) + table.obs["array_row"] % 2
        table.obsm["X_mine"] = np.array(table.obsm["X_morphology"])
        del table.obsm["patches"]  # the features alone would be of single points
        table.obs["split"] = np.where((table.obs["patient"] == "P1") & (xy[:, 0] < 350), "test", "train")
        inside = (table.obs["patient"] == "P1").to_numpy() & (xy[:, 0] >= 350)
        test = (table.obs["split"] == "test").to_numpy()
        near = [np.abs(xy[i] - xy[test]).max(axis=1).min() * mpp < 100 for i in np.flatnonzero(inside)]
        assert 0 < sum(near) < len(near)
        apart = fitted(table, features="X_mine").facts["n_train"]
        with pytest.warns(UserWarning, match=f"{sum(near)} of .* training rows are left out of the fit"):
            together = fitted(table, features="X_mine", spot_context=True).facts["n_train"]
        assert together == apart - sum(near)


class TestPredict:
    def test_slots(self, table):
        fitted(table)
        hc.tl.predict_expression(table)
        frame = table.obsm["predicted_expression"]
        assert frame.shape == (table.n_obs, 12)
        assert (table.obsm["predicted_expression_lower"] <= frame).all(axis=None)
        assert "predicted_expression_novelty" in table.obs
        record = hc.get.provenance(table, "predicted_expression")
        assert record["panel"]["genes"] == list(frame.columns)

    def test_tables_without_counts(self, cohort, table):
        hc.tl.fit_expression(cohort, **FAST)
        model = hc.models.load(table, model_key="expression_model")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            hc.pp.dense_spots(cohort, factor=2)
            hc.pp.patches(cohort, table_key="dense_table")
            hc.pp.embed_image(cohort, "morphology", table_key="dense_table")
            hc.tl.predict_expression(cohort, model=model, table_key="dense_table")
        dense = cohort["dense_table"]
        assert dense.n_obs > 2 * table.n_obs
        assert np.isfinite(dense.obsm["predicted_expression"].to_numpy()).mean() > 0.9

    def test_nuclei(self, table):
        rng = np.random.default_rng(0)
        columns = {"n_nuclei": rng.poisson(9, table.n_obs), "mean_area_um2": table.obsm["X_morphology"][:, 0]}
        table.obsm["X_nuclei"] = pd.DataFrame(columns, index=table.obs_names).astype(np.float32)
        model = fitted(table, features=["X_nuclei", "X_morphology"])
        assert model.features[0]["columns"] == ["n_nuclei", "mean_area_um2"]
        table.obsm["X_nuclei"] = table.obsm["X_nuclei"][["mean_area_um2", "n_nuclei"]]  # told by name
        hc.tl.predict_expression(table)
        assert np.isfinite(table.obsm["predicted_expression"].to_numpy()).all()

    def test_nan_embeddings(self, table, user_sees):
        table.obsm["X_morphology"] = np.array(table.obsm["X_morphology"])
        table.obsm["X_morphology"][:3] = np.nan
        with pytest.warns(UserWarning, match="3 of .* rows have features or targets that are not finite"):
            fitted(table)
        with user_sees(
            "Expression", "rows with NaN in their features", UserWarning, match="3 of .* rows have no finite features"
        ):
            hc.tl.predict_expression(table)
        assert np.isnan(table.obsm["predicted_expression"].to_numpy()[:3]).all()

    def test_models_are_for_their_task(self, table, user_sees):
        fitted(table)
        with pytest.raises(
            ValueError, match="this model predicts expression, not abundance; use hc.tl.predict_expression"
        ):
            hc.tl.predict_abundance(table, model_key="expression_model")
        hc.tl.fit_abundance(table, model="ridge")
        with pytest.raises(ValueError, match="this model predicts abundance, not expression"):
            hc.tl.predict_expression(table, model_key="abundance_model")
        with pytest.raises(KeyError, match="expression_missing"):
            hc.tl.predict_expression(table, model_key="expression_missing")
        match = "'knn' is a model for cell_types, not for expression; there are: .*component_ridge"
        with user_sees("Expression", "a model of another task", ValueError, match=match):
            hc.tl.fit_expression(table, model="knn")


class TestManyGenes:
    @pytest.fixture
    def wide(self, table, monkeypatch):
        monkeypatch.setattr(expression_module, "MOST_IN_FRAME", 10)
        monkeypatch.setattr(fitting, "MOST_IN_FRAME", 10)
        monkeypatch.setattr(fitting, "_BLOCK", 8)
        return table

    def test_layers(self, wide):
        model = fitted(wide, model="component_ridge", genes=20)
        assert len(model.targets) == 20 == len(set(model.targets))
        assert not model.has_interval
        hc.tl.predict_expression(wide)
        layer = wide.layers["predicted_expression"]
        assert layer.dtype == np.float32
        known = np.isfinite(layer).any(axis=0)
        assert set(wide.var_names[known]) == set(model.facts["panel"]["genes"])
        direct = model.predict(expression_module._predict.inputs(expression_module._task_of(model), wide, model))
        columns = [wide.var_names.get_loc(name) for name in model.targets]
        np.testing.assert_allclose(layer[:, columns], direct, rtol=1e-5)
        scores = hc.tl.evaluate_expression(wide, n_bootstrap=0, inplace=False)
        test = (wide.obs["split"] == "test").to_numpy()
        gene = model.targets[-1]  # not one of those that the components are of
        truth = read_expression(wide, GenePanel([gene]), rows=test)[:, 0]
        wanted = np.corrcoef(truth, layer[test, wide.var_names.get_loc(gene)])[0, 1]
        found = scores.query("metric == 'cc' and gene == @gene and group == 'all'")["value"].item()
        assert found == pytest.approx(wanted, abs=1e-4)

    def test_the_first_genes_are_as_in_a_fit_to_them(self, wide, monkeypatch):
        model = fitted(wide, model="component_ridge", genes=20)
        few = fitted(wide, model="component_ridge", genes=model.targets[:8], interval=None)
        X = np.hstack([np.zeros((5, 1))] * len(model.weights["input_mean"]))
        np.testing.assert_allclose(model.predict(X)[:, :8], few.predict(X), rtol=1e-6)

    def test_a_frame_replaces_a_layer(self, wide):
        fitted(wide, model="component_ridge", genes=20)
        hc.tl.predict_expression(wide)
        fitted(wide, model="component_ridge", genes=5)
        hc.tl.predict_expression(wide)
        assert "predicted_expression" in wide.obsm
        assert "predicted_expression" not in wide.layers

    def test_genes_that_the_table_lacks(self, wide, user_sees):
        model = fitted(wide, model="component_ridge", genes=20)
        part = wide[:, [name for name in wide.var_names if name not in model.targets[:3]]].copy()
        match = "3 of the 20 genes of the panel are not in the table"
        with user_sees("Expression", "a table that lacks genes of the panel, at prediction", UserWarning, match=match):
            hc.tl.predict_expression(part)
        assert np.isfinite(part.layers["predicted_expression"]).any(axis=0).sum() == 17
        none = wide.copy()
        none.var_names = [f"other{i}" for i in range(none.n_vars)]
        hc.tl.predict_expression(none)
        assert none.obsm["predicted_expression"].shape[1] == 20  # no variable to align with

    def test_other_models_take_so_many_genes(self, table, monkeypatch, user_sees):
        monkeypatch.setattr(fitting, "MOST_AT_ONCE", 10)
        match = '12 are more than 10: choose model="component_ridge"'
        with user_sees("Expression", "more genes than a model holds at once", ValueError, match=match):
            hc.tl.fit_expression(table, **FAST)


class TestEvaluate:
    def test_scores_are_plain_correlations(self, table):
        model = fitted(table, genes=15)
        hc.tl.predict_expression(table)
        hc.tl.evaluate_expression(table, n_bootstrap=20)
        scores = hc.get.scores(table, "expression_evaluation").query("group == 'all' and model == 'ridge'")
        test = (table.obs["split"] == "test").to_numpy()
        panel = GenePanel.from_dict(model.facts["panel"])
        truth, predicted = read_expression(table, panel)[test], table.obsm["predicted_expression"].to_numpy()[test]
        cc = np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(truth.T, predicted.T, strict=True)])
        value = scores.set_index(["metric", "gene"])["value"]
        np.testing.assert_allclose(value.loc["cc"].loc[model.targets], cc, atol=1e-6)
        assert value["cc", "mean"] == pytest.approx(cc.mean(), abs=1e-6)
        variable = np.argsort(-np.array(panel.std))[:3]
        assert value["cc_highly_variable", "mean"] == pytest.approx(cc[variable].mean(), abs=1e-6)
        high = np.argsort(-np.array(panel.mean))[:3]
        assert value["cc_highly_expressed", "mean"] == pytest.approx(cc[high].mean(), abs=1e-6)
        difference = morans_i(predicted, table.obsm["spatial"][test]) - morans_i(truth, table.obsm["spatial"][test])
        np.testing.assert_allclose(value.loc["moran_difference"].loc[model.targets], difference, atol=1e-6)
        assert set(hc.get.scores(table, "expression_evaluation")["model"]) == {"ridge", "mean"}

    def test_groups(self, table):
        fitted(table)
        hc.tl.predict_expression(table)
        del table.obs["split"]
        with pytest.warns(UserWarning, match="were used to fit it"):
            scores = hc.tl.evaluate_expression(table, n_bootstrap=20, inplace=False)
        mean = scores.query("model == 'ridge' and metric == 'moran_difference' and gene == 'mean'")
        assert mean["group"].tolist() == ["P1", "P2", "P3", "P4", "all"]
        assert mean["interval"].iloc[-1] == "range of 4 groups"
        assert mean["value"].iloc[-1] == pytest.approx(mean["value"].iloc[:-1].mean())

    def test_panel_mismatch(self, table, user_sees):
        model = fitted(table)
        hc.tl.predict_expression(table)
        part = table[:, [name for name in table.var_names if name not in model.targets[:2]]].copy()
        with pytest.warns(
            UserWarning,
            match=f"2 of the 12 genes of the panel are not in the table and are left out: {model.targets[0]}",
        ):
            scores = hc.tl.evaluate_expression(part, n_bootstrap=0, inplace=False)
        assert scores.query("metric == 'cc' and group == 'all' and model == 'ridge'").shape[0] == 11
        part.var_names = [f"ENSG{i:011d}" for i in range(part.n_vars)]
        match = "none of the 12 genes of the panel .* is in the table, whose genes are ENSG"
        with user_sees("Expression", "a truth that names genes otherwise", ValueError, match=match):
            hc.tl.evaluate_expression(part)

    def test_constant_genes_are_counted(self, table):
        model = fitted(table)
        hc.tl.predict_expression(table)
        counts = table.X.toarray()
        test = (table.obs["split"] == "test").to_numpy()
        counts[np.ix_(test, [table.var_names.get_loc(model.targets[0])])] = 0
        table.X = csr_matrix(counts)
        scores = hc.tl.evaluate_expression(table, n_bootstrap=0, inplace=False).query(
            "model == 'ridge' and metric == 'cc'"
        )
        assert scores.query("gene == 'mean'")["n_undefined"].item() == 1
        assert np.isnan(scores.query("gene == @model.targets[0]")["value"].item())

    def test_nothing_predicted(self, table, user_sees):
        with user_sees("Expression", "scores before a prediction", KeyError, match="Run hc.tl.predict_expression"):
            hc.tl.evaluate_expression(table)
        table.obsm["mine"] = table.obsm["X_morphology"][:, :2]
        with pytest.raises(ValueError, match="the prediction 'mine' knows no panel of genes"):
            hc.tl.evaluate_expression(table, key="mine")


class TestBadInput:
    def test_one_section(self, tissue):
        hc.pp.patches(tissue)
        hc.pp.embed_image(tissue, "morphology")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            hc.tl.fit_expression(tissue, genes=5, model="component_ridge")
        said = " ".join(str(each.message) for each in caught)
        assert "the training rows are one group" in said
        assert 'no obs["split"]' in said

    def test_sections_without_shared_genes(self, table, user_sees):
        counts = table.X.toarray()
        rows = (table.obs["patient"] == "P1").to_numpy()
        counts[np.ix_(rows, np.arange(0, table.n_vars, 2))] = 0
        counts[np.ix_(~rows, np.arange(1, table.n_vars, 2))] = 0
        table.X = csr_matrix(counts)
        match = "0 of .* genes have at least 3 counts .* whether the sections share their genes"
        with user_sees("Expression", "samples that share no genes", ValueError, match=match):
            hc.tl.fit_expression(table, **FAST)

    def test_spots_without_counts(self, table, user_sees):
        counts = table.X.toarray()
        counts[:20] = 0
        table.X = csr_matrix(counts)
        match = "20 of 1.. rows have no counts: they are left out of the fit"
        with user_sees("Expression", "spots without counts", UserWarning, match=match):
            fitted(table)


class TestBench:
    def test_protocol(self, table):
        del table.obs["split"]
        task = hc.bench.expression_task(table, 12)
        scores = hc.bench.leave_one_group_out(
            table, task=task, models=["mean", "ridge", "component_ridge"], n_bootstrap=0
        )
        mean = scores.query("group == 'all' and gene == 'mean'").set_index(["model", "metric"])["value"]
        assert mean["component_ridge", "cc"] > 0.2
        assert "colocalization_cosine" not in set(scores["metric"])
        alone = table.copy()
        alone.obs["split"] = np.where(alone.obs["patient"] == "P1", "test", "train")
        fitted(alone, model="component_ridge", genes=task.writer.panel.genes)
        hc.tl.predict_expression(alone)
        one = hc.tl.evaluate_expression(alone, n_bootstrap=0, inplace=False)
        wanted = one.query("model == 'component_ridge' and metric == 'cc' and gene == 'mean' and group == 'all'")[
            "value"
        ].item()
        found = scores.query("model == 'component_ridge' and metric == 'cc' and gene == 'mean' and group == 'P1'")[
            "value"
        ]
        assert found.item() == pytest.approx(wanted, abs=0.03)


def test_top_variable_by_a_loop():
    rng = np.random.default_rng(0)
    truth, predicted = rng.normal(size=(2, 40, 20)) * rng.uniform(0.5, 3, size=(2, 1, 20))
    tops = [set(np.argsort(-each.var(axis=0))[:4]) for each in (truth, predicted)]
    assert top_variable(truth, predicted)[0] == len(tops[0] & tops[1]) / 4
    assert top_variable(truth, truth)[0] == 1
    assert np.isnan(top_variable(truth, 0 * predicted)[0])
    assert bootstrap_top_variable(truth, predicted, n_bootstrap=7, rng=0).shape == (7, 1)


def test_morans_i_by_a_loop():
    rng = np.random.default_rng(0)
    xy = np.stack(np.meshgrid(np.arange(6), np.arange(5)), axis=-1).reshape(-1, 2) * 100.0
    values = np.column_stack([xy[:, 0], rng.normal(size=30), np.ones(30)])
    squared = ((xy[:, None] - xy[None]) ** 2).sum(axis=2)
    weights = np.exp(-squared / (2 * 100.0**2))
    weights[(weights < 0.2) | (squared == 0)] = 0
    expected = []
    for column in values[:, :2].T:
        z = column - column.mean()
        expected.append(30 / weights.sum() * (z @ weights @ z) / (z @ z))
    found = morans_i(values, xy)
    np.testing.assert_allclose(found[:2], expected, rtol=1e-6)
    assert np.isnan(found[2])
    assert np.isnan(morans_i(values[:5], xy[:5])).all()
