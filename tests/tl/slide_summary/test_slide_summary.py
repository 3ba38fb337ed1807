from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import histocell as hc

SETTINGS = {"key": "cell_abundance", "table_key": "table", "n_bootstrap": 40}


@pytest.fixture(scope="module")
def cohort():
    return hc.datasets.synthetic_tissue(4, n_patients=2, size_px=700, spot_pitch_um=50, rng=0)


@pytest.fixture(scope="module")
def summary(cohort):
    return hc.tl.summarize_slides(cohort, **SETTINGS, block_um=100)


def test_composition_is_that_of_the_slide(cohort, summary):
    table = cohort["table"]
    for slide in table.obs["section"].unique():
        own = table.obsm["cell_abundance"][(table.obs["section"] == slide).to_numpy()]
        rows = summary[summary["slide"] == slide].set_index("feature")
        for name in own:
            assert rows.loc[f"mean {name}", "value"] == pytest.approx(own[name].mean())
            share = rows.loc[f"share of {name}"]
            assert share["value"] == pytest.approx(own[name].sum() / own.to_numpy().sum())
            assert share["low"] <= share["value"] <= share["high"]
        assert rows.loc["n_rows", "value"] == len(own)
        assert rows.loc["mean tumour", "interval"].startswith("95 % over")
    assert dict(zip(summary["slide"], summary["patient"], strict=True)) == {
        "P1S1": "P1",
        "P1S2": "P1",
        "P2S1": "P2",
        "P2S2": "P2",
    }


def test_pairs_are_those_of_the_colocalization(cohort, summary):
    result = hc.tl.colocalization(cohort, "cell_abundance", table_key="table", inplace=False)
    names = list(result.names)
    first, second = names.index("tumour"), names.index("lymphocyte")
    found = summary[summary["feature"] == "tumour with lymphocyte"].set_index("slide")["value"]
    for place, slide in enumerate(result.sections["names"]):
        expected = result.sections["R"][place, first, second] - result.sections["expected"][place, first, second]
        assert found[str(slide)] == pytest.approx(expected)
    assert summary["feature"].str.contains(" with ").sum() == 4 * 15


def test_stores_of_a_folder(tmp_path):
    for number in range(2):
        sdata = hc.datasets.synthetic_tissue(size_px=600, rng=number)
        hc.pp.tiles(sdata, size_um=56)
        tiles = sdata["tile_table"]
        tiles.obsm["predicted_abundance"] = pd.DataFrame(
            np.full((tiles.n_obs, 2), number + 1.0), index=tiles.obs_names, columns=["a", "b"]
        )
        hc.pp.segment_nuclei(sdata, measure=False)
        sdata.write(tmp_path / f"slide{number}.zarr")
        n_nuclei, tissue = sdata["nucleus_table"].n_obs, tiles.obs["tissue_fraction"].sum()
    table = hc.tl.summarize_slides(tmp_path, colocalization=False, n_bootstrap=0)
    wide = table.pivot(index="slide", columns="feature", values="value")
    assert wide.index.tolist() == ["slide0", "slide1"]
    assert wide["mean a"].tolist() == [1.0, 2.0]
    assert wide.loc["slide1", "tissue_mm2"] == pytest.approx(tissue * 0.056**2)
    assert wide.loc["slide1", "nuclei_per_mm2"] == pytest.approx(n_nuclei / wide.loc["slide1", "tissue_mm2"])
    named = hc.tl.summarize_slides(
        {"x": tmp_path / "slide0.zarr"}, colocalization=False, n_bootstrap=0, patients={"x": "p"}
    )
    assert set(named["slide"]) == {"x"}
    assert set(named["patient"]) == {"p"}


def test_tiles_that_overlap_do_not_count_twice():
    areas = []
    for overlap in (0.0, 0.5):
        sdata = hc.datasets.synthetic_tissue(size_px=1000, rng=0)
        hc.pp.tiles(sdata, size_um=56, overlap=overlap)
        tiles = sdata["tile_table"]
        tiles.obsm["predicted_abundance"] = pd.DataFrame({"a": 1.0, "b": 2.0}, index=tiles.obs_names)
        table = hc.tl.summarize_slides(sdata, colocalization=False, n_bootstrap=0)
        areas.append(table.loc[table["feature"] == "tissue_mm2", "value"].item())
    assert areas[1] == pytest.approx(areas[0], rel=0.15)


