from __future__ import annotations

import importlib.util

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import histocell as hc
from histocell.pp._deconvolve.cell2location import remaining_fall, warn_unless_converged

TYPES = ["B cells", "T cells", "tumour"]
needs_cell2location = pytest.mark.skipif(
    importlib.util.find_spec("cell2location") is None, reason="cell2location is not installed"
)


@pytest.fixture(scope="module")
def signatures():
    rng = np.random.default_rng(0)
    values = rng.gamma(0.5, 1, (200, 1)) * np.exp(rng.normal(0, 1, (200, 3)))
    return pd.DataFrame(values, index=[f"GENE{i}" for i in range(200)], columns=TYPES)


@pytest.fixture
def cells(signatures):
    """40 cells of each type."""
    rng = np.random.default_rng(1)
    labels = np.repeat(TYPES, 40)
    counts = rng.poisson(signatures[labels].T.to_numpy()).astype(np.float32)
    obs = pd.DataFrame({"cell_type": labels, "donor": ["a", "b"] * 60}, index=[f"cell{i}" for i in range(120)])
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=signatures.index))


@pytest.fixture
def spots(signatures):
    """Two sections of 30 spots whose numbers of cells are known; genes in another order."""
    rng = np.random.default_rng(2)
    numbers = rng.multinomial(20, [0.2, 0.3, 0.5], 60)
    counts = rng.poisson(numbers @ signatures.T.to_numpy())[:, ::-1].astype(np.float32)
    obs = pd.DataFrame({"section": np.repeat(["C2", "C3"], 30)}, index=[f"spot{i}" for i in range(60)])
    table = AnnData(counts, obs=obs, var=pd.DataFrame(index=signatures.index[::-1]))
    table.obsm["truth"] = pd.DataFrame(numbers / 20, index=obs.index, columns=TYPES)
    return table


