from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import histocell as hc
from histocell._core import keys

COLUMNS = [
    "model",
    "group",
    "cell_type",
    "metric",
    "value",
    "low",
    "high",
    "interval",
    "n_spots",
    "n_undefined",
    "n_training",
    "n_overlapping",
]

TINY = {"hidden": (8,) * 6, "max_epochs": 3, "n_members": 2}


def fit(table, **kwargs):
    hc.tl.fit_abundance(table, **{"model": "ridge", "rng": 0} | kwargs)


def mean_score(table, model, metric="cc"):
    rows = table.uns["abundance_evaluation"].query("group == 'all' and cell_type == 'mean'")
    return float(rows.query("model == @model and metric == @metric")["value"].iloc[0])


class TestJourney:
    @pytest.mark.parametrize(("model", "config"), [("ridge", None), ("mlp", TINY), ("mean", None)])
    def test_fit_predict_evaluate(self, table, model, config):
        before = table.copy()
        fit(table, model=model, config=config)
        hc.tl.predict_abundance(table)
        hc.tl.evaluate_abundance(table, n_bootstrap=50, rng=0)
        predicted = table.obsm["predicted_abundance"]
        assert list(predicted.columns) == list(table.obsm["cell_abundance"].columns)
        assert (predicted.index == table.obs_names).all()
        assert (table.obsm["predicted_abundance_lower"] <= predicted).all().all()
        scores = table.uns["abundance_evaluation"]
        assert list(scores.columns) == COLUMNS
        others = {"mean": [], "ridge": ["mean"], "mlp": ["mean", "ridge"]}[model]
        assert list(scores["model"].unique()) == [model, *others]
        assert set(scores["metric"]) == {"cc", "cc_per_slide", "l1", "coverage"}
        # What the user brought is as it was.
        np.testing.assert_array_equal(table.X, before.X)
        assert set(table.obs) - set(before.obs) == {"predicted_abundance_novelty"}
        pd.testing.assert_frame_equal(table.obs[list(before.obs)], before.obs)
        np.testing.assert_array_equal(table.obsm["X_toy"], before.obsm["X_toy"])

    def test_scores_are_those_of_the_test_patient(self, table):
        fit(table)
        hc.tl.predict_abundance(table)
        hc.tl.evaluate_abundance(table, n_bootstrap=50, group_key="patient", rng=0)
        test = table.obs["patient"] == "P0"
        truth, predicted = table.obsm["cell_abundance"][test], table.obsm["predicted_abundance"][test]
        expected = np.mean([np.corrcoef(truth[c], predicted[c])[0, 1] for c in truth])
        assert mean_score(table, "ridge") == pytest.approx(expected)
        assert mean_score(table, "ridge", "l1") == pytest.approx(float(np.abs(truth - predicted).to_numpy().mean()))
        assert mean_score(table, "ridge") > 0.6
        assert mean_score(table, "ridge", "l1") < mean_score(table, "mean", "l1")
        rows = table.uns["abundance_evaluation"].query("group == 'all' and metric == 'cc' and model == 'ridge'")
        assert (rows["low"] < rows["value"]).all()
        assert (rows["n_spots"] == 80).all()
        undefined = table.uns["abundance_evaluation"].query(
            "model == 'mean' and metric == 'cc' and cell_type == 'mean'"
        )
        assert (undefined["n_undefined"] == 4).all()
        assert undefined["value"].isna().all()

    def test_replicates_are_patients_then_sections(self, table):
        fit(table)
        hc.tl.predict_abundance(table)
        by_section = hc.tl.evaluate_abundance(table, n_bootstrap=20, rng=0, inplace=False)
        assert set(by_section["group"]) == {"P0s0", "P0s1", "all"}
        del table.obs["split"]
        with pytest.warns(UserWarning, match="160 of the 320 scored rows"):
            by_patient = hc.tl.evaluate_abundance(table, n_bootstrap=20, rng=0, inplace=False)
        assert set(by_patient["group"]) == {"P0", "P1", "P2", "P3", "all"}
        overall = by_patient.query("group == 'all' and metric == 'cc' and model == 'ridge'")
        each = by_patient.query("group != 'all' and metric == 'cc' and model == 'ridge'")
        expected = each.groupby("cell_type")["value"].mean()
        np.testing.assert_allclose(overall.set_index("cell_type")["value"].loc[expected.index], expected)
        assert each["low"].isna().all()

    def test_slides_are_those_of_library_key(self, table):
        fit(table)
        hc.tl.predict_abundance(table)
        settings = {"group_key": "patient", "n_bootstrap": 0, "inplace": False}
        by_patient = hc.tl.evaluate_abundance(table, library_key="patient", **settings)
        by_section = hc.tl.evaluate_abundance(table, **settings)
        cc, one, several = (
            scores.query("model == 'ridge' and metric == @metric")["value"].to_numpy()
            for scores, metric in ((by_patient, "cc"), (by_patient, "cc_per_slide"), (by_section, "cc_per_slide"))
        )
        np.testing.assert_allclose(one, cc)
        assert not np.allclose(several, cc)

    def test_test_rows_are_never_looked_at(self, table):
        changed = table.copy()
        test = (changed.obs["split"] == "test").to_numpy()
        changed.obsm["X_toy"][test] = 1e3
        changed.obsm["cell_abundance"].loc[test] = np.nan
        for model, config in (("ridge", None), ("mlp", TINY)):
            first = hc.tl.fit_abundance(table, model=model, config=config, rng=0, inplace=False)
            second = hc.tl.fit_abundance(changed, model=model, config=config, rng=0, inplace=False)
            assert first["config"] == second["config"]
            for name, array in first["weights"].items():
                np.testing.assert_array_equal(array, second["weights"][name])

    def test_order_of_rows_does_not_matter_to_predictions(self, table):
        fit(table)
        hc.tl.predict_abundance(table)
        shuffled = table[np.random.default_rng(0).permutation(table.n_obs)].copy()
        again = hc.tl.predict_abundance(shuffled, inplace=False)["predicted_abundance"]
        pd.testing.assert_frame_equal(again.loc[table.obs_names], table.obsm["predicted_abundance"], rtol=1e-12)

    def test_inplace_false_returns_what_would_be_written(self, table):
        state = hc.tl.fit_abundance(table, model="ridge", rng=0, inplace=False)
        assert "abundance_model" not in table.uns
        frames = hc.tl.predict_abundance(table, model=state, inplace=False)
        assert set(frames) == {f"predicted_abundance{s}" for s in ("", "_lower", "_upper", "_mean", "_novelty")}
        assert "predicted_abundance" not in table.obsm

    def test_a_second_model_leaves_no_leftovers(self, table):
        fit(table, model="mlp", config=TINY)
        hc.tl.predict_abundance(table)
        fit(table, interval=None)
        hc.tl.predict_abundance(table)
        assert not {f"predicted_abundance_{s}" for s in ("lower", "upper", "ridge")} & set(table.obsm)

    def test_standardised_sections_undo_a_stain(self, table):
        stained = table.copy()
        rows = (stained.obs["section"] == "P0s1").to_numpy()
        stained.obsm["X_toy"][rows] = stained.obsm["X_toy"][rows] * 4 + 9
        for each in (table, stained):
            fit(each, standardize_by="section")
            hc.tl.predict_abundance(each)
        np.testing.assert_allclose(
            stained.obsm["predicted_abundance"], table.obsm["predicted_abundance"], rtol=1e-3, atol=1e-4
        )

    def test_settings(self, table):
        fit(table, model=hc.models.Ridge(alphas=(0.5,), interval=None))
        model = hc.models.load(table.uns["abundance_model"])
        assert model.config.alphas == (0.5,)
        fit(table, target_transform="log1p", interval=0.5, config={"sharing": 1.0})
        model = hc.models.load(table.uns["abundance_model"])
        assert (model.config.target_transform, model.config.interval, model.config.sharing) == ("log1p", 0.5, 1.0)
        assert model.facts["groups"] == ["P2", "P3"]
        fit(table, model="mlp", preset="paper", config={"hidden": (8,), "max_epochs": 1})
        assert hc.models.load(table.uns["abundance_model"]).config.preset == "paper"


