"""Protocols on types of cells: genes and image told apart, models of the task alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import histocell as hc
from histocell._core import keys

TINY = {"max_epochs": 2, "width": 8, "feedforward": 8, "n_heads": 2}


@pytest.fixture
def cells() -> AnnData:
    """Three types on three patients, told apart by a gene and a feature of the image; embeddings as histocell records them."""
    rng = np.random.default_rng(0)
    genes, image = rng.normal(size=(360, 5)).astype(np.float32), rng.normal(size=(360, 4)).astype(np.float32)
    kind = np.argmax(np.column_stack([3 * genes[:, 0], 3 * image[:, 0], np.ones(360)]), axis=1)
    table = AnnData(obs=pd.DataFrame({"cell_type": np.array(list("abc"))[kind]}, index=map(str, range(360))))
    table.obs["patient"] = np.repeat(["A", "B", "C"], 120)
    table.obs["mpp"] = 1.0
    table.obsm["spatial"] = rng.uniform(0, 500, (360, 2))
    table.obsm["X_he"], table.obsm["X_rna"] = image, genes
    keys.write_provenance(table, "X_he", encoder="morphology", dim=4)
    keys.write_provenance(table, "X_rna", model="pca", n_genes=100, dim=5)
    return table


def test_leave_one_group_out_by_hand(cells):
    """The genes come first and are counted, whatever the order of the features."""
    models = {"log": "logistic", "net": hc.models.CellTransformer(**TINY)}
    scores = hc.bench.leave_one_group_out(cells, ["X_he", "X_rna"], task="cell_types", models=models, n_bootstrap=0)
    X, labels, patient = (
        np.hstack([cells.obsm["X_rna"], cells.obsm["X_he"]]),
        cells.obs["cell_type"],
        cells.obs["patient"],
    )
    Y, expected = np.stack([labels == name for name in "abc"], 1).astype(float), []
    for name in "ABC":
        held = (patient == name).to_numpy()
        model = hc.models.load(_fitted(cells, name))
        by_hand = type(model)(gene_columns=5).fit(X[~held], Y[~held], groups=patient[~held].to_numpy())
        assert model.config.gene_columns == 5
        expected.append(np.nanmean(hc.metrics.f1(Y[held], by_hand.predict(X[held]))))
    mean = scores.query("group == 'all' and cell_type == 'mean' and metric == 'f1'").set_index("model")["value"]
    assert mean["log"] == pytest.approx(np.mean(expected))
    assert "colocalization_cosine" not in set(scores["metric"])


def _fitted(cells, held):
    table = cells.copy()
    table.obs["split"] = np.where(table.obs["patient"] == held, "test", "train")
    return hc.tl.fit_cell_types(table, "X_rna", "X_he", model="logistic", inplace=False)


def test_default_models_and_missing_genes(cells):
    """A cell without genes is predicted, by a transformer that knows where they are."""
    cells.obsm["X_rna"][:30] = np.nan
    config = {"cell_transformer": TINY}
    scores = hc.bench.leave_one_group_out(cells, ["X_rna", "X_he"], task="cell_types", config=config, n_bootstrap=0)
    assert set(scores["model"]) == {"majority", "logistic", "cell_transformer"}
    counted = scores.query("group == 'A' and metric == 'accuracy' and model == 'cell_transformer'")["n_spots"]
    assert counted.item() == 120


def test_models_of_another_task(cells):
    with pytest.raises(ValueError, match="'ridge' is a model for abundance, expression, not for cell_types"):
        hc.bench.leave_one_group_out(cells, "X_he", task="cell_types", models=["ridge"])
    with pytest.raises(ValueError, match="CellTransformer is a model for cell_types, not for abundance"):
        hc.bench.leave_one_group_out(cells, "X_he", models=hc.models.CellTransformer())
    with pytest.raises(ValueError, match="unknown task 'types'; there are: abundance, cell_types"):
        hc.bench.leave_one_group_out(cells, "X_he", task="types")


def test_features_of_which_nothing_is_known(cells):
    cells.obsm["X_toy"] = cells.obsm["X_he"]
    with pytest.raises(ValueError, match="nothing is recorded of X_toy: are they of the genes"):
        hc.bench.leave_one_group_out(cells, ["X_toy", "X_rna"], task="cell_types", models="logistic")
    model = hc.models.CellTransformer(gene_columns=4, **TINY)
    scores = hc.bench.leave_one_group_out(cells, ["X_toy", "X_rna"], task="cell_types", models=model, n_bootstrap=0)
    assert np.isfinite(scores.query("metric == 'accuracy'")["value"]).all()


def test_across_datasets_with_other_types(cells):
    train, test = cells[cells.obs["patient"] != "C"].copy(), cells[cells.obs["patient"] == "C"].copy()
    test.obs["cell_type"] = test.obs["cell_type"].astype(str).replace("c", "d")
    with pytest.warns(UserWarning, match="only the 2 targets that the two share"):
        scores = hc.bench.cross_dataset(
            train, test, ["X_rna", "X_he"], task="cell_types", models="logistic", n_bootstrap=0
        )
    row = scores.query("cell_type == 'mean' and metric == 'f1'").iloc[0]
    assert row["n_spots"] == (test.obs["cell_type"] != "d").sum()
    assert row["value"] > 0.8
