"""No model is fitted on rows whose features show tissue of held-out rows, whatever was done first."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import histocell as hc
from histocell._core import keys
from histocell.tables.fields import FieldsOfView
from histocell.tables.sections import Sections
from histocell.tl.engine.rows import recall_training_rows

MPP = 0.5
SIDE = 12  # spots, 100 um apart


def make(sections=("A", "B"), seed=0) -> ad.AnnData:
    """Sections with equal coordinates; blocks of 4 x 4 spots of each are held out."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), -1).reshape(-1, 2)
    n = len(grid) * len(sections)
    table = ad.AnnData(
        np.ones((n, 1), np.float32),
        obs=pd.DataFrame({"section": np.repeat(sections, len(grid)), "mpp": MPP}, index=[f"spot{i}" for i in range(n)]),
    )
    xy = np.tile(grid, (len(sections), 1))
    table.obsm["spatial"] = (xy * 100.0 + 50) / MPP
    table.obsm["X_toy"] = rng.normal(size=(n, 4)).astype(np.float32)
    Y = np.exp(table.obsm["X_toy"][:, :2] + 0.1 * rng.normal(size=(n, 2)))
    table.obsm["cell_abundance"] = pd.DataFrame(Y, index=table.obs_names, columns=["a", "b"])
    block = xy // 4
    table.obs["block"] = [f"{x}{y}" for x, y in block]
    table.obs["split"] = pd.Series("train", index=table.obs_names, dtype=object)
    table.obs.loc[(table.obs["section"] == "A") & (table.obs["block"] == "00"), "split"] = "test"
    table.obs.loc[(table.obs["section"] == "A") & (table.obs["block"] == "22"), "split"] = "val"
    return table


def embedded(table, key="X_toy", **facts):
    keys.write_provenance(table, key, **{"encoder": "toy", "dim": 4} | facts)


def patches(table, edge_um):
    yx = table.obsm["spatial"][:, ::-1]
    half = edge_um / MPP / 2
    table.obsm["patches"] = np.hstack([yx - half, yx + half]).astype(np.int32)


def near(table, rows, others, edge_um):
    """By a double loop: rows with one of the others of their section nearer than the edge of the field of view."""
    xy, section = table.obsm["spatial"] * MPP, table.obs["section"].to_numpy()
    out = np.zeros(table.n_obs, dtype=bool)
    for i in np.flatnonzero(rows):
        for j in np.flatnonzero(others):
            if section[i] == section[j] and np.abs(xy[i] - xy[j]).max() < edge_um:
                out[i] = True
    return out


def fitted(table, **settings) -> np.ndarray:
    """Rows that a fit uses, and those that it stops on."""
    model = hc.tl.fit_abundance(table, model="ridge", rng=0, inplace=False, **settings)
    hc.tl.predict_abundance(table, model=model)
    return recall_training_rows(table, "predicted_abundance")


def expected(table, edge_um):
    part = table.obs["split"].to_numpy()
    train, val, test = (part == name for name in ("train", "val", "test"))
    val = val & ~near(table, val, test, edge_um)
    return train & ~near(table, train, test, edge_um) & ~near(table, train, val, edge_um), val


