from __future__ import annotations

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix

import histocell as hc
from histocell.encoders.genes import embed
from histocell.encoders.genes.scgpt import ScGPT, ScGPTConfig


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    config = ScGPTConfig(embsize=16, nheads=2, d_hid=24, nlayers=2)
    tensors = {
        name.replace("attention.qkv.", "self_attn.in_proj_").replace("attention.out.", "self_attn.out_proj."): tensor
        for name, tensor in ScGPT(config, 43).state_dict().items()
    }
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "args.json").write_text(json.dumps({"embsize": 16, "nheads": 2, "d_hid": 24, "nlayers": 2}))
    (folder / "vocab.json").write_text(
        json.dumps({f"G{index}": index for index in range(40)} | {"<pad>": 40, "<cls>": 41, "<eoc>": 42})
    )
    torch.save(tensors, folder / "best_model.pt")
    return folder


@pytest.fixture
def cells():
    counts = np.random.default_rng(0).poisson(1.0, (70, 50)).astype(np.float32)
    names = [f"G{index}" for index in range(30)] + [f"unknown{index}" for index in range(20)]
    obs = pd.DataFrame(index=[f"cell{index}" for index in range(70)])
    return ad.AnnData(csr_matrix(counts), obs=obs, var=pd.DataFrame(index=names))


def embedded(adata, checkpoint, **settings):
    return hc.pp.embed_genes(adata, "scgpt", checkpoint=checkpoint, precision="fp32", inplace=False, **settings)


def test_the_original_from_counts(parity_dir):
    folder = parity_dir / "scgpt_tiny"
    adata, expected = ad.read_h5ad(folder / "counts.h5ad"), np.load(folder / "expected.npz")
    with pytest.warns(UserWarning, match="2 of 24 cells have no counts of any known gene"):
        hc.pp.embed_genes(adata, "scgpt", checkpoint=folder / "flash", max_length=64, precision="fp32")
    free = expected["e2e_rng_free"]
    found = adata[expected["e2e_cells"][free]].obsm["X_scgpt"]
    np.testing.assert_allclose(found, expected["e2e_X_scGPT"][free], atol=2e-6)
    assert np.isnan(adata.obsm["X_scgpt"]).all(axis=1).sum() == 2
    facts = hc.get.provenance(adata, "X_scgpt")
    assert (facts["n_genes_known"], facts["n_genes"], facts["genes_from"]) == (120, 150, 'var["feature_name"]')


def test_order_batches_and_subsets_do_not_matter(cells, checkpoint, monkeypatch):
    whole = embedded(cells, checkpoint, max_length=12)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-6)
    order = np.random.default_rng(0).permutation(70)[:30]
    monkeypatch.setitem(embed._BATCH_TOKENS, "cpu", 30)
    monkeypatch.setattr(embed, "_CHUNK", 7)
    np.testing.assert_allclose(embedded(cells[order].copy(), checkpoint, max_length=12), whole[order], atol=1e-6)
    assert np.abs(embedded(cells, checkpoint, max_length=12, rng=1) - whole).max() > 1e-3


def test_a_killed_run_goes_on(cells, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(embed, "_CHUNK", 16)
    whole = embedded(cells, checkpoint)
    done, one = [], embed._embed_chunk

    def killed(*arguments):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(arguments[-1])
        return one(*arguments)

    monkeypatch.setattr(embed, "_embed_chunk", killed)
    with pytest.raises(KeyboardInterrupt):
        embedded(cells, checkpoint, store=tmp_path / "store")
    rest = []
    monkeypatch.setattr(embed, "_embed_chunk", lambda *arguments: rest.append(1) or one(*arguments))
    np.testing.assert_array_equal(embedded(cells, checkpoint, store=tmp_path / "store"), whole)
    assert len(rest) == 3
    lazy = embedded(cells, checkpoint, store=tmp_path / "store", lazy=True)
    np.testing.assert_array_equal(lazy.compute(), whole)
    cells.X[0, 0] += 5
    with pytest.raises(ValueError, match="other settings: cells is"):
        embedded(cells, checkpoint, store=tmp_path / "store")


def test_counts_are_not_changed(cells, checkpoint):
    cells.X.data[::7] = 0  # zeros that are stored
    before = cells.X.copy()
    hc.pp.embed_genes(cells, "scgpt", checkpoint=checkpoint)
    hc.pp.embed_genes(cells, "pca", n_dims=5)
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(cells.X, name), getattr(before, name))
    facts = hc.get.provenance(cells, "X_scgpt")
    assert facts["checkpoint"].startswith("tiny-")
    checkpoint.rename(checkpoint.parent / "renamed")
    hc.pp.embed_genes(cells, "scgpt", checkpoint=checkpoint.parent / "renamed")
    assert hc.get.provenance(cells, "X_scgpt")["axes"] == facts["axes"]


