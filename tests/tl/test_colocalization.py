from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array, load_npz

import histocell as hc

ARRAYS = ["R", "z", "p", "p_adj", "n_eff", "low", "high"]


def hexagons(size=14, pitch=100.0):
    row, column = np.mgrid[:size, :size]
    return np.column_stack([(column + 0.5 * (row % 2)).ravel(), (np.sqrt(3) / 2 * row).ravel()]) * pitch


def section(name="S1", patient="P1", rng=0, mpp=0.5):
    """Types a and b share a hot spot, c has another, d is noise."""
    generator = np.random.default_rng(rng)
    xy = hexagons()
    spot = np.exp(-((xy - xy.mean(axis=0)) ** 2).sum(axis=1) / (2 * 250**2))
    corner = np.exp(-(xy**2).sum(axis=1) / (2 * 300**2))
    values = np.column_stack([spot, spot, corner, generator.gamma(1, size=len(xy))])
    values[:, :3] += 0.05 * generator.random((len(xy), 3))
    names = [f"{name}_{index}" for index in range(len(xy))]
    adata = ad.AnnData(obs=pd.DataFrame({"section": name, "patient": patient, "mpp": mpp}, index=names))
    adata.obsm["spatial"] = xy / mpp
    adata.obsm["cell_abundance"] = pd.DataFrame(values, index=names, columns=["a", "b", "c", "d"])
    return adata


@pytest.fixture
def adata():
    return section()


@pytest.fixture
def several():
    return ad.concat([section(f"S{i}", f"P{i // 2}", rng=i) for i in range(6)])


def as_frame(result, part):
    arrays = result if isinstance(result, dict) else vars(result)
    return pd.DataFrame(arrays[part], arrays["names"], arrays["names"])


def test_finds_what_is_there(adata):
    hc.tl.colocalization(adata)
    result = adata.uns["colocalization"]
    r, p = as_frame(result, "R"), as_frame(result, "p_adj")
    assert r.loc["a", "b"] > 0.5
    assert r.loc["a", "c"] < 0
    assert abs(r.loc["a", "d"]) < 0.1
    assert p.loc["a", "b"] < 0.05
    assert p.loc["a", "d"] > 0.05
    assert np.isnan(np.diag(p)).all()
    assert (as_frame(result, "low") <= r + 1e-12).all(axis=None)
    assert (as_frame(result, "high") >= r - 1e-12).all(axis=None)


def test_units_do_not_matter(adata):
    """2.2 pitches of 100 um, whatever the px."""
    result = hc.tl.colocalization(adata, inplace=False)
    params = result.params
    assert params["length_scale_um"] == pytest.approx(220)
    assert "spot pitch" in params["length_scale_source"]
    assert params["include_self"]
    explicit = hc.tl.colocalization(section(mpp=0.25), length_scale_um=220, inplace=False)
    np.testing.assert_allclose(explicit.R, result.R, atol=1e-10)
    del adata.obs["mpp"]
    with pytest.raises(ValueError, match="resolution is unknown"):
        hc.tl.colocalization(adata)
    given = hc.tl.colocalization(adata, mpp=0.5, inplace=False)
    np.testing.assert_allclose(given.R, result.R, atol=1e-10)
    with pytest.raises(ValueError, match="mpp must be a positive number, not -1"):
        hc.tl.colocalization(adata, mpp=-1)


@pytest.mark.parametrize("null", ["stationary", "shift", "permute", "permute_y", "analytic"])
@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_every_null(adata, null, alternative):
    result = hc.tl.colocalization(adata, null=null, alternative=alternative, n_draws=49, rng=0, inplace=False)
    off = ~np.eye(4, dtype=bool)
    p = result.p
    assert ((p[off] > 0) & (p[off] <= 1)).all()
    assert np.isfinite(np.diag(p)).all() == (null in {"permute", "permute_y", "analytic"})
    together, apart = as_frame(result, "p").loc["a", "b"], as_frame(result, "p").loc["a", "c"]
    if alternative == "greater":
        assert together < 0.05 < apart
    if alternative == "less":
        assert together > 0.5 > apart
    again = hc.tl.colocalization(adata, null=null, alternative=alternative, n_draws=49, rng=0, inplace=False)
    for part in ARRAYS:
        np.testing.assert_array_equal(getattr(result, part), getattr(again, part))