class TestFit:
    @pytest.mark.parametrize("edge_um", [150, 250, 420])
    def test_a_field_of_view_recorded_by_the_encoder(self, table_of_blocks, edge_um):
        table = table_of_blocks
        embedded(table, size_um=112.0, field_um=edge_um)
        train, val = expected(table, edge_um)
        left_out = int((table.obs["split"] == "train").sum() - train.sum())
        assert left_out > 0
        with pytest.warns(UserWarning, match=f"^{left_out} of 256 training rows .*{edge_um} um wide"):
            seen = fitted(table)
        np.testing.assert_array_equal(seen[0], train)
        np.testing.assert_array_equal(seen[1], val)

    def test_patches_made_or_enlarged_after_the_split(self, table_of_blocks):
        table = table_of_blocks
        assert (fitted(table)[0] == (table.obs["split"] == "train")).all()  # nothing is known of X_toy
        for edge_um in (150, 300):
            patches(table, edge_um)
            with pytest.warns(UserWarning, match=f"{edge_um} um wide"):
                seen = fitted(table)
            np.testing.assert_array_equal(seen[0], expected(table, edge_um)[0])

    def test_without_a_resolution_in_px(self, table_of_blocks):
        table = table_of_blocks
        del table.obs["mpp"]
        patches(table, 150)
        embedded(table, size_um=150.0, field_um=150.0)
        with pytest.warns(UserWarning, match="left out.*300 px wide"):
            seen = fitted(table)
        np.testing.assert_array_equal(seen[0], expected(table, 150)[0])

    def test_the_widest_of_several_embeddings(self, table_of_blocks):
        table = table_of_blocks
        table.obsm["X_wide"] = table.obsm["X_toy"] ** 2
        embedded(table, size_um=50.0, field_um=50.0)
        embedded(table, "X_wide", size_um=50.0, field_um=250.0)
        assert (fitted(table, features="X_toy")[0] == (table.obs["split"] == "train")).all()
        with pytest.warns(UserWarning, match="250 um"):
            seen = fitted(table, features=["X_toy", "X_wide"])
        np.testing.assert_array_equal(seen[0], expected(table, 250)[0])

    def test_embeddings_of_versions_that_recorded_no_field(self, table_of_blocks):
        fields = {}
        for name, facts in {
            "morphology": {"encoder": "morphology", "size_um": 112.0},
            "of others": {"encoder": "mine", "size_um": 112.0},
            "unknown": {},
        }.items():
            embedded(table_of_blocks, **facts)
            fields[name] = FieldsOfView.of(Sections(table_of_blocks), ["X_toy"]).windows
        assert np.ptp(fields["morphology"][0, ::2]) == 1200 / MPP
        assert np.ptp(fields["of others"][0, ::2]) == 112 / MPP

    def test_sections_told_apart_by_library_key_alone(self, table_of_blocks):
        table = table_of_blocks
        embedded(table, size_um=112.0, field_um=250.0)
        train = expected(table, 250)[0]
        table.obs = table.obs.rename(columns={"section": "slide"})
        with pytest.warns(UserWarning, match="left out"):
            seen = fitted(table, library_key="slide")
        np.testing.assert_array_equal(seen[0], train)

    def test_nothing_left(self, table_of_blocks, user_sees):
        table = table_of_blocks[table_of_blocks.obs["section"] == "A"].copy()
        embedded(table, size_um=112.0, field_um=1200.0)
        given = "blocks of one section so small that every training row shows tissue of test rows"
        with user_sees("Training and scores", given, ValueError, match="and none is left"):
            hc.tl.fit_abundance(table, model="ridge")

    def test_touching_is_not_sharing(self, table_of_blocks):
        embedded(table_of_blocks, size_um=100.0, field_um=100.0)
        assert (fitted(table_of_blocks)[0] == (table_of_blocks.obs["split"] == "train")).all()

    def test_as_the_split_does(self, table_of_blocks):
        """What a split with patches and embeddings keeps, the fit keeps, and no more is left out."""
        table = table_of_blocks
        patches(table, 100)
        embedded(table, size_um=100.0, field_um=160.0)
        with pytest.warns(UserWarning, match="rows dropped"):
            hc.pp.split(table, block_um=400, rng=0)
        parts = table.obs["split"].to_numpy()
        seen = fitted(table)
        np.testing.assert_array_equal(seen[0], parts == "train")
        assert not near(table, parts == "train", parts == "test", 160).any()
        plain = hc.pp.split(table, block_um=400, rng=0, features=[], inplace=False)
        assert (plain != "dropped").all()  # patches that touch


