from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection

import histocell as hc
from histocell._core import keys

TYPES = ["Tumour", "T-cells CD4+", "α_β", "Endothelial Lymphatic LYVE1"]
VALUES = {"mlp": [0.5, 0.7, np.nan, 0.2], "ridge": [0.4, 0.6, np.nan, 0.3], "mean": [np.nan] * 4}


def tidy(group="B", shift=0.0):
    rows = []
    for model, values in VALUES.items():
        values = np.array(values) + shift
        mean = np.nan if np.isnan(values).all() else np.nanmean(values)
        for name, value in zip([*TYPES, "mean"], [*values, mean], strict=True):
            rows.append((model, group, name, "cc", value, value - 0.1, value + 0.15, 42, int(np.isnan(value))))
            rows.append((model, group, name, "l1", 0.1, 0.05, 0.15, 42, 0))
    columns = ["model", "group", "cell_type", "metric", "value", "low", "high", "n_spots", "n_undefined"]
    return pd.DataFrame(rows, columns=columns)


@pytest.fixture
def scored(spots):
    spots.uns["abundance_evaluation"] = tidy()
    return spots


def dots(ax):
    return {line.get_label(): line for line in ax.lines if line.get_marker() == "o"}


def test_types_are_sorted_and_their_mean_is_on_top(scored):
    ax = hc.pl.scores(scored)
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["mean of types", "T-cells CD4+", "Tumour", "Endothelial Lymphatic LYVE1", "α_β"]
    drawn = dots(ax)
    assert set(drawn) == {"mlp", "ridge"}
    for model, line in drawn.items():
        order = np.argsort(line.get_ydata())
        expected = [np.nanmean(VALUES[model]), *(VALUES[model][i] for i in (1, 0, 3, 2))]
        np.testing.assert_allclose(line.get_xdata()[order], expected)
    assert (drawn["mlp"].get_ydata() < drawn["ridge"].get_ydata()).all()
    assert ax.get_title(loc="right") == "B, 42 spots"


def test_intervals_are_those_of_the_table(scored):
    ax = hc.pl.scores(scored, models="mlp")
    (bars,) = (each for each in ax.collections if isinstance(each, LineCollection))
    spans = {(round(float(s[0, 0]), 6), round(float(s[1, 0]), 6)) for s in bars.get_segments()}
    values = [v for v in VALUES["mlp"] if np.isfinite(v)] + [np.nanmean(VALUES["mlp"])]
    assert spans == {(round(v - 0.1, 6), round(v + 0.15, 6)) for v in values}


def test_undefined_scores_are_named(scored):
    ax = hc.pl.scores(scored)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["mlp", "ridge", "interval"]
    assert ax.get_xlabel() == "CC with the measured abundance\n(undefined for training mean)"
    assert [(text.get_text(), text.get_position()[1]) for text in ax.texts] == [("undefined", 4)]


def test_errors_are_sorted_from_the_smallest(scored):
    table = scored.uns["abundance_evaluation"]
    table.loc[(table["metric"] == "l1") & (table["cell_type"] == "α_β"), "value"] = 0.01
    ax = hc.pl.scores(scored, metric="l1")
    assert ax.get_yticklabels()[1].get_text() == "α_β"
    assert ax.get_xlim()[0] == 0
    assert set(dots(ax)) == {"mlp", "ridge", "training mean"}


def test_coverage_is_held_against_what_was_promised(scored):
    table = tidy()
    scored.uns["abundance_evaluation"] = table[table["metric"] == "l1"].assign(metric="coverage")
    assert not [line for line in hc.pl.scores(scored, metric="coverage").lines if "promised" in line.get_label()]
    keys.write_provenance(scored, "predicted_abundance", interval=0.9)
    lines = {line.get_label(): line for line in hc.pl.scores(scored, metric="coverage").lines}
    assert lines["promised: 90%"].get_xdata()[0] == 0.9


def test_groups(scored):
    single = pd.concat([tidy("B"), tidy("C", shift=-0.1)]).assign(low=np.nan, high=np.nan)
    scored.uns["abundance_evaluation"] = pd.concat([single, tidy("all", shift=0.2)])
    ax = hc.pl.scores(scored, models="ridge")
    assert ax.get_title(loc="right") == "mean of 2 groups, 42 spots"
    np.testing.assert_allclose(np.nanmax(dots(ax)["ridge"].get_xdata()), 0.8)
    (ticks,) = (line for line in ax.lines if line.get_marker() == "|")
    assert np.nanmax(ticks.get_xdata()) == pytest.approx(0.6)
    assert len(ticks.get_xdata()) == 10
    ax = hc.pl.scores(scored, models="ridge", group="C")
    np.testing.assert_allclose(np.nanmax(dots(ax)["ridge"].get_xdata()), 0.5)
    assert not [line for line in ax.lines if line.get_marker() == "|"]
    scored.uns["abundance_evaluation"] = single
    with pytest.raises(ValueError, match="choose one with group=: B, C"):
        hc.pl.scores(scored)
    scored.uns["abundance_evaluation"] = pd.concat([tidy("B"), tidy("all")])
    ax = hc.pl.scores(scored)
    assert ax.get_title(loc="right") == "B, 42 spots"
    assert not [line for line in ax.lines if line.get_marker() == "|"]


