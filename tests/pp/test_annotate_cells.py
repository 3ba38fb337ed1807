"""Labels of cells by markers, by other packages and by columns, and what is set aside."""

from __future__ import annotations

import sys
import types

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

import histocell as hc

MARKERS = {"T cell": ["CD3D", "CD3E", "CD2"], "tumour": ["EPCAM", "KRT8", "KRT18"], "fibroblast": "COL1A1"}


def make_counts(n=300, seed=0) -> AnnData:
    """Cells of three types that express their markers, among 100 genes that say nothing."""
    rng = np.random.default_rng(seed)
    genes = [gene for each in MARKERS.values() for gene in ([each] if isinstance(each, str) else each)]
    names = [*genes, *(f"G{i}" for i in range(100))]
    labels = rng.choice(list(MARKERS), n)
    rate = np.full((n, len(names)), 0.7)
    for name, wanted in MARKERS.items():
        for gene in [wanted] if isinstance(wanted, str) else wanted:
            rate[labels == name, names.index(gene)] = 9.0
    counts = rng.poisson(rate * rng.uniform(0.5, 2, (n, 1)))
    table = AnnData(
        csr_matrix(counts.astype(np.float32)), obs=pd.DataFrame({"truth": labels}, index=[f"c{i}" for i in range(n)])
    )
    table.var_names = names
    return table


@pytest.fixture
def counts() -> AnnData:
    return make_counts()


def test_markers(counts):
    hc.pp.annotate_cells(counts, "markers", MARKERS)
    label = counts.obs["cell_type"]
    labelled = label.notna()
    assert labelled.mean() > 0.9
    assert (label[labelled].astype(str) == counts.obs["truth"][labelled]).mean() > 0.98
    scores = counts.obsm["cell_type_score"]
    np.testing.assert_array_equal(scores[labelled].idxmax(axis=1), label[labelled])
    ordered = np.sort(scores.to_numpy(), axis=1)
    np.testing.assert_allclose(counts.obs["cell_type_margin"], ordered[:, -1] - ordered[:, -2])
    recorded = hc.get.provenance(counts, "cell_type")
    assert recorded["n_set_aside"] == (~labelled).sum()
    assert "3 MAD" in recorded["rule"]


def test_scores_are_those_of_a_loop(counts):
    """With all other genes as controls, a score is the mean z of the markers less that of the others."""
    few = counts[:, :9].copy()  # two bins, so that all genes of both are controls
    slots = hc.pp.annotate_cells(few, "markers", MARKERS, inplace=False)
    X = few.X.toarray()
    X = np.log1p(X / np.maximum(X.sum(1, keepdims=True), 1) * 1e4)
    z = np.clip((X - X.mean(0)) / X.std(0), -10, 10)
    mean = np.argsort(np.argsort(X.mean(0), kind="stable"), kind="stable")
    bins = mean * 2 // 9
    for name, wanted in MARKERS.items():
        own = few.var_names.isin([wanted] if isinstance(wanted, str) else wanted)
        controls = np.isin(bins, bins[own]) & ~own
        expected = z[:, own].mean(1) - (z[:, controls].mean(1) if controls.any() else 0)
        np.testing.assert_allclose(slots["cell_type_score"][name], expected, rtol=1e-4, atol=1e-4)


def test_what_is_not_clear_is_set_aside(counts):
    X = counts.X.toarray()
    X[0] = 0
    both = X[counts.obs["truth"] == "tumour"][0] + X[counts.obs["truth"] == "T cell"][0]
    X[1] = both
    counts.X = csr_matrix(X)
    with pytest.warns(UserWarning, match="1 of 300 cells have no counts"):
        hc.pp.annotate_cells(counts, "markers", MARKERS, n_mads=1.5)
    label, margin = counts.obs["cell_type"], counts.obs["cell_type_margin"]
    assert label.isna().iloc[0]
    assert label.isna().iloc[1]
    scores = counts.obsm["cell_type_score"]
    for name in MARKERS:
        rows = (scores.idxmax(axis=1) == name) & (scores.max(axis=1) > 0)
        median = np.median(margin[rows])
        far = margin < median - 1.5 * 1.4826 * np.median(np.abs(margin[rows] - median))
        rows.iloc[0] = False
        assert (label.isna() == far)[rows].all()


