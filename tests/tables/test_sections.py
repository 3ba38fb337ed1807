from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd

import histocell as hc
from histocell.tables.sections import ALL, Sections


def make(**columns) -> ad.AnnData:
    obs = pd.DataFrame(columns, index=[f"s{i}" for i in range(4)])
    xy = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 20.0], [10.0, 20.0]])
    return ad.AnnData(np.ones((4, 1), np.float32), obs=obs, obsm={"spatial": xy})


def test_without_a_column_all_rows_are_one_section():
    sections = Sections(make())
    assert (sections.library_key, sections.names, len(sections)) == (None, [ALL], 1)
    assert sections.labels.tolist() == [ALL] * 4
    assert [rows.tolist() for rows in sections.rows] == [[0, 1, 2, 3]]
    assert sections.replicate_key() is None
    assert sections.groups() == [ALL]
    (region,) = sections.regions(need_image=False)
    assert (region.name, region.section, region.mpp) == ("the table", "the table", None)


def test_sections_come_in_the_order_of_their_first_row():
    sections = Sections(make(section=pd.Categorical(["b", "a", "b", "a"]), slide=["x", "x", "y", "y"]))
    assert sections.library_key == "section"
    assert sections.names == ["b", "a"]
    assert [rows.tolist() for rows in sections.rows] == [[0, 2], [1, 3]]
    assert Sections(sections.table, library_key="slide").names == ["x", "y"]


def test_regions_of_a_spatialdata_without_sections(cohort):
    table = cohort["table"]
    del table.obs["section"]
    sections = Sections(cohort)
    assert sections.library_key == "region"
    assert sections.names == [f"spots-P{i}S1" for i in range(1, 5)]
    assert [region.section for region in sections.regions()] == sections.names
    assert Sections(table).names == [ALL]  # an AnnData has no regions


@pytest.mark.filterwarnings("ignore:.*in rows of different slides")
def test_a_region_is_called_after_its_section_where_that_tells_regions_apart(cohort):
    assert [region.section for region in Sections(cohort).regions()] == [f"P{i}S1" for i in range(1, 5)]
    cohort["table"].obs["section"] = "one"
    assert [region.section for region in Sections(cohort).regions()] == [f"spots-P{i}S1" for i in range(1, 5)]


def test_missing_values_and_columns():
    with pytest.raises(ValueError, match=r'obs\["section"\] is missing in 1 rows'):
        Sections(make(section=["a", None, "b", "b"]))
    with pytest.raises(KeyError, match=r'obs\["slide"\] not found; available: section\. library_key='):
        Sections(make(section=list("aabb")), library_key="slide")
    with pytest.raises(KeyError, match=r'obs\["donor"\] not found'):
        Sections(make(section=list("aabb")), group_key="donor").replicate_key()


def test_replicates():
    table = make(section=list("aabc"), patient=list("PPPQ"), block=list("1122"))
    sections = Sections(table)
    assert sections.replicate_key() == "patient"
    assert sections.replicate_key(np.array([0, 2])) == "section"  # one patient among these rows
    assert sections.replicate_key(np.array([0, 1])) is None
    assert sections.groups() == ["P", "P", "Q"]
    assert Sections(table, group_key="block").replicate_key() == "block"
    with pytest.raises(
        ValueError, match=r'section \'a\' of obs\["section"\] holds 2 levels of obs\["patient"\] \(P, Q\)'
    ):
        Sections(make(section=list("aabb"), patient=list("PQRR"))).groups()


