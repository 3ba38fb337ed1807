from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

import histocell as hc
from histocell._core import keys
from histocell._core.geometry import overlapping_windows


@pytest.fixture
def table() -> AnnData:
    """Ten sections of five patients on a grid of 100 px."""
    sections = [f"{p}{i}" for p in "ABCDE" for i in (1, 2)]
    grid = np.stack(np.meshgrid(np.arange(8), np.arange(5)), -1).reshape(-1, 2) * 100.0 + 50
    table = AnnData(
        np.ones((400, 1), np.float32),
        obs=pd.DataFrame({"section": np.repeat(sections, 40), "mpp": 0.5}, index=[f"s{i}" for i in range(400)]),
    )
    table.obs["patient"] = table.obs["section"].str[0]
    table.obsm["spatial"] = np.tile(grid, (10, 1))
    return table


def set_patches(table, edge):
    xy = table.obsm["spatial"][:, ::-1]
    table.obsm["patches"] = np.hstack([xy - edge / 2, xy + edge / 2]).astype(np.int32)


class TestGroups:
    def test_patients_stay_whole(self, table):
        hc.pp.split(table, rng=0)
        assert table.obs["split"].dtype == "category"
        assert table.obs.groupby("patient")["split"].nunique().max() == 1
        assert set(table.obs["split"]) == {"train", "val", "test"}
        assert table.obs.groupby("split")["patient"].nunique().to_dict() == {"train": 3, "val": 1, "test": 1}

    def test_counts_follow_fractions(self, table):
        hc.pp.split(table, by="section", fractions=(0.5, 0.2, 0.3), rng=1)
        sections = table.obs.drop_duplicates("section")["split"].value_counts()
        assert sections.to_dict() == {"train": 5, "val": 2, "test": 3}

    def test_rng(self, table):
        first, second = (hc.pp.split(table, by="section", rng=4, inplace=False) for _ in range(2))
        pd.testing.assert_series_equal(first, second)
        others = [hc.pp.split(table, by="section", rng=i, inplace=False) for i in range(5)]
        assert any(not first.equals(other) for other in others)
        assert "split" not in table.obs

    def test_named(self, table):
        hc.pp.split(table, by="patient", test="B", val=["C"])
        assert set(table.obs["patient"][table.obs["split"] == "test"]) == {"B"}
        assert set(table.obs["patient"][table.obs["split"] == "val"]) == {"C"}
        hc.pp.split(table, by="section", test=["A1", "B2"])
        assert table.obs["split"].value_counts().to_dict() == {"train": 320, "test": 80, "val": 0}

    def test_no_validation(self, table):
        hc.pp.split(table, fractions=(0.8, 0, 0.2), rng=0)
        assert set(table.obs["split"]) == {"train", "test"}

    def test_section_where_there_is_one_patient(self, table):
        one = table[table.obs["patient"] == "A"].copy()
        hc.pp.split(one, fractions=(0.5, 0, 0.5), rng=0)
        assert one.obs.groupby("section")["split"].nunique().max() == 1

    @pytest.mark.parametrize(
        ("kwargs", "error", "match"),
        [
            ({"by": "donor"}, KeyError, r'obs\["donor"\] not found'),
            ({"by": "patient", "test": "Z"}, KeyError, "no group Z; there are: A, B, C, D, E"),
            ({"by": "patient", "test": ["A"], "val": ["A"]}, ValueError, "at once"),
            ({"by": "patient", "test": list("ABCDE")}, ValueError, "no group is left for training"),
            ({"fractions": (0.5, 0.2)}, ValueError, "three shares"),
            ({"fractions": (0.5, 0.2, 0.2)}, ValueError, "sum to 1"),
            ({"fractions": (0.0, 0.5, 0.5)}, ValueError, "first above 0"),
            ({"block_um": 100, "by": "patient"}, ValueError, "not with by"),
            ({"block_um": -1}, ValueError, "must be a positive number"),
        ],
    )
    def test_errors(self, table, kwargs, error, match):
        with pytest.raises(error, match=match):
            hc.pp.split(table, **kwargs)
        assert "split" not in table.obs

    def test_too_few_groups(self, table):
        two = table[table.obs["patient"].isin(["A", "B"])].copy()
        with pytest.raises(ValueError, match=r"2 groups \(A, B\) cannot make 3 parts"):
            hc.pp.split(two)
        one = table[table.obs["section"] == "A1"].copy()
        with pytest.raises(ValueError, match="block_um=1000"):
            hc.pp.split(one)


