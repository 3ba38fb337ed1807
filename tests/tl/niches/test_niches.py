"""Niches of cells whose surroundings are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from sklearn.metrics import adjusted_rand_score

import histocell as hc

QUICK = {"method": "kmeans", "n_niches": 3, "n_seeds": 2, "n_permutations": 99}


def cells(n=2400, *, sections=1, seed=0):
    """Three stripes of tissue; types and embeddings go by the stripe, with noise."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform(0, 900, (n, 2))
    stripe = (xy[:, 0] // 300).astype(int)
    kind = np.where(rng.random(n) < 0.6, stripe, rng.integers(0, 3, n))
    values = 2.0 * np.eye(3)[kind] + 0.6 * rng.normal(size=(n, 3))
    data = AnnData(obsm={"X_genes": np.hstack([values, 0.1 * rng.normal(size=(n, 5))]), "spatial": xy / 0.5})
    data.obs["mpp"] = 0.5
    data.obs["stripe"], data.obs["cell_type"] = stripe, pd.Categorical(np.array(["a", "b/c", "d"])[kind])
    if sections > 1:
        data.obs["section"] = pd.Categorical([f"s{i}" for i in rng.integers(0, sections, n)])
    return data


def agreement(data, column="stripe"):
    return adjusted_rand_score(data.obs[column], data.obs["niche"])


def test_smoothing_makes_surroundings_of_states():
    data = cells()
    hc.tl.niches(data, "X_genes", **QUICK)
    assert agreement(data, "cell_type") > 0.8
    rough = data.uns["niches"]["summary"]["coherence"]
    assert agreement(data) < 0.5
    hc.tl.niches(data, "X_genes", smooth_um=60, **QUICK)
    assert agreement(data) > 0.85
    summary = data.uns["niches"]["summary"]
    assert summary["coherence"] > 0.9 > rough
    assert summary["coherence_chance"] == pytest.approx(1 / 3, abs=0.02)
    assert summary["stability"] > 0.95


def test_enrichment_counts_and_p():
    data = cells()
    hc.tl.niches(data, "X_genes", smooth_um=60, cell_type_key="cell_type", **QUICK)
    table = data.uns["niches"]["enrichment"]
    counts = pd.crosstab(data.obs["niche"], data.obs["cell_type"])
    for row in table.itertuples():
        assert row.observed == counts.loc[row.niche, row.cell_type]
        expected = counts.loc[row.niche].sum() * counts[row.cell_type].sum() / counts.to_numpy().sum()
        assert row.expected == pytest.approx(expected)
        assert row.log2_enrichment == pytest.approx(np.log2((row.observed + 0.5) / (expected + 0.5)))
    own = table.loc[table.groupby("niche")["log2_enrichment"].idxmax()]
    assert set(own["cell_type"]) == {"a", "b/c", "d"}
    assert (own["log2_enrichment"] > 0.8).all()
    assert (table["p"] > 0).all()
    shuffled = data.copy()
    shuffled.obs["cell_type"] = np.random.default_rng(0).permutation(shuffled.obs["cell_type"])
    hc.tl.niches(shuffled, "X_genes", smooth_um=60, cell_type_key="cell_type", **QUICK)
    assert shuffled.uns["niches"]["enrichment"]["log2_enrichment"].abs().max() < 0.25
    assert shuffled.uns["niches"]["enrichment"]["p"].min() > 0.01


def test_coherence_beside_a_loop(user_sees):
    data = cells(150, sections=2)
    with user_sees("Niches", "sections of a few cells", UserWarning, match="no section is large enough to shift"):
        hc.tl.niches(data, "X_genes", cell_type_key="cell_type", **QUICK)
    xy, labels, section = data.obsm["spatial"], data.obs["niche"].to_numpy(), data.obs["section"].to_numpy()
    found = []
    for i in range(150):
        others = np.flatnonzero((section == section[i]) & (np.arange(150) != i))
        near = others[np.argsort(np.linalg.norm(xy[others] - xy[i], axis=1))[:6]]
        found.append((labels[near] == labels[i]).mean())
    by_niche = pd.Series(found).groupby(labels).mean()
    np.testing.assert_allclose(data.uns["niches"]["niches"]["coherence"], by_niche)
    assert data.uns["niches"]["enrichment"]["p"].isna().all()


def test_smoothing_stays_within_sections():
    data = cells(400, sections=2)
    alone = data[data.obs["section"] == "s0"].copy()
    from histocell.tl._niches.niches import _smooth

    where = [np.flatnonzero(data.obs["section"] == name) for name in ("s0", "s1")]
    xy = data.obsm["spatial"] * 0.5
    both = _smooth(data.obsm["X_genes"].astype(np.float32), xy, where, 50.0)
    one = _smooth(alone.obsm["X_genes"].astype(np.float32), alone.obsm["spatial"] * 0.5, [np.arange(alone.n_obs)], 50.0)
    np.testing.assert_allclose(both[where[0]], one, rtol=1e-5)


def test_many_cells_go_by_a_sample():
    data = cells()
    hc.tl.niches(data, "X_genes", smooth_um=60, **QUICK)
    whole = data.obs["niche"].copy()
    hc.tl.niches(data, "X_genes", smooth_um=60, max_cells=400, **QUICK)
    assert data.uns["niches"]["summary"]["n_clustered"] == 400
    assert adjusted_rand_score(whole, data.obs["niche"]) > 0.9


def test_leiden_finds_the_stripes():
    pytest.importorskip("igraph")
    data = cells(1200)
    hc.tl.niches(data, "X_genes", smooth_um=80, resolution=0.1, n_seeds=2, rng=1)
    assert agreement(data) > 0.7
    first = data.obs["niche"].copy()
    hc.tl.niches(data, "X_genes", smooth_um=80, resolution=0.1, n_seeds=2, rng=1)
    pd.testing.assert_series_equal(first, data.obs["niche"])


def test_without_igraph(monkeypatch, user_sees):
    monkeypatch.setitem(__import__("sys").modules, "igraph", None)
    with user_sees(
        "Niches",
        "Leiden without igraph",
        ImportError,
        match=r'igraph is needed for this: pip install "histocell\[niches\]"',
    ):
        hc.tl.niches(cells(100), "X_genes")


def test_survives_files(tmp_path):
    data = cells(800)
    hc.tl.niches(data, "X_genes", cell_type_key="cell_type", **QUICK)
    data.write_h5ad(tmp_path / "cells.h5ad")
    import anndata as ad

    back = ad.read_h5ad(tmp_path / "cells.h5ad")
    for name in ("niches", "enrichment"):
        pd.testing.assert_frame_equal(
            back.uns["niches"][name],
            data.uns["niches"][name],
            check_dtype=False,
            check_index_type=False,
            check_column_type=False,
            check_categorical=False,
        )
    assert back.uns["niches"]["summary"] == data.uns["niches"]["summary"]


def test_same_seed_same_niches_and_nothing_written():
    data = cells(600)
    before = data.copy()
    found = [hc.tl.niches(data, "X_genes", **QUICK, rng=3, inplace=False)["niche"] for _ in "ab"]
    pd.testing.assert_series_equal(*found)
    assert list(data.obs) == list(before.obs)
    assert not data.uns


class TestBadInput:
    def test_rows_that_are_not_finite(self, user_sees):
        data = cells(600)
        data.obsm["X_genes"][5] = np.nan
        with user_sees("Niches", "rows that are not finite", UserWarning, match="1 of 600 rows .* they get no niche"):
            hc.tl.niches(data, "X_genes", **QUICK)
        assert data.obs["niche"].isna().to_numpy().nonzero()[0].tolist() == [5]

    def test_constant_embedding(self, user_sees):
        data = cells(100)
        data.obsm["X_genes"][:] = 1.0
        with user_sees(
            "Niches", "an embedding that is the same in all rows", ValueError, match="is the same in all 100 rows"
        ):
            hc.tl.niches(data, "X_genes", **QUICK)

    def test_a_niche_of_one_cell(self, user_sees):
        data = cells(900)
        data.obsm["X_genes"][7] = 100.0
        with user_sees(
            "Niches", "a niche of one cell", UserWarning, match=r"1 of 3 niches have fewer than 20 cells.*2 \(1\)"
        ):
            hc.tl.niches(data, "X_genes", cell_type_key="cell_type", **QUICK)
        enriched = data.uns["niches"]["enrichment"].set_index("niche").loc["2"]
        assert enriched["observed"].sum() == 1
        assert enriched["p"].min() > 0.05
        assert np.isfinite(enriched["log2_enrichment"]).all()

    def test_one_niche(self, user_sees):
        with user_sees("Niches", "all cells in one niche", UserWarning, match="all cells are one niche"):
            found = hc.tl.niches(
                cells(600), "X_genes", **QUICK | {"n_niches": 1}, cell_type_key="cell_type", inplace=False
            )
        assert np.isnan(found["niches"]["summary"]["silhouette"])
        assert found["niches"]["enrichment"]["p"].isna().all()

    def test_missing(self, user_sees):
        data = cells(100)
        with pytest.raises(KeyError, match=r'obsm\["X_scgpt"\] not found; available: X_genes, spatial'):
            hc.tl.niches(data, "X_scgpt")
        with user_sees("Niches", "no such column of types", KeyError, match=r'obs\["celltype"\] not found'):
            hc.tl.niches(data, "X_genes", cell_type_key="celltype")
        with pytest.raises(ValueError, match="method must be one of leiden, kmeans"):
            hc.tl.niches(data, "X_genes", method="louvain")
        del data.obs["mpp"]
        with user_sees("Niches", "no resolution", ValueError, match="the resolution is unknown"):
            hc.tl.niches(data, "X_genes", **QUICK)
        del data.obsm["spatial"]
        with pytest.raises(KeyError, match=r'obsm\["spatial"\] not found'):
            hc.tl.niches(data, "X_genes", **QUICK)

    def test_cells_without_a_type(self, user_sees):
        data = cells(800)
        data.obs.loc[data.obs_names[:10], "cell_type"] = np.nan
        with user_sees(
            "Niches", "cells without a type", UserWarning, match="10 of 800 cells with a niche have no type"
        ):
            hc.tl.niches(data, "X_genes", cell_type_key="cell_type", **QUICK)
        assert data.uns["niches"]["enrichment"]["observed"].sum() == 790
