"""Plots of niches and of the alignment."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import histocell as hc
from histocell.pl import _points


def cells(n=700):
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, 600, (n, 2))
    niche = (xy[:, 0] // 200).astype(int)
    data = AnnData(obsm={"spatial": xy / 0.5, "X_umap_image": rng.normal(size=(n, 2)), "X_umap_aligned_image": xy})
    data.obs["mpp"], data.obs["section"] = 0.5, pd.Categorical(["A1"] * n)
    data.obs["cell_type"] = pd.Categorical(np.array(["tumour", "T cell", "B/plasma"])[niche])
    data.obs["niche"] = pd.Categorical(niche.astype(str))
    pairs = [(str(a), b) for a in range(3) for b in ("tumour", "T cell", "B/plasma")]
    table = pd.DataFrame(pairs, columns=["niche", "cell_type"])
    table["observed"] = [200, 20, 10, 5, 210, 15, 0, 30, 190]
    table["log2_enrichment"] = [1.5, -1.8, -2.7, -3.6, 1.4, -2.0, -6.0, -1.1, 1.6]
    table["q"] = [0.01, 0.2, 0.03, 0.01, 0.02, 0.3, 0.01, 0.5, np.nan]
    data.uns["niches"] = {"enrichment": table}
    return data


def recall_table():
    columns = ["model", "direction", "gallery", "metric", "k", "value", "low", "high"]
    rows = []
    for model, level in (("contrastive", 0.3), ("cca", 0.2), ("chance", 0.02)):
        for way in ("image to genes", "genes to image"):
            for gallery in ("within", "across"):
                for k in (1, 5, 10, 50):
                    value = level * k**0.3 * (0.7 if gallery == "across" else 1) * (0.9 if way[0] == "g" else 1)
                    band = (np.nan, np.nan) if model == "chance" else (0.8 * value, 1.2 * value)
                    rows.append([model, way, gallery, f"recall@{k}", k, value, *band])
    return pd.DataFrame(rows, columns=columns)


def test_looks(looks_like):
    looks_like(hc.pl.niches(cells(), show=False)[0], "niches")
    looks_like(hc.pl.alignment_embedding(cells(), show=False)[0], "alignment_embedding")
    looks_like(hc.pl.alignment_recall(recall_table(), show=False)[0], "alignment_recall")


def test_without_enrichment_there_is_a_legend():
    ax = hc.pl.niches(cells(), enrichment=False, show=False)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["0", "1", "2"]


def test_many_cells_are_drawn_as_the_most_frequent_niche():
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, 100, (4000, 2))
    codes = np.where(rng.random(4000) < 0.7, (xy[:, 0] > 50) * 2, 1)
    pixels, _ = _points._mode_image(xy, codes, 10.0)
    assert (pixels[:, :5] == 0).all()
    assert (pixels[:, 6:] == 2).all()
    data = cells(30_000)
    ax = hc.pl.niches(data, enrichment=False, figsize=(1, 1), show=False)
    assert len(ax.images) == 1
    assert set(np.unique(ax.images[0].get_array().compressed())) == {0, 1, 2}


def test_cells_without_a_niche_are_hollow():
    data = cells(50)
    data.obs.loc[data.obs_names[:3], "niche"] = np.nan
    ax = hc.pl.niches(data, enrichment=False, show=False)
    assert [len(each.get_offsets()) for each in ax.collections] == [47, 3]


def test_bad_input():
    data = cells()
    with pytest.raises(KeyError, match=r"hc.tl.niches\(data, key\) first"):
        hc.pl.niches(data, key="other")
    with pytest.raises(ValueError, match="1 maps and the dots need 2"):
        hc.pl.niches(data, ax=plt.subplots()[1])
    plt.close("all")
    with pytest.raises(KeyError, match=r"obsm\[\"X_umap_image\"\] not found.*sc.tl.umap"):
        hc.pl.alignment_embedding(AnnData(obs=data.obs))
    data.obsm["X_umap_image"] = np.ones((data.n_obs, 3))
    with pytest.raises(ValueError, match="must have two columns"):
        hc.pl.alignment_embedding(data)
    with pytest.raises(KeyError, match="evaluate_alignment"):
        hc.pl.alignment_recall(data)
    with pytest.raises(ValueError, match="no table of hc.tl.evaluate_alignment"):
        hc.pl.alignment_recall(pd.DataFrame({"model": ["a"]}))