def test_inplace_writes_what_is_returned(adata):
    returned = hc.tl.colocalization(adata, local=[("a", "b")], rng=1, inplace=False)
    assert "colocalization" not in adata.uns
    assert hc.tl.colocalization(adata, local=[("a", "b")], rng=1, key_added="mine") is None
    written = adata.uns["mine"]
    assert set(written) == set(returned.to_uns())
    for part in ARRAYS:
        np.testing.assert_array_equal(written[part], returned.to_uns()[part])
    np.testing.assert_array_equal(adata.obsm["mine_local"], returned.local)
    np.testing.assert_array_equal(adata.obsm["mine_local_p"], returned.local_p)
    assert hc.get.provenance(adata, "mine")["null"] == "stationary"


def test_local_r_has_its_mean_and_its_place(adata):
    hc.tl.colocalization(adata, local=[("a", "b")], rng=0)
    result = adata.uns["colocalization"]
    assert list(zip(result["local_x"], result["local_y"], strict=True)) == [("a", "b"), ("b", "a")]
    local, p = adata.obsm["colocalization_local"], adata.obsm["colocalization_local_p"]
    np.testing.assert_allclose(local.mean(axis=0), as_frame(result, "R").loc["a", "b"], atol=1e-6)
    xy = adata.obsm["spatial"]
    center = np.hypot(*(xy - xy.mean(axis=0)).T) < 300
    far = np.hypot(*(xy - xy.mean(axis=0)).T) > 1000
    assert (p[center] < 0.05).mean() > 0.8
    assert (p[far] < 0.05).mean() < 0.05
    everything = hc.tl.colocalization(adata, local=True, rng=0, inplace=False)
    assert len(everything.local_x) == 12 == everything.local.shape[1]


class TestSections:
    def test_pairs_never_cross_sections(self, several):
        """Sections lie on top of each other; each gives what it gives alone."""
        hc.tl.colocalization(several)
        sections = several.uns["colocalization"]["sections"]
        for index in range(6):
            alone = hc.tl.colocalization(section(f"S{index}", rng=index), inplace=False)
            np.testing.assert_allclose(sections["R"][index], alone.R, atol=1e-9)
            np.testing.assert_allclose(sections["n_eff"][index], alone.n_eff, rtol=1e-6)
        assert list(sections["patients"]) == ["P0", "P0", "P1", "P1", "P2", "P2"]
        np.testing.assert_array_equal(several.uns["colocalization"]["n_patients"], 3)

    def test_r_lies_between_the_sections(self, several):
        hc.tl.colocalization(several)
        result = several.uns["colocalization"]
        r = result["sections"]["R"]
        assert (result["R"] > r.min(axis=0) - 0.01).all()
        assert (result["R"] < r.max(axis=0) + 0.01).all()
        frame = hc.get.colocalization(several)
        assert frame.loc[0, ["x", "y"]].tolist() in (["a", "b"], ["b", "a"])
        assert frame.loc[0, "p_adj"] < 0.05

    def test_two_cuts_of_a_tissue_are_not_two_tissues(self):
        once = hc.tl.colocalization(section(), inplace=False)
        twice = ad.concat([section("S1"), section("S2")])
        twice.obs_names_make_unique()
        both = hc.tl.colocalization(twice, inplace=False)
        np.testing.assert_allclose(both.R, once.R, atol=1e-9)
        np.testing.assert_allclose(both.n_eff, once.n_eff, rtol=1e-6)
        width, width_once = (result.high - result.low for result in (both, once))
        np.testing.assert_allclose(width, width_once, rtol=1e-3)

    def test_a_type_that_one_section_lacks(self, several):
        values = several.obsm["cell_abundance"].copy()
        values.loc[several.obs["section"] == "S0", "d"] = 0.0
        several.obsm["cell_abundance"] = values
        hc.tl.colocalization(several)
        result = several.uns["colocalization"]
        assert json.loads(result["params"])["constant"] == {"S0": ["d"]}
        assert np.isnan(result["sections"]["R"][0][3]).all()
        assert np.isfinite(result["R"]).all()

    def test_a_section_has_one_patient(self, several):
        several.obs["patient"] = [str(index % 2) for index in range(several.n_obs)]
        with pytest.raises(ValueError, match="not one"):
            hc.tl.colocalization(several)

    def test_a_section_with_hardly_any_points(self, several):
        few = several[(several.obs["section"] != "S0") | (np.arange(several.n_obs) < 2)].copy()
        hc.tl.colocalization(few)
        assert np.isnan(few.uns["colocalization"]["sections"]["R"][0]).all()
        assert np.isfinite(few.uns["colocalization"]["R"]).all()


