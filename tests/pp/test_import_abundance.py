from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import histocell as hc

TYPES = ["B cells", "T cells", "tumour"]


@pytest.fixture
def visium() -> AnnData:
    """Two Visium sections that share barcodes, as a reader and spatialdata.concatenate name them."""
    rng = np.random.default_rng(0)
    barcodes = ["".join(rng.choice(list("ACGT"), 16)) for _ in range(20)]
    names = [f"{barcode}-1-{section}" for section in ("C2", "C3") for barcode in barcodes]
    table = AnnData(obs=pd.DataFrame({"section": np.repeat(["C2", "C3"], 20)}, index=names))
    table.obsm["spatial"] = rng.uniform(0, 1000, (40, 2))
    return table


@pytest.fixture
def cells(visium) -> pd.DataFrame:
    """Numbers of cells in each spot of both sections, rows in another order than those of the table."""
    values = np.random.default_rng(1).gamma(2, 3, (40, 3))
    return pd.DataFrame(values, index=visium.obs_names, columns=TYPES).sample(frac=1, random_state=0)


def section_of(cells, name, form="{}-1"):
    """The table of one section under names as another tool writes them."""
    part = cells[cells.index.str.endswith(name)]
    return part.set_axis([form.format(full[:16]) for full in part.index])


class TestJoin:
    def test_by_equal_names(self, visium, cells):
        assert hc.pp.import_abundance(visium, cells) is None
        pd.testing.assert_frame_equal(visium.obsm["cell_abundance"], cells.loc[visium.obs_names])

    @pytest.mark.parametrize("form", ["{}-1", "{}", "{}.1", "sample7_{}-1"])
    def test_one_section_after_the_other(self, visium, cells, form, tmp_path):
        for name in ("C2", "C3"):
            section_of(cells, name, form).to_csv(tmp_path / f"{name}.csv")
            hc.pp.import_abundance(visium, tmp_path / f"{name}.csv", section=name)
        np.testing.assert_allclose(visium.obsm["cell_abundance"], cells.loc[visium.obs_names], rtol=1e-14)
        found = hc.get.provenance(visium, "cell_abundance")["sections"]
        assert found["C2"] == {"source": "C2.csv", "method": None, "rows": 20, "matched": 20}
        assert found["C3"]["source"] == "C3.csv"

    def test_cell2location_of_both_sections(self, visium, cells):
        source = AnnData(obs=pd.DataFrame({"sample": cells.index.str[-2:]}, index=cells.index))
        source.obs_names = [f"{name[-2:]}_{name[:18]}" for name in cells.index]
        source.obsm["q05_cell_abundance_w_sf"] = cells.set_axis(source.obs_names).add_prefix("q05cell_abundance_w_sf_")
        hc.pp.import_abundance(visium, source)
        pd.testing.assert_frame_equal(visium.obsm["cell_abundance"], cells.loc[visium.obs_names])
        facts = hc.get.provenance(visium, "cell_abundance")
        assert facts["unit"] == "cells per spot"
        assert facts["sections"]["C2"]["method"] == "cell2location"

    @pytest.mark.filterwarnings("ignore:Observation names are not unique")
    def test_sections_from_obs_of_the_source(self, visium, cells):
        source = AnnData(obs=pd.DataFrame({"section": cells.index.str[-2:].to_numpy()}, index=cells.index.str[:18]))
        source.obsm["weights"] = cells.set_axis(source.obs_names)
        hc.pp.import_abundance(visium, source, source_key="weights")
        np.testing.assert_array_equal(visium.obsm["cell_abundance"], cells.loc[visium.obs_names])

    def test_rows_without_a_match_are_nan_and_said(self, visium, cells, user_sees):
        few = cells.loc[visium.obs_names[2:]]
        with user_sees(
            "Tables", "imported abundances that lack spots", UserWarning, match=r"38 of 40 rows of section C2, C3"
        ):
            hc.pp.import_abundance(visium, few)
        written = visium.obsm["cell_abundance"]
        assert written.iloc[:2].isna().all(axis=None)
        np.testing.assert_array_equal(written.iloc[2:], few)

    def test_rows_of_another_section_by_their_places(self, user_sees):
        """Two sections of one patient share a third of their places, and would share as many values."""
        places = [[f"{x}x{y}" for x in columns for y in range(6)] for columns in (range(6), range(4, 10))]
        ours, theirs = AnnData(obs=pd.DataFrame(index=places[0])), pd.DataFrame(0.5, index=places[1], columns=TYPES[:2])
        ours.obsm["spatial"] = np.arange(72.0).reshape(36, 2)
        with user_sees("Tables", "imported abundances of another section", ValueError, match="12 of 36 rows"):
            hc.pp.import_abundance(ours, theirs)
        theirs.index = places[0][6:] + places[1][-6:]
        with pytest.warns(UserWarning, match="30 of 36 rows .* Names on both sides have no partner"):
            hc.pp.import_abundance(ours, theirs)

    def test_rows_of_another_section_stay_unknown(self, visium, cells):
        hc.pp.import_abundance(visium, section_of(cells, "C2"), section="C2")
        assert (visium.obsm["cell_abundance"].isna().all(axis=1) == (visium.obs["section"] == "C3")).all()

    def test_again_replaces(self, visium, cells):
        hc.pp.import_abundance(visium, cells)
        hc.pp.import_abundance(visium, cells[TYPES[:2]] * 2)
        assert list(visium.obsm["cell_abundance"].columns) == TYPES[:2]

    def test_not_in_place(self, visium, cells):
        frame = hc.pp.import_abundance(visium, cells, inplace=False)
        pd.testing.assert_frame_equal(frame, cells.loc[visium.obs_names])
        assert "cell_abundance" not in visium.obsm
        assert "histocell" not in visium.uns

    def test_nothing_is_written_where_it_fails(self, visium, cells):
        hc.pp.import_abundance(visium, cells)
        before = visium.obsm["cell_abundance"].copy()
        with pytest.raises(ValueError, match="proportions that were not normalised"):
            hc.pp.import_abundance(visium, cells.div(cells.sum(axis=1) * 1.1, axis=0))
        pd.testing.assert_frame_equal(visium.obsm["cell_abundance"], before)


