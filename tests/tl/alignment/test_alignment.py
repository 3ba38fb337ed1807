"""Fit, align and evaluate on cells whose two views show one state, smooth over the tissue or not."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import histocell as hc

CONFIG = {"hidden": 32, "dim": 16, "max_epochs": 8, "batch_size": 64, "dropout": 0.1}


def cells(n=900, *, noise=0.1, seed=0):
    """Cells of a square of 3 mm: a third of its width for each part of the split."""
    rng = np.random.default_rng(seed)
    state = rng.normal(size=(n, 3))
    image = np.tanh(state @ rng.normal(size=(3, 12))) + noise * rng.normal(size=(n, 12))
    genes = state @ rng.normal(size=(3, 9)) + noise * rng.normal(size=(n, 9))
    xy = rng.uniform(0, 3000, (n, 2))
    data = AnnData(obsm={"X_image": image.astype(np.float32), "X_genes": genes, "spatial": xy / 0.5})
    data.obs["mpp"] = 0.5
    data.obs["split"] = np.array(["train", "val", "test"])[(xy[:, 0] // 1000).astype(int)]
    return data


def fit(data, **options):
    hc.tl.fit_alignment(data, "X_genes", "X_image", **{"config": CONFIG} | options)
    return hc.models.load(data, model_key="alignment_model")


def scores(data, **options):
    return hc.tl.evaluate_alignment(data, block_um=500, n_bootstrap=100, inplace=False, **options)


def value(table, model, metric="recall@10", gallery="across", direction="image to genes"):
    chosen = table.set_index(["model", "metric", "gallery", "direction"]).loc[(model, metric, gallery, direction)]
    return chosen["value"]


def test_beats_chance_on_held_out_tissue_and_not_on_shuffled_genes():
    data = cells()
    fit(data)
    table = scores(data)
    for direction in ("image to genes", "genes to image"):
        for gallery in ("within", "across"):
            chance = value(table, "chance", gallery=gallery, direction=direction)
            for model in ("contrastive", "cca"):
                assert value(table, model, gallery=gallery, direction=direction) > min(1, chance + 0.15)
    assert (table["n_training"] == 0).all()
    known = table[table["model"] != "chance"]
    assert ((known["low"] <= known["value"]) & (known["value"] <= known["high"])).all()
    assert known["interval"].str.fullmatch(r"95 % over 1[0-9] blocks").all()
    data.obsm["X_genes"] = np.random.default_rng(1).permutation(data.obsm["X_genes"])
    fit(data)
    table = scores(data)
    assert value(table, "contrastive") < value(table, "chance") + 0.05


def test_evaluation_beside_a_double_loop():
    data = cells(300, noise=0.5)
    model = fit(data)
    table = scores(data, k=[3])
    rows = np.flatnonzero(data.obs["split"] == "test")
    square = [tuple(place) for place in (data.obsm["spatial"][rows] * 0.5 // 500).astype(int)]
    image, genes = (
        model.project(view, data.obsm[key][rows]).astype(float)
        for view, key in (("image", "X_image"), ("genes", "X_genes"))
    )
    ranks = {"within": [], "across": []}
    for i in range(len(rows)):
        for gallery, own in (("within", True), ("across", False)):
            others = [j for j in range(len(rows)) if j != i and (square[j] == square[i]) == own]
            ranks[gallery].append(1 + sum(image[i] @ genes[j] > image[i] @ genes[i] for j in others))
    for gallery, found in ranks.items():
        assert value(table, "contrastive", "recall@3", gallery) == pytest.approx(np.mean(np.array(found) <= 3))
        assert value(table, "contrastive", "mrr", gallery) == pytest.approx(np.mean(1 / np.array(found)))


def test_align_and_a_saved_model(tmp_path):
    data = cells()
    model = fit(data)
    hc.tl.align(data)
    assert data.obsm["X_aligned_image"].dtype == np.float32
    model.save(tmp_path / "model")
    other = cells(seed=0)
    del other.obsm["X_genes"]
    with pytest.warns(UserWarning, match="only the image is aligned"):
        hc.tl.align(other, model=tmp_path / "model")
    np.testing.assert_array_equal(other.obsm["X_aligned_image"], data.obsm["X_aligned_image"])
    assert "X_aligned_genes" not in other.obsm
    data.write_h5ad(tmp_path / "cells.h5ad")
    import anndata as ad

    again = hc.tl.align(ad.read_h5ad(tmp_path / "cells.h5ad"), inplace=False)
    np.testing.assert_array_equal(again["X_aligned_genes"], data.obsm["X_aligned_genes"])
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "contrastive: alignment" in card


def test_test_rows_change_nothing():
    data = cells()
    first = fit(data)
    held = (data.obs["split"] == "test").to_numpy()
    for key in ("X_image", "X_genes"):
        data.obsm[key][held] = 77.0
    second = fit(data)
    for name, array in first.weights.items():
        np.testing.assert_array_equal(array, second.weights[name])


def test_overlapping_patches_are_left_out():
    data = cells()
    corner = np.rint(data.obsm["spatial"][:, ::-1]).astype(np.int32)
    data.obsm["patches"] = np.hstack([corner - 100, corner + 100])
    with pytest.warns(UserWarning, match="training rows and .* validation rows are left out of the fit"):
        model = fit(data)
    assert model.facts["n_train"] < (data.obs["split"] == "train").sum()


class TestBadInput:
    def test_no_validation_rows(self):
        data = cells()
        data.obs["split"] = data.obs["split"].replace("val", "train")
        with pytest.warns(UserWarning, match="0 validation rows: the training is not stopped early"):
            fit(data)

    def test_batch_larger_than_rows(self):
        with pytest.warns(UserWarning, match="training rows are fewer than batch_size=1024"):
            fit(cells(), config=CONFIG | {"batch_size": 1024})

    def test_one_block(self):
        data = cells()
        fit(data)
        with pytest.warns(UserWarning, match="lie in one square of 90000 um: nothing is ranked across"):
            table = hc.tl.evaluate_alignment(data, block_um=90_000, inplace=False)
        assert set(table["gallery"]) == {"within"}
        assert (table["interval"] == "none").all()
        assert table["low"].isna().all()

    def test_nan_rows(self):
        data = cells()
        data.obsm["X_image"][np.flatnonzero(data.obs["split"] == "train")[:2]] = np.nan
        with pytest.warns(
            UserWarning, match="2 training or validation rows have a target that is not finite; left out"
        ):
            fit(data)
        with pytest.warns(UserWarning, match=r'2 of 900 rows of obsm\["X_image"\] are not finite'):
            hc.tl.align(data)
        assert np.isnan(data.obsm["X_aligned_image"]).all(axis=1).sum() == 2
        data.obsm["X_image"][np.flatnonzero(data.obs["split"] == "test")[:3]] = np.nan
        with pytest.warns(UserWarning, match="3 of [0-9]+ rows to be scored lack a view"):
            scores(data)

    def test_constant_view(self):
        data = cells()
        data.obsm["X_image"][:] = 3.0
        with pytest.raises(ValueError, match="embedding of the image says nothing"):
            fit(data)

    def test_missing(self):
        data = cells()
        with pytest.raises(KeyError, match=r'obsm\["X_scgpt"\] not found.*embed_genes\(data, "scgpt"\)'):
            hc.tl.fit_alignment(data)
        with pytest.raises(KeyError, match=r'obsm\["X_uni2-h"\] not found.*embed_image\(data, "uni2-h"\)'):
            hc.tl.fit_alignment(data, "X_genes")
        with pytest.raises(KeyError, match=r'uns\["alignment_model"\] not found'):
            hc.tl.align(data)
        with pytest.raises(ValueError, match="not aligned with itself"):
            hc.tl.fit_alignment(data, "X_image", "X_image")
        with pytest.raises(
            ValueError, match="'ridge' is a model for abundance, expression, not for alignment; there are: cca, contr"
        ):
            hc.tl.fit_alignment(data, "X_genes", "X_image", model="ridge")
        fit(data)
        del data.obsm["spatial"]
        with pytest.raises(KeyError, match=r'obsm\["spatial"\] not found'):
            scores(data)

    def test_without_a_split_the_rows_of_the_fit_are_scored_and_said_so(self):
        data = cells()
        del data.obs["split"]
        with (
            pytest.warns(UserWarning, match='no obs\\["split"\\]: all 900 rows'),
            pytest.warns(UserWarning, match="0 validation rows"),
        ):
            fit(data)
        with (
            pytest.warns(UserWarning, match="all rows are scored, those of the fit, too"),
            pytest.warns(UserWarning, match="the model was fitted or stopped on 900 of 900 queries"),
        ):
            table = scores(data)
        assert (table["n_training"] == 900).all()

    def test_another_embedding(self):
        data = cells()
        fit(data)
        data.obsm["X_image"] = data.obsm["X_image"][:, :5]
        with pytest.raises(ValueError, match="dim is 5, the model was fitted with 12"):
            hc.tl.align(data)


def test_table_survives_files(tmp_path):
    import anndata as ad

    data = cells()
    fit(data, model="cca", config=None)
    hc.tl.evaluate_alignment(data, n_bootstrap=50)
    data.write_h5ad(tmp_path / "cells.h5ad")
    back = ad.read_h5ad(tmp_path / "cells.h5ad")
    assert isinstance(back.uns["alignment_evaluation"], pd.DataFrame)
    assert len(back.uns["alignment_evaluation"]) == len(data.uns["alignment_evaluation"])
    assert json.loads(str(back.uns["histocell"]["alignment_model"]))["model"] == "cca"