def test_ensembl_identifiers_need_symbols(cells, checkpoint):
    symbols = list(cells.var_names)
    cells.var_names = [f"ENSG{index:011d}" for index in range(50)]
    with pytest.raises(ValueError, match="0 of 50 genes in var_names are known.*Ensembl identifiers; gene_key="):
        embedded(cells, checkpoint)
    cells.var["symbol of mine"] = symbols
    expected = embedded(cells, checkpoint, gene_key="symbol of mine")
    cells.var["gene_symbols"] = symbols
    np.testing.assert_array_equal(embedded(cells, checkpoint), expected)
    with pytest.raises(KeyError, match=r"var\[.nothing.\] not found"):
        embedded(cells, checkpoint, gene_key="nothing")


def test_genes_of_another_species(cells, checkpoint):
    cells.var_names = cells.var_names.str.lower()
    with pytest.raises(ValueError, match="in capitals 30 would be"):
        embedded(cells, checkpoint)


def test_few_known_genes_and_namesakes_are_said(cells, checkpoint):
    cells.var["symbol"] = ["G0", "G0", "G1", *(f"x{index}" for index in range(47))]
    with (
        pytest.warns(UserWarning, match="1 genes in .* have the symbol of another"),
        pytest.warns(UserWarning, match="3 of 50 genes"),
        pytest.warns(UserWarning, match="no counts of any known gene"),
    ):
        embedded(cells, checkpoint, gene_key="symbol")


class TestComponentsOfOtherCells:
    def test_of_the_same_cells(self, cells):
        hc.pp.embed_genes(cells, "pca", n_dims=5)
        again = cells[::-1].copy()
        hc.pp.embed_genes(again, "pca", reference=cells)
        np.testing.assert_allclose(again.obsm["X_pca_genes"], cells.obsm["X_pca_genes"][::-1], atol=1e-4)
        assert "X_pca_genes" not in again.varm
        assert hc.get.provenance(again, "X_pca_genes")["axes"] == hc.get.provenance(cells, "X_pca_genes")["axes"]

    def test_by_hand(self, cells):
        """Other genes do not count for the total, absent ones count as their mean."""
        hc.pp.embed_genes(cells, "pca", n_dims=3)
        other = cells[:9, 10:].copy()
        other.var_names = [f"new{i}" if i < 4 else name for i, name in enumerate(other.var_names)]
        with pytest.warns(UserWarning, match="14 of the 50 genes of reference are not here"):
            found = hc.pp.embed_genes(other, "pca", reference=cells, inplace=False)
        counts, total = other.X.toarray()[:, 4:], hc.get.provenance(cells, "X_pca_genes")["target_sum"]
        logs = np.log1p(counts / counts.sum(axis=1, keepdims=True) * total)
        mean = cells.var["X_pca_genes_mean"].to_numpy()[14:]
        np.testing.assert_allclose(found, (logs - mean) @ cells.varm["X_pca_genes"][14:], atol=1e-4)

    def test_a_model_refuses_components_of_others(self):
        cells, others = (
            hc.datasets.synthetic_tissue(3, n_patients=3, size_px=400, n_genes=40, rng=rng)["cell_table"]
            for rng in (0, 1)
        )
        for each in (cells, others):
            hc.pp.embed_genes(each, "pca", n_dims=6)
        hc.pp.split(cells, by="patient", test="P3")
        hc.tl.fit_cell_types(cells, "X_pca_genes", model="logistic")
        model = hc.models.load(cells, model_key="cell_type_model")
        with pytest.raises(
            ValueError, match=r"axes is principal components .* reference=\.\.\.\) takes the components of"
        ):
            hc.tl.predict_cell_types(others, model=model)
        hc.pp.embed_genes(others, "pca", reference=cells)
        hc.tl.predict_cell_types(others, model=model)
        right = others.obs["predicted_cell_type"].astype(str) == others.obs["cell_type"].astype(str)
        assert right.mean() > 0.9

    def test_what_cannot_be(self, cells, checkpoint):
        other = cells.copy()
        with pytest.raises(KeyError, match="reference= is the table that the components were fitted on"):
            hc.pp.embed_genes(cells, "pca", reference=other)
        hc.pp.embed_genes(other, "pca", n_dims=3)
        cells.var_names = [f"x{i}" for i in range(50)]
        with pytest.raises(ValueError, match="no gene of reference is among"):
            hc.pp.embed_genes(cells, "pca", reference=other)
        with pytest.raises(ValueError, match="reference= is that of model='pca'"):
            hc.pp.embed_genes(cells, "scgpt", checkpoint=checkpoint, reference=other)


