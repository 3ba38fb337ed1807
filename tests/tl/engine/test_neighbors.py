"""Models that see neighbours get the places of the rows, and are fitted on no row whose neighbours show held-out tissue."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import histocell as hc
from histocell._core import keys
from histocell.models.base import Model
from histocell.tl.engine.rows import recall_training_rows

MPP = 0.5
SIDE = 12  # spots, 100 um apart, so that one ring reaches 150 um
FIELD = 120.0  # um that the features of a row show
TINY = {
    "spatial_mlp": {"width": 4, "hidden": (4,), "max_epochs": 2, "n_members": 1},
    "hist2cell": {"width": 8, "max_epochs": 2, "n_members": 1},
}


@pytest.fixture
def table() -> ad.AnnData:
    """Two sections with equal coordinates; a block of 4 x 4 spots of one is for testing, another for validation."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), -1).reshape(-1, 2)
    n = 2 * len(grid)
    obs = pd.DataFrame({"section": np.repeat(["A", "B"], len(grid)), "mpp": MPP}, index=[f"spot{i}" for i in range(n)])
    table = ad.AnnData(np.ones((n, 1), np.float32), obs=obs)
    xy = np.tile(grid, (2, 1))
    table.obsm["spatial"] = (xy * 100.0 + 50) / MPP
    table.obsm["X_toy"] = rng.normal(size=(n, 4)).astype(np.float32)
    Y = np.exp(table.obsm["X_toy"][:, :2] + 0.1 * rng.normal(size=(n, 2)))
    table.obsm["cell_abundance"] = pd.DataFrame(Y, index=table.obs_names, columns=["a", "b"])
    keys.write_provenance(table, "X_toy", encoder="toy", dim=4, size_um=FIELD, field_um=FIELD)
    table.obs["split"] = pd.Series("train", index=table.obs_names, dtype=object)
    block = xy // 4
    for part, corner in (("test", 0), ("val", 2)):
        table.obs.loc[(obs["section"] == "A") & (block == corner).all(axis=1), "split"] = part
    return table


def near(table, rows, others, distance_um):
    """By a double loop: rows with one of the others of their section nearer than a distance, in x and y."""
    xy, section = table.obsm["spatial"] * MPP, table.obs["section"].to_numpy()
    out = np.zeros(table.n_obs, dtype=bool)
    for i in np.flatnonzero(rows):
        mine = others & (section == section[i])
        out[i] = (np.abs(xy[mine] - xy[i]).max(axis=1) < distance_um).any()
    return out


def expected(table, distance_um):
    part = table.obs["split"].to_numpy()
    train, val, test = (part == name for name in ("train", "val", "test"))
    val = val & ~near(table, val, test, distance_um)
    return train & ~near(table, train, test, distance_um) & ~near(table, train, val, distance_um), val


def fit(table, model="spatial_mlp", *, inplace=False, **config):
    """Fitted on features as they are: standardised ones know the mean of their whole section."""
    settings = {"config": TINY[model] | config, "standardize_by": None, "rng": 0}
    return hc.tl.fit_abundance(table, model=model, **settings, inplace=inplace)


def rows_of(table, model) -> np.ndarray:
    """Rows that a model was fitted on, and those that it stopped on."""
    hc.tl.predict_abundance(table, model=model)
    return recall_training_rows(table, "predicted_abundance")


