"""No evaluation scores rows that the model was fitted on without saying so."""

from __future__ import annotations

import json
import warnings

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pytest

import histocell as hc
from histocell.models.fingerprint import Fingerprint

N_TRAIN = 160


def fit_predict(table, **settings):
    hc.tl.fit_abundance(table, **{"model": "ridge", "rng": 0} | settings)
    hc.tl.predict_abundance(table)


def evaluate(table, **settings):
    return hc.tl.evaluate_abundance(table, n_bootstrap=0, inplace=False, **settings)


def overall(scores, model="ridge"):
    return scores.query("model == @model and metric == 'cc' and group == 'all' and cell_type == 'mean'").iloc[0]


def assert_warns(table, n, **settings):
    with pytest.warns(UserWarning, match=f"^{n} of the .* flatters the model"):
        scores = evaluate(table, **settings)
    for _model in scores["model"].unique():  # the baselines were fitted on the same rows
        row = scores.query("model == @_model and metric == 'l1' and group == 'all' and cell_type == 'mean'").iloc[0]
        assert row["n_training"] == n
    return scores


class TestEvaluation:
    def test_without_a_split(self, table):
        del table.obs["split"]
        with pytest.warns(UserWarning, match="all 320 rows"):
            fit_predict(table)
        assert_warns(table, 320)

    def test_test_rows_are_unseen(self, table):
        fit_predict(table)
        scores = evaluate(table)
        assert (scores["n_training"] == 0).all()

    def test_another_split(self, table):
        fit_predict(table)
        table.obs["split"] = np.where(table.obs["patient"] == "P2", "test", "train")
        assert_warns(table, 80)

    def test_validation_rows_are_named(self, table):
        fit_predict(table)
        table.obs["split"] = np.where(table.obs["patient"] == "P1", "test", "train")
        with pytest.warns(UserWarning, match="80 of the 80 scored rows were used to choose its settings"):
            assert (evaluate(table)["n_training"] == 0).all()

    def test_standardised_features(self, table):
        fit_predict(table, standardize_by="section")
        assert_warns(table, N_TRAIN, split_key="none")

    def test_groups_are_counted_apart(self, table):
        fit_predict(table)
        scores = assert_warns(table, N_TRAIN, split_key="none")
        counts = scores.query("model == 'ridge' and metric == 'cc' and cell_type == 'mean'").set_index("group")
        assert dict(counts["n_training"]) == {"P0": 0, "P1": 0, "P2": 80, "P3": 80, "all": N_TRAIN}

    def test_unknown_origin_is_said(self, table):
        fit_predict(table)
        del table.uns["histocell"], table.obs["split"]
        with pytest.warns(UserWarning, match="nothing is recorded of the rows"):
            scores = evaluate(table)
        assert scores["n_training"].isna().all()

    def test_tables_joined_after_the_prediction(self, table, user_sees):
        """Test rows by the column, of which the model was fitted on 240."""
        fit_predict(table)
        parts = [table[table.obs["patient"] == patient].copy() for patient in ("P0", "P1", "P2", "P3")]
        joined = ad.concat(parts)
        joined.obs["split"] = "test"
        case = "tables joined by anndata.concat, which drops uns"
        with user_sees("Training and scores", case, UserWarning, match="nothing is recorded.*anndata.concat drops"):
            scores = evaluate(joined)
        assert scores["n_training"].isna().all()

    def test_the_record_of_one_part_is_not_that_of_all(self, table):
        fit_predict(table)
        parts = [table[table.obs["patient"] == patient].copy() for patient in ("P0", "P1", "P2", "P3")]
        for part in parts:
            hc.tl.predict_abundance(part, model=table)
        joined = ad.concat(parts, uns_merge="first")
        joined.obs["split"] = "test"
        with pytest.warns(UserWarning, match="nothing is recorded"):
            assert evaluate(joined)["n_training"].isna().all()