class TestSources:
    def test_folder_object_mapping_and_other_data(self, table, make, tmp_path):
        fit(table, standardize_by=None)
        model = hc.models.load(table.uns["abundance_model"])
        model.save(tmp_path / "m")
        other = make(seed=0)
        expected = model.predict(other.obsm["X_toy"])
        for source in (model, tmp_path / "m", str(tmp_path / "m"), table.uns["abundance_model"], table):
            hc.tl.predict_abundance(other, model=source)
            np.testing.assert_array_equal(other.obsm["predicted_abundance"], expected)
        hc.tl.evaluate_abundance(other, n_bootstrap=10)
        assert "mean" in set(other.uns["abundance_evaluation"]["model"])

    def test_no_model(self, table):
        with pytest.raises(KeyError, match="fit_abundance"):
            hc.tl.predict_abundance(table)

    def test_model_of_plain_arrays(self, table):
        model = hc.models.Ridge().fit(table.obsm["X_toy"], table.obsm["cell_abundance"], groups=table.obs["patient"])
        with pytest.raises(ValueError, match="plain arrays"):
            hc.tl.predict_abundance(table, model=model)

    @pytest.mark.parametrize(
        ("field", "value", "match"),
        [
            ("encoder", "uni", "encoder is uni, the model was fitted with toy"),
            ("size_um", 224.0, "size_um is 224.0, the model was fitted with 112.0"),
            ("mpp", 1.0, "mpp is 1.0"),
            ("revision", "2", "revision is 2"),
        ],
    )
    def test_other_features_are_refused(self, table, field, value, match):
        fit(table)
        facts = keys.read_provenance(table, "X_toy") | {field: value}
        facts.pop("histocell")
        keys.write_provenance(table, "X_toy", **facts)
        with pytest.raises(ValueError, match=match):
            hc.tl.predict_abundance(table)

    def test_other_dimension_is_refused_and_unknown_origin_is_not(self, table):
        fit(table)
        del table.uns["histocell"]
        with pytest.warns(UserWarning, match="nothing is recorded of"):
            hc.tl.predict_abundance(table)
        table.obsm["X_toy"] = table.obsm["X_toy"][:, :5]
        with pytest.raises(ValueError, match="dim is 5, the model was fitted with 10"):
            hc.tl.predict_abundance(table)

    def test_missing_embedding(self, table):
        fit(table)
        del table.obsm["X_toy"]
        with pytest.raises(KeyError, match=r'embed_image\(data, "toy"\)'):
            hc.tl.predict_abundance(table)


