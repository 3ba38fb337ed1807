"""What a model sees of features by default, and what it says of rows that are unlike those of the fit."""

from __future__ import annotations

import json
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import histocell as hc
from histocell.models.scaling import standardize_groups


def make_table(n_sections: int = 6, n_rows: int = 40, seed: int = 0) -> ad.AnnData:
    """Sections of three patients, each section with a shift of all its features."""
    rng = np.random.default_rng(seed)
    section = np.repeat([f"S{i}" for i in range(n_sections)], n_rows)
    patient = np.repeat([f"P{i // 2}" for i in range(n_sections)], n_rows)
    latent = rng.normal(size=(len(section), 3))
    X = latent @ rng.normal(size=(3, 12)) + 0.3 * rng.normal(size=(len(section), 12))
    X += np.repeat(0.5 * rng.normal(size=(n_sections, 12)), n_rows, axis=0)
    obs = pd.DataFrame({"section": section, "patient": patient}, index=[f"spot{i}" for i in range(len(section))])
    table = ad.AnnData(obs=obs)
    table.obsm["X_toy"] = X.astype(np.float32)
    table.obsm["spatial"] = rng.uniform(0, 1000, size=(len(section), 2))
    table.obsm["cell_abundance"] = pd.DataFrame(np.exp(latent[:, :2]), obs.index, ["a", "b"])
    table.obs["split"] = np.where(patient == "P2", "test", "train")
    return table


@pytest.fixture
def table() -> ad.AnnData:
    return make_table()


def config_of(table: ad.AnnData) -> dict:
    return json.loads(str(table.uns["abundance_model"]["config"]))


def test_both_views_by_hand(table):
    hc.tl.fit_abundance(table, model="ridge")
    facts = config_of(table)["facts"]
    assert (facts["standardize_by"], facts["beside_raw"]) == ("section", True)
    assert config_of(table)["config"]["n_views"] == 2
    X = table.obsm["X_toy"]
    both = np.hstack([X, standardize_groups(X, table.obs["section"])])
    train = (table.obs["split"] == "train").to_numpy()
    model = hc.models.Ridge(n_views=2)
    model.fit(both[train], table.obsm["cell_abundance"][train], groups=table.obs["patient"][train])
    hc.tl.predict_abundance(table)
    np.testing.assert_allclose(table.obsm["predicted_abundance"], model.predict(both))
    np.testing.assert_allclose(table.obs["predicted_abundance_novelty"], model.novelty(both))
    loaded = hc.models.load(table)
    assert "X_toy as they are and standardised by section" in repr(loaded)


@pytest.mark.parametrize(("asked", "repr_"), [(None, "X_toy,"), ("section", "X_toy standardised by section,")])
def test_choices_of_the_user(table, asked, repr_):
    hc.tl.fit_abundance(table, model="ridge", standardize_by=asked)
    facts = config_of(table)["facts"]
    assert (facts["standardize_by"], facts["beside_raw"]) == (asked, False)
    assert repr_ in repr(hc.models.load(table))
    hc.tl.predict_abundance(table)


@pytest.mark.parametrize("how", ["no column", "few rows"])
def test_raw_where_sections_cannot_be_told(table, how):
    if how == "no column":
        del table.obs["section"]
    else:
        table.obs["section"] = [f"S{i // 10}" for i in range(table.n_obs)]
    hc.tl.fit_abundance(table, model="ridge")
    assert config_of(table)["facts"]["standardize_by"] is None
    assert config_of(table)["config"]["n_views"] == 1
    hc.tl.predict_abundance(table)


def test_a_slide_without_the_column_is_one_section(table):
    hc.tl.fit_abundance(table, model="ridge")
    slide = table[table.obs["section"] == "S5"].copy()
    hc.tl.predict_abundance(slide, model=table)
    bare = slide.copy()
    del bare.obs["section"]
    with pytest.warns(UserWarning, match=r'no obs\["section"\]: all 40 rows are standardised as one section'):
        hc.tl.predict_abundance(bare, model=table)
    np.testing.assert_allclose(bare.obsm["predicted_abundance"], slide.obsm["predicted_abundance"])


@pytest.mark.parametrize("model", ["ridge", "mlp"])
def test_nothing_is_chosen_on_test_rows(table, model):
    """Other labels, and other features, of the test patient: the same model, bit by bit."""
    config = {"max_epochs": 3, "hidden": (8,) * 6} if model == "mlp" else {}
    other = table.copy()
    test = (other.obs["split"] == "test").to_numpy()
    other.obsm["cell_abundance"].iloc[test] = 7.0
    other.obsm["X_toy"][test] *= -3
    first, second = (hc.tl.fit_abundance(each, model=model, config=config, inplace=False) for each in (table, other))
    for name, array in first["weights"].items():
        if not name.startswith("rows."):
            np.testing.assert_array_equal(array, second["weights"][name], err_msg=name)