def test_groups_are_compared_by_patients():
    rng = np.random.default_rng(0)
    rows = [
        (
            f"s{patient}{slide}",
            f"p{patient}",
            "share of T",
            0.1 * (patient < 6) + rng.normal(0, 0.05),
            np.nan,
            np.nan,
            "none",
        )
        for patient in range(12)
        for slide in range(3)
    ]
    rows += [(f"s{patient}0", f"p{patient}", "n_rows", 5.0, np.nan, np.nan, "none") for patient in range(12)]
    summary = pd.DataFrame(rows, columns=["slide", "patient", "feature", "value", "low", "high", "interval"])
    groups = {f"p{patient}": "yes" if patient < 6 else "no" for patient in range(12)}
    found = hc.tl.compare_slides(summary, groups, first="yes").set_index("feature")
    means = summary[summary["feature"] == "share of T"].groupby("patient")["value"].mean()
    a, b = (means[[patient for patient, group in groups.items() if group == name]] for name in ("yes", "no"))
    expected = stats.ttest_ind(a, b, equal_var=False)
    row = found.loc["share of T"]
    assert row["p"] == pytest.approx(expected.pvalue)
    assert (row["low"], row["high"]) == pytest.approx(tuple(expected.confidence_interval()))
    assert (row["n_first"], row["n_second"]) == (6, 6)
    assert np.isnan(found.loc["n_rows", "p"])
    with pytest.warns(UserWarning, match="2 of 12 patients have no group"):
        hc.tl.compare_slides(summary, {name: group for name, group in groups.items() if name not in {"p0", "p11"}})


def test_bad_input(cohort, tmp_path):
    with pytest.raises(FileNotFoundError, match="no slide"):
        hc.tl.summarize_slides(tmp_path)
    with pytest.raises(KeyError, match="predicted_abundance"):
        hc.tl.summarize_slides(cohort, table_key="table")
    with pytest.raises(ValueError, match="several slides are called P1S1"):
        hc.tl.summarize_slides([cohort, cohort], colocalization=False, **SETTINGS)
    with pytest.raises(KeyError, match="does not name the patient"):
        hc.tl.summarize_slides(cohort, patients={"P1S1": "x"}, colocalization=False, **SETTINGS)
    with pytest.raises(KeyError, match="B cell"):
        hc.tl.summarize_slides(cohort, colocalization=[("tumour", "B cell")], **SETTINGS)
    other = hc.datasets.synthetic_tissue(size_px=600, rng=5)
    other["table"].obsm["cell_abundance"] = other["table"].obsm["cell_abundance"].iloc[:, :3]
    with pytest.raises(ValueError, match="predict all with one model"):
        hc.tl.summarize_slides({"a": cohort, "b": other}, colocalization=False, **SETTINGS)
    holey = hc.datasets.synthetic_tissue(size_px=600, rng=5)
    holey["table"].obsm["cell_abundance"] = holey["table"].obsm["cell_abundance"].astype(float)
    holey["table"].obsm["cell_abundance"].iloc[0] = np.nan
    with pytest.warns(UserWarning, match="1 of"):
        hc.tl.summarize_slides(holey, colocalization=False, **SETTINGS)


@pytest.mark.parametrize(
    ("groups", "options", "error", "match"),
    [
        ({"P1": "a", "P2": "b"}, {}, ValueError, "two or more in each"),
        ({"P1": "a", "P2": "a"}, {}, ValueError, "1 groups"),
        ({"P1": "a", "P2": "b"}, {"first": "c", "second": "a"}, KeyError, "no patient is of the group c"),
    ],
)
def test_bad_groups(summary, groups, options, error, match):
    with pytest.raises(error, match=match):
        hc.tl.compare_slides(summary, groups, **options)


def test_no_summary():
    with pytest.raises(ValueError, match="summarize_slides"):
        hc.tl.compare_slides(pd.DataFrame({"a": [1]}), {})