class TestFeatures:
    def test_several_are_set_side_by_side(self, table):
        table.obsm["X_b"] = table.obsm["X_toy"][:, :3] ** 2
        fit(table, features=["X_toy", "X_b"])
        model = hc.models.load(table.uns["abundance_model"])
        assert [(f["key"], f["dim"]) for f in model.features] == [("X_toy", 10), ("X_b", 3)]
        hc.tl.predict_abundance(table)

    def test_the_only_known_one_is_the_default(self, table):
        table.obsm["X_pca"] = np.ones((table.n_obs, 2))
        table.obsm["X_b"] = np.ones((table.n_obs, 2))
        fit(table)
        assert hc.models.load(table.uns["abundance_model"]).features[0]["key"] == "X_toy"
        keys.write_provenance(table, "X_b", encoder="b")
        with pytest.raises(ValueError, match="several embeddings: X_toy, X_b"):
            fit(table)

    def test_none_at_all(self, table):
        del table.obsm["X_toy"]
        with pytest.raises(KeyError, match="embed_image"):
            fit(table)

    def test_sparse_frame_and_nonsense(self, table):
        from scipy.sparse import csr_matrix

        fit(table)
        expected = hc.tl.predict_abundance(table, inplace=False)["predicted_abundance"]
        table.obsm["X_toy"] = csr_matrix(table.obsm["X_toy"])
        again = hc.tl.predict_abundance(table, inplace=False)["predicted_abundance"]
        pd.testing.assert_frame_equal(again, expected)
        table.obsm["X_text"] = pd.DataFrame({"a": ["x"] * table.n_obs}, index=table.obs_names)
        with pytest.raises(ValueError, match="numeric matrix"):
            fit(table, features="X_text")