class TestUnknownParts:
    """A value that is no part of a split would be no part at all: neither fitted nor held out."""

    @pytest.mark.parametrize(
        ("change", "found"),
        [
            (lambda split: split.replace({"test": "Test"}), "'Test' in 80"),
            (lambda split: split.map({"train": 0, "val": 0, "test": 1}).astype(int), "0 in 240, 1 in 80"),
            (lambda split: split == "test", "False in 240, True in 80"),
            (lambda split: split.where(split != "test"), "nan in 80"),
            (lambda split: split.replace({"test": "test "}), "'test ' in 80"),
        ],
        ids=["capitals", "numbers", "booleans", "missing", "space"],
    )
    def test_fit_and_evaluation_list_them(self, table, change, found):
        fit_predict(table)
        split = table.obs["split"].astype(object)
        for key in ("split", "mine"):
            table.obs[key] = change(split)
            with pytest.raises(ValueError, match=rf'^obs\["{key}"\] must say train, val, test or dropped.*{found}'):
                evaluate(table, split_key=key)
            with pytest.raises(ValueError, match=f"of 320 rows it says {found}"):
                hc.tl.fit_abundance(table, model="ridge", split_key=key)

    def test_what_the_user_sees(self, table, user_sees):
        table.obs["split"] = table.obs["split"].astype(object).replace({"test": "Test", "val": None})
        with user_sees("Training and scores", "a split that says Test, or nothing", ValueError, match="'Test' in 80"):
            hc.tl.fit_abundance(table, model="ridge")

    def test_categories_that_no_row_has(self, table):
        table.obs["split"] = table.obs["split"].cat.add_categories(["Test", "unused"])
        fit_predict(table)
        assert (evaluate(table)["n_training"] == 0).all()


class TestWhatARowIs:
    def test_subset_and_order(self, table):
        fit_predict(table)
        part = table[table.obs["patient"].isin(["P0", "P3"])].copy()
        part = part[np.random.default_rng(0).permutation(part.n_obs)].copy()
        assert_warns(part, 80, split_key="none")

    def test_other_names(self, table):
        fit_predict(table)
        table.obs_names = [f"{name}-1" for name in table.obs_names]
        assert_warns(table, N_TRAIN, split_key="none")

    def test_concatenation(self, table):
        fit_predict(table)
        parts = {name: table[table.obs["section"] == name].copy() for name in table.obs["section"].cat.categories}
        joined = ad.concat(parts, index_unique="-", uns_merge="same")
        assert_warns(joined, N_TRAIN, split_key="none")
        # Without uns nothing is known until the model predicts again.
        joined = ad.concat(parts, index_unique="-")
        with pytest.warns(UserWarning, match="nothing is recorded"):
            hc.tl.predict_abundance(joined, model=table)
        assert_warns(joined, N_TRAIN, split_key="none")

    def test_another_embedding(self, table):
        fit_predict(table)
        table.obsm["X_toy"] = table.obsm["X_toy"] + 1e-3
        hc.tl.predict_abundance(table)
        assert_warns(table, N_TRAIN, split_key="none")
        del table.obsm["X_toy"]
        assert_warns(table, N_TRAIN, split_key="none")

    def test_another_session(self, table, make, tmp_path):
        fit_predict(table)
        hc.models.load(table).save(tmp_path / "m")
        table.write_h5ad(tmp_path / "a.h5ad")
        back = ad.read_h5ad(tmp_path / "a.h5ad")
        assert_warns(back, N_TRAIN, split_key="none")
        again = make()
        hc.tl.predict_abundance(again, model=tmp_path / "m")
        assert_warns(again, N_TRAIN, split_key="none")
        unseen = make(seed=1)
        unseen.obs["section"] = "other"
        hc.tl.predict_abundance(unseen, model=tmp_path / "m")
        assert (evaluate(unseen, split_key="none")["n_training"] == 0).all()

    def test_blank_patches_elsewhere_are_unseen(self, table):
        table.obsm["X_toy"][::10] = 0
        fit_predict(table)
        assert_warns(table, N_TRAIN, split_key="none")

    def test_sections_that_share_barcodes_are_not_taken_for_one(self, table, make):
        unseen = make(seed=1)
        for each in (table, unseen):
            del each.obs["section"]
        unseen.obs_names = table.obs_names
        fit_predict(table)
        hc.tl.predict_abundance(unseen, model=table)
        assert (evaluate(unseen, split_key="none")["n_training"] == 0).all()

    def test_models_from_before(self, table):
        hc.tl.fit_abundance(table, model="ridge", rng=0)
        state = table.uns["abundance_model"]
        config = json.loads(state["config"])
        for name in ("rows.train", "rows.validation"):
            del state["weights"][name], config["arrays"][name]
        state["config"] = json.dumps(config)
        hc.tl.predict_abundance(table)
        with pytest.warns(UserWarning, match="not known whether test rows are among them"):
            assert evaluate(table)["n_training"].isna().all()
        with pytest.warns(UserWarning, match="nothing is recorded.*they may be scored"):
            evaluate(table, split_key="none")