class TestWeights:
    def test_squidpy(self, adata):
        import squidpy as sq

        sq.gr.spatial_neighbors_knn(adata, n_neighs=6)
        result = hc.tl.colocalization(adata, weights="spatial_connectivities", inplace=False)
        weights = adata.obsp["spatial_connectivities"].toarray()
        z = adata.obsm["cell_abundance"].to_numpy()
        z = (z - z.mean(axis=0)) / z.std(axis=0)
        np.testing.assert_allclose(result.R, z.T @ weights @ z / weights.sum(), atol=1e-10)
        assert result.params["weights"] == "spatial_connectivities"

    def test_esda(self, parity_dir):
        folder = parity_dir / "moran" / "A1"
        coords = pd.read_csv(folder / "coords.tsv", sep="\t")
        adata = ad.AnnData(obs=pd.DataFrame(index=coords["spot"].astype(str)))
        adata.obsm["spatial"] = coords[["x_um", "y_um"]].to_numpy()
        adata.obsm["cell_abundance"] = pd.read_csv(folder / "proportions.tsv", sep="\t", index_col=0).to_numpy()
        weights = load_npz(folder / "W_esda_knn8_row.npz")
        result = hc.tl.colocalization(adata, weights=weights, row_standardize=True, inplace=False)
        np.testing.assert_allclose(result.R, np.load(folder / "esda_bv.npz")["I"], atol=1e-10)

    def test_row_standardised_rbf(self, adata):
        result = hc.tl.colocalization(adata, row_standardize=True, inplace=False)
        assert abs(result.R - result.R.T).max() > 1e-6

    def test_spatialdm(self, parity_dir):
        folder = parity_dir / "moran" / "D1"
        coords = pd.read_csv(folder / "coords.tsv", sep="\t")
        adata = ad.AnnData(obs=pd.DataFrame({"mpp": 1.0}, index=coords["spot"].astype(str)))
        adata.obsm["spatial"] = coords[["x_um", "y_um"]].to_numpy()
        adata.obsm["cell_abundance"] = pd.read_csv(folder / "proportions.tsv", sep="\t", index_col=0).to_numpy()
        options = {"length_scale_um": 440, "null": "analytic", "alternative": "greater", "inplace": False}
        for include_self, name in ((True, "diag"), (False, "nodiag")):
            result = hc.tl.colocalization(adata, include_self=include_self, **options)
            truth = np.load(folder / f"spatialdm_global_{name}.npz")
            for part in ("R", "z", "p"):
                np.testing.assert_allclose(getattr(result, part), truth[part], atol=1e-8)

    def test_bad_weights(self, adata):
        with pytest.raises(KeyError, match="spatial_neighbors"):
            hc.tl.colocalization(adata, weights="spatial_connectivities")
        with pytest.raises(ValueError, match="weights must have shape"):
            hc.tl.colocalization(adata, weights=np.eye(3))
        with pytest.raises(ValueError, match="not negative"):
            hc.tl.colocalization(adata, weights=-csr_array(np.eye(adata.n_obs)))