class TestNNLS:
    def test_finds_the_truth(self, spots, cells):
        assert hc.pp.deconvolve(spots, cells, labels_key="cell_type") is None
        found, noise, truth = spots.obsm["cell_abundance"], spots.obsm["cell_abundance_noise"], spots.obsm["truth"]
        assert list(found.columns) == TYPES
        np.testing.assert_allclose(found.sum(axis=1), 1)
        assert np.abs(found - truth).to_numpy().mean() < 0.03
        assert (noise > 0).all(axis=None)
        facts = hc.get.provenance(spots, "cell_abundance")
        assert facts["unit"] == "proportion"
        assert facts["method"] == "nnls"
        assert facts["noise"] == "standard error"
        assert facts["cells"] == dict.fromkeys(TYPES, 40)
        assert facts["spots"] == 60

    def test_nearer_than_unweighted_least_squares(self, spots, cells, signatures):
        """Where some genes are seen far more often in spots than in cells."""
        from scipy.optimize import nnls

        factors = np.exp(np.random.default_rng(3).normal(0, 1, 200))
        spots.X = np.random.default_rng(4).poisson(np.asarray(spots.X) * factors).astype(np.float32)
        hc.pp.deconvolve(spots, cells, labels_key="cell_type")
        order = spots.var_names.get_indexer(signatures.index)
        naive = np.array([nnls(signatures.to_numpy(), row)[0] for row in np.asarray(spots.X)[:, order]])
        naive /= naive.sum(axis=1, keepdims=True)
        truth = spots.obsm["truth"].to_numpy()
        ours = np.abs(spots.obsm["cell_abundance"].to_numpy() - truth).mean()
        assert ours < 0.6 * np.abs(naive - truth).mean()

    def test_numbers_of_cells(self, spots, cells):
        hc.pp.deconvolve(spots, cells, labels_key="cell_type", n_cells_per_spot=20)
        assert hc.get.provenance(spots, "cell_abundance")["unit"] == "cells per spot"
        totals = spots.obsm["cell_abundance"].sum(axis=1)
        np.testing.assert_allclose(totals.groupby(spots.obs["section"].to_numpy()).mean(), 20)

    def test_sections_do_not_depend_on_each_other(self, spots, cells):
        hc.pp.deconvolve(spots, cells, labels_key="cell_type")
        alone = spots[:30].copy()
        hc.pp.deconvolve(alone, cells, labels_key="cell_type", key_added="alone")
        np.testing.assert_allclose(alone.obsm["alone"], spots.obsm["cell_abundance"].iloc[:30], atol=1e-9)

    def test_signatures_are_reused(self, spots, cells):
        hc.pp.deconvolve(spots, cells, labels_key="cell_type")
        kept = spots.varm["cell_abundance_signatures"]
        hc.pp.deconvolve(spots, kept, key_added="again")
        np.testing.assert_allclose(spots.obsm["again"], spots.obsm["cell_abundance"], atol=1e-9)
        assert hc.get.provenance(spots, "again")["reference"] == "signatures"

    def test_layers(self, spots, cells):
        expected = hc.pp.deconvolve(spots, cells, labels_key="cell_type", inplace=False)
        for adata in (spots, cells):
            adata.layers["counts"] = adata.X.copy()
            adata.X = np.log1p(adata.X)
        names = {"counts_layer": "counts", "reference_layer": "counts"}
        found = hc.pp.deconvolve(spots, cells, labels_key="cell_type", **names, inplace=False)
        assert list(found) == ["cell_abundance", "cell_abundance_noise", "cell_abundance_signatures"]
        for name, frame in found.items():
            pd.testing.assert_frame_equal(frame, expected[name])
        assert "cell_abundance" not in spots.obsm
        assert "histocell" not in spots.uns

    @pytest.mark.filterwarnings("ignore:.* spots .* have no counts")
    def test_written_and_read(self, cohort, tmp_path):
        """The synthetic tissue, whose cells are their own reference; what is written survives a file."""
        import spatialdata as sd

        truth = cohort["table"].obsm["cell_abundance"]
        hc.pp.deconvolve(cohort, cohort["cell_table"], labels_key="cell_type", key_added="found")
        found = cohort["table"].obsm["found"][truth.columns]
        shares = truth.div(truth.sum(axis=1), axis=0)
        assert np.mean([found[name].corr(shares[name]) for name in truth]) > 0.9
        cohort.write(tmp_path / "out.zarr")
        back = sd.read_zarr(tmp_path / "out.zarr")["table"]
        pd.testing.assert_frame_equal(back.obsm["found"][found.columns], found, check_names=False)
        assert back.varm["found_signatures"].shape[1] == 6
        assert hc.get.provenance(back, "found")["method"] == "nnls"

    def test_agrees_with_published(self, data_dir):
        import anndata as ad

        table = hc.datasets.her2st("C3")["table"]
        path = next((data_dir / "reference_wu2021").glob("*.h5ad"))
        with pytest.warns(UserWarning, match=r"1 of \d+ spots .* have no counts"):
            hc.pp.deconvolve(table, ad.read_h5ad(path), labels_key="celltype_major", key_added="found")
        found, published = table.obsm["found"], table.obsm["cell_abundance"]
        epithelium = found["Cancer Epithelial"] + found["Normal Epithelial"]
        assert epithelium.corr(published["Epithelial"]) > 0.85
        assert found["Myeloid"].corr(published["Myeloid"]) > 0.8
        assert found.isna().all(axis=1).sum() == 1


