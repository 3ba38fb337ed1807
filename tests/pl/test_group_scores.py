from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection

import histocell as hc

RUNS = [("mlp", "X_conch"), ("mlp", "X_uni"), ("hist2cell", "image"), ("mean", "X_conch"), ("mean", "X_uni")]


def table(groups=("A", "B", "C"), runs=RUNS, *, intervals=True):
    """Scores that differ between all runs and groups; those of the mean are undefined for cc."""
    rows = []
    for index, (model, features) in enumerate(runs):
        for metric in ("cc", "l1"):
            values = 0.1 * (index + 1) + 0.01 * np.arange(len(groups))
            values = np.full(len(groups), np.nan) if (model, metric) == ("mean", "cc") else values
            for group, value in zip([*groups, "all"], [*values, values.mean()], strict=True):
                ends = (value - 0.05, value + 0.07) if intervals or group == "all" else (np.nan, np.nan)
                name = f"95 % over {len(groups)} groups" if group == "all" else "95 % over spots"
                rows.append((model, features, group, "mean", metric, value, *ends, name, 42))
                rows.append((model, features, group, "Tumour", metric, value / 2, *ends, name, 42))
    columns = ["model", "features", "group", "cell_type", "metric", "value", "low", "high", "interval", "n_spots"]
    return pd.DataFrame(rows, columns=columns)


def bars(ax):
    """Heights by name of the run, in the order of the groups."""
    return {
        each.get_label(): [bar.get_height() for bar in sorted(each, key=lambda bar: bar.get_x())]
        for each in ax.containers
    }


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def ticks(ax):
    return [label.get_text() for label in ax.get_xticklabels()]


def test_bars_are_the_scores_of_each_group_and_their_mean():
    ax = hc.pl.group_scores(table())
    assert ticks(ax) == ["A", "B", "C", "mean\nof 3"]
    found = bars(ax)
    assert list(found) == ["mlp, conch", "mlp, uni", "hist2cell, image"]
    np.testing.assert_allclose(found["mlp, uni"], [0.2, 0.21, 0.22, 0.21])
    assert ax.get_ylabel() == "CC"
    bounds = [
        segment[:, 1] for each in ax.collections if isinstance(each, LineCollection) for segment in each.get_segments()
    ]
    assert len(bounds) == 3 * 4
    np.testing.assert_allclose(np.ptp(bounds, axis=1), 0.12)
    assert legend(ax)[3:] == ["95 % over spots or 95 % over 3 groups", "undefined (CC of training mean)"]


def test_runs_are_called_by_what_tells_them_apart():
    scores = table()
    assert list(bars(hc.pl.group_scores(scores, models="mlp"))) == ["conch", "uni"]
    assert list(bars(hc.pl.group_scores(scores, features="X_conch", metric="l1"))) == ["mlp", "training mean"]
    without = scores[scores["features"] != "X_uni"].drop(columns="features")
    assert list(bars(hc.pl.group_scores(without, metric="l1"))) == ["mlp", "hist2cell", "training mean"]


def test_the_training_mean_is_one_whatever_the_features():
    found = bars(hc.pl.group_scores(table(), metric="l1"))
    np.testing.assert_allclose(found["training mean"][:3], [0.4, 0.41, 0.42])


def test_several_metrics_share_names_and_legend():
    axes = hc.pl.group_scores(table(), metric=["cc", "l1"])
    assert [ax.get_ylabel() for ax in axes] == ["CC", "mean absolute error"]
    assert ticks(axes[0]) == [""] * 4
    assert axes[0].get_legend() is None
    assert legend(axes[1])[3] == "training mean"
    assert axes[1].get_ylim()[0] == 0


def test_a_chosen_cell_type_and_groups():
    ax = hc.pl.group_scores(table(), cell_type="Tumour", groups=["C", "all"], models="hist2cell")
    assert ax.get_title(loc="right") == "Tumour"
    assert ticks(ax) == ["C", "mean\nof 3"], "the mean is that over all groups"
    np.testing.assert_allclose(bars(ax)["hist2cell"], [0.16, 0.155])