class TestBadInput:
    def test_no_target(self, table):
        del table.obsm["cell_abundance"]
        with pytest.raises(KeyError, match=r'obsm\["cell_abundance"\] not found; available: spatial, X_toy'):
            fit(table)

    def test_no_split_is_stated(self, table):
        del table.obs["split"]
        with pytest.warns(UserWarning, match="all 320 rows with a target are training rows"):
            fit(table)

    def test_no_training_row(self, table):
        table.obs["split"] = "test"
        with pytest.raises(ValueError, match=r'no row "train" \(test: 320\)'):
            fit(table)

    def test_one_group_is_stated(self, table):
        one = table[table.obs["section"] == "P2s0"].copy()
        with pytest.warns(UserWarning, match="the training rows are one group.*not guaranteed"):
            fit(one)
        assert hc.models.load(one.uns["abundance_model"]).facts["group_key"] == "spatial blocks"

    def test_one_patient_falls_back_to_sections(self, table):
        one = table[table.obs["patient"] == "P2"].copy()
        with pytest.warns(UserWarning, match="all training rows come from one patient"):
            fit(one)
        assert hc.models.load(one.uns["abundance_model"]).facts["groups"] == ["P2s0", "P2s1"]

    def test_spots_outside_the_image(self, table):
        table.obsm["X_toy"][[0, 100, 200]] = np.nan
        with pytest.warns(UserWarning, match="of 240 rows have features or targets that are not finite"):
            fit(table)
        with pytest.warns(UserWarning, match="3 of 320 rows have no finite features"):
            hc.tl.predict_abundance(table)
        assert table.obsm["predicted_abundance"].isna().all(axis=1).to_numpy().nonzero()[0].tolist() == [0, 100, 200]
        hc.tl.evaluate_abundance(table, n_bootstrap=10)
        assert np.isfinite(mean_score(table, "ridge"))

    def test_missing_targets(self, table):
        train = np.flatnonzero(table.obs["split"] == "train")[:4]
        table.obsm["cell_abundance"].iloc[train, 0] = np.nan
        with pytest.warns(UserWarning, match="4 training or validation rows"):
            fit(table)

    def test_zero_variance_type(self, table):
        table.obsm["cell_abundance"]["rare"] = 0.0
        with pytest.warns(UserWarning, match="1 of 4 targets do not vary"):
            fit(table)
        hc.tl.predict_abundance(table)
        hc.tl.evaluate_abundance(table, n_bootstrap=10, group_key="patient")
        rows = table.uns["abundance_evaluation"].query("model == 'ridge' and metric == 'cc' and group == 'all'")
        assert rows.set_index("cell_type")["n_undefined"].to_dict() == dict.fromkeys(rows["cell_type"], 0) | {
            "rare": 1,
            "mean": 1,
        }
        assert np.isfinite(mean_score(table, "ridge"))

    def test_constant_embedding(self, table):
        table.obsm["X_toy"][:] = 1
        with pytest.raises(ValueError, match="all features are constant over the 160"):
            fit(table)

    def test_settings_are_checked(self, table):
        with pytest.raises(TypeError, match="no setting depth; it has"):
            fit(table, config={"depth": 3})
        with pytest.raises(TypeError, match="belong into the model"):
            fit(table, model=hc.models.Ridge(), config={"sharing": 1})
        with pytest.raises(TypeError, match="not int"):
            fit(table, model=3)
        with pytest.raises(ValueError, match="unknown model"):
            fit(table, model="forest")

    def test_evaluate(self, table):
        with pytest.raises(KeyError, match="predict_abundance"):
            hc.tl.evaluate_abundance(table)
        fit(table)
        hc.tl.predict_abundance(table)
        table.obs["split"] = "train"
        with pytest.warns(UserWarning, match="flatters the model"):
            hc.tl.evaluate_abundance(table, n_bootstrap=10)
        table.obsm["cell_abundance"] = table.obsm["cell_abundance"].rename(columns={"rare": "other"})
        with (
            pytest.warns(UserWarning, match="only the 3 targets"),
            pytest.warns(UserWarning, match="flatters the model"),
        ):
            hc.tl.evaluate_abundance(table, n_bootstrap=10, split_key="none")
        table.obsm["cell_abundance"].columns = list("abcd")
        with pytest.raises(ValueError, match="share no target"):
            hc.tl.evaluate_abundance(table)


