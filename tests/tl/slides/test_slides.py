"""Slides: planted regions are found, patients stay apart, and what is wrong says so."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

import histocell as hc

SMALL = {"hidden": 32, "attention": 16}


@pytest.fixture(scope="module")
def cohort():
    tiles = hc.datasets.synthetic_slides(60, n_tiles=60, n_features=8, region=0.15, effect=5.0, rng=0)
    slides = hc.io.slide_table(tiles)
    hc.pp.split(slides, by="patient", test=[f"P{i}" for i in range(1, 21)])
    return tiles, slides


@pytest.fixture
def few():
    tiles = hc.datasets.synthetic_slides(12, n_tiles=20, n_features=4)
    slides = hc.io.slide_table(tiles)
    hc.pp.split(slides, by="patient", test=["P1", "P2"])
    return tiles, slides


def test_planted_regions_are_found(cohort):
    tiles, slides = cohort[0].copy(), cohort[1].copy()
    hc.tl.fit_slides(slides, tiles, config=SMALL | {"lr": 2e-3, "max_epochs": 30})
    hc.tl.predict_slides(slides, tiles, attention=True)
    scores = hc.tl.evaluate_slides(slides, inplace=False)
    value = scores.query("metric == 'auc' and `class` == 'mean'").set_index("model")["value"]
    assert value["abmil"] > 0.95
    assert value["common_class"] == 0.5
    assert set(scores["interval"]) == {"95 % over 20 patients"}
    assert set(scores["n_training"]) == {0}
    held = tiles.obs[tiles.obs["section"].isin(slides.obs_names[slides.obs["split"] == "test"])]
    of_slides = held.groupby("section")["attention"].sum()
    assert np.allclose(of_slides, 1.0)
    inside = held[held["planted"]].groupby("section")["attention"].sum()
    assert inside.mean() > 2 * 0.15, "more than the share of its tiles"


def test_mean_pooling_is_scikit_learn_on_means(cohort):
    tiles, slides = cohort[0], cohort[1].copy()
    hc.tl.fit_slides(slides, model="mean")
    hc.tl.predict_slides(slides)
    means = np.stack([tiles.obsm["X_tiles"][tiles.obs["section"] == name].mean(axis=0) for name in slides.obs_names])
    train = (slides.obs["split"] == "train").to_numpy()
    scaled = (means - means[train].mean(axis=0)) / means[train].std(axis=0)
    model = LogisticRegression(C=0.5, class_weight="balanced").fit(scaled[train], slides.obs["label"][train])
    found = slides.obsm["predicted_slide_probability"]["positive"].to_numpy()
    assert found == pytest.approx(model.predict_proba(scaled)[:, 1], abs=1e-3)


def test_survival(cohort):
    slides = cohort[1].copy()
    slides.obsm["X_tiles"][:, 0] = np.log(slides.obs["time"]) + np.random.default_rng(0).normal(size=60) * 0.5
    options = {"time_key": "time", "event_key": "event"}
    hc.tl.fit_slides(slides, model="mean", **options)
    hc.tl.predict_slides(slides)
    scores = hc.tl.evaluate_slides(slides, inplace=False)
    assert scores["metric"].tolist() == ["c_index"]
    assert scores["value"][0] > 0.7
    test = (slides.obs["split"] == "test").to_numpy()
    truth = slides.obs.loc[test, ["time", "event"]].to_numpy(dtype=float)
    wanted = hc.metrics.concordance(truth, slides.obs.loc[test, "predicted_slide"].to_numpy())[0]
    assert scores["value"][0] == pytest.approx(wanted)


def test_survival_by_attention(few):
    tiles, slides = few
    hc.tl.fit_slides(slides, tiles, config=SMALL | {"max_epochs": 2}, time_key="time", event_key="event")
    hc.tl.predict_slides(slides, tiles)
    assert np.isfinite(slides.obs["predicted_slide"]).all()
    assert "predicted_slide_mean_pooling" in slides.obs
    assert "predicted_slide_common_class" not in slides.obs


def test_ordered_classes_have_a_kappa(cohort):
    slides = cohort[1].copy()
    grade = pd.Categorical(np.array(["low", "mid", "high"])[np.arange(60) % 3], ["low", "mid", "high"], ordered=True)
    slides.obs["grade"] = grade
    hc.tl.fit_slides(slides, model="mean", target="grade")
    hc.tl.predict_slides(slides)
    assert list(slides.obsm["predicted_slide_probability"]) == ["low", "mid", "high"]
    scores = hc.tl.evaluate_slides(slides, inplace=False)
    assert set(scores["metric"]) == {"auc", "balanced_accuracy", "quadratic_kappa"}


def test_stores_and_tables_agree(few, tmp_path):
    """A folder of results, arrays by name, and one table: one model."""
    import anndata as ad
    import zarr

    tiles, slides = few
    arrays = {}
    for name in slides.obs_names:
        part = tiles[(tiles.obs["section"] == name).to_numpy()].copy()
        arrays[name] = part.obsm["X_tiles"]
        group = zarr.open_group(tmp_path / "cohort" / f"{name}.zarr", mode="w")
        ad.io.write_elem(group.create_group("tables"), "tile_table", part)
    labels = slides.obs[["label", "patient", "split"]]
    options = {"config": SMALL | {"max_epochs": 2}, "inplace": False}
    wanted = hc.tl.fit_slides(slides, tiles, **options)
    for source in (tmp_path / "cohort", arrays):
        other = hc.io.slide_table(source, labels, features="X_tiles")
        other = other[slides.obs_names].copy()
        assert np.array_equal(other.obsm["X_tiles"], slides.obsm["X_tiles"])
        found = hc.tl.fit_slides(other, source, **options)
        for name, array in wanted["weights"].items():
            assert name.startswith(("rows.",)) or np.array_equal(array, found["weights"][name]), name


def test_the_record_survives_files(few, tmp_path):
    import anndata as ad

    tiles, slides = few
    hc.tl.fit_slides(slides, tiles, config=SMALL | {"max_epochs": 2})
    hc.tl.predict_slides(slides, tiles)
    slides.write_h5ad(tmp_path / "slides.h5ad")
    again = ad.read_h5ad(tmp_path / "slides.h5ad")
    with pytest.warns(UserWarning, match="10 of the 10 scored rows were used to fit"):
        hc.tl.evaluate_slides(again[again.obs["split"] == "train"].copy(), inplace=False)
    predicted = hc.tl.predict_slides(again, tiles, inplace=False)
    assert np.allclose(predicted["predicted_slide_confidence"], slides.obs["predicted_slide_confidence"])


class TestLeakage:
    def test_patient_on_both_sides(self, few, user_sees):
        tiles, slides = few
        slides.obs["patient"] = np.where(slides.obs_names.isin(["S1", "S3"]), "P9", slides.obs["patient"])
        with user_sees(
            "Slide level",
            "a patient in two parts of the split",
            ValueError,
            match=r"patients are in several parts of obs\[\"split\"\]: P9",
        ):
            hc.tl.fit_slides(slides, tiles)

    def test_copy_on_both_sides(self, few, user_sees):
        """A copy of a test slide under another name and patient, its tiles in another order."""
        tiles, slides = few
        order = np.random.default_rng(0).permutation(20)
        first, third = (np.flatnonzero(tiles.obs["section"] == name) for name in ("S1", "S3"))
        tiles.obsm["X_tiles"][third] = tiles.obsm["X_tiles"][first[order]]
        again = hc.io.slide_table(tiles)
        again.obs["split"] = slides.obs["split"]
        with user_sees(
            "Slide level",
            "one slide under two names in two parts of the split",
            ValueError,
            match="slides of one content are in several parts.*S1, S3",
        ):
            hc.tl.fit_slides(again, tiles)
        with user_sees(
            "Slide level", "one slide under two patients, to cross-validate", ValueError, match="S1 of P1 = S3 of P3"
        ):
            hc.bench.cross_validate_slides(again, models="mean", n_folds=2)

    def test_names_of_patients(self, few, user_sees):
        tiles, slides = few
        hc.tl.fit_slides(slides, model="mean")
        other = hc.io.slide_table(hc.datasets.synthetic_slides(12, n_tiles=20, n_features=4, rng=5))
        other.obs_names = [f"T{i}" for i in range(12)]
        hc.tl.predict_slides(other, model=slides)
        with user_sees(
            "Slide level",
            "scored slides of patients with names of the fit",
            UserWarning,
            match="10 of 12 scored slides are of patients whose names were fitted on",
        ):
            hc.tl.evaluate_slides(other, inplace=False)

    def test_test_slides_change_nothing(self, few):
        tiles, slides = few
        options = {"config": SMALL | {"max_epochs": 2}, "inplace": False}
        before = hc.tl.fit_slides(slides, tiles, **options)
        held = tiles.obs["section"].isin(["S1", "S2"]).to_numpy()
        tiles.obsm["X_tiles"][held] *= 50
        slides.obsm["X_tiles"][:2] *= 50
        slides.obs["label"] = np.where(slides.obs["split"] == "test", "positive", slides.obs["label"])
        after = hc.tl.fit_slides(slides, tiles, **options)
        assert all(np.array_equal(after["weights"][name], array) for name, array in before["weights"].items())


class TestBadInput:
    def test_bags_without_tiles(self, few, user_sees):
        tiles, _ = few
        tiles.obsm["X_tiles"][tiles.obs["section"].isin(["S1", "S4"])] = np.nan
        with user_sees(
            "Slide level",
            "slides without tiles",
            UserWarning,
            match="2 of 12 slides have no tile with finite features: S1, S4",
        ):
            slides = hc.io.slide_table(tiles)
        hc.pp.split(slides, by="patient", test=["P1", "P2"])
        with pytest.warns(UserWarning, match="1 of 10 rows have features"):
            hc.tl.fit_slides(slides, tiles, config=SMALL | {"max_epochs": 2})
        with pytest.warns(UserWarning, match="predicted as NaN"):
            hc.tl.predict_slides(slides, tiles, attention=True)
        assert slides.obs["predicted_slide"].isna().tolist() == [name in {"S1", "S4"} for name in slides.obs_names]
        assert tiles.obs.loc[tiles.obs["section"] == "S1", "attention"].isna().all()

    def test_an_empty_array_is_a_slide_without_tiles(self):
        with pytest.warns(UserWarning, match="no tile with finite features: b"):
            slides = hc.io.slide_table({"a": np.ones((3, 2)), "b": np.ones((0, 2))})
        assert slides.obs["n_tiles"].tolist() == [3, 0]

    def test_one_class(self, few, user_sees):
        tiles, slides = few
        slides.obs["label"] = np.where(slides.obs["split"] == "train", "negative", slides.obs["label"])
        with user_sees(
            "Slide level", "training slides of one class", ValueError, match="of class negative, so there is nothing"
        ):
            hc.tl.fit_slides(slides, tiles)

    def test_a_class_without_training_slides(self, few, user_sees):
        tiles, slides = few
        slides.obs["label"] = slides.obs["label"].astype(object)
        slides.obs.loc["S1", "label"] = "rare"
        with user_sees(
            "Slide level", "a class that no training slide has", UserWarning, match="no training slide is of class rare"
        ):
            hc.tl.fit_slides(slides, model="mean")
        hc.tl.predict_slides(slides)
        with (
            pytest.warns(UserWarning, match="1 slides are of classes that the model does not know: rare"),
            user_sees(
                "Slide level",
                "scored slides of one class",
                UserWarning,
                match="auc of the 1 scored slides is undefined",
            ),
        ):
            hc.tl.evaluate_slides(slides, inplace=False)

    def test_missing_labels(self, few, user_sees):
        tiles, slides = few
        slides.obs["label"] = slides.obs["label"].astype(object)
        slides.obs.loc[["S5", "S6"], "label"] = None
        with user_sees(
            "Slide level",
            "slides without a label",
            UserWarning,
            match="2 training or validation rows have a target that is not finite",
        ):
            hc.tl.fit_slides(slides, model="mean")
        assert hc.models.load(slides, model_key="slide_model").facts["n_train"] == 8

    def test_labels_that_vary_within_a_slide(self, few, user_sees):
        tiles, _ = few
        tiles.obs["label"] = tiles.obs["label"].astype(object)
        tiles.obs.iloc[0, tiles.obs.columns.get_loc("label")] = "positive"
        slides = hc.io.slide_table(tiles)
        slides.obs["split"] = "train"
        with user_sees(
            "Slide level",
            "a label that varies within a slide",
            KeyError,
            match="tiles of one slide have several values",
        ):
            hc.tl.fit_slides(slides, tiles)

    def test_censored_only(self, few, user_sees):
        _, slides = few
        slides.obs["event"] = 0
        with user_sees(
            "Slide level", "survival without an event", ValueError, match="all 10 training slides are censored"
        ):
            hc.tl.fit_slides(slides, model="mean", time_key="time", event_key="event")
        with pytest.raises(ValueError, match="12 slides are censored"):
            hc.bench.cross_validate_slides(slides, models="mean", n_folds=2, time_key="time", event_key="event")

    @pytest.mark.parametrize(
        ("column", "value", "message"),
        [
            ("time", -1.0, "negative times"),
            ("event", 2, "must be 1 for an event"),
            ("event", "dead", "must hold numbers"),
        ],
    )
    def test_wrong_survival(self, few, column, value, message):
        _, slides = few
        slides.obs[column] = [value] * 12
        with pytest.raises(ValueError, match=message):
            hc.tl.fit_slides(slides, model="mean", time_key="time", event_key="event")

    def test_time_without_event(self, few, user_sees):
        with user_sees("Slide level", "a time without an event", ValueError, match="both time_key= and event_key="):
            hc.tl.fit_slides(few[1], model="mean", time_key="time")

    def test_no_patients(self, few, user_sees):
        tiles, slides = few
        del slides.obs["patient"]
        with user_sees("Slide level", "slides without patients", UserWarning, match="each slide counts as a patient"):
            hc.tl.fit_slides(slides, model="mean")

    def test_mixed_encoders(self, tmp_path, user_sees):
        import anndata as ad
        import zarr

        with user_sees("Slide level", "embeddings of several widths", ValueError, match="3 features: a; 4 features: b"):
            hc.io.slide_table({"a": np.ones((3, 3)), "b": np.ones((3, 4))})
        for name, encoder in (("a", "uni"), ("b", "conch")):
            table = ad.AnnData(obs=pd.DataFrame(index=["0", "1"]), obsm={"X_e": np.ones((2, 3))})
            hc._core.keys.write_provenance(table, "X_e", encoder=encoder, dim=3)
            group = zarr.open_group(tmp_path / f"{name}.zarr", mode="w")
            ad.io.write_elem(group.create_group("tables"), "tile_table", table)
        with user_sees(
            "Slide level",
            "embeddings of several encoders of one width",
            ValueError,
            match="encoder is conch of b and uni of a",
        ):
            hc.io.slide_table(tmp_path)

    def test_other_tiles_than_the_table_was_made_of(self, few, user_sees):
        tiles, slides = few
        with user_sees(
            "Slide level",
            "other tiles than the table was made of",
            ValueError,
            match="not those that the table of slides was made of",
        ):
            hc.tl.fit_slides(slides, tiles[:-1].copy())
        with user_sees("Slide level", "a slide whose tiles are missing", KeyError, match='tiles\\["S12"\\] not found'):
            hc.tl.fit_slides(slides, tiles[:-20].copy())
        with pytest.raises(ValueError, match="give tiles="):
            hc.tl.fit_slides(slides)

    def test_attention_needs_a_table_and_a_model_with_it(self, few, user_sees):
        tiles, slides = few
        hc.tl.fit_slides(slides, model="mean")
        with user_sees("Slide level", "attention of a model that has none", ValueError, match="gives no attention"):
            hc.tl.predict_slides(slides, tiles, attention=True)
        hc.tl.fit_slides(slides, tiles, config=SMALL | {"max_epochs": 1})
        with pytest.raises(ValueError, match="written into a table"):
            hc.tl.predict_slides(slides, {"S1": np.ones((20, 4))}, attention=True)

    def test_models_of_other_tasks(self, few):
        with pytest.raises(ValueError, match="abmil, common_class, composition, mean_pooling"):
            hc.tl.fit_slides(few[1], model="ridge")

    def test_labels_beside_tiles(self, few):
        tiles, _ = few
        labels = pd.DataFrame({"stage": ["a", "b"]}, index=["S1", "S99"])
        with (
            pytest.warns(UserWarning, match="1 rows of labels have no slide: S99"),
            pytest.warns(UserWarning, match="11 slides have no labels"),
        ):
            slides = hc.io.slide_table(tiles, labels)
        assert slides.obs.loc["S1", "stage"] == "a"
        with pytest.raises(ValueError, match="names no slide"):
            hc.io.slide_table(tiles, labels.set_axis(["x", "y"]))
        with pytest.raises(ValueError, match="several rows of one slide: S1"):
            hc.io.slide_table(tiles, labels.set_axis(["S1", "S1"]))
        with pytest.raises(ValueError, match="both have label"):
            hc.io.slide_table(tiles, labels.rename(columns={"stage": "label"}))


class TestCrossValidation:
    def test_each_slide_once_and_patients_apart(self, cohort, monkeypatch):
        from histocell.bench import slides as module

        tiles = hc.datasets.synthetic_slides(40, n_patients=20, n_tiles=20, n_features=4)
        slides, seen = hc.io.slide_table(tiles), []
        original = module._Study.predict

        def spy(self, model, fitted, held, seed):
            assert not set(self.patients[fitted]) & set(self.patients[held])
            seen.extend(held)
            return original(self, model, fitted, held, seed)

        monkeypatch.setattr(module._Study, "predict", spy)
        scores = hc.bench.cross_validate_slides(slides, models="mean", n_folds=4)
        assert sorted(seen) == list(range(40))
        assert set(scores["n_slides"]) == {40}
        assert set(scores["interval"]) == {"95 % over 20 patients"}

    def test_settings_are_chosen_on_training_patients(self, cohort, monkeypatch):
        """The labels of a fold that is held out do not change what is chosen for it."""
        slides = cohort[1].copy()
        config = {"mean_pooling": [{"C": 1e-6}, {"C": 10.0}]}
        scores = hc.bench.cross_validate_slides(slides, models="mean_pooling", config=config, n_folds=3)
        assert scores["settings"].str.contains("C").all()
        assert sum(int(part.rpartition(" ")[2]) for part in scores["settings"][0].split("; ")) == 3

    def test_labels_by_chance(self):
        """Means of no information: the AUC is near 0.5, not below it, as of pooled folds."""
        slides = hc.io.slide_table(hc.datasets.synthetic_slides(200, n_tiles=10, n_features=4, planted=False))
        scores = hc.bench.cross_validate_slides(slides, models="mean", n_folds=5)
        found = scores.query("metric == 'auc' and `class` == 'mean'").iloc[0]
        assert found["low"] < 0.5 < found["high"]

    def test_too_few_patients_of_a_class(self, few, user_sees):
        tiles, slides = few
        with user_sees(
            "Slide level",
            "more folds than patients of a class",
            ValueError,
            match="6 patients of class negative do not go into 7 folds",
        ):
            hc.bench.cross_validate_slides(slides, models="mean", n_folds=7)
        slides.obs["label"] = "negative"
        with pytest.raises(ValueError, match="one class"):
            hc.bench.cross_validate_slides(slides, models="mean", n_folds=2)

    def test_survival(self, cohort):
        slides = cohort[1].copy()
        slides.obsm["X_tiles"][:, 0] = np.log(slides.obs["time"])
        options = {"time_key": "time", "event_key": "event"}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scores = hc.bench.cross_validate_slides(slides, models="mean", n_folds=3, **options)
        assert scores["value"][0] > 0.75