class TestCells:
    @pytest.fixture
    def cells(self):
        rng = np.random.default_rng(0)
        xy = rng.uniform(0, 400, size=(1500, 2))
        left = xy[:, 0] < 150
        kind = np.where(left, rng.choice(["B", "T"], 1500), rng.choice(["tumour", "T"], 1500, p=[0.9, 0.1]))
        adata = ad.AnnData(
            obs=pd.DataFrame({"cell_type": pd.Categorical(kind), "mpp": 1.0}, index=map(str, range(1500)))
        )
        adata.obsm["spatial"] = xy
        return adata

    def test_labels(self, cells):
        hc.tl.colocalization(cells, "cell_type")
        result = cells.uns["colocalization"]
        params = json.loads(result["params"])
        assert not params["include_self"]
        assert "cell density" in params["length_scale_source"]
        assert 15 < params["length_scale_um"] < 30
        r = as_frame(result, "R")
        assert r.loc["B", "T"] > 0.05
        assert r.loc["B", "tumour"] < -0.1

    def test_labels_equal_indicators(self, cells):
        cells.obsm["indicators"] = pd.get_dummies(cells.obs["cell_type"], dtype=np.float32)
        options = {"length_scale_um": 20, "include_self": False, "inplace": False}
        labels = hc.tl.colocalization(cells, "cell_type", **options)
        dense = hc.tl.colocalization(cells, "indicators", **options)
        assert list(labels.names) == list(dense.names)
        np.testing.assert_allclose(labels.R, dense.R, atol=1e-6)
        off = ~np.eye(3, dtype=bool)  # indicators sum to one, so both are tested against no preference
        np.testing.assert_allclose(labels.n_eff[off], dense.n_eff[off], rtol=1e-3)

    def test_types_are_tested_for_preference(self, cells):
        """B and tumour are apart by far more than abundance says, T and both others are not told apart from each other."""
        result = hc.tl.colocalization(cells, "cell_type", inplace=False)
        assert result.params["null"] == "no_preference"
        assert "tested: neighbours of another type come in proportion to abundance" in repr(result)
        assert "p accounts for how each type clusters by itself" in repr(result)
        assert "low, high: 95 % within the only replicate" in repr(result)
        z, p = as_frame(result, "z"), as_frame(result, "p")
        assert z.loc["B", "tumour"] < -2
        assert p.loc["B", "tumour"] < 0.05
        assert (np.diag(p) < 1e-6).all()  # each type clusters with itself
        r, expected = as_frame(result, "R"), as_frame(result, "expected")
        assert np.sign(r.loc["B", "tumour"] - expected.loc["B", "tumour"]) == -1
        assert result.p[0, 1] != result.p[1, 0]

    @pytest.mark.parametrize("n", [100, 1000])
    def test_two_types_at_random(self, n):
        """Of two types the one is the other's complement; the null of independent fields calls 14 to 34 % together."""
        rng = np.random.default_rng(n)
        cells = ad.AnnData(obs=pd.DataFrame({"type": rng.choice(["a", "b"], n), "mpp": 1.0}, index=map(str, range(n))))
        cells.obsm["spatial"] = rng.uniform(0, 10 * np.sqrt(n), (n, 2))
        with pytest.warns(UserWarning, match="p is NaN for all pairs: of two types the one is the other's complement"):
            result = hc.tl.colocalization(cells, "type", inplace=False)
        off = ~np.eye(2, dtype=bool)
        assert np.isnan(result.p[off]).all()
        assert np.isfinite(result.R).all()
        assert (np.diag(result.p) > 0.001).all()
        assert "not tested" in repr(result)
        with pytest.warns(UserWarning, match="takes variables for independent"):
            hc.tl.colocalization(cells, "type", null="stationary", inplace=False)

    def test_random_labels_agree_with_squidpy(self, cells):
        """Moments of all arrangements, beside squidpy's permutations on the same graph."""
        import squidpy as sq

        sq.gr.spatial_neighbors(cells, coord_type="generic", n_neighs=6)
        cells.obsp["spatial_connectivities"] = cells.obsp["spatial_connectivities"].maximum(
            cells.obsp["spatial_connectivities"].T
        )
        z = sq.gr.nhood_enrichment(cells, "cell_type", copy=True, seed=0, n_perms=2000, show_progress_bar=False)[0]
        ours = hc.tl.colocalization(cells, "cell_type", null="labels", weights="spatial_connectivities", inplace=False)
        off = ~np.eye(3, dtype=bool)  # squidpy does not centre, so that points with many neighbours add noise
        np.testing.assert_allclose(ours.z[off], z[off], rtol=0.12, atol=1)
        assert (np.diag(ours.z) > np.diag(z) - 1).all()
        assert ours.params["null"] == "labels"

    def test_several_sections(self, cells):
        parts = []
        for name in ("S1", "S2", "S3"):
            part = cells.copy()
            part.obs["section"] = part.obs["patient"] = name
            part.obs_names = name + part.obs_names
            parts.append(part)
        together = ad.concat(parts)
        once = hc.tl.colocalization(cells, "cell_type", inplace=False)
        result = hc.tl.colocalization(together, "cell_type", inplace=False)
        np.testing.assert_allclose(result.R, once.R, atol=1e-6)
        np.testing.assert_allclose(result.expected, once.expected, atol=1e-6)
        # sections with two of the types only
        some = together[(together.obs["section"] == "S1") | (together.obs["cell_type"] != "B")].copy()
        result = hc.tl.colocalization(some, "cell_type", inplace=False)
        assert np.isfinite(as_frame(result, "p").loc["B", "T"])
        assert np.isfinite(as_frame(result, "R").loc["tumour", "T"])

    def test_nulls_for_types_alone(self, adata):
        with pytest.raises(ValueError, match='null="labels" places types at random, but .* holds abundances'):
            hc.tl.colocalization(adata, null="labels")
        with pytest.raises(ValueError, match='null="no_preference" is for cell types'):
            hc.tl.colocalization(adata, null="no_preference")

    def test_cells_without_a_type_are_left_out(self, cells):
        cells.obs.loc[cells.obs_names[:100], "cell_type"] = np.nan
        with pytest.warns(UserWarning, match="100 of 1500 rows are left out"):
            hc.tl.colocalization(cells, "cell_type", local=[("B", "T")], rng=0)
        assert np.isnan(cells.obsm["colocalization_local"][:100]).all()
        assert np.isfinite(cells.obsm["colocalization_local"][100:]).all()


