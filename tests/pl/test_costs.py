from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import histocell as hc
from histocell.pl._scores.costs import show_amount

COSTS = {
    "mlp": {"seconds": 553, "peak_memory_mb": 1210, "peak_gpu_memory_mb": 570, "n_parameters": 3.62e6},
    "hist2cell": {"seconds": 10299, "peak_memory_mb": 8100, "peak_gpu_memory_mb": 44951, "n_parameters": 14232064},
    "ridge": {"seconds": 0.83, "peak_memory_mb": 640, "n_parameters": 46080},
    "mean": {"seconds": 0.002, "peak_memory_mb": 600, "peak_gpu_memory_mb": 0, "n_parameters": 30},
}


def table(costs=COSTS, n_groups=2):
    rows = []
    for model, values in costs.items():
        for metric, value in values.items():
            single = value / 2 if metric == "seconds" else value
            rows += [(model, f"P{index}", metric, single * (0.8 + 0.4 * index)) for index in range(n_groups)]
            rows.append((model, "all", metric, value))
    return pd.DataFrame(rows, columns=["model", "group", "metric", "value"]).assign(
        cell_type="mean", low=np.nan, high=np.nan, interval="none"
    )


def texts(ax):
    return [text.get_text() for text in ax.texts]


@pytest.mark.parametrize(
    ("value", "metric", "text"),
    [
        (553, "seconds", "9 min 13 s"),
        (10299, "seconds", "2 h 51 min"),
        (59.96, "seconds", "1 min 0 s"),
        (3599.7, "seconds", "1 h 0 min"),
        (0.0021, "seconds", "0.0021 s"),
        (14, "seconds", "14.0 s"),
        (570, "peak_memory_mb", "570 MB"),
        (44951, "peak_gpu_memory_mb", "45.0 GB"),
        (9999.7, "peak_gpu_memory_mb", "10.0 GB"),
        (0, "peak_gpu_memory_mb", "0 MB"),
        (14232064, "n_parameters", "14.2 M"),
        (999999, "n_parameters", "1 M"),
        (30, "n_parameters", "30"),
        (0, "n_parameters", "0"),
        (np.nan, "seconds", "unknown"),
    ],
)
def test_amounts_are_written_as_people_write_them(value, metric, text):
    assert show_amount(value, metric) == text


def test_dots_are_the_totals_and_ticks_the_groups():
    axes = hc.pl.costs(table())
    assert [ax.get_title(loc="left") for ax in axes] == [
        "training time",
        "peak memory",
        "peak GPU memory",
        "parameters",
    ]
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["mlp", "hist2cell", "ridge", "training mean"]
    assert texts(axes[0]) == ["9 min 13 s", "2 h 51 min", "0.83 s", "0.002 s"]
    assert texts(axes[2]) == ["570 MB", "45.0 GB", "unknown", "0 MB"]
    dots = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes[0].lines if line.get_marker() == "o"]
    assert dots == [(553, 0), (10299, 1), (0.83, 2), (0.002, 3)]
    (first, *_) = (line for line in axes[0].lines if line.get_marker() == "|")
    np.testing.assert_allclose(first.get_xdata(), [553 * 0.4, 553 * 0.6])
    assert axes[0].get_xscale() == "log"
    assert all(ax.get_xlim()[0] > 0 for ax in axes)


def test_without_a_total_the_mean_of_the_groups_is_shown():
    axes = hc.pl.costs(table().query("group != 'all'"), metrics="seconds")
    assert texts(axes[0])[0].startswith("4 min 3")


def test_what_nobody_measured_has_no_panel():
    cpu = table({"ridge": COSTS["ridge"]})
    assert len(hc.pl.costs(cpu)) == 3
    with pytest.raises(ValueError, match="metric peak_gpu_memory_mb not found in the costs; available: seconds"):
        hc.pl.costs(cpu, metrics="peak_gpu_memory_mb")
    with pytest.raises(ValueError, match="the table holds no costs .* but: cc"):
        hc.pl.costs(cpu.assign(metric="cc").drop_duplicates("group"))


@pytest.mark.parametrize("kind", ["2 x 2", "3 in", "constrained"])
@pytest.mark.parametrize("k", [1, 4, 30])
def test_names_have_room(kind, k, user_axes, assert_inside, assert_apart):
    costs = {f"model {index} of many": {"seconds": 10.0**index / 1e3} for index in range(k)}
    ax, others = user_axes(kind)
    hc.pl.costs(table(costs), ax=ax, title="her2st")
    assert_inside(ax, others)
    assert_apart(ax.get_yticklabels())
    assert_apart(ax.texts)


def test_axes_of_the_user():
    with pytest.raises(ValueError, match="ax holds 2 axes; 4 metrics need 4"):
        hc.pl.costs(table(), ax=plt.subplots(1, 2)[1])


def test_looks(looks_like):
    looks_like(hc.pl.costs(table())[0], "costs")