@pytest.mark.parametrize("where", ["h5ad", "folder"])
def test_saved_and_loaded(table, where, tmp_path):
    hc.tl.fit_abundance(table, config={"max_epochs": 2, "hidden": (8,) * 6})
    hc.tl.predict_abundance(table)
    new = make_table()
    if where == "h5ad":
        table.write_h5ad(tmp_path / "spots.h5ad")
        source = ad.read_h5ad(tmp_path / "spots.h5ad")
        np.testing.assert_array_equal(
            source.obs["predicted_abundance_novelty"], table.obs["predicted_abundance_novelty"]
        )
    else:
        hc.models.load(table).save(tmp_path / "model")
        source = tmp_path / "model"
    hc.tl.predict_abundance(new, model=source)
    for ending in ("", "_lower", "_upper", "_mean", "_ridge"):
        slot = f"predicted_abundance{ending}"
        np.testing.assert_array_equal(new.obsm[slot], table.obsm[slot])
    np.testing.assert_array_equal(new.obs["predicted_abundance_novelty"], table.obs["predicted_abundance_novelty"])


def test_another_stain_is_new_and_said_so_once(table):
    hc.tl.fit_abundance(table, model="ridge")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the unseen patient is of the same kind
        hc.tl.predict_abundance(table)
    known = table.obs["predicted_abundance_novelty"].to_numpy().copy()
    width = (table.obsm["predicted_abundance_upper"] - table.obsm["predicted_abundance"]).to_numpy()
    far = (table.obs["section"] == "S4").to_numpy()
    table.obsm["X_toy"][far] = 1.5 * table.obsm["X_toy"][far] + 6
    with pytest.warns(UserWarning, match=r"1 of 6 sections lie outside of what the model has seen: S4 \(") as caught:
        hc.tl.predict_abundance(table)
    assert len(caught) == 1
    novelty = table.obs["predicted_abundance_novelty"].to_numpy()
    np.testing.assert_allclose(novelty[~far], known[~far])
    assert np.median(novelty[far]) > 2 * np.median(known[far])
    wider = (table.obsm["predicted_abundance_upper"] - table.obsm["predicted_abundance"]).to_numpy()
    assert np.median(wider[far]) > 1.5 * np.median(width[far])


def test_novelty_goes_with_the_prediction(table):
    """A prediction by a model that knows none leaves no novelty of an earlier one behind."""
    hc.tl.fit_abundance(table, model="ridge")
    hc.tl.predict_abundance(table)
    old = hc.models.load(table)
    for name in [name for name in old.weights if name.startswith("novelty_")]:
        del old.weights[name]
    hc.tl.predict_abundance(table, model=old)
    assert "predicted_abundance_novelty" not in table.obs
    slots = hc.tl.predict_abundance(table, model=hc.models.load(table), key_added="mine", inplace=False)
    assert list(slots["mine_novelty"].index) == list(table.obs_names)


def test_protocols_take_the_same_default(table):
    scores, raw, both = (
        hc.bench.leave_one_group_out(table, models="ridge", n_bootstrap=0, **how).query("metric in ['cc', 'l1']")
        for how in ({}, {"standardize_by": None}, {"standardize_by": "auto"})
    )
    pd.testing.assert_frame_equal(scores, both)
    assert not np.allclose(raw["value"], both["value"])
    train, test = table[table.obs["patient"] != "P2"].copy(), table[table.obs["patient"] == "P2"].copy()
    crossed = hc.bench.cross_dataset(train, test, models="ridge", n_bootstrap=0)
    query = "cell_type == 'mean' and metric == 'cc'"
    expected = scores.query(f"group == 'P2' and {query}")["value"].item()
    assert crossed.query(query)["value"].item() == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:the training rows are one group", "ignore:.*left out of the fit")
def test_features_of_test_rows_of_the_same_section_change_nothing(table):
    """Nothing is scaled by test rows, also where a section holds training rows, too."""
    xy = np.asarray(table.obsm["spatial"])
    table.obs["split"] = np.where(xy[:, 0] > np.quantile(xy[:, 0], 0.7), "test", "train")
    before = hc.tl.fit_abundance(table, model="ridge", inplace=False)["weights"]
    table.obsm["X_toy"][table.obs["split"] == "test"] += 5
    after = hc.tl.fit_abundance(table, model="ridge", inplace=False)["weights"]
    for name in before.keys() - {"rows.train", "rows.validation"}:
        np.testing.assert_array_equal(before[name], after[name])