class TestBadInput:
    def test_missing_slot(self, adata):
        with pytest.raises(KeyError, match="available: spatial, cell_abundance"):
            hc.tl.colocalization(adata, "abundance")

    def test_numbers_are_no_categories(self, adata):
        with pytest.raises(TypeError, match="takes categories"):
            hc.tl.colocalization(adata, "mpp")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"null": "spatial"}, "null must be one of"),
            ({"alternative": "two"}, "alternative must be one of"),
            ({"length_scale_um": -3}, "length scale must be"),
            ({"cutoff": 1.5}, "cutoff on the weight"),
            ({"confidence": 95}, "confidence must"),
            ({"n_draws": 1}, "n_draws"),
        ],
    )
    def test_options(self, adata, options, message):
        with pytest.raises(ValueError, match=message):
            hc.tl.colocalization(adata, **options)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"n_draws": "9"}, "n_draws must be a whole number, not '9'"),
            ({"n_draws": np.inf}, "n_draws must be a whole number, not inf"),
            ({"confidence": None}, "confidence must be a number between 0 and 1, not None"),
            ({"cutoff": "0.2"}, "the cutoff on the weight must be a number between 0 and 1, not '0.2'"),
            ({"local": "ab"}, "local must be a pair of names"),
            ({"local": [("a",)]}, "local must be a pair of names"),
            ({"weights": 3}, "weights must be a matrix of numbers"),
        ],
    )
    def test_options_of_another_kind(self, adata, options, message):
        with pytest.raises(TypeError, match=message):
            hc.tl.colocalization(adata, **options)

    def test_unknown_local_pair(self, adata):
        with pytest.raises(KeyError, match="local: z not found; available: a, b, c, d"):
            hc.tl.colocalization(adata, local=[("a", "z")])

    def test_constant_type(self, adata):
        adata.obsm["cell_abundance"]["d"] = 3.0
        hc.tl.colocalization(adata, local=[("a", "d")])
        result = adata.uns["colocalization"]
        assert json.loads(result["params"])["constant"] == {"S1": ["d"]}
        for part in ARRAYS:
            assert np.isnan(as_frame(result, part)["d"]).all()
        assert np.isfinite(as_frame(result, "p_adj").loc["a", "b"])
        assert np.isnan(adata.obsm["colocalization_local"]).all()

    def test_everything_constant(self, adata):
        adata.obsm["cell_abundance"] = adata.obsm["cell_abundance"] * 0 + 1
        with pytest.warns(UserWarning, match="R is undefined for all pairs"):
            hc.tl.colocalization(adata)

    def test_no_neighbours(self, adata):
        with pytest.warns(UserWarning, match="R is undefined"):
            hc.tl.colocalization(adata, length_scale_um=5, include_self=False)

    def test_missing_values(self, adata):
        adata.obsm["cell_abundance"].iloc[:5, 0] = np.nan
        with pytest.warns(UserWarning, match="5 of 196 rows are left out"):
            hc.tl.colocalization(adata)

    def test_all_at_one_place(self, adata):
        adata.obsm["spatial"] = np.ones((adata.n_obs, 2))
        with pytest.raises(ValueError, match="no section has points at different places"):
            hc.tl.colocalization(adata)

    def test_names_that_clash(self, adata):
        adata.obsm["cell_abundance"].columns = ["a", "a", "c", "d"]
        with pytest.raises(ValueError, match="not unique"):
            hc.tl.colocalization(adata)


class TestRoundTrip:
    def check(self, before, after):
        for part in ARRAYS:
            np.testing.assert_array_equal(np.asarray(after[part]), before[part])
        assert [str(name) for name in after["names"]] == list(before["names"])
        assert json.loads(str(after["params"])) == json.loads(before["params"])
        np.testing.assert_array_equal(after["sections"]["scale"], before["sections"]["scale"])

    @pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
    def test_anndata(self, several, tmp_path, suffix):
        values = several.obsm["cell_abundance"]
        values.columns = ["T-cells CD4+", "α β", "c.d", "__x"]
        hc.tl.colocalization(several, local=[("α β", "__x")], rng=0)
        path = tmp_path / f"table.{suffix}"
        getattr(several, f"write_{suffix}")(path)
        read = getattr(ad, f"read_{suffix}")(path)
        self.check(several.uns["colocalization"], read.uns["colocalization"])
        np.testing.assert_array_equal(read.obsm["colocalization_local"], several.obsm["colocalization_local"])
        pd.testing.assert_frame_equal(hc.get.colocalization(read), hc.get.colocalization(several))

    def test_spatialdata(self, tissue, tmp_path):
        import spatialdata as sd

        hc.tl.colocalization(tissue)
        tissue.write(tmp_path / "tissue.zarr")
        read = sd.read_zarr(tmp_path / "tissue.zarr")
        self.check(tissue["table"].uns["colocalization"], read["table"].uns["colocalization"])


