from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import histocell as hc
from histocell._core import keys

N = 200


def predicted(n_types=3, groups=("A", "B"), widths=(2.0, 1.0), *, level=0.9):
    """Truth uniform within 1 of the prediction; intervals of a half width of `widths` in each group."""
    g = np.random.default_rng(0)
    n = N * len(groups)
    names = [f"type {index}" for index in range(n_types)]
    values = g.uniform(0, 10, (n, n_types))
    truth = values + g.uniform(-1, 1, values.shape)
    half = np.repeat(widths[: len(groups)], N)[:, None]
    obs = pd.DataFrame({"patient": np.repeat(groups, N), "section": np.repeat(groups, N)})
    adata = AnnData(obs=obs.set_axis([f"s{index}" for index in range(n)]))
    parts = {"": values, "_lower": values - half, "_upper": values + half}
    slots = {f"predicted_abundance{ending}": array for ending, array in parts.items()} | {"cell_abundance": truth}
    for slot, array in slots.items():
        adata.obsm[slot] = pd.DataFrame(array, index=adata.obs_names, columns=names)
    if level:
        keys.write_provenance(adata, "predicted_abundance", interval=level)
    return adata


def matrix(ax):
    (image,) = ax.images
    return np.asarray(image.get_array())


def test_coverage_is_that_of_the_metrics():
    adata = predicted(widths=(2.0, 0.5))
    axes = hc.pl.calibration(adata)
    shown = matrix(axes[0])
    assert [label.get_text() for label in axes[0].get_xticklabels()] == ["A", "B", "mean"]
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["mean of types", "type 0", "type 1", "type 2"]
    frames = [adata.obsm[slot] for slot in ("cell_abundance", "predicted_abundance_lower", "predicted_abundance_upper")]
    expected = hc.metrics.coverage(*frames, groups=adata.obs["patient"]).T
    np.testing.assert_allclose(shown[1:, :2], expected)
    np.testing.assert_allclose(shown[1:, 0], 1)
    np.testing.assert_allclose(shown[1:, 2], expected.mean(axis=1))
    np.testing.assert_allclose(shown[0], shown[1:].mean(axis=0))
    low, high = axes[0].images[0].get_clim()
    assert (low + high) / 2 == pytest.approx(0.9)


def test_bins_go_from_the_lowest_to_the_highest_predictions():
    """Intervals that miss all truths above a prediction of 8 show it in the last two of ten bins."""
    adata = predicted(1, ("A",))
    values = adata.obsm["predicted_abundance"]["type 0"]
    order = np.argsort(np.argsort(values))
    high = adata.obsm["predicted_abundance_upper"]
    high["type 0"] = np.where(order >= 0.8 * N, values - 1.5, values + 2)
    (line,) = (each for each in hc.pl.calibration(adata)[1].lines if each.get_marker() == "o")
    np.testing.assert_allclose(line.get_ydata(), [1] * 8 + [0] * 2)
    np.testing.assert_allclose(line.get_xdata(), np.arange(5, 100, 10))


def test_only_test_rows_count():
    adata = predicted(widths=(2.0, 0.0))
    adata.obs["split"] = np.where(adata.obs["patient"] == "A", "test", "train")
    axes = hc.pl.calibration(adata)
    assert axes[0].get_title(loc="left") == "200 test spots"
    np.testing.assert_allclose(matrix(axes[0]), 1)
    adata.obs["split"] = "train"
    assert hc.pl.calibration(adata)[0].get_title(loc="left") == "400 spots, of training too"


def test_unknown_values_are_left_out():
    adata = predicted()
    adata.obsm["cell_abundance"].iloc[:N, 0] = np.nan
    adata.obsm["predicted_abundance"].iloc[N + 3] = np.nan
    adata.obsm["predicted_abundance_lower"].iloc[N + 3] = np.nan
    axes = hc.pl.calibration(adata)
    shown = matrix(axes[0])
    assert np.isnan(shown[1, 0])
    assert np.isfinite(shown[1, 1:]).all()
    assert all(np.isfinite(line.get_ydata()).all() for line in axes[1].lines)


def test_a_prediction_of_the_library(cohort):
    hc.pp.split(cohort, by="patient", test=["P3", "P4"])
    hc.tl.fit_abundance(cohort, model="ridge")
    hc.tl.predict_abundance(cohort)
    axes = hc.pl.calibration(cohort)
    scores = hc.tl.evaluate_abundance(cohort, n_bootstrap=10, inplace=False)
    wanted = scores.query("metric == 'coverage' and cell_type == 'mean' and model == 'ridge'").set_index("group")[
        "value"
    ]
    np.testing.assert_allclose(matrix(axes[0])[0], wanted[["P3", "P4", "all"]].to_numpy(dtype=float))


def test_level():
    adata = predicted(level=None)
    with pytest.raises(ValueError, match=r"not recorded what share .* give level="):
        hc.pl.calibration(adata)
    lines = {line.get_label() for line in hc.pl.calibration(adata, level=0.5)[1].lines}
    assert "promised: 50%" in lines


def test_errors_say_what_to_do():
    adata = predicted()
    with pytest.raises(KeyError, match="cell type z not found"):
        hc.pl.calibration(adata, cell_types=["z"])
    with pytest.raises(ValueError, match="ax holds 1 axes; calibration needs two"):
        hc.pl.calibration(adata, ax=[plt.figure().add_subplot()])
    adata.obsm["cell_abundance"][:] = np.nan
    with pytest.raises(ValueError, match="no row has a measured value"):
        hc.pl.calibration(adata)
    adata.obsm["cell_abundance"].columns = ["a", "b", "c"]
    with pytest.raises(ValueError, match="share no cell type"):
        hc.pl.calibration(adata)
    del adata.obsm["predicted_abundance_upper"]
    with pytest.raises(KeyError, match=r"interval=0\.9"):
        hc.pl.calibration(adata)


@pytest.mark.parametrize("size", [(9, 4), (6, 3)])
@pytest.mark.parametrize(("k", "groups"), [(1, "A"), (12, "AB"), (30, "ABCDEFGHIJKLMNOPQRSTUVW")])
def test_names_have_room(size, k, groups, assert_inside, assert_apart):
    figure, axes = plt.subplots(1, 2, figsize=size)
    hc.pl.calibration(predicted(k, tuple(groups), (1.0,) * len(groups)), ax=axes)
    assert_inside(axes[0], [axes[1]])
    assert_inside(axes[1], [axes[0]])
    assert_apart(axes[0].get_yticklabels())
    assert_apart(axes[0].get_xticklabels())
    assert_apart(axes[0].texts)


def test_looks(looks_like):
    looks_like(hc.pl.calibration(predicted(widths=(1.2, 0.7)))[0], "calibration")