class TestBadInput:
    def test_normalised(self, spots, cells, user_sees):
        spots.X = np.log1p(spots.X)
        with user_sees("Tables", "deconvolution of logarithms", ValueError, match="X of data does not hold raw counts"):
            hc.pp.deconvolve(spots, cells, labels_key="cell_type")

    def test_normalised_reference(self, spots, cells):
        cells.layers["counts"] = cells.X.copy()
        cells.X = cells.X / 3
        with pytest.raises(
            ValueError, match="X of the reference .* reference_layer= names the layer with them: counts"
        ):
            hc.pp.deconvolve(spots, cells, labels_key="cell_type")

    @pytest.mark.parametrize("value", [np.nan, -1])
    def test_no_counts(self, spots, cells, value):
        spots.X[3, 4] = value
        with pytest.raises(ValueError, match="does not hold raw counts"):
            hc.pp.deconvolve(spots, cells, labels_key="cell_type")

    def test_ensembl(self, spots, cells, user_sees):
        spots.var_names = [f"ENSG{i:011d}" for i in range(200)]
        with user_sees(
            "Tables", "deconvolution of genes by Ensembl identifiers", ValueError, match="data have Ensembl identifiers"
        ):
            hc.pp.deconvolve(spots, cells, labels_key="cell_type")

    def test_capitals(self, spots, cells):
        spots.var_names = spots.var_names.str.capitalize()
        with pytest.raises(ValueError, match="0 of 200 genes .* But for capitals 200 would match"):
            hc.pp.deconvolve(spots, cells, labels_key="cell_type")

    def test_versions(self, spots, cells):
        spots.var_names = [f"ENSG{i:011d}.3" for i in range(200)]
        cells.var_names = [f"ENSG{i:011d}.7" for i in range(200)]
        with pytest.raises(ValueError, match="Without their versions 200 Ensembl"):
            hc.pp.deconvolve(spots, cells, labels_key="cell_type")

    def test_few_shared(self, spots, cells, user_sees):
        spots.var_names = [*spots.var_names[:80], *(f"X{i}" for i in range(120))]
        with user_sees("Tables", "deconvolution with few shared genes", UserWarning, match="80 of 200 genes"):
            hc.pp.deconvolve(spots, cells, labels_key="cell_type")
        spots.var_names = [*spots.var_names[:40], *(f"X{i}" for i in range(160))]
        with pytest.raises(ValueError, match="40 of 200 genes .* too few for 3 cell types. data: GENE199"):
            hc.pp.deconvolve(spots, cells, labels_key="cell_type")

    def test_genes_twice(self, spots, cells):
        cells.var_names = ["GENE1", *cells.var_names[1:]]
        with pytest.raises(ValueError, match="the reference names genes twice: GENE1"):
            hc.pp.deconvolve(spots, cells, labels_key="cell_type")

    def test_rare_type(self, spots, cells, user_sees):
        with user_sees("Tables", "a reference with 4 cells of a type", UserWarning, match=r"B cells \(4\)"):
            hc.pp.deconvolve(spots, cells[36:], labels_key="cell_type")

    def test_cells_without_label_or_counts(self, spots, cells):
        cells.obs["cell_type"] = cells.obs["cell_type"].where(np.arange(120) != 5)
        cells.X[50] = 0
        with pytest.warns(UserWarning, match="1 of 120 reference cells") as caught:
            hc.pp.deconvolve(spots, cells, labels_key="cell_type")
        assert len(caught) == 2
        assert hc.get.provenance(spots, "cell_abundance")["cells"] == {"B cells": 39, "T cells": 39, "tumour": 40}

    def test_types_of_one_signature(self, spots, cells):
        cells.obs["cell_type"] = cells.obs["cell_type"].where(np.arange(120) % 2 == 0, cells.obs["cell_type"] + "2")
        cells.X = np.repeat(cells.X[::2], 2, axis=0)
        with pytest.warns(UserWarning, match="cannot be told apart: B cells and B cells2"):
            hc.pp.deconvolve(spots, cells, labels_key="cell_type")

    def test_spot_without_counts(self, spots, cells, user_sees):
        spots.X[7] = 0
        with user_sees(
            "Tables", "deconvolution of a spot without counts", UserWarning, match=r"1 of 60 spots \(spot7\)"
        ):
            hc.pp.deconvolve(spots, cells, labels_key="cell_type")
        for key in ("cell_abundance", "cell_abundance_noise"):
            assert spots.obsm[key].isna().all(axis=1).to_numpy().nonzero()[0].tolist() == [7]

    def test_no_spot_with_counts(self, spots, cells):
        spots.X[:] = 0
        with pytest.raises(ValueError, match="no spot has counts"):
            hc.pp.deconvolve(spots, cells, labels_key="cell_type")

    def test_one_type(self, spots, cells):
        with pytest.raises(ValueError, match="holds 1 cell types"):
            hc.pp.deconvolve(spots, cells[:40], labels_key="cell_type")

    def test_columns_and_kinds(self, spots, cells, signatures):
        with pytest.raises(KeyError, match="labels_key= names the cell types"):
            hc.pp.deconvolve(spots, cells, labels_key="type")
        with pytest.raises(ValueError, match="labels_key= must name .* cell_type, donor"):
            hc.pp.deconvolve(spots, cells)
        with pytest.raises(TypeError, match="are of a single-cell reference"):
            hc.pp.deconvolve(spots, signatures, labels_key="cell_type")
        with pytest.raises(TypeError, match="reference must be an AnnData"):
            hc.pp.deconvolve(spots, signatures.to_numpy())
        with pytest.raises(ValueError, match=r"genes as columns; .* reference.T"):
            hc.pp.deconvolve(spots, signatures.T)
        with pytest.raises(ValueError, match="1 values of the reference are not"):
            hc.pp.deconvolve(spots, signatures.mask(signatures == signatures.iloc[0, 0], -1))

    def test_methods_and_their_settings(self, spots, cells):
        with pytest.raises(ValueError, match='method must be "nnls" or "cell2location", not \'rctd\''):
            hc.pp.deconvolve(spots, cells, labels_key="cell_type", method="rctd")
        with pytest.raises(TypeError, match='epochs: of method="cell2location" only'):
            hc.pp.deconvolve(spots, cells, labels_key="cell_type", epochs=10)
        with pytest.raises(ValueError, match="n_cells_per_spot must be a positive number"):
            hc.pp.deconvolve(spots, cells, labels_key="cell_type", n_cells_per_spot=0)