def test_tidy_frame(adata):
    hc.tl.colocalization(adata)
    frame = hc.get.colocalization(adata)
    assert list(frame.columns) == ["x", "y", "R", "expected", "z", "p", "p_adj", "n_eff", "low", "high", "n_patients"]
    assert len(frame) == 12
    assert (np.diff(frame["R"].abs()) <= 0).all()
    row = frame.set_index(["x", "y"]).loc[("a", "c")]
    assert row["R"] == as_frame(adata.uns["colocalization"], "R").loc["a", "c"]
    one = hc.get.colocalization(adata, section="S1")
    np.testing.assert_array_equal(one["R"], frame["R"])
    with pytest.raises(KeyError, match="S9"):
        hc.get.colocalization(adata, section="S9")
    with pytest.raises(KeyError, match=r"Run hc.tl.colocalization"):
        hc.get.colocalization(adata, "other")


class TestGraphs:
    @pytest.mark.parametrize("graph", ["grid", "knn", "delaunay"])
    def test_squidpy_builds_a_graph_of_each_section(self, several, graph):
        """The same as a call of squidpy by hand for each section, and nothing of the user's is touched."""
        import squidpy as sq

        by_hand = getattr(sq.gr, f"spatial_neighbors_{graph}")
        before = several.copy()
        result = hc.tl.colocalization(several, weights=graph, inplace=False)
        assert result.params["weights"] == f"squidpy.gr.spatial_neighbors_{graph}"
        assert not several.obsp
        assert set(several.uns) == set(before.uns)
        for index, name in enumerate(several.obs["section"].unique()):
            part = several[several.obs["section"] == name].copy()
            by_hand(part)
            alone = hc.tl.colocalization(part, weights="spatial_connectivities", inplace=False)
            np.testing.assert_allclose(result.sections["R"][index], alone.R, atol=1e-12)

    def test_a_key_of_obsp_wins(self, adata):
        adata.obsp["knn"] = csr_array(np.eye(adata.n_obs))
        result = hc.tl.colocalization(adata, weights="knn", null="permute", n_draws=19, rng=0, inplace=False)
        assert result.params["weights"] == "knn"
        np.testing.assert_allclose(np.diag(result.R), 1)

    def test_a_section_with_few_points(self, several):
        few = several[(several.obs["section"] != "S0") | (np.arange(several.n_obs) < 5)].copy()
        result = hc.tl.colocalization(few, weights="knn", inplace=False)
        assert np.isfinite(result.R).all()


class TestGenes:
    @pytest.fixture
    def expressed(self, adata):
        rng = np.random.default_rng(0)
        rate = np.hstack([adata.obsm["cell_abundance"].to_numpy(), rng.gamma(1, size=(adata.n_obs, 16))])
        counts = csr_array(rng.poisson(20 * rate).astype(np.float32))
        out = ad.AnnData(counts, obs=adata.obs, obsm={"spatial": adata.obsm["spatial"]})
        out.var_names = [f"g{index}" for index in range(20)]
        return out

    def test_counts_are_normalised_by_scanpy(self, expressed):
        import scanpy as sc

        before = expressed.X.copy()
        result = hc.tl.colocalization(expressed, ["g0", "g1", "g7"], inplace=False)
        assert (expressed.X != before).nnz == 0
        assert list(result.names) == ["g0", "g1", "g7"]
        assert result.params["normalization"] == "scanpy.pp.normalize_total, scanpy.pp.log1p"
        assert as_frame(result, "R").loc["g0", "g1"] > 0.3
        by_hand = expressed.copy()
        sc.pp.normalize_total(by_hand)
        sc.pp.log1p(by_hand)
        by_hand.obsm["genes"] = by_hand[:, ["g0", "g1", "g7"]].to_df()
        np.testing.assert_allclose(result.R, hc.tl.colocalization(by_hand, "genes", inplace=False).R, atol=1e-6)
        log = hc.tl.colocalization(by_hand, ["g0", "g1", "g7"], inplace=False)
        assert log.params["normalization"] == "none: X does not hold counts"
        np.testing.assert_allclose(log.R, result.R, atol=1e-6)

    def test_written_and_drawn(self, expressed, tmp_path):
        hc.tl.colocalization(expressed, ["g0", "g1"], local=[("g0", "g1")], rng=0)
        expressed.write_h5ad(tmp_path / "table.h5ad")
        axes = hc.pl.colocalization_pair(ad.read_h5ad(tmp_path / "table.h5ad"), "g0", "g1")
        assert [ax.get_title() for ax in axes[:2]] == ["g0", "g1"]
        plt.close(axes[0].figure)

    def test_genes_that_are_not_there(self, expressed):
        with pytest.raises(KeyError, match="genes TP53 not found in var_names; available: g0, g1"):
            hc.tl.colocalization(expressed, ["g0", "TP53"])
        with pytest.raises(ValueError, match="not unique"):
            hc.tl.colocalization(expressed, ["g0", "g0"])