def test_values_that_are_no_counts(cells, checkpoint):
    cells.layers["log"] = cells.X.log1p()
    with pytest.warns(UserWarning, match=r'layers\["log"\] does not hold raw counts'):
        embedded(cells, checkpoint, layer="log")
    with pytest.warns(UserWarning, match="their logarithm is taken as if they were, a second time"):
        hc.pp.embed_genes(cells, "pca", layer="log", n_dims=5)
    cells.layers["scaled"] = cells.X.toarray() - 1
    with pytest.raises(ValueError, match=r"values below 0 .* -1\)"):
        embedded(cells, checkpoint, layer="scaled")
    cells.layers["damaged"] = np.where(cells.X.toarray() > 2, np.nan, 1)
    with pytest.raises(ValueError, match="not finite"):
        embedded(cells, checkpoint, layer="damaged")
    with pytest.raises(KeyError, match="layers"):
        embedded(cells, checkpoint, layer="absent")


def test_cells_without_counts(cells, checkpoint):
    cells.X = csr_matrix(cells.X.toarray() * (np.arange(70) > 2)[:, None])
    with pytest.warns(UserWarning, match="3 of 70"):
        found = embedded(cells, checkpoint)
    assert np.isnan(found[:3]).all()
    assert np.isfinite(found[3:]).all()
    with pytest.warns(UserWarning, match="3 of 70"):
        principal = hc.pp.embed_genes(cells, "pca", n_dims=4, inplace=False)
    assert np.isnan(principal[:3]).all()
    assert np.isfinite(principal[3:]).all()
    cells.X = csr_matrix(cells.X.shape, dtype=np.float32)
    with pytest.raises(ValueError, match="none of the 70 cells"):
        embedded(cells, checkpoint)


def test_arguments(cells, checkpoint, tmp_path):
    with pytest.raises(ValueError, match="model must be one of"):
        hc.pp.embed_genes(cells, "geneformer")
    with pytest.raises(ValueError, match="needs the folder of a checkpoint"):
        hc.pp.embed_genes(cells, "scgpt")
    with pytest.raises(ValueError, match="are those of model='scgpt'"):
        hc.pp.embed_genes(cells, "pca", checkpoint=checkpoint)
    with pytest.raises(ValueError, match="needs a folder"):
        embedded(cells, checkpoint, lazy=True)
    with pytest.raises(ValueError, match="max_length"):
        embedded(cells, checkpoint, max_length=1)
    with pytest.raises(ValueError, match="at most 49"):
        hc.pp.embed_genes(cells, "pca", n_dims=60)
    cells.obs_names = ["same"] * 70
    with pytest.raises(ValueError, match="obs_names are not unique"):
        embedded(cells, checkpoint)


def test_principal_components_are_scanpys(cells):
    import scanpy as sc

    hc.pp.embed_genes(cells, "pca", n_dims=6)
    expected = cells.copy()
    sc.pp.normalize_total(expected)
    sc.pp.log1p(expected)
    sc.pp.pca(expected, n_comps=6)
    found, known = cells.obsm["X_pca_genes"], expected.obsm["X_pca"]
    np.testing.assert_allclose(found @ found.T, known @ known.T, atol=1e-3)