class TestUnit:
    def test_shares(self, visium, cells):
        shares = cells.div(cells.sum(axis=1), axis=0)
        for scale, digits in ((1, 9), (1, 3), (100, 1), (100, 0)):
            hc.pp.import_abundance(visium, (shares * scale).round(digits))
            assert hc.get.provenance(visium, "cell_abundance")["unit"] == "proportion"
            np.testing.assert_allclose(visium.obsm["cell_abundance"].sum(axis=1), 1, atol=1e-4)

    def test_numbers(self, visium, cells):
        hc.pp.import_abundance(visium, cells)
        assert hc.get.provenance(visium, "cell_abundance")["unit"] == "abundance"
        hc.pp.import_abundance(visium, cells, unit="cells per spot")
        assert hc.get.provenance(visium, "cell_abundance")["unit"] == "cells per spot"

    def test_rctd(self, visium, cells, user_sees):
        """Weights of RCTD sum to about 1, and to 0 where a spot was rejected."""
        weights = cells.div(cells.sum(axis=1) * np.linspace(0.8, 1.3, 40), axis=0)
        with user_sees(
            "Tables", "imported weights of RCTD that were not normalised", ValueError, match='unit="proportion"'
        ):
            hc.pp.import_abundance(visium, weights)
        weights.loc[visium.obs_names[3]] = 0
        with pytest.warns(UserWarning, match="1 matched rows hold NaN, or nothing to be a share of"):
            hc.pp.import_abundance(visium, weights, unit="proportion")
        written = visium.obsm["cell_abundance"]
        expected = cells.div(cells.sum(axis=1), axis=0).loc[visium.obs_names]
        expected.iloc[3] = np.nan
        np.testing.assert_allclose(written, expected, rtol=1e-12)

    def test_published_shares_stay_as_they_are(self, data_dir):
        sdata = hc.datasets.her2st(["C2", "C3"])
        for name in ("C2", "C3"):
            path = data_dir / "her2st" / name / "props_major.tsv"
            hc.pp.import_abundance(sdata, path, section=name, key_added="again")
        table = sdata["table"]
        pd.testing.assert_frame_equal(table.obsm["again"], table.obsm["cell_abundance"], check_names=False)

    def test_unknown(self, visium, cells):
        with pytest.raises(ValueError, match="unit must be"):
            hc.pp.import_abundance(visium, cells, unit="percent")


