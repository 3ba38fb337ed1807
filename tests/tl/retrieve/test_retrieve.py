from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import histocell as hc
from histocell._core import keys
from histocell.models.alignment.search import unit


@pytest.fixture
def cells():
    """Three kinds of cells with a gene each; both views of a cell are its kind, and a little of itself."""
    rng = np.random.default_rng(0)
    n, kind = 300, np.tile([0, 1, 2], 100)
    counts = rng.poisson(1, size=(n, 6))
    counts[np.arange(n), kind] += rng.poisson(8, size=n)
    own = rng.normal(size=(n, 16))
    table = ad.AnnData(sp.csr_matrix(counts.astype(np.float32)))
    table.var_names = ["A", "B", "C", "D", "E", "F"]
    table.obs_names = [f"cell{row}" for row in range(n)]
    centre = 3 * rng.normal(size=(3, 16))[kind]
    table.obsm["X_genes"] = (centre + own).astype(np.float32)
    table.obsm["X_image"] = (centre + own + 0.5 * rng.normal(size=(n, 16))).astype(np.float32)
    table.obsm["spatial"] = rng.uniform(0, 1000, (n, 2))
    table.obs["mpp"], table.obs["kind"] = 1.0, pd.Categorical(np.array(["a", "b", "c"])[kind])
    table.obs["section"] = np.repeat(["s1", "s2"], n // 2)
    table.obs["split"] = np.repeat(["train", "test"], n // 2)
    return table


def test_a_gene_finds_images_of_its_cells(cells):
    hc.tl.retrieve(cells, "X_image", genes=["A", "B"], query_key="X_genes", k=20, n_reference=30)
    hits, scores = cells.uns["retrieval"]["hits"], cells.uns["retrieval"]["scores"]
    assert (hits["section"] == "s2").all()  # test rows, by genes of training rows
    kinds = cells.obs["kind"].reindex(hits["row"]).to_numpy()
    assert ((kinds == "a") == (hits["query"] == "A")).all()
    test = cells[cells.obs["split"] == "test"]
    level = np.asarray((test.X / test.X.sum(axis=1)).todense())[:, 0]
    found = test.obs_names.get_indexer(hits.loc[hits["query"] == "A", "row"])
    value = scores.query("query == 'A'").iloc[0]
    assert value["value"] == pytest.approx(level[found].mean() / level.mean(), rel=1e-5)
    assert value["chance_low"] < 1 < value["chance_high"] < value["value"]
    assert hits.loc[hits["query"] == "A", "expression"].mean() == pytest.approx(value["value"])


def test_what_is_not_of_one_space_is_not_compared(cells):
    other = cells.copy()
    for table, encoder in ((cells, "one"), (other, "two")):
        keys.write_provenance(table, "X_image", encoder=encoder)
    with pytest.raises(ValueError, match="encoder is two of the queries and one of what is searched"):
        hc.tl.retrieve(cells, "X_image", genes=["A"], reference=other)
    for key, axes in (("X_image", "cca 1"), ("X_genes", "cca 2")):
        keys.write_provenance(cells, key, axes=axes)
    with pytest.raises(ValueError, match=r"axes is cca 2 .* align both by one model"):
        hc.tl.retrieve(cells, "X_image", rows=["cell1"], query_key="X_genes")
    keys.write_provenance(cells, "X_genes", axes="cca 1")
    hc.tl.retrieve(cells, "X_image", rows=["cell1"], query_key="X_genes")


def test_signature_takes_all_its_genes(cells):
    found = hc.tl.retrieve(
        cells, "X_image", genes={"both": ["A", "B"]}, query_key="X_genes", k=30, n_reference=60, inplace=False
    )
    kinds = cells.obs["kind"].reindex(found["hits"]["row"])
    assert set(kinds) == {"a", "b"}
    assert found["scores"]["query"].tolist() == ["both"]


def test_rows_find_their_own_image(cells):
    names = list(cells.obs_names[:50])
    found = hc.tl.retrieve(cells, "X_image", rows=names, query_key="X_genes", k=5, inplace=False)["scores"].set_index(
        "metric"
    )
    genes, images = (unit(cells.obsm[key]) for key in ("X_genes", "X_image"))
    similar = genes[:50] @ images.T
    rank = (similar > similar[np.arange(50), np.arange(50)][:, None]).sum(axis=1) + 1
    assert found.loc["recall", "value"] == (rank <= 5).mean() > 10 * found.loc["recall", "chance"]
    assert found.loc["recall", "chance"] == pytest.approx(5 / 300)
    assert found.loc["mrr", "value"] == pytest.approx((1 / rank).mean())


def test_rows_do_not_find_themselves_or_their_section(cells):
    names = list(cells.obs_names[:3])
    alike = hc.tl.retrieve(cells, "X_image", rows=names, k=5, label_key="kind", inplace=False)
    assert (alike["hits"]["query"] != alike["hits"]["row"]).all()
    precision = alike["scores"].iloc[0]
    assert precision["value"] == 1.0
    assert precision["chance"] == pytest.approx(99 / 299)
    other = hc.tl.retrieve(cells, "X_image", rows=names, k=5, other_sections=True, inplace=False)["hits"]
    assert (other["section"] == "s2").all()


def test_vectors_and_reference_of_another_table(cells):
    slides, spots = cells[cells.obs["split"] == "test"].copy(), cells[cells.obs["split"] == "train"].copy()
    slides = ad.AnnData(obs=slides.obs, obsm=dict(slides.obsm))
    hits = hc.tl.retrieve(
        slides, "X_image", genes="A", query_key="X_genes", reference=spots, k=5, gallery="all", inplace=False
    )
    assert "expression" not in hits["hits"]
    assert set(cells.obs["kind"].reindex(hits["hits"]["row"])) == {"a"}
    found = hc.tl.retrieve(slides, "X_image", vectors=slides.obsm["X_image"][7], k=1, inplace=False)["hits"]
    assert found["row"].item() == slides.obs_names[7]


def test_survives_writing(cells, tmp_path):
    hc.tl.retrieve(cells, "X_image", genes=["A"], query_key="X_genes", n_reference=20)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    read = ad.read_h5ad(tmp_path / "cells.h5ad").uns["retrieval"]
    pd.testing.assert_frame_equal(
        read["hits"], cells.uns["retrieval"]["hits"], check_dtype=False, check_categorical=False
    )


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({}, ValueError, "one of genes=, rows=, vectors="),
        ({"genes": "A", "rows": "cell0"}, ValueError, "one of genes="),
        ({"genes": []}, ValueError, "no gene"),
        ({"rows": "nobody"}, KeyError, "nobody"),
        ({"genes": "A", "gallery": "val"}, ValueError, "'val'"),
        ({"genes": "A", "n_reference": 5000}, ValueError, "150 rows"),
        ({"genes": "A", "other_sections": True}, ValueError, "queries that are rows"),
        ({"genes": "A", "label_key": "kind"}, ValueError, "no label"),
        ({"rows": "cell0", "label_key": "nothing"}, KeyError, "nothing"),
        ({"rows": "cell0", "k": 0}, ValueError, "k must be at least 1"),
    ],
)
def test_bad_input(cells, changes, error, match):
    with pytest.raises(error, match=match):
        hc.tl.retrieve(cells, "X_image", **changes)