def test_single_undefined_scores_are_crosses():
    scores = table()
    scores.loc[(scores["group"] == "B") & (scores["model"] == "hist2cell"), "value"] = np.nan
    ax = hc.pl.group_scores(scores, models=["mlp", "hist2cell"])
    (cross,) = (line for line in ax.lines if line.get_marker() == "x")
    assert np.rint(cross.get_xdata()).tolist() == [1]
    assert legend(ax)[-1] == "undefined"
    assert len(bars(ax)["hist2cell, image"]) == 3


def test_what_was_evaluated(spots):
    """The table of one held-out group has no rows but all."""
    one = table(["all"]).drop_duplicates(["model", "features", "cell_type", "metric"]).drop(columns="features")
    spots.uns["abundance_evaluation"] = one[one["model"] == "hist2cell"]
    ax = hc.pl.group_scores(spots)
    assert ticks(ax) == ["all"]
    assert len(bars(ax)["hist2cell"]) == 1


def test_table_of_a_benchmark(cohort):
    scores = hc.bench.leave_one_group_out(cohort, models=("mean", "ridge"), n_bootstrap=20, rng=0)
    axes = hc.pl.group_scores(scores, metric=["cc", "l1"])
    expected = scores.query("metric == 'l1' and cell_type == 'mean' and model == 'ridge'")["value"]
    np.testing.assert_allclose(bars(axes[1])["ridge"], expected)
    assert ticks(axes[1]) == ["P1", "P2", "P3", "P4", "mean\nof 4"]


def test_more_runs_than_colours_are_told_apart():
    runs = [("mlp", f"X_{index}") for index in range(12)]
    ax = hc.pl.group_scores(table(runs=runs))
    assert len({each[0].get_facecolor() for each in ax.containers}) == 12


@pytest.mark.parametrize("kind", ["2 x 2", "3 in", "constrained"])
@pytest.mark.parametrize("groups", [["A"], list("ABCDEFGH"), [f"{23200 + i}" for i in range(23)]])
def test_names_and_legend_have_room(kind, groups, user_axes, assert_inside, assert_apart):
    ax, others = user_axes(kind)
    hc.pl.group_scores(table(groups), metric="l1", ax=ax)
    assert_inside(ax, others)
    assert_apart(ax.get_xticklabels())
    box = ax.get_legend().get_window_extent()
    assert not any(box.overlaps(label.get_window_extent()) for label in ax.get_xticklabels())


def test_errors_say_what_there_is(spots):
    scores = table()
    with pytest.raises(ValueError, match="metric auc not found in the scores; available: cc, l1"):
        hc.pl.group_scores(scores, metric=["cc", "auc"])
    with pytest.raises(
        ValueError, match="features X_gigapath not found in the scores; available: X_conch, X_uni, image"
    ):
        hc.pl.group_scores(scores, features="X_gigapath")
    with pytest.raises(ValueError, match="cell_type B not found in the scores; available: mean, Tumour"):
        hc.pl.group_scores(scores, cell_type="B")
    with pytest.raises(ValueError, match="group Z not found in the scores; available: A, B, C, all"):
        hc.pl.group_scores(scores, groups=["A", "Z"])
    with pytest.raises(ValueError, match="several scores of 'mlp'"):
        hc.pl.group_scores(pd.concat([scores, scores]))
    with pytest.raises(ValueError, match="ax holds 1 axes; 2 metrics need 2"):
        hc.pl.group_scores(scores, metric=["cc", "l1"], ax=plt.figure().add_subplot())
    with pytest.raises(KeyError, match=r"hc\.tl\.evaluate_abundance"):
        hc.pl.group_scores(spots)


def test_scores_of_types_choose_features():
    scores = table()
    ax = hc.pl.scores(scores, models="mlp", features=["X_uni"])
    assert [text.get_text() for text in ax.get_legend().get_texts()][0] == "mlp"
    ax = hc.pl.scores(scores, models="mlp")
    assert [text.get_text() for text in ax.get_legend().get_texts()][:2] == ["conch", "uni"]


def test_looks(looks_like):
    axes = hc.pl.group_scores(table(), metric=["cc", "l1"])
    looks_like(axes[0], "group_scores")