class TestEvaluation:
    @pytest.fixture
    def predicted(self, table_of_blocks):
        """Predictions of a model whose test rows are apart from those it was fitted on."""
        table = table_of_blocks
        embedded(table, size_um=112.0, field_um=250.0)
        with pytest.warns(UserWarning, match="left out"):
            hc.tl.fit_abundance(table, model="ridge", rng=0)
        hc.tl.predict_abundance(table)
        return table

    def test_test_rows_share_nothing(self, predicted):
        scores = hc.tl.evaluate_abundance(predicted, n_bootstrap=0, inplace=False)
        assert (scores[["n_training", "n_overlapping"]] == 0).all(axis=None)

    @pytest.mark.parametrize("how", ["table", "subset", "file"])
    def test_other_test_rows_do(self, predicted, how, tmp_path):
        train, val = expected(predicted, 250)
        moved = (predicted.obs["section"] == "A").to_numpy() & ~train & ~val
        beside = near(predicted, moved, train | val, 250)
        assert 0 < beside.sum() < moved.sum()
        predicted.obs["split"] = np.where(moved, "test", "train")
        if how == "subset":
            predicted = predicted[moved].copy()
        if how == "file":
            predicted.write_h5ad(tmp_path / "a.h5ad")
            predicted = ad.read_h5ad(tmp_path / "a.h5ad")
        text = f"{beside.sum()} of the {moved.sum()} scored rows have a field of view that overlaps"
        with pytest.warns(UserWarning, match=text):
            scores = hc.tl.evaluate_abundance(predicted, n_bootstrap=0, inplace=False)
        assert set(scores["n_overlapping"]) == {beside.sum()}
        assert set(scores["n_training"]) == {0}

    def test_rows_of_another_object(self, table_of_blocks, tmp_path):
        """Test rows in an object of their own, as `adata[test]` makes it, lie beside the training rows all the same."""
        table = table_of_blocks
        embedded(table, size_um=112.0, field_um=250.0)
        train, test = (table[table.obs["split"] == part].copy() for part in ("train", "test"))
        expected = near(table, table.obs["split"] == "test", table.obs["split"] == "train", 250).sum()
        assert 0 < expected < test.n_obs
        hc.tl.fit_abundance(train, model="ridge", standardize_by=None, rng=0)
        hc.models.load(train).save(tmp_path / "m")
        for source in (train, tmp_path / "m"):
            hc.tl.predict_abundance(test, model=source)
            with pytest.warns(
                UserWarning, match=f"{expected} of the 16 scored rows have a field of view that overlaps"
            ):
                scores = hc.tl.evaluate_abundance(test, n_bootstrap=0, inplace=False)
            assert set(scores["n_overlapping"]) == {expected}
        with pytest.warns(UserWarning, match=f"{expected} of the 16 scored rows"):
            hc.bench.cross_dataset(train, test, models=["ridge"], standardize_by=None, n_bootstrap=0, rng=0)

    @pytest.mark.parametrize("change", ["slide", "name", "resolution", "places"])
    def test_rows_of_another_slide(self, table_of_blocks, change):
        """Another section, or another slide whose section has the same name, shares nothing."""
        embedded(table_of_blocks, size_um=112.0, field_um=250.0)
        table_of_blocks.obs["split"] = "train"
        hc.tl.fit_abundance(table_of_blocks, model="ridge", rng=0)
        other = make(seed=1)
        other.obs_names = [f"other {name}" for name in other.obs_names]
        embedded(other, size_um=112.0, field_um=250.0)
        if change == "name":
            other.obs["section"] = other.obs["section"].str.lower()
        elif change == "resolution":
            other.obs["mpp"] = 0.45
        elif change == "places":
            other.obsm["spatial"] += np.random.default_rng(0).normal(0, 20, other.obsm["spatial"].shape)
        hc.tl.predict_abundance(other, model=table_of_blocks)
        scores = hc.tl.evaluate_abundance(other, split_key="none", n_bootstrap=0, inplace=False)
        assert set(scores["n_overlapping"]) == {0}

    def test_cells_of_one_slide_in_two_objects(self):
        """Cells lie at random, so that some are much nearer to each other than most."""
        rng = np.random.default_rng(0)
        n = 4000
        obs = pd.DataFrame({"section": "A", "mpp": MPP}, index=[f"cell{i}" for i in range(n)])
        table = ad.AnnData(np.ones((n, 1), np.float32), obs=obs)
        table.obsm["spatial"] = rng.uniform(0, 4000, (n, 2))
        table.obsm["X_toy"] = rng.normal(size=(n, 4)).astype(np.float32)
        table.obsm["cell_abundance"] = pd.DataFrame(np.exp(table.obsm["X_toy"][:, :2]), obs.index, ["a", "b"])
        embedded(table, size_um=20.0, field_um=20.0)
        test = rng.random(n) < 0.3
        train, unseen = table[~test].copy(), table[test].copy()
        train.obs["split"], unseen.obs["split"] = "train", "test"
        with pytest.warns(UserWarning, match="one group"):
            hc.tl.fit_abundance(train, model="ridge", rng=0)
        hc.tl.predict_abundance(unseen, model=train)
        with pytest.warns(UserWarning, match="have a field of view that overlaps"):
            scores = hc.tl.evaluate_abundance(unseen, n_bootstrap=0, inplace=False)
        assert set(scores["n_overlapping"]) == {near(table, test, ~test, 20).sum()}

    def test_a_protocol_within_a_section(self, table_of_blocks):
        table = table_of_blocks
        table.obs["group"] = np.where(table.obs["section"] == "B", "B", np.where(table.obs["block"] < "10", "A0", "A1"))
        embedded(table, size_um=112.0, field_um=250.0)
        with pytest.warns(UserWarning, match="are left out of the fit"):
            scores = hc.bench.leave_one_group_out(table, models=["ridge"], group_key="group", n_bootstrap=0, rng=0)
        assert (scores[["n_training", "n_overlapping"]] == 0).all(axis=None)


@pytest.fixture
def table_of_blocks() -> ad.AnnData:
    return make()


def test_many_rows_take_little_memory():
    """Each field of view overlaps thousands of others."""
    rng = np.random.default_rng(0)
    n = 200_000
    table = ad.AnnData(np.ones((n, 1), np.float32), obs=pd.DataFrame({"mpp": MPP}, index=np.arange(n).astype(str)))
    table.obsm["spatial"] = rng.uniform(0, 20_000, (n, 2))
    table.obsm["X_toy"] = np.ones((n, 1), np.float32)
    embedded(table, size_um=112.0, field_um=1200.0)
    test = table.obsm["spatial"][:, 0] < 8_000
    shared = FieldsOfView.of(Sections(table)).shared(~test, test)
    limit = table.obsm["spatial"][test, 0].max() + 1200 / MPP
    x = table.obsm["spatial"][:, 0]
    np.testing.assert_array_equal(shared[x > limit], False)
    assert shared[(x > 8_000) & (x < limit - 200)].all()
