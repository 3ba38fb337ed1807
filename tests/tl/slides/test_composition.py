"""Composition of slides as a rival of their embeddings: found where it decides, readable, and open about what is missing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

import histocell as hc

TYPES = ["T cells", "B cells", "Tumor/Stroma", "Myeloid"]
RUN = {"n_bootstrap": 20, "inplace": False}


def summary_of(positive, rng):
    """The tidy table of slides of which positive ones have more T cells."""
    shares = np.array([rng.dirichlet([6.0 if each else 2.0, 2, 8, 2]) for each in positive])
    wide = pd.DataFrame(
        shares, index=[f"S{i + 1}" for i in range(len(shares))], columns=[f"share of {t}" for t in TYPES]
    )
    wide["n_rows"] = 40.0  # the same everywhere: tells nothing
    return wide.rename_axis("slide").melt(ignore_index=False, var_name="feature", value_name="value").reset_index()


@pytest.fixture(scope="module")
def made():
    """Tiles that say nothing of the label, and slides whose composition does."""
    tiles = hc.datasets.synthetic_slides(60, n_tiles=30, n_features=6, planted=False, rng=0)
    positive = hc.io.slide_table(tiles).obs["label"] == "positive"
    slides = hc.io.slide_table(tiles, summary=summary_of(positive, np.random.default_rng(1)))
    hc.pp.split(slides, by="patient", test=[f"P{i}" for i in range(1, 21)])
    return tiles, slides


def auc_of(scores):
    return scores.query("metric == 'auc' and `class` == 'mean'").set_index("model")["value"]


def test_one_table_shows_all_models(made):
    tiles, slides = made[0], made[1].copy()
    hc.tl.fit_slides(slides, tiles, config={"hidden": 16, "attention": 8, "max_epochs": 2})
    hc.tl.predict_slides(slides, tiles)
    found = auc_of(hc.tl.evaluate_slides(slides, **RUN))
    assert set(found.index) == {"abmil", "common_class", "mean_pooling", "composition"}
    assert found["composition"] > 0.85
    assert found["mean_pooling"] < 0.7
    assert hc.get.coefficients(slides)["positive"].idxmax() == "share of T cells"


def test_alone_it_is_scikit_learn_on_its_columns(made):
    slides = made[1].copy()
    hc.tl.fit_slides(slides, model="composition")
    hc.tl.predict_slides(slides)
    train = (slides.obs["split"] == "train").to_numpy()
    X = slides.obsm["composition"].drop(columns="n_rows").to_numpy()
    scaled = (X - X[train].mean(axis=0)) / X[train].std(axis=0)
    model = LogisticRegression(C=0.5, class_weight="balanced").fit(scaled[train], slides.obs["label"][train])
    found = slides.obsm["predicted_slide_probability"]["positive"].to_numpy()
    assert found == pytest.approx(model.predict_proba(scaled)[:, 1], abs=1e-3)
    table = hc.get.coefficients(slides)
    assert list(table.columns) == ["negative", "positive", "mean", "sd"]
    assert table.index.tolist() == [f"share of {name}".replace("/", "_") for name in TYPES] + ["n_rows"]
    assert 2 * table["positive"].to_numpy()[:4] == pytest.approx(model.coef_[0], abs=1e-3)
    assert table["sd"].to_numpy()[:4] == pytest.approx(X[train].std(axis=0))
    assert table.loc["n_rows"].tolist() == [0, 0, 0, 0], "constant"


def test_survival(made):
    """The hazard doubles with each standard deviation of the share of T cells."""
    slides, rng = made[1].copy(), np.random.default_rng(2)
    share = slides.obsm["composition"]["share of T cells"].to_numpy()
    slides.obs["time"] = rng.exponential(1 / np.exp(2 * (share - share.mean()) / share.std()))
    slides.obs["event"] = 1
    hc.tl.fit_slides(slides, model="composition", time_key="time", event_key="event")
    hc.tl.predict_slides(slides)
    assert hc.tl.evaluate_slides(slides, **RUN)["value"][0] > 0.75
    assert hc.get.coefficients(slides)["risk"].idxmax() == "share of T cells"


def test_folds_of_patients(made):
    tiles, slides = made
    scores = hc.bench.cross_validate_slides(slides, models=["mean_pooling", "composition"], n_folds=3, n_bootstrap=20)
    assert auc_of(scores)["composition"] > 0.85
    alone = hc.bench.cross_validate_slides(slides, models="composition", n_folds=3, n_bootstrap=20)
    assert auc_of(alone)["composition"] == auc_of(scores)["composition"]


def test_missing_numbers_are_told(made, user_sees):
    slides = made[1].copy()
    frame = slides.obsm["composition"].copy()
    frame.loc[["S1", "S40"], "share of B cells"] = np.nan
    frame["T cells with B cells"] = np.nan
    frame.loc["S2"] = np.nan
    slides.obsm["composition"] = frame
    with user_sees(
        "Slide level",
        "a composition with missing numbers",
        UserWarning,
        match=r"41 of 240 numbers of 40 training slides are missing; 1 columns are never known",
    ):
        hc.tl.fit_slides(slides, model="composition")
    with (
        pytest.warns(UserWarning, match="61 of 354 numbers of 59 slides to predict are missing"),
        pytest.warns(UserWarning, match="1 of 60 rows have no finite features"),
    ):
        hc.tl.predict_slides(slides)
    assert slides.obs["predicted_slide"].isna().tolist() == [name == "S2" for name in slides.obs_names]
    with pytest.warns(UserWarning, match="not all of 20 slides are predicted.*: composition 19"):
        scores = hc.tl.evaluate_slides(slides, **RUN)
    assert scores.groupby("model")["n_slides"].max().to_dict() == {"composition": 19, "common_class": 20}
    assert hc.get.coefficients(slides).loc["T cells with B cells"].tolist() == [0, 0, 0, 0]


def test_numbers_in_another_unit_are_told(made, user_sees):
    slides = made[1].copy()
    hc.tl.fit_slides(slides, model="composition")
    slides.obsm["composition"] *= 100  # percent
    with user_sees("Slide level", "composition in another unit than at the fit", UserWarning, match="another unit"):
        hc.tl.predict_slides(slides)
    slides.obsm["composition"] = made[1].obsm["composition"].assign(n_rows=9000.0)  # which counts for nothing
    hc.tl.predict_slides(slides)


def test_slides_to_predict_without_a_composition(made):
    slides = made[1].copy()
    hc.tl.fit_slides(slides, model="mean")
    other = slides.copy()
    del other.obsm["composition"]
    with pytest.warns(UserWarning, match="no obsm composition: without the baseline composition"):
        hc.tl.predict_slides(other)
    assert "predicted_slide_composition" not in other.obs
    assert set(hc.tl.evaluate_slides(other, **RUN)["model"]) == {"mean_pooling", "common_class"}


class TestBadInput:
    def test_no_composition(self, made):
        slides = made[1].copy()
        del slides.obsm["composition"]
        with pytest.raises(KeyError, match="composition"):
            hc.tl.fit_slides(slides, model="composition")
        hc.tl.fit_slides(slides, model="mean")
        with pytest.raises(KeyError, match="summary="):
            hc.get.coefficients(slides)
        with pytest.raises(KeyError, match="fit_slides"):
            hc.get.coefficients(made[1])

    def test_summary_of_other_slides(self, made, user_sees):
        tiles, slides = made
        frame = slides.obsm["composition"]
        with user_sees("Slide level", "a summary of other slides", ValueError, match="summary names no slide"):
            hc.io.slide_table(tiles, summary=frame.set_axis([f"T{i}" for i in range(60)]))
        with user_sees(
            "Slide level", "a summary of some of the slides", UserWarning, match="says nothing of 10 of 60 slides: S1"
        ):
            table = hc.io.slide_table(tiles, summary=frame[10:])
        assert table.obsm["composition"]["share of T cells"].isna().sum() == 10

    def test_summary_that_was_put_together_twice(self, made):
        summary = summary_of([True, False], np.random.default_rng(0))
        with pytest.raises(ValueError, match="several values of one feature of a slide: S1, S2"):
            hc.io.slide_table(made[0], summary=pd.concat([summary, summary]))

    def test_summary_that_is_no_numbers(self, made, user_sees):
        tiles, slides = made
        frame = slides.obsm["composition"].assign(stage="II")
        with user_sees("Slide level", "a summary with texts", ValueError, match="of which no numbers: stage"):
            hc.io.slide_table(tiles, summary=frame)
        with pytest.raises(ValueError, match="one row per slide"):
            hc.io.slide_table(tiles, summary=pd.concat([slides.obsm["composition"]] * 2))