class TestSpatialData:
    def test_another_split(self, cohort):
        hc.pp.split(cohort, by="patient", test="P4")
        hc.tl.fit_abundance(cohort, model="ridge", rng=0)
        hc.tl.predict_abundance(cohort)
        assert (hc.tl.evaluate_abundance(cohort, n_bootstrap=0, inplace=False)["n_training"] == 0).all()
        hc.pp.split(cohort, by="patient", test="P1")
        n = int((cohort["table"].obs["patient"] == "P1").sum())
        with pytest.warns(UserWarning, match=f"^{n} of the {n} scored rows were used to fit it"):
            hc.tl.evaluate_abundance(cohort, n_bootstrap=0)


class TestProtocols:
    def test_groups_apart(self, table):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scores = hc.bench.leave_one_group_out(table, models=["ridge"], n_bootstrap=0, rng=0)
        assert (scores["n_training"] == 0).all()

    def test_a_section_in_both(self, table):
        part = table[table.obs["patient"] != "P0"].copy()
        with pytest.warns(UserWarning, match="240 of the 320 scored rows"):
            scores = hc.bench.cross_dataset(part, table, models=["ridge"], n_bootstrap=0, rng=0)
        assert overall(scores)["n_training"] == 240


def test_one_group_stands_once(table):
    fit_predict(table)
    scores = evaluate(table, group_key="patient")
    assert set(scores["group"]) == {"all"}
    assert not scores.duplicated(["model", "cell_type", "metric"]).any()


class TestNamesInScores:
    """The rows of a table of scores are told apart by model, group, target and metric, whatever the names."""

    def assert_unique(self, table, expected, **settings):
        table.uns["scores"] = scores = evaluate(table, **settings)
        column = [name for name in ("cell_type", "group") if expected in set(scores[name])]
        assert column
        assert not scores.duplicated(["model", "group", "cell_type", "metric"]).any()
        ax = hc.pl.scores(table, key="scores", show=False)
        labels = [label.get_text() for label in ax.get_yticklabels()]
        plt.close(ax.figure)
        assert labels[0] == "mean of types"
        assert len(labels) == 1 + table.obsm["cell_abundance"].shape[1]
        return scores

    def test_a_section_called_all(self, table):
        fit_predict(table)
        before = evaluate(table)
        table.obs["section"] = table.obs["section"].cat.rename_categories({"P0s0": "all"})
        with pytest.warns(UserWarning, match="the group 'all' is called 'all_' in the scores, where 'all' is the mean"):
            scores = self.assert_unique(table, "all_")
        assert set(scores["group"]) == {"all", "all_", "P0s1"}
        values = scores.set_index(["model", "group", "cell_type", "metric"])["value"].rename({"all_": "P0s0"})
        expected = before.set_index(values.index.names)["value"]
        np.testing.assert_array_equal(values.loc[expected.index], expected)

    def test_a_cell_type_called_mean(self, table):
        table.obsm["cell_abundance"] = table.obsm["cell_abundance"].rename(columns={"rare": "mean"})
        fit_predict(table)
        with pytest.warns(UserWarning, match="the cell type 'mean' is called 'mean_' in the scores"):
            scores = self.assert_unique(table, "mean_")
        assert {"mean", "mean_"} < set(scores["cell_type"])

    @pytest.mark.parametrize("column", ["section", "patient"])
    def test_without_a_section_or_a_patient(self, table, column):
        fit_predict(table)
        del table.obs[column]
        self.assert_unique(table, "all")
        del table.obs[{"section": "patient", "patient": "section"}[column]]
        self.assert_unique(table, "all")


def test_text_of_a_fingerprint():
    fingerprint = Fingerprint.of(np.array([[3, 4], [1, 2], [5, 6]], dtype=np.uint64), np.array([False, False, True]))
    back = Fingerprint.from_text(json.loads(json.dumps(fingerprint.to_text())))
    for mine, theirs in zip(back, fingerprint, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    train, validation = back.contains(np.array([[4, 9], [6, 9], [8, 9]], dtype=np.uint64))
    assert (train.tolist(), validation.tolist()) == ([True, False, False], [False, True, False])