class TestBadInput:
    def test_no_name_matches(self, visium, cells, user_sees):
        with user_sees(
            "Tables", "imported abundances of other spots", ValueError, match="0 of 40 rows are among the 40 names"
        ):
            hc.pp.import_abundance(visium, cells.set_axis([f"spot{i}" for i in range(40)]))

    def test_spots_of_unknown_section(self, visium, cells, user_sees):
        with user_sees(
            "Tables", "imported abundances that say no section", ValueError, match="of section C2, C3; say .* section="
        ):
            hc.pp.import_abundance(visium, section_of(cells, "C3"))

    def test_text(self, visium, cells, user_sees):
        with user_sees("Tables", "imported abundances with a column of text", ValueError, match="columns of text"):
            hc.pp.import_abundance(visium, cells.assign(first_type="B cells"))

    def test_negative(self, visium, cells, user_sees):
        with user_sees("Tables", "imported abundances below 0", ValueError, match="no abundance"):
            hc.pp.import_abundance(visium, -cells.iloc[:, :1].round(1))

    def test_other_types_or_unit_than_those_of_other_sections(self, visium, cells):
        hc.pp.import_abundance(visium, section_of(cells, "C2"), section="C2")
        other = section_of(cells, "C3")
        with pytest.raises(ValueError, match="holds abundances of other sections, of B cells, T cells, tumour"):
            hc.pp.import_abundance(visium, other.rename(columns={"tumour": "Tumour"}), section="C3")
        with pytest.raises(ValueError, match=r"tumour \(cells per spot\). Write them beside"):
            hc.pp.import_abundance(visium, other, section="C3", unit="cells per spot")
        hc.pp.import_abundance(visium, other[TYPES[::-1]], section="C3")
        np.testing.assert_array_equal(visium.obsm["cell_abundance"][TYPES], cells.loc[visium.obs_names])

    def test_type_that_is_nowhere(self, visium, cells):
        with pytest.warns(UserWarning, match="NK: 0 in every row"):
            hc.pp.import_abundance(visium, cells.assign(NK=0.0))

    def test_nan(self, visium, cells):
        with pytest.warns(UserWarning, match="1 matched rows hold NaN"):
            hc.pp.import_abundance(visium, cells.mask(cells == cells.iloc[0, 0]))
        assert visium.obsm["cell_abundance"].isna().sum(axis=None) == 1

    def test_unknown_section(self, visium, cells):
        with pytest.raises(KeyError, match="there is no section 'C9'; there are: C2, C3"):
            hc.pp.import_abundance(visium, cells, section="C9")

    def test_slash(self, visium, cells):
        with pytest.warns(UserWarning, match="'/' cannot be written"):
            hc.pp.import_abundance(visium, cells.rename(columns={"tumour": "tumour/stroma"}))
        assert hc.get.provenance(visium, "cell_abundance")["original_names"] == {"tumour_stroma": "tumour/stroma"}


def test_imported_abundances_are_learnt_and_written(cohort, tmp_path):
    """From a file of each section to a prediction; rows that nobody measured are left out of the fit."""
    table = cohort["table"]
    truth = table.obsm.pop("cell_abundance")
    for name in table.obs["section"].cat.categories:
        rows = table.obs["section"] == name
        measured = truth[rows].set_axis(table.obs_names[rows].str.removesuffix(f"-{name}"))
        measured.iloc[5:].to_csv(tmp_path / f"{name}.csv")
        with pytest.warns(UserWarning, match="the others .* are NaN and left out of fits"):
            hc.pp.import_abundance(cohort, tmp_path / f"{name}.csv", section=name, unit="cells per spot")
    known = table.obsm["cell_abundance"].notna().all(axis=1)
    assert (~known).sum() == 20
    hc.pp.split(cohort, by="patient", test="P4")
    with pytest.warns(UserWarning, match="15 training or validation rows have a target that is not finite; left out"):
        hc.tl.fit_abundance(cohort, "X_morphology", model="ridge", rng=0)
    hc.tl.predict_abundance(cohort)
    assert hc.get.abundance(cohort).notna().all(axis=None)
    assert hc.get.provenance(cohort, "predicted_abundance")["unit"] == "cells per spot"
    table.write_h5ad(tmp_path / "out.h5ad")