class TestFit:
    @pytest.mark.parametrize("n_rings", [1, 2])
    def test_rows_whose_neighbours_show_held_out_tissue(self, table, n_rings):
        reach = (n_rings + 0.5) * 100
        distance = FIELD + 2 * reach
        train, val = expected(table, distance)
        left_out = int((table.obs["split"] == "train").sum() - train.sum())
        text = f"^{left_out} of 256 training rows .*{distance:.0f} um wide, neighbours that the model sees included"
        with pytest.warns(UserWarning, match=text):
            model = fit(table, n_rings=n_rings)
        seen = rows_of(table, model)
        np.testing.assert_array_equal(seen[0], train)
        np.testing.assert_array_equal(seen[1], val)
        # No two rows of different parts have neighbours whose features show the same tissue.
        test = (table.obs["split"] == "test").to_numpy()
        around_train, around_test = (near(table, np.ones(576 // 2, bool), part, reach + 1e-6) for part in (train, test))
        assert not near(table, around_train, around_test & ~around_train, FIELD)[train].any()

    @pytest.mark.filterwarnings("ignore:the training rows are one group")
    def test_a_section_whole(self, table):
        """Hist2Cell sees the whole section of a row, so no row of a section with test rows is fitted."""
        with pytest.warns(
            UserWarning, match=r"112 of 256 training rows and 16 of 16 validation rows .*the whole section"
        ):
            model = fit(table, "hist2cell")
        seen = rows_of(table, model)
        np.testing.assert_array_equal(seen[0], table.obs["section"] == "B")
        assert not seen[1].any()
        with pytest.raises(ValueError, match="and none is left. Hold out whole sections"):
            fit(table[table.obs["section"] == "A"].copy(), "hist2cell")

    @pytest.mark.parametrize("model", list(TINY))
    @pytest.mark.filterwarnings("ignore:.*left out of the fit", "ignore:the training rows are one group")
    def test_held_out_features_change_nothing(self, table, model):
        before = fit(table, model)["weights"]
        test = (table.obs["split"] == "test").to_numpy()
        table.obsm["X_toy"][test] = 1e3
        after = fit(table, model)["weights"]
        for name in before.keys() - {"rows.train", "rows.validation"}:
            np.testing.assert_array_equal(before[name], after[name])

    def test_only_those_that_need_places_get_them(self, table, monkeypatch):
        def refuse(*_, **options):
            assert "places" not in options
            return original(*_, **options)

        original = Model.fit
        monkeypatch.setattr(Model, "fit", refuse)
        table.obs["split"] = "train"
        hc.tl.fit_abundance(table, model="ridge")
        with pytest.raises(AssertionError):
            fit(table)

    def test_without_places(self, table):
        table.obs["split"] = "train"
        del table.obs["mpp"]
        hc.tl.fit_abundance(table, model="ridge")
        with pytest.raises(ValueError, match="the resolution is unknown in 288 of 288 rows"):
            fit(table)
        table.obs["mpp"] = MPP
        table.obsm["spatial"][3] = np.nan
        with pytest.raises(ValueError, match="is not finite in 1 rows: spot3"):
            fit(table)
        del table.obsm["spatial"]
        hc.tl.fit_abundance(table, model="ridge")
        with pytest.raises(KeyError, match="spatial"):
            fit(table)


class TestPredict:
    def test_sections_are_those_of_the_fit(self, table):
        """By the column that the fit was given, and the same whether sections come together or apart."""
        table.obs = table.obs.rename(columns={"section": "slide"}).assign(split="train")
        model = hc.tl.fit_abundance(
            table, model="spatial_mlp", config=TINY["spatial_mlp"], library_key="slide", inplace=False
        )
        together = hc.tl.predict_abundance(table, model=model, inplace=False)["predicted_abundance"]
        for name in ("A", "B"):
            alone = table[table.obs["slide"] == name].copy()
            apart = hc.tl.predict_abundance(alone, model=model, inplace=False)["predicted_abundance"]
            np.testing.assert_allclose(apart, together.loc[alone.obs_names], rtol=1e-5)

    def test_rows_beside_the_fit_are_known_later(self, table, tmp_path):
        """Also in an object of their own and with a model from a folder."""
        table.obs["split"] = np.where(table.obs["split"] == "test", "test", "train")
        train, test = (table[table.obs["split"] == part].copy() for part in ("train", "test"))
        fit(train, inplace=True)
        hc.models.load(train).save(tmp_path / "m")
        hc.tl.predict_abundance(test, model=tmp_path / "m")
        with pytest.warns(UserWarning, match="16 of the 16 scored rows have a field of view that overlaps"):
            hc.tl.evaluate_abundance(test, n_bootstrap=0, inplace=False)


class TestProtocols:
    @pytest.mark.filterwarnings("ignore:the training rows are one group")
    def test_within_a_section(self, table):
        """Every model of a protocol is fitted on the rows that the one that looks furthest may see."""
        half = table.obsm["spatial"][:, 0] * MPP < 300
        table.obs["group"] = np.where(table.obs["section"] == "B", "B", np.where(half, "A0", "A1"))
        with pytest.warns(UserWarning, match="420 um wide, neighbours that the model sees included"):
            scores = hc.bench.leave_one_group_out(
                table, models=["spatial_mlp", "ridge"], config=TINY, group_key="group", n_bootstrap=0, rng=0
            )
        assert (scores[["n_training", "n_overlapping"]] == 0).all(axis=None)

    def test_between_datasets(self, table):
        one, two = (table[table.obs["section"] == name].copy() for name in "AB")
        with pytest.warns(UserWarning, match="one group"):
            scores = hc.bench.cross_dataset(one, two, models=[*TINY, "ridge"], config=TINY, n_bootstrap=0, rng=0)
        assert set(scores["model"]) == {"spatial_mlp", "hist2cell", "ridge"}
        assert (scores[["n_training", "n_overlapping"]] == 0).all(axis=None)

    def test_neighbours_that_are_not_scored_are_seen(self, table):
        """A prediction for some rows of a section is that for all of them."""
        table.obs["split"] = "train"
        fitted = hc.models.load(fit(table))
        one, two = (table[table.obs["section"] == name].copy() for name in "AB")
        everything = hc.tl.predict_abundance(two, model=fitted, inplace=False)["predicted_abundance"]
        two.obsm["cell_abundance"].iloc[::2] = np.nan
        part = hc.tl.predict_abundance(two, model=fitted, inplace=False)["predicted_abundance"]
        np.testing.assert_array_equal(everything, part)
        with pytest.warns(UserWarning, match="one group"):
            scores = hc.bench.cross_dataset(one, two, models=["spatial_mlp"], config=TINY, n_bootstrap=0, rng=0)
        assert set(scores["n_spots"]) == {72}