def test_a_section_without_values_is_no_replicate(several):
    labels = several.obs["section"].astype(str)
    last = (labels == labels.iloc[-1]).to_numpy()
    several.obsm["cell_abundance"].loc[last] = np.nan
    with pytest.warns(UserWarning, match="196 of 1176 rows are left out"):
        result = hc.tl.colocalization(several, inplace=False)
    assert "4 variables, 5 of 6 sections, 3 replicates" in repr(result)


def test_result_says_what_it_is(several):
    result = hc.tl.colocalization(several, local=[("a", "b")], rng=0, inplace=False)
    assert isinstance(result, hc.tl.ColocalizationResult)
    text = repr(result)
    assert "4 variables, 6 sections, 3 replicates" in text
    assert "names: a, b, c, d" in text
    assert "null='stationary'" in text
    assert "p accounts for how smooth each field is by itself" in text
    assert "low, high: 95 % over 3 replicates" in text
    permuted = hc.tl.colocalization(several, null="permute", n_draws=9, confidence=0.9, rng=0, inplace=False)
    assert "p takes neighbouring points for independent" in repr(permuted)
    assert "low, high: 90 %" in repr(permuted)
    assert result.local.shape == result.local_p.shape == (several.n_obs, 2)
    plain = hc.tl.colocalization(several, inplace=False)
    assert plain.local is plain.local_p is None
    assert "local_x" not in plain.to_uns()
    np.testing.assert_allclose(hc.tl.evaluate_colocalization(result, plain, rng=0)["value"], 1)


def test_shares_that_sum_to_one(adata):
    values = adata.obsm["cell_abundance"]
    adata.obsm["shares"] = values.div(values.sum(axis=1), axis=0)
    result = hc.tl.colocalization(adata, "shares", inplace=False)
    assert result.params["null"] == "no_preference"
    off = ~np.eye(4, dtype=bool)
    assert np.isfinite(result.p[off]).all()
    assert np.isnan(np.diag(result.p)).all()
    np.testing.assert_allclose(result.R, hc.tl.colocalization(adata, "shares", null="analytic", inplace=False).R)
    two = adata.obsm["shares"][["a"]].assign(rest=1 - adata.obsm["shares"]["a"])
    adata.obsm["two"] = two
    with pytest.warns(UserWarning, match="one is the other's complement"):
        assert np.isnan(hc.tl.colocalization(adata, "two", inplace=False).p).all()


@pytest.mark.parametrize("key", ["cell_abundance", "type"])
def test_all_points_at_one_place(adata, key):
    """R was 0 with an adjusted p of 0, out of rounding noise."""
    adata.obs["type"] = pd.Categorical(np.random.default_rng(0).choice(list("abc"), adata.n_obs))
    adata.obsm["spatial"] = np.full((adata.n_obs, 2), 1234.5)
    with pytest.raises(ValueError, match="no section has points at different places"):
        hc.tl.colocalization(adata, key)
    with pytest.warns(UserWarning, match="all points lie at one place"):
        result = hc.tl.colocalization(adata, key, length_scale_um=100, inplace=False)
    for part in ARRAYS:
        assert np.isnan(getattr(result, part)).all(), part


def test_a_lag_without_differences_is_no_result(adata):
    """Where every point neighbours every other, all lags are one number, but for rounding."""
    everyone = np.ones((adata.n_obs, adata.n_obs))
    with pytest.warns(UserWarning, match="R is undefined for all pairs"):
        result = hc.tl.colocalization(adata, weights=everyone, inplace=False)
    assert np.isnan(result.p).all()


@pytest.mark.parametrize("types", [list("aabbc"), ["a"] * 192 + list("bbcc")])
def test_few_points_of_other_types_say_nothing(adata, types):
    cells = adata[: len(types)].copy()
    cells.obs["cell_type"] = types
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the pairs
        result = hc.tl.colocalization(cells, "cell_type", inplace=False)
    few = np.array([types.count(name) > len(types) - 8 for name in "abc"])
    off = ~np.eye(3, dtype=bool)
    for part in ("expected", "p", "p_adj", "low", "high"):
        assert (np.isnan(getattr(result, part)) == few[:, None])[off].all()
    assert np.isfinite(result.R).all()
    assert np.isfinite(np.diag(result.p)).all()


