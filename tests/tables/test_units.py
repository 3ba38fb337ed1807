from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import histocell as hc
from histocell._core import keys
from histocell.tables.units import are_shares, unit_of


@pytest.fixture
def table() -> AnnData:
    """Sixty spots of three patients, whose shares of three types follow the embedding."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3)).astype(np.float32)
    shares = np.exp(X) / np.exp(X).sum(axis=1, keepdims=True)
    adata = AnnData(
        obs=pd.DataFrame({"patient": np.repeat(["P1", "P2", "P3"], 20)}, index=[f"s{i}" for i in range(60)])
    )
    adata.obsm["spatial"] = rng.uniform(0, 1000, (60, 2))
    adata.obsm["X_toy"] = X
    adata.obsm["cell_abundance"] = pd.DataFrame(shares, index=adata.obs_names, columns=["a", "b", "c"])
    adata.obs["split"] = np.where(adata.obs["patient"] == "P3", "test", "train")
    return adata


@pytest.mark.parametrize(
    ("values", "shares"),
    [
        ([[0.25, 0.75], [1, 0]], True),
        ([[0.3334, 0.6667], [0.5, 0.5]], True),  # rounded to four digits
        ([[0.25, 0.75], [np.nan, np.nan]], True),
        ([[0.25, 0.765], [1, 0.015]], False),  # within 0.02 of 1, but no shares
        ([[-0.5, 1.5], [1, 0]], False),
        ([[1.0], [1.0]], False),
        ([[np.nan, np.nan]], False),
    ],
)
def test_shares_are_told_from_abundances(values, shares):
    assert are_shares(np.array(values)) is shares


def test_recorded_unit_wins_over_the_values(table):
    shares = table.obsm["cell_abundance"]
    assert unit_of(table, "cell_abundance", shares) == "proportion"
    table.uns["cell_abundance"] = {"unit": "cells per spot"}
    assert unit_of(table, "cell_abundance", shares) == "cells per spot"
    keys.write_provenance(table, "cell_abundance", unit="nuclei")
    assert unit_of(table, "cell_abundance", shares) == "nuclei"


def test_unit_goes_with_the_model_to_a_slide_without_truth(table, tmp_path):
    hc.tl.fit_abundance(table, model="ridge")
    hc.models.load(table).save(tmp_path / "model")
    slide = AnnData(obs=table.obs[["patient"]], obsm={name: table.obsm[name] for name in ("spatial", "X_toy")})
    hc.tl.predict_abundance(slide, model=tmp_path / "model")
    assert not np.allclose(slide.obsm["predicted_abundance"].sum(axis=1), 1, atol=1e-3)
    assert hc.get.provenance(slide, "predicted_abundance")["unit"] == "proportion"
    import matplotlib.pyplot as plt

    axis = hc.pl.abundance(slide, "a", show=False)
    assert axis.child_axes[0].get_ylabel() == "proportion"
    plt.close("all")


def test_data_sets_say_their_unit(tissue, data_dir):
    assert hc.get.provenance(tissue, "cell_abundance")["unit"] == "cells per spot"
    assert hc.get.provenance(hc.datasets.her2st("C2"), "cell_abundance")["unit"] == "proportion"
    both = hc.datasets.her2st(["C2", "C3"])
    assert hc.get.provenance(both, "cell_abundance")["unit"] == "proportion"


def test_shares_predicted_and_cells_measured(table, user_sees):
    hc.tl.fit_abundance(table, model="ridge")
    hc.tl.predict_abundance(table)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hc.tl.evaluate_abundance(table, n_bootstrap=10)  # of one unit, or of one that is not recorded
    table.uns["cell_abundance"] = {"unit": "cells per spot"}
    with user_sees(
        "Training and scores", "a prediction in shares and a truth in cells", UserWarning, match="only their"
    ):
        hc.tl.evaluate_abundance(table, n_bootstrap=10)