class TestRoundTrip:
    @pytest.fixture(params=["ridge", "mlp"])
    def fitted(self, request, table):
        fit(table, model=request.param, config=TINY if request.param == "mlp" else None)
        hc.tl.predict_abundance(table)
        hc.tl.evaluate_abundance(table, n_bootstrap=10, rng=0)
        return table

    def check(self, back, table):
        again = hc.tl.predict_abundance(back, inplace=False)
        for each in (again.pop("predicted_abundance_novelty"), back.obs["predicted_abundance_novelty"]):
            np.testing.assert_array_equal(each, table.obs["predicted_abundance_novelty"])
        for slot, frame in again.items():
            np.testing.assert_array_equal(frame.to_numpy(), table.obsm[slot].to_numpy())
            np.testing.assert_array_equal(back.obsm[slot].to_numpy(), table.obsm[slot].to_numpy())
            assert list(back.obsm[slot].columns) == list(table.obsm["cell_abundance"].columns)
        scores = back.uns["abundance_evaluation"]
        assert list(scores.columns) == list(table.uns["abundance_evaluation"].columns)
        np.testing.assert_array_equal(scores["value"], table.uns["abundance_evaluation"]["value"])
        assert list(scores["cell_type"]) == list(table.uns["abundance_evaluation"]["cell_type"])
        hc.tl.evaluate_abundance(back, n_bootstrap=10, rng=0)

    def test_h5ad(self, fitted, tmp_path):
        fitted.write_h5ad(tmp_path / "a.h5ad")
        self.check(ad.read_h5ad(tmp_path / "a.h5ad"), fitted)

    def test_zarr(self, fitted, tmp_path):
        fitted.write_zarr(tmp_path / "a.zarr")
        self.check(ad.read_zarr(tmp_path / "a.zarr"), fitted)

    def test_spatialdata(self, fitted, tmp_path):
        import spatialdata as sd
        from spatialdata.models import TableModel

        table = fitted.copy()
        table.obs["region"] = pd.Categorical(["spots"] * table.n_obs)
        table.obs["spot_id"] = np.arange(table.n_obs)
        table = TableModel.parse(table, region="spots", region_key="region", instance_key="spot_id")
        shapes = sd.models.ShapesModel.parse(fitted.obsm["spatial"], geometry=0, radius=1.0)
        sd.SpatialData(tables={"table": table}, shapes={"spots": shapes}).write(tmp_path / "s.zarr")
        back = sd.read_zarr(tmp_path / "s.zarr")
        self.check(back["table"], fitted)
        hc.tl.predict_abundance(back, key_added="again")
        np.testing.assert_array_equal(back["table"].obsm["again"], fitted.obsm["predicted_abundance"])