def test_no_neighbours_among_types(adata):
    adata.obs["cell_type"] = np.resize(list("abc"), adata.n_obs)
    with pytest.warns(UserWarning, match="R is undefined") as said:
        hc.tl.colocalization(adata, "cell_type", weights=np.zeros((adata.n_obs, adata.n_obs)))
    assert len(said) == 1


def test_what_the_user_sees(adata, user_sees):
    adata.obs["type"] = pd.Categorical(np.where(adata.obsm["spatial"][:, 0] > 1000, "a", "b"))
    with user_sees("Co-localization", "cells of two types", UserWarning, match="p is NaN for all pairs"):
        hc.tl.colocalization(adata, "type")
    with user_sees("Co-localization", "cell types against a null of independent fields", UserWarning, match="takes"):
        hc.tl.colocalization(adata, "type", null="stationary")
    with user_sees("Co-localization", "a column of numbers", TypeError, match="takes categories"):
        hc.tl.colocalization(adata, "mpp")
    adata.obsm["spatial"] = np.zeros((adata.n_obs, 2))
    with user_sees("Co-localization", "all points at one place", UserWarning, match="one place"):
        hc.tl.colocalization(adata, length_scale_um=100)


def test_group_key_names_the_replicate(several):
    several.obs["donor"] = several.obs["section"].map({f"S{index}": "AB"[index % 2] for index in range(6)})
    result = hc.tl.colocalization(several, group_key="donor", inplace=False)
    assert list(result.sections["patients"]) == ["A", "B"] * 3
    assert (result.n_patients == 2).all()


THREADS = """
from concurrent.futures import ThreadPoolExecutor
import anndata as ad
import numba
import numpy as np
import histocell as hc

def run(seed):
    rng = np.random.default_rng(seed)
    adata = ad.AnnData(np.zeros((600, 1)))
    adata.obsm["spatial"] = rng.uniform(0, 1000, (600, 2))
    adata.obsm["cell_abundance"] = rng.gamma(1, size=(600, 5))
    options = {"mpp": 1.0, "length_scale_um": 60, "n_draws": 49, "rng": 0, "inplace": False}
    row = hc.tl.colocalization(adata, row_standardize=True, **options)
    return np.stack([row.R, *(hc.tl.colocalization(adata, null=null, **options).p for null in ("permute", "permute_y"))])

alone = [run(seed) for seed in range(4)]
assert numba.threading_layer() == "workqueue"
with ThreadPoolExecutor(4) as pool:
    together = list(pool.map(run, range(4)))
assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
print("same")
"""


def test_calls_from_several_threads():
    """Numba's workqueue layer ends the process when two threads enter parallel kernels at once."""
    environment = {**os.environ, "NUMBA_THREADING_LAYER": "workqueue", "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", THREADS], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "same"


class TestLengthScaleWithoutNeighbours:
    """R came out as the plain correlation of each spot with itself, without a word."""

    def test_too_short_a_length_scale_is_said(self, adata, user_sees):
        with user_sees(
            "Co-localization", "a length scale below the distance of spots", UserWarning, match="100 % of the points"
        ):
            hc.tl.colocalization(adata, length_scale_um=5)

    def test_cells_in_nests_have_neighbours(self, adata):
        """Of 100 points alone and 100 pairs side by side, a third is alone: no warning."""
        rng = np.random.default_rng(0)
        alone = np.stack(np.meshgrid(np.arange(10), np.arange(10)), axis=-1).reshape(-1, 2) * 100.0
        paired = np.repeat(alone + 5000, 2, axis=0) + np.tile([[0.0, 0.0], [3.0, 0.0]], (100, 1))
        cells = ad.AnnData(obs=pd.DataFrame({"mpp": 1.0}, index=[f"c{i}" for i in range(300)]))
        cells.obsm["spatial"] = np.concatenate([alone, paired])
        cells.obsm["cell_abundance"] = pd.DataFrame(
            rng.gamma(2, 1, (300, 3)), index=cells.obs_names, columns=list("abc")
        )
        hc.tl.colocalization(cells, length_scale_um=5)
        cells = cells[:150].copy()  # two thirds alone
        with pytest.warns(UserWarning, match="67 % of the points"):
            hc.tl.colocalization(cells, length_scale_um=5)
