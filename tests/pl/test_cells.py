"""Confusion and reliability of cell types."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import histocell as hc
from histocell._core import keys

NAMES = ["B cell", "T cell", "fibroblast", "tumour"]


@pytest.fixture
def predicted() -> AnnData:
    """Cells whose types are predicted, some wrongly and with too much confidence; half of them are test cells."""
    rng = np.random.default_rng(0)
    labels = rng.choice(4, 800, p=[0.15, 0.25, 0.2, 0.4])
    logits = rng.normal(size=(800, 4)) + 1.5 * np.eye(4)[labels]
    logits[:, :2] += 0.8 * np.isin(labels, (0, 1))[:, None]
    adata = AnnData(obs=pd.DataFrame({"cell_type": np.array(NAMES)[labels]}, index=[f"c{i}" for i in range(800)]))
    adata.obs["split"] = np.where(np.arange(800) % 2, "test", "train")
    for ending, scale in (("", 2.0), ("_logistic", 1.0)):
        p = np.exp(scale * logits)
        frame = pd.DataFrame(p / p.sum(1, keepdims=True), index=adata.obs_names, columns=NAMES)
        adata.obsm[f"predicted_cell_type{ending}_probability"] = frame
        adata.obs[f"predicted_cell_type{ending}"] = pd.Categorical(frame.idxmax(axis=1), NAMES)
    keys.write_provenance(
        adata, "predicted_cell_type", model="cell_transformer", baselines=["logistic"], target="cell_type"
    )
    return adata


def test_confusion_is_that_of_a_table(predicted, looks_like):
    ax = hc.pl.confusion(predicted)
    shown = np.asarray(ax.images[0].get_array())
    test = predicted.obs[predicted.obs["split"] == "test"]
    table = pd.crosstab(test["cell_type"], test["predicted_cell_type"].astype(str))
    np.testing.assert_allclose(shown, table.div(table.sum(axis=1), axis=0))
    assert ax.get_title("left") == "400 test cells"
    looks_like(ax, "confusion")
    counts = hc.pl.confusion(predicted, normalize="none")
    np.testing.assert_array_equal(np.asarray(counts.images[0].get_array()), table)
    precision = np.asarray(hc.pl.confusion(predicted, normalize="predicted").images[0].get_array())
    np.testing.assert_allclose(precision, table.div(table.sum(axis=0), axis=1))


def test_cells_that_are_unsure_have_a_column(predicted):
    label = predicted.obs["predicted_cell_type"].astype(object)
    label.iloc[1:41:2] = "unsure"
    predicted.obs["predicted_cell_type"] = label.astype("category")
    ax = hc.pl.confusion(predicted, normalize="none")
    assert [each.get_text() for each in ax.get_xticklabels()][-1] == "not called"
    shown = np.asarray(ax.images[0].get_array())
    assert shown[:, -1].sum() == 20
    assert shown.sum() == 400


def test_reliability_is_a_loop(predicted, looks_like):
    ax = hc.pl.reliability(predicted, n_bins=5)
    first = ax.lines[1]
    test = (predicted.obs["split"] == "test").to_numpy()
    p = predicted.obsm["predicted_cell_type_probability"].to_numpy()[test]
    right = (predicted.obs["predicted_cell_type"].astype(str) == predicted.obs["cell_type"]).to_numpy()[test]
    inside = [(p.max(1) >= low) & (p.max(1) < low + 0.2) for low in np.arange(5) / 5]
    inside = [each for each in inside if each.any()]
    np.testing.assert_allclose(first.get_xdata(), [p.max(1)[each].mean() for each in inside])
    np.testing.assert_allclose(first.get_ydata(), [right[each].mean() for each in inside])
    assert len(ax.lines) == 3
    truth = np.stack([predicted.obs["cell_type"][test] == name for name in NAMES], 1).astype(float)
    error = hc.metrics.calibration_error(truth, p)[0]
    assert [each.get_text() for each in ax.get_legend().get_texts()][1] == f"transformer, error {error:.3f}"
    looks_like(ax, "reliability")
    assert len(hc.pl.reliability(predicted, baselines=False).lines) == 2


@pytest.mark.parametrize("plot", [hc.pl.confusion, hc.pl.reliability])
def test_bad_input(predicted, plot):
    with pytest.raises(KeyError, match="hc.tl.predict_cell_types"):
        plot(predicted, key="nothing")
    with pytest.raises(KeyError, match="target= names the column"):
        plot(predicted, target="nothing")
    predicted.obs["other"] = "mast cell"
    with pytest.raises(ValueError, match=r"no cell has a type of obs\[\"other\"\] \(mast cell\)"):
        plot(predicted, target="other")
    if plot is hc.pl.confusion:
        with pytest.raises(ValueError, match="normalize must be one of"):
            plot(predicted, normalize="rows")


@pytest.mark.parametrize("plot", [hc.pl.confusion, hc.pl.reliability])
def test_axes_of_the_user(predicted, plot, user_axes, assert_inside):
    for kind in ("2 x 2", "3 x 3"):
        ax, others = user_axes(kind)
        plot(predicted, ax=ax)
        assert_inside(ax, others)
        plt.close("all")


def test_scores_of_types(predicted):
    """The bars of each type, from the table of scores."""
    with pytest.warns(UserWarning, match="nothing is recorded"):
        hc.tl.evaluate_cell_types(predicted, n_bootstrap=20)
    ax = hc.pl.scores(predicted, key="cell_type_evaluation", metric="f1")
    assert ax.get_xlabel() == "F1"
    assert {each.get_text() for each in ax.get_yticklabels()} == {"mean of types", *NAMES}
    assert ax.get_title("right") == "one group, 400 cells"