@pytest.mark.parametrize(
    ("given", "changes", "error", "match"),
    [
        ("a gene that is not in the panel", {"genes": "ZZZ"}, KeyError, "ZZZ"),
        ("a query of zeros", {"vectors": np.zeros(16)}, ValueError, "none of them zero"),
        ("a query of another width", {"vectors": np.ones(3)}, ValueError, "3 columns"),
        ("an embedding that is missing", {"rows": "cell0", "query_key": "X_scgpt"}, KeyError, "X_scgpt"),
    ],
)
def test_bad_input_is_in_the_docs(cells, user_sees, given, changes, error, match):
    with user_sees("Retrieval", given, error, match=match):
        hc.tl.retrieve(cells, "X_image", **changes)


def test_says_what_it_cannot_know(cells, user_sees):
    dull = cells.copy()
    dull.X = dull.X.toarray()
    dull.X[:, 4] = 3
    total = dull.X.sum(axis=1)
    dull.X[:, 5] += 40 - total  # the same total in all rows: the constant gene stays constant
    with (
        user_sees("Retrieval", "a gene that does not vary", UserWarning, match="E does not vary"),
        pytest.warns(UserWarning, match="fewer than k=10"),
    ):
        found = hc.tl.retrieve(dull, "X_image", genes="E", query_key="X_genes", inplace=False)
    assert found["hits"].empty
    assert np.isnan(found["scores"]["value"].item())
    cells.layers["counts"], cells.X = cells.X, cells.X - 1.0 * (cells.X > 0) * 2
    with (
        pytest.warns(UserWarning, match="does not hold counts"),
        user_sees("Retrieval", "counts below 0", ValueError, match="negative"),
    ):
        hc.tl.retrieve(cells, "X_image", genes="A", query_key="X_genes")


def test_searching_the_rows_that_made_the_query_is_said(cells, user_sees):
    del cells.obs["split"]
    with user_sees("Retrieval", "a query made of the rows that are searched", UserWarning, match="300 of the 300 rows"):
        hc.tl.retrieve(cells, "X_image", genes="A", query_key="X_genes")