def test_mpp_by_argument_then_column_then_image(tissue):
    table = make(mpp=[0.5, 0.5, np.nan, 0.7])
    assert Sections(table, mpp=2).mpp().tolist() == [2] * 4
    assert Sections(table, mpp=2).coordinates_um()[3].tolist() == [20, 40]
    np.testing.assert_array_equal(Sections(table).mpp(required=False), [0.5, 0.5, np.nan, 0.7])
    with pytest.raises(ValueError, match=r'unknown in 1 of 4 rows: obs\["mpp"\]'):
        Sections(table).coordinates_um()
    for unit in (1000, 0.001):  # coordinates in mm and in nm
        assert Sections(table, mpp=unit).mpp().tolist() == [unit] * 4
    for wrong in (0, -1, np.nan, np.inf):
        with pytest.raises(ValueError, match="mpp must be a positive number"):
            Sections(table, mpp=wrong).mpp()
    expected = tissue["table"].obsm["spatial"] * 0.5
    del tissue["table"].obs["mpp"]
    np.testing.assert_allclose(Sections(tissue).coordinates_um(), expected)
    del tissue.images["he"]
    with pytest.raises(ValueError, match="resolution is unknown"):
        Sections(tissue).mpp()


def test_coordinates_of_shapes_where_the_table_has_none(tissue):
    expected = tissue["table"].obsm.pop("spatial")
    np.testing.assert_allclose(Sections(tissue).coordinates_px(), expected)


def test_coordinates_in_um_are_not_scaled_again(tissue):
    """As readers of Xenium write them, beside shapes that a transformation brings onto the image."""
    hc.pp.patches(tissue)
    table = tissue["table"]
    px = table.obsm["spatial"].copy()
    table.obsm["spatial"] = px * 0.5
    np.testing.assert_allclose(Sections(tissue).coordinates_um(), px * 0.5)
    np.testing.assert_allclose(Sections(tissue, mpp=1).coordinates_um(), px * 0.5)
    with pytest.raises(ValueError, match=r'obsm\["spatial"\] is not in the px of obsm\["patches"\]'):
        Sections(table).coordinates_um()
    turned = px @ np.array([[0.0, 1.0], [-1.0, 0.0]]) + 5000  # to lie beside another section
    table.obsm["spatial"] = turned
    np.testing.assert_array_equal(Sections(table).coordinates_um(), turned * 0.5)


def test_one_region_is_as_good_as_its_section_alone(cohort):
    both = Sections(cohort)
    subset = sd.SpatialData(
        images={"he": cohort["he-P2S1"]}, shapes={"spots-P2S1": cohort["spots-P2S1"]}, tables={"table": _only(cohort)}
    )
    (alone,) = Sections(subset).regions()
    among = both.regions()[1]
    assert (alone.section, alone.mpp) == (among.section, among.mpp) == ("P2S1", 0.5)
    np.testing.assert_array_equal(alone.centers, among.centers)


def _only(cohort) -> ad.AnnData:
    table = cohort["table"][cohort["table"].obs["section"] == "P2S1"].copy()
    del table.uns["spatialdata_attrs"]
    table.obs["region"] = table.obs["region"].cat.remove_unused_categories()
    return sd.models.TableModel.parse(table, region="spots-P2S1", region_key="region", instance_key="spot_id")


def test_standardising_a_slide_of_several_sections():
    sdata = hc.datasets.synthetic_tissue(size_px=800)
    hc.pp.tiles(sdata, size_um=56)
    hc.pp.embed_image(sdata, "morphology", table_key="tile_table")
    table = sdata["tile_table"]
    table.obsm["cell_abundance"] = pd.DataFrame(
        {"a": np.arange(table.n_obs), "b": 1.0 + np.arange(table.n_obs) % 3}, index=table.obs_names
    )
    with pytest.warns(UserWarning, match="training rows"):  # one section, no split
        hc.tl.fit_abundance(sdata, model="ridge", standardize_by="section", table_key="tile_table", rng=0)
    hc.tl.predict_abundance(sdata, table_key="tile_table")
    together = table.obsm["predicted_abundance"].copy()
    table.obs["section"] = np.where(table.obsm["spatial"][:, 0] < 400, "left", "right")
    hc.tl.predict_abundance(sdata, table_key="tile_table")
    apart = table.obsm["predicted_abundance"]
    assert np.isfinite(apart.to_numpy()).all()
    assert not np.allclose(apart, together)