class TestNoise:
    """The 95 % less the 5 % quantile of cell2location goes to the slot that deconvolution fills as well."""

    @pytest.fixture
    def source(self, visium, cells):
        source = AnnData(obs=pd.DataFrame(index=cells.index))
        for name, values in (("q05", cells), ("q95", cells * 2 + 1)):
            source.obsm[f"{name}_cell_abundance_w_sf"] = values.add_prefix(f"{name}cell_abundance_w_sf_")
        return source

    def test_difference_of_the_quantiles(self, visium, cells, source):
        hc.pp.import_abundance(visium, source)
        pd.testing.assert_frame_equal(visium.obsm["cell_abundance_noise"], (cells + 1).loc[visium.obs_names])
        assert hc.get.provenance(visium, "cell_abundance")["noise"] == "q95 - q05"

    def test_from_a_file_and_obs(self, visium, cells, source, tmp_path):
        source.write_h5ad(tmp_path / "c2l.h5ad")
        hc.pp.import_abundance(visium, tmp_path / "c2l.h5ad")
        in_obs = AnnData(obs=pd.concat([source.obsm[key] for key in sorted(source.obsm)], axis=1))
        hc.pp.import_abundance(visium, in_obs, key_added="obs")
        pd.testing.assert_frame_equal(visium.obsm["obs_noise"], visium.obsm["cell_abundance_noise"])

    def test_of_shares(self, visium, cells, source):
        hc.pp.import_abundance(visium, source, unit="proportion")
        expected = (cells + 1).div(cells.sum(axis=1), axis=0).loc[visium.obs_names]
        np.testing.assert_allclose(visium.obsm["cell_abundance_noise"], expected)

    def test_one_quantile_gives_none(self, visium, source):
        del source.obsm["q95_cell_abundance_w_sf"]
        hc.pp.import_abundance(visium, source)
        assert "cell_abundance_noise" not in visium.obsm
        assert "noise" not in hc.get.provenance(visium, "cell_abundance")

    def test_none_stays_of_values_that_were_replaced(self, visium, cells, source):
        hc.pp.import_abundance(visium, source)
        hc.pp.import_abundance(visium, section_of(cells, "C2"), section="C2", unit="cells per spot")
        noise = visium.obsm["cell_abundance_noise"]
        assert noise[visium.obs["section"] == "C2"].isna().all(axis=None)
        assert noise[visium.obs["section"] == "C3"].notna().all(axis=None)
        hc.pp.import_abundance(visium, cells)
        assert "cell_abundance_noise" not in visium.obsm

    def test_quantiles_that_cross(self, visium, source):
        source.obsm["q95_cell_abundance_w_sf"] *= 0.1
        with pytest.raises(ValueError, match="95 % quantiles .* are below the 5 % ones for"):
            hc.pp.import_abundance(visium, source)


def test_spotlight(visium, cells):
    """Its residuals are no cell type, and its rows sum to less than 1 where small shares became 0."""
    shares = cells.div(cells.sum(axis=1), axis=0)
    table = shares.where(shares > 0.1, 0).assign(res_ss=30.0)
    hc.pp.import_abundance(visium, table)
    found = visium.obsm["cell_abundance"]
    assert list(found.columns) == TYPES
    np.testing.assert_allclose(found.sum(axis=1), 1)
    facts = hc.get.provenance(visium, "cell_abundance")
    assert facts["unit"] == "proportion"
    assert facts["sections"]["C2"]["method"] == "SPOTlight"


def test_counts_of_genes_are_no_abundances(visium, cells, user_sees):
    """They came in as abundances of so many cell types, without a word."""
    visium = AnnData(
        np.ones((visium.n_obs, 6)),
        obs=visium.obs,
        var=pd.DataFrame(index=["EPCAM", "KRT8", "CD3D", "MS4A1", "COL1A1", "CD4"]),
        obsm=dict(visium.obsm),
    )
    counts = pd.DataFrame(np.arange(200.0).reshape(40, 5), index=visium.obs_names, columns=visium.var_names[:5])
    with user_sees("Tables", "counts of genes as abundances", ValueError, match="5 of the 5 columns .* are genes"):
        hc.pp.import_abundance(visium, counts)
    assert "cell_abundance" not in visium.obsm
    hc.pp.import_abundance(visium, cells.rename(columns={"T cells": "CD4"}))  # one type with the name of a gene
    assert "CD4" in visium.obsm["cell_abundance"]