def test_fractions_are_taken_as_normalised(counts):
    hc.pp.annotate_cells(counts, "markers", MARKERS, key_added="raw")
    X = counts.X.toarray()
    counts.X = np.log1p(X / np.maximum(X.sum(1, keepdims=True), 1) * 1e4).astype(np.float32)
    with pytest.warns(UserWarning, match="taken as the logarithm of normalised counts"):
        hc.pp.annotate_cells(counts, "markers", MARKERS, key_added="normalised")
    assert (
        counts.obs["raw"].astype(object).fillna("") == counts.obs["normalised"].astype(object).fillna("")
    ).mean() > 0.99


def test_a_column(counts):
    counts.obs["cluster"] = pd.Categorical(np.where(np.arange(300) % 50 == 0, None, counts.obs["truth"]))
    hc.pp.annotate_cells(counts, "cluster", rename={"T cell": "immune", "tumour": ""})
    label = counts.obs["cell_type"]
    assert list(label.cat.categories) == ["fibroblast", "immune"]
    assert label.isna().sum() == ((counts.obs["truth"] == "tumour") | counts.obs["cluster"].isna()).sum()
    assert "cell_type_margin" not in counts.obs


def test_bad_input(counts):
    with pytest.raises(KeyError, match="method is one of markers, celltypist, singler, or a column"):
        hc.pp.annotate_cells(counts, "louvain")
    with pytest.raises(ValueError, match="needs markers"):
        hc.pp.annotate_cells(counts, "markers")
    with pytest.raises(ValueError, match=r"none of the markers of 'B cell' \(CD19\)"):
        hc.pp.annotate_cells(counts, "markers", MARKERS | {"B cell": ["CD19"]})
    with pytest.raises(ValueError, match="two types or more"):
        hc.pp.annotate_cells(counts, "markers", {"T cell": ["CD2"]})
    with pytest.warns(UserWarning, match=r"T cell: CD8A"):
        hc.pp.annotate_cells(counts, "markers", MARKERS | {"T cell": ["CD2", "CD8A"]})
    with pytest.raises(ValueError, match="no label B; there are: T cell"):
        hc.pp.annotate_cells(counts, "truth", rename={"B": "C"})
    counts.layers["scaled"] = counts.X.toarray() - 1
    with pytest.raises(ValueError, match="values below 0"):
        hc.pp.annotate_cells(counts, "markers", MARKERS, layer="scaled")


def test_packages_that_are_missing_are_named(counts, monkeypatch):
    for package in ("celltypist", "singler"):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ImportError, match=r'pip install "histocell\[annotation\]"'):
            hc.pp.annotate_cells(counts, package, model="m", reference=counts)


def test_what_the_packages_are_given(counts, monkeypatch):
    """Logarithms of counts per 10,000, and the genes of both."""
    seen = {}

    class Scores:
        column_names = ("tumour", "T cell", "fibroblast")

        def column(self, name):
            return self if name == "scores" else (counts.obs["truth"] == name).to_numpy().astype(float)

    def annotate_single(test, reference, **options):
        seen["singler"] = test, reference, options
        return Scores()

    def annotate(cells, model):
        seen["celltypist"] = cells, model
        frame = pd.DataFrame({name: counts.obs["truth"].to_numpy() == name for name in MARKERS}).astype(float)
        return types.SimpleNamespace(probability_matrix=frame)

    monkeypatch.setitem(sys.modules, "singler", types.SimpleNamespace(annotate_single=annotate_single))
    monkeypatch.setitem(sys.modules, "celltypist", types.SimpleNamespace(annotate=annotate))
    reference = make_counts(seed=1)[:, 5:].copy()
    for method, options in (
        ("singler", {"reference": reference, "labels_key": "truth"}),
        ("celltypist", {"model": "m.pkl"}),
    ):
        hc.pp.annotate_cells(counts, method, **options)
        assert (counts.obs["cell_type"].astype(str) == counts.obs["truth"]).all()
    total = np.expm1(seen["celltypist"][0].X.toarray()).sum(1)
    np.testing.assert_allclose(total, 1e4, rtol=1e-3)
    test, of_reference, options = seen["singler"]
    assert test.shape == (107, 300)
    assert of_reference.shape == (102, 300)
    assert options["ref_features"] == list(reference.var_names)
    with pytest.raises(ValueError, match="needs reference="):
        hc.pp.annotate_cells(counts, "singler")
    with pytest.raises(ValueError, match="needs model="):
        hc.pp.annotate_cells(counts, "celltypist")