@pytest.mark.parametrize("name", ["range of 2 groups", "95 % over 6 groups", "95 % over spots"])
def test_legend_says_what_the_interval_is(scored, name):
    table = scored.uns["abundance_evaluation"]
    table["interval"] = name
    table.loc[table["cell_type"] == "α_β", ["interval", "low", "high"]] = ["none", np.nan, np.nan]
    legend = [text.get_text() for text in hc.pl.scores(scored).get_legend().get_texts()]
    assert legend == ["mlp", "ridge", name]


def test_table_of_a_benchmark(cohort):
    scores = hc.bench.leave_one_group_out(cohort, models=("mean", "ridge"), n_bootstrap=20, rng=0)
    ax = hc.pl.scores(scores, title="leave one patient out")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["ridge", "range of 4 groups", "each group"]
    assert ax.get_title(loc="right") == "leave one patient out"
    hc.pl.scores(scores.rename(columns={"cell_type": "gene"}), metric="l1")


def test_palette(scored):
    found = dots(hc.pl.scores(scored, palette={"ridge": "tab:red"}))
    assert (found["mlp"].get_color(), found["ridge"].get_color()) == ("#0072B2", "tab:red")


def test_frame_of_something_else(user_sees):
    with user_sees(
        "Training and scores", "a plot of a table that holds no scores", ValueError, match="no table of scores"
    ):
        hc.pl.scores(pd.DataFrame({"x": ["a"], "y": ["b"], "R": [0.1]}))


def test_two_runs_of_one_name():
    with pytest.raises(ValueError, match="several scores of 'mlp'.*a name of its own"):
        hc.pl.scores(pd.concat([tidy(), tidy()]), models="ridge")
    again = tidy().assign(model=lambda table: "second " + table["model"])
    hc.pl.scores(pd.concat([tidy(), again]))


@pytest.mark.parametrize("kind", ["2 x 2", "3 in", "constrained"])
@pytest.mark.parametrize("k", [1, 12, 30])
def test_names_and_legend_have_room(scored, kind, k, user_axes, assert_inside, assert_apart):
    names = [f"Endothelial Lymphatic LYVE1 {index}" for index in range(k)]
    parts = [tidy().query("cell_type == 'Tumour'").assign(cell_type=name) for name in names]
    scored.uns["abundance_evaluation"] = pd.concat(parts)
    ax, others = user_axes(kind)
    hc.pl.scores(scored, ax=ax)
    assert_inside(ax, others)
    assert_apart(ax.get_yticklabels())
    legend = ax.get_legend().get_window_extent()
    assert not legend.overlaps(ax.xaxis.label.get_window_extent())
    assert not any(legend.overlaps(label.get_window_extent()) for label in ax.get_xticklabels())


def test_band_is_no_block_on_dark_styles(scored):
    with plt.style.context("dark_background"):
        ax = hc.pl.scores(scored)
    ax.figure.canvas.draw()
    inside = ax.get_window_extent().get_points().astype(int)
    pixels = np.asarray(ax.figure.canvas.buffer_rgba())[::-1, :, :3]
    shown = pixels[inside[0, 1] : inside[1, 1], inside[0, 0] : inside[1, 0]]
    assert np.median(shown[-8]) < 60  # in the band of the mean
    assert (shown.min(axis=2) > 200).mean() < 0.01


def test_table_survives_h5ad(scored, tmp_path):
    import anndata as ad

    scored.write_h5ad(tmp_path / "a.h5ad")
    read = ad.read_h5ad(tmp_path / "a.h5ad")
    for model in ("mlp", "ridge"):
        expected, found = (dots(hc.pl.scores(data))[model].get_xdata() for data in (scored, read))
        np.testing.assert_array_equal(found, expected)


def test_errors_say_what_there_is(scored):
    with pytest.raises(ValueError, match="metric auc not found in the scores; available: cc, l1"):
        hc.pl.scores(scored, metric="auc")
    with pytest.raises(ValueError, match="model cnn not found"):
        hc.pl.scores(scored, models=["mlp", "cnn"])
    with pytest.raises(ValueError, match="group Z not found in the scores; available: B"):
        hc.pl.scores(scored, group="Z")
    del scored.uns["abundance_evaluation"]
    with pytest.raises(KeyError, match=r"hc\.tl\.evaluate_abundance"):
        hc.pl.scores(scored)
    assert plt.get_fignums() == []


def test_nothing_defined(scored):
    ax = hc.pl.scores(scored, models="mean")
    assert dots(ax) == {}
    assert [text.get_text() for text in ax.texts] == ["undefined"] * 5


def test_own_axes(scored):
    figure, own = plt.subplots()
    assert hc.pl.scores(scored, ax=own) is own
    assert plt.get_fignums() == [figure.number]


def test_looks(scored, looks_like):
    groups = [tidy("B", shift=0.1), tidy("C", shift=-0.1), tidy("all")]
    table = pd.concat(groups)
    scored.uns["abundance_evaluation"] = table.assign(interval="range of 2 groups")
    looks_like(hc.pl.scores(scored), "scores")


def test_genes_are_called_genes(scored):
    """The figure of an expression spoke of types and their abundance."""
    scored.uns["expression_evaluation"] = tidy().rename(columns={"cell_type": "gene"})
    ax = hc.pl.scores(scored, key="expression_evaluation")
    assert ax.get_yticklabels()[0].get_text() == "mean of genes"
    assert ax.get_xlabel().startswith("CC with the measured expression")
    plt.close("all")
