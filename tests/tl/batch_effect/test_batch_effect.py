from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

import histocell as hc
from histocell.models.alignment.search import unit

SETTINGS = {"batch_key": "scanner", "biology_key": "tissue", "clustering": "kmeans", "n_seeds": 2}


@pytest.fixture
def table():
    """Six specimens of three tissues, each scanned twice; one embedding of the tissue, one of the scanner, one of nothing."""
    rng = np.random.default_rng(0)
    specimen, scanner = np.repeat(np.arange(6), 40), np.tile([0, 1], 120)
    tissue = specimen % 3
    out = ad.AnnData(obs={"patient": [f"p{each}" for each in specimen]})
    out.obs["scanner"], out.obs["tissue"] = np.array(["A", "B"])[scanner], np.array(["x", "y", "z"])[tissue]
    out.obs["section"] = out.obs["patient"] + out.obs["scanner"]
    noise = rng.normal(size=(3, 240, 8))
    out.obsm["X_tissue"] = 4 * rng.normal(size=(3, 8))[tissue] + noise[0]
    out.obsm["X_colour"] = 4 * rng.normal(size=(2, 8))[scanner] + noise[1]
    out.obsm["X_constant"] = np.full((240, 8), 3.0)
    return out


def scores(table, embeddings, **changes):
    return hc.tl.batch_effect(table, embeddings, inplace=False, **SETTINGS | changes)


def value(result, embedding, metric, against, clusters=""):
    rows = result["scores"].query(
        "embedding == @embedding and metric == @metric and against == @against and clusters == @clusters"
    )
    return rows["value"].item()


def test_what_shows_tissue_wins(table, user_sees):
    with user_sees("Batch effect", "an embedding that is the same in all rows", UserWarning, match="same in all rows"):
        found = scores(table, ["X_tissue", "X_colour", "X_constant"])
    for metric, clusters in (("ari", "kmeans"), ("ami", "kmeans"), ("neighbors", "")):
        balance = [
            value(found, name, metric, "biology - batch", clusters) for name in ("X_tissue", "X_constant", "X_colour")
        ]
        assert balance[0] > 0.8 > 0.1 > balance[1] > -0.1 > -0.5 > balance[2]
    assert value(found, "X_tissue", "robustness_index", "biology over batch") > 0.95
    assert value(found, "X_colour", "robustness_index", "biology over batch") < 0.4
    ari = (
        found["differences"]
        .query("embedding == 'X_colour' and metric == 'ari' and against == 'biology - batch'")
        .iloc[0]
    )
    assert ari["high"] < 0
    assert ari["interval"] == "95 % over 6 groups"
    assert ari["reference"] == "X_tissue"
    assert ari["value"] == pytest.approx(
        value(found, "X_colour", "ari", "biology - batch", "kmeans")
        - value(found, "X_tissue", "ari", "biology - batch", "kmeans")
    )


def test_figures_by_naive_loops(table):
    found = scores(table, "X_tissue", n_seeds=1, n_neighbors=5)
    X = table.obsm["X_tissue"].astype(np.float32)
    names = {key: table.obs[key].to_numpy() for key in ("scanner", "tissue", "section")}
    similar = unit(X) @ unit(X).T
    purity = {"scanner": [], "tissue": []}
    favourable = adverse = 0
    for row in range(len(X)):
        may = np.flatnonzero(names["section"] != names["section"][row])
        near = may[np.argsort(-similar[row, may], kind="stable")[:5]]
        for key, out in purity.items():
            chance = (names[key][may] == names[key][row]).mean()
            out.append(((names[key][near] == names[key][row]).mean() - chance) / (1 - chance))
        same, here = (names[key][near] == names[key][row] for key in ("tissue", "scanner"))
        favourable, adverse = favourable + (same & ~here).sum(), adverse + (~same & here).sum()
    assert value(found, "X_tissue", "neighbors", "batch") == pytest.approx(np.mean(purity["scanner"]), abs=1e-9)
    assert value(found, "X_tissue", "neighbors", "biology") == pytest.approx(np.mean(purity["tissue"]), abs=1e-9)
    expected = favourable / (favourable + adverse)
    assert value(found, "X_tissue", "robustness_index", "biology over batch") == pytest.approx(expected, abs=1e-9)
    clusters = KMeans(3, n_init=10, random_state=0).fit_predict(X)  # so far apart that all starts find the same
    assert value(found, "X_tissue", "ari", "biology", "kmeans") == pytest.approx(
        adjusted_rand_score(table.obs["tissue"], clusters), abs=1e-9
    )