@pytest.mark.skipif(importlib.util.find_spec("cell2location") is not None, reason="cell2location is installed")
def test_without_cell2location(spots, cells, user_sees):
    with user_sees(
        "Tables", "method cell2location where it is not installed", ImportError, match=r'"histocell\[deconvolution\]"'
    ):
        hc.pp.deconvolve(spots, cells, labels_key="cell_type", method="cell2location")


class TestConvergence:
    @staticmethod
    def history(n, rate, noise=0.001):
        """A loss that falls exponentially to a plateau, with noise."""
        loss = 6e6 * (0.3 + 0.7 * np.exp(-rate * np.arange(n)))
        return loss * (1 + noise * np.random.default_rng(0).normal(size=n))

    def test_falling(self):
        with pytest.warns(UserWarning, match=r"not converged in 500 epochs: \S+ % .* Give more, epochs=2500"):
            assert not warn_unless_converged(self.history(500, 0.004))

    def test_settled(self):
        assert warn_unless_converged(self.history(3000, 0.004))

    def test_share_of_the_fall(self):
        assert remaining_fall(np.linspace(100, 0, 1001)) == pytest.approx(0.1, rel=0.06)

    @pytest.mark.parametrize("loss", [np.linspace(2, 1, 10), np.full(100, 3.0), np.arange(100.0)])
    def test_unknown_counts_as_not_converged(self, loss):
        with pytest.warns(UserWarning, match="not converged"):
            assert not warn_unless_converged(loss)


@needs_cell2location
@pytest.mark.filterwarnings("ignore")  # of the packages, whose imports warn
class TestCell2location:
    SETTINGS = {"method": "cell2location", "labels_key": "cell_type", "device": "cpu", "reference_epochs": 40}

    def test_finds_the_truth(self, spots, cells):
        """Short, and seeded: the same again, the caller's random numbers and parameters untouched."""
        import pyro
        import torch

        pyro.get_param_store()["mine"] = torch.ones(2)
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        hc.pp.deconvolve(spots, cells, **self.SETTINGS, epochs=300, n_cells_per_spot=20)
        assert torch.equal(torch.rand(3), expected)
        assert list(pyro.get_param_store()) == ["mine"]
        found, noise = spots.obsm["cell_abundance"], spots.obsm["cell_abundance_noise"]
        shares = found.div(found.sum(axis=1), axis=0)
        assert np.mean([shares[name].corr(spots.obsm["truth"][name]) for name in TYPES]) > 0.6
        assert (noise > 0).all(axis=None)
        facts = hc.get.provenance(spots, "cell_abundance")
        assert facts["unit"] == "cells per spot"
        assert facts["noise"] == "q95 - q05"
        assert facts["n_cells_per_spot"] == 20
        assert len(facts["loss"]) == 100
        kept = spots.varm["cell_abundance_signatures"].dropna()
        short = {"method": "cell2location", "device": "cpu", "epochs": 5}
        first, again = (hc.pp.deconvolve(spots, kept, **short, inplace=False) for _ in range(2))
        pd.testing.assert_frame_equal(first["cell_abundance"], again["cell_abundance"])
        other = hc.pp.deconvolve(spots, kept, **short, rng=1, inplace=False)
        assert not np.allclose(first["cell_abundance"], other["cell_abundance"])

    def test_signatures_are_means_of_the_types(self, spots, cells, signatures):
        with pytest.warns(UserWarning, match="has not converged in 20 epochs"):
            found = hc.pp.deconvolve(
                spots, cells, **self.SETTINGS, epochs=20, batch_size=16, reference_batch_key="donor", inplace=False
            )
        kept = found["cell_abundance_signatures"].dropna()
        for name in TYPES:
            assert np.corrcoef(kept[name], signatures.loc[kept.index, name])[0, 1] > 0.9

    def test_spot_without_counts(self, spots, cells):
        spots.X[7] = 0
        with pytest.warns(UserWarning, match="not converged") as caught:
            hc.pp.deconvolve(spots, cells, **self.SETTINGS, epochs=20)
        assert any("1 of 60 spots (spot7)" in str(each.message) for each in caught)
        assert spots.obsm["cell_abundance"].isna().all(axis=1).sum() == 1