class TestNamedFeatures:
    """Names of the columns are part of a model's features."""

    @pytest.fixture
    def framed(self, table):
        names = [f"f{i}" for i in range(10)]
        table.obsm["X_toy"] = pd.DataFrame(table.obsm["X_toy"], index=table.obs_names, columns=names)
        return table

    @pytest.mark.parametrize("model", ["ridge", "mlp"])
    def test_the_order_of_columns_does_not_matter(self, framed, model, tmp_path):
        fit(framed, model=model, config=TINY if model == "mlp" else None)
        expected = hc.tl.predict_abundance(framed, inplace=False)
        hc.models.load(framed).save(tmp_path / "m")
        framed.obsm["X_toy"] = framed.obsm["X_toy"].iloc[:, ::-1]
        for source in (None, tmp_path / "m"):
            again = hc.tl.predict_abundance(framed, model=source, inplace=False)
            pd.testing.assert_frame_equal(pd.concat(again, axis=1), pd.concat(expected, axis=1))
        hc.tl.predict_abundance(framed)
        assert (hc.tl.evaluate_abundance(framed, n_bootstrap=0, inplace=False)["n_training"] == 0).all()
        with pytest.warns(UserWarning, match="160 of the 320 scored rows were used to fit it"):
            hc.tl.evaluate_abundance(framed, split_key="none", n_bootstrap=0)
        assert "f7" not in (tmp_path / "m" / "README.md").read_text()

    def test_rows_are_recognised_by_features_whatever_their_order(self, framed):
        fit(framed)
        hc.tl.predict_abundance(framed)
        framed.obsm["X_toy"] = framed.obsm["X_toy"].iloc[:, ::-1]
        framed.obs_names = [f"{name}-1" for name in framed.obs_names]
        with pytest.warns(UserWarning, match="160 of the 320 scored rows were used to fit it"):
            hc.tl.evaluate_abundance(framed, split_key="none", n_bootstrap=0)

    def test_other_columns(self, framed, user_sees):
        fit(framed)
        framed.obsm["X_toy"] = framed.obsm["X_toy"].rename(columns={"f3": "g3", "f4": "g4"})
        given = "features with other columns than those of the model"
        with user_sees("Training and scores", given, ValueError, match=r"lacks columns of the model \(f3, f4\)"):
            hc.tl.predict_abundance(framed)
        framed.obsm["X_toy"] = framed.obsm["X_toy"].iloc[:, :5]
        with pytest.raises(ValueError, match=r"dim is 5.*it lacks columns of the model \(f3, f4, f5, f6, f7"):
            hc.tl.predict_abundance(framed)

    def test_two_columns_of_one_name(self, framed):
        framed.obsm["X_toy"].columns = ["a", "a", *"bcdefghi"]
        with pytest.raises(ValueError, match=r'obsm\["X_toy"\] has several columns of one name: a;'):
            fit(framed)

    def test_an_array_in_place_of_the_frame(self, framed):
        fit(framed)
        expected = hc.tl.predict_abundance(framed, inplace=False)["predicted_abundance"]
        framed.obsm["X_toy"] = framed.obsm["X_toy"].to_numpy()
        again = hc.tl.predict_abundance(framed, inplace=False)["predicted_abundance"]
        pd.testing.assert_frame_equal(again, expected)

    def test_an_array_whose_encoder_named_its_features(self, table):
        facts = keys.read_provenance(table, "X_toy") | {"feature_names": [f"f{i}" for i in range(10)]}
        facts.pop("histocell")
        keys.write_provenance(table, "X_toy", **facts)
        fit(table)
        expected = hc.tl.predict_abundance(table, inplace=False)["predicted_abundance"]
        table.obsm["X_toy"] = hc.get.embedding(table, "X_toy").sample(frac=1, axis=1, random_state=0)
        again = hc.tl.predict_abundance(table, inplace=False)["predicted_abundance"]
        pd.testing.assert_frame_equal(again, expected)

    def test_datasets_with_columns_of_another_order(self, framed):
        train, test = (framed[framed.obs["patient"].isin(names)].copy() for names in (["P0", "P1"], ["P2", "P3"]))
        settings = {"models": ["ridge"], "n_bootstrap": 0, "rng": 0}
        expected = hc.bench.cross_dataset(train, test, **settings)
        test.obsm["X_toy"] = test.obsm["X_toy"].iloc[:, ::-1]
        scores = hc.bench.cross_dataset(train, test, **settings)
        same = ~scores["metric"].isin(["seconds", "peak_memory_mb"])
        pd.testing.assert_frame_equal(scores[same], expected[same])


def test_calls_without_a_seed_agree(table):
    """A fit and its scores repeat bit by bit; other random numbers are asked for."""

    def run(**rng) -> tuple[pd.DataFrame, pd.DataFrame]:
        hc.tl.fit_abundance(table, model="mlp", config=TINY | {"ridge_share": 0.5}, **rng)
        hc.tl.predict_abundance(table)
        hc.tl.evaluate_abundance(table, n_bootstrap=20, **rng)
        return table.obsm["predicted_abundance"].copy(), table.uns["abundance_evaluation"].copy()

    (first, scores), (second, again), (other, _) = run(), run(), run(rng=None)
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    pd.testing.assert_frame_equal(scores, again, check_exact=True)
    assert not np.array_equal(first, other)


def test_splits_and_models_without_a_seed_agree(table):
    table.obs["part"] = hc.pp.split(table, by="patient", fractions=(0.5, 0.25, 0.25), inplace=False)
    assert table.obs["part"].equals(
        hc.pp.split(table, by="patient", fractions=(0.5, 0.25, 0.25), inplace=False).rename("part")
    )
    X, Y = table.obsm["X_toy"], table.obsm["cell_abundance"].to_numpy()
    one, two = (hc.models.MLP(**TINY).fit(X, Y).predict(X) for _ in range(2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(("rng", "kind"), [("first", TypeError), (-1, ValueError), (0.5, TypeError)])
def test_seed_that_is_none(table, rng, kind):
    with pytest.raises(kind, match="rng must be a seed"):
        hc.tl.fit_abundance(table, model="ridge", rng=rng)