def test_pools_and_leiden(table):
    pytest.importorskip("igraph")
    found = scores(table, "X_tissue", pool_by="section", clustering=["leiden"], n_neighbors=3)
    assert set(found["scores"]["clusters"]) == {"leiden", ""}
    assert value(found, "X_tissue", "neighbors", "biology") > 0.4
    with pytest.raises(ValueError, match="differ in their batch"):
        scores(table, "X_tissue", pool_by="patient")


def test_package_counts_the_same_neighbours(table):
    pytest.importorskip("croma")
    found = scores(table, "X_tissue", croma=True, n_neighbors=5)
    ours, theirs = (value(found, "X_tissue", name, "biology over batch") for name in ("robustness_index", "croma_ri"))
    assert ours == pytest.approx(theirs, abs=0.02)  # theirs is the mean over rows, ours over neighbours


def test_same_again_and_written(table, tmp_path):
    hc.tl.batch_effect(table, "X_tissue", **SETTINGS)
    again = scores(table, "X_tissue")["scores"]
    table.write_h5ad(tmp_path / "table.h5ad")
    read = ad.read_h5ad(tmp_path / "table.h5ad").uns["batch_effect"]["scores"]
    np.testing.assert_array_equal(read["value"], again["value"])
    axes = hc.pl.batch_effect(table, show=False)
    assert [axis.get_title() for axis in axes] == ["adjusted Rand index", "alike neighbours"]
    plt.close("all")


@pytest.mark.parametrize(
    ("given", "prepare", "changes", "error", "match"),
    [
        ("no column of scanners", lambda t: None, {"batch_key": "site"}, KeyError, "site"),
        ("an embedding that is missing", lambda t: None, {"embeddings": "X_uni"}, KeyError, "X_uni"),
        ("an unknown clustering", lambda t: None, {"clustering": "dbscan"}, ValueError, "kmeans, leiden"),
        ("one scanner", lambda t: t.obs.__setitem__("scanner", "A"), {}, ValueError, "the same in all 240 rows"),
        (
            "each tissue on a scanner of its own",
            lambda t: t.obs.__setitem__("tissue", t.obs["scanner"] + "1"),
            {},
            ValueError,
            "cannot be told apart",
        ),
        (
            "labels that are missing",
            lambda t: t.obs.__setitem__("tissue", np.nan),
            {},
            ValueError,
            "missing in 240 rows",
        ),
    ],
)
def test_bad_input(table, user_sees, given, prepare, changes, error, match):
    prepare(table)
    changes = dict(changes)
    with user_sees("Batch effect", given, error, match=match):
        scores(table, changes.pop("embeddings", "X_tissue"), **changes)


def test_rows_that_are_not_finite_are_left_out(table, user_sees):
    table.obsm["X_tissue"][:7] = np.nan
    with user_sees("Batch effect", "rows that are not finite", UserWarning, match="7 of 240 rows"):
        scores(table, "X_tissue")


def test_plot_refuses_other_tables(table):
    with pytest.raises(KeyError, match="batch_effect"):
        hc.pl.batch_effect(table)
    with pytest.raises(ValueError, match="no result of"):
        hc.pl.batch_effect({"scores": table.obs})
    with pytest.raises(ValueError, match="available: ari, ami, neighbors"):
        hc.pl.batch_effect(scores(table, "X_tissue"), metric="mi")