class TestBlocks:
    def test_blocks_stay_whole(self, table):
        hc.pp.split(table, block_um=100, rng=0)  # 200 px: two by two spots
        x, y = (table.obsm["spatial"] // 200).T
        assert table.obs.groupby([table.obs["section"], x, y])["split"].nunique().max() == 1
        assert table.obs.groupby("section")["split"].nunique().max() > 1

    def test_needs_a_resolution(self, table):
        del table.obs["mpp"]
        with pytest.raises(ValueError, match=r'obs\["mpp"\]'):
            hc.pp.split(table, block_um=100)

    def test_overlapping_patches_are_dropped(self, table):
        set_patches(table, 150)  # reaches into every neighbour, not further
        with pytest.warns(UserWarning, match="rows dropped"):
            hc.pp.split(table, block_um=200, rng=0)
        part = table.obs["split"].astype(str).to_numpy()
        xy, section = table.obsm["spatial"], table.obs["section"].to_numpy()
        assert list(table.obs["split"].cat.categories) == ["train", "val", "test", "dropped"]
        near = (np.abs(xy[:, None] - xy[None]).max(-1) < 150) & (section[:, None] == section)
        assert not near[part == "train"][:, part == "test"].any()
        assert not near[part == "val"][:, part == "test"].any()
        assert not near[part == "train"][:, part == "val"].any()
        # No row was dropped without a reason.
        plain = hc.pp.split(without_patches(table), block_um=200, rng=0, inplace=False).to_numpy()
        dropped = part == "dropped"
        assert near[dropped][:, np.isin(plain, ["test", "val"])].any(axis=1).all()

    def test_touching_patches_are_kept(self, table):
        set_patches(table, 100)
        hc.pp.split(table, block_um=200, rng=0)
        assert "dropped" not in set(table.obs["split"])

    def test_other_sections_do_not_count(self, table):
        set_patches(table, 150)
        hc.pp.split(table, by="section", rng=0)
        assert "dropped" not in set(table.obs["split"])

    def test_slides_told_apart_by_library_key_alone(self, table):
        """Equal coordinates on two slides are no overlap."""
        set_patches(table, 150)
        table.obs = table.obs.rename(columns={"section": "slide"})
        table.obs["half"] = np.where(table.obs["slide"].str.endswith("1"), "one", "two")
        hc.pp.split(table, by="half", test="one", library_key="slide")
        assert "dropped" not in set(table.obs["split"])
        labels = hc.pp.split(table, block_um=100_000, library_key="slide", rng=0, features=[], inplace=False)
        assert labels.groupby(table.obs["slide"]).nunique().max() == 1
        assert labels.nunique() == 3  # ten squares, one for each slide
        with pytest.raises(ValueError, match="of every train row overlaps"), pytest.warns(UserWarning, match="dropped"):
            hc.pp.split(table, by="half", test="one")

    def test_library_key_of_the_patches_is_known(self, table):
        table.obs = table.obs.rename(columns={"section": "slide"})
        image = np.zeros((500, 800, 3), np.uint8)
        hc.pp.patches(table, size_um=75, image=dict.fromkeys(table.obs["slide"], image), library_key="slide")
        table.obs["half"] = np.where(table.obs["slide"].str.endswith("1"), "one", "two")
        hc.pp.split(table, by="half", test="one")
        assert "dropped" not in set(table.obs["split"])

    def test_embeddings_that_see_beyond_their_patch(self, table):
        set_patches(table, 100)
        table.obsm["X_wide"] = np.ones((table.n_obs, 2), np.float32)
        keys.write_provenance(table, "X_wide", encoder="mine", size_um=50.0, field_um=75.0)
        with pytest.warns(UserWarning, match=r"field of view \(75 um wide\)"):
            wide = hc.pp.split(table, block_um=200, rng=0, inplace=False)
        set_patches(table, 150)
        with pytest.warns(UserWarning, match="75 um wide"):
            pd.testing.assert_series_equal(hc.pp.split(table, block_um=200, rng=0, features=[], inplace=False), wide)

    def test_nothing_left_is_an_error(self, table):
        set_patches(table, 2000)
        one = table[table.obs["section"] == "A1"].copy()
        with pytest.raises(ValueError, match="use larger blocks"), pytest.warns(UserWarning, match="dropped"):
            hc.pp.split(one, block_um=200, rng=0)


def without_patches(table):
    plain = table.copy()
    del plain.obsm["patches"]
    return plain


@given(seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_overlaps_match_a_double_loop(seed):
    rng = np.random.default_rng(seed)

    def windows(n):
        corner = rng.integers(-20, 60, size=(n, 2))
        return np.hstack([corner, corner + rng.integers(1, 25, size=(n, 2))])

    a, b = windows(12), windows(9)
    expected = [any(p[0] < q[2] and q[0] < p[2] and p[1] < q[3] and q[1] < p[3] for q in b) for p in a]
    np.testing.assert_array_equal(overlapping_windows(a, b), expected)
