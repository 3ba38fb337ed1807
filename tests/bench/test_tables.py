from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import histocell as hc


def made(values, **more):
    """Scores of all groups: {(model, features): {metric: value}}."""
    rows = [
        {"model": model, "features": features, "metric": metric, "value": value}
        for (model, features), each in values.items()
        for metric, value in each.items()
    ]
    bounds = {"low": np.nan, "high": np.nan, "interval": "none"} | more
    return pd.DataFrame(rows).assign(group="all", cell_type="mean", **bounds)


PAPER = {
    ("mlp", "X_conch + X_uni"): {"l1": 0.57, "cc": 0.32},
    ("mlp", "X_conch"): {"l1": 0.60, "cc": 0.23},
    ("hist2cell", ""): {"l1": 0.77, "cc": 0.27},
}
OTHER = {
    ("mlp", "X_conch + X_uni"): {"l1": 0.55, "cc": 0.401},
    ("mlp", "X_conch"): {"l1": 0.551, "cc": 0.404},
    ("hist2cell", ""): {"l1": 0.61, "cc": np.nan},
}


def test_table_2():
    text = hc.bench.format_table({"her2st to STNet": made(PAPER), "STNet to her2st": made(OTHER)})
    assert text.splitlines() == [
        "| model | her2st to STNet: L1 ↓ | her2st to STNet: CC ↑ | STNet to her2st: L1 ↓ | STNet to her2st: CC ↑ |",
        "|---|---|---|---|---|",
        "| mlp, conch + uni | **0.57** | **0.32** | **0.55** | **0.40** |",
        "| mlp, conch | 0.60 | 0.23 | **0.55** | **0.40** |",
        "| hist2cell | 0.77 | 0.27 | 0.61 | – |",
    ]


def test_latex():
    scores = made({("a_b & c", "X"): {"l1": 0.5, "cc": 0.3}}, low=0.1, high=0.6, interval="95 % over 8 groups")
    assert hc.bench.format_table({"S_1": scores}, kind="latex", intervals=True).splitlines() == [
        r"\begin{tabular}{lcc}",
        r"\toprule",
        r" & \multicolumn{2}{c}{S\_1} \\",
        r"\cmidrule(lr){2-3}",
        r"model & L1 $\downarrow$ & CC $\uparrow$ \\",
        r"\midrule",
        r"a\_b \& c & \textbf{0.50 [0.10, 0.60]} & \textbf{0.30 [0.10, 0.60]} \\",
        r"\bottomrule",
        r"\multicolumn{3}{l}{\footnotesize In brackets: 95 \% over 8 groups.} \\",
        r"\end{tabular}",
    ]


def test_costs():
    first = {"peak_memory_mb": 570.2, "seconds": 365.4, "n_parameters": 3_622_430}
    second = {"peak_memory_mb": 44951.0, "seconds": 9.5, "n_parameters": 14_232_064}
    text = hc.bench.format_table(made({("mlp", "X"): first, ("hist2cell", "X"): second}), "costs")
    assert text.splitlines() == [
        "| model | memory | time | parameters |",
        "|---|---|---|---|",
        "| mlp | **570 MB** | 6m 5s | 3,622,430 |",
        "| hist2cell | 44,951 MB | **9.50s** | 14,232,064 |",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0123, "12ms"), (9.99, "9.99s"), (59.9, "59.9s"), (59.96, "1m 0s"), (23004, "383m 24s")]
)
def test_durations(seconds, text):
    assert text in hc.bench.format_table(made({("mlp", "X"): {"seconds": seconds}}), "seconds")


def test_what_is_best_is_not_guessed():
    scores = made({("a", "X"): {"coverage": 0.9, "own": 1.0}, ("b", "X"): {"coverage": 0.95, "own": 2.0}})
    assert "**" not in hc.bench.format_table(scores, ["coverage", "own"])
    assert "**" not in hc.bench.format_table(made(PAPER), bold=False)


def test_of_a_protocol(table):
    scores = hc.bench.leave_one_group_out(table, models=["mean", "ridge"], n_bootstrap=0)
    for metrics, width in (("accuracy", 2), ("colocalization", 2), ("costs", 3)):
        lines = hc.bench.format_table(scores, metrics).splitlines()
        assert [line.count("|") for line in lines] == [width + 2] * 4
    lines = hc.bench.format_table(scores, "cc", group="B", cell_type="c").splitlines()
    value = scores.query("model == 'ridge' and metric == 'cc' and group == 'B' and cell_type == 'c'")["value"].item()
    assert lines[-1] == f"| ridge | **{value:.2f}** |"


def test_errors():
    scores = made(PAPER)
    with pytest.raises(KeyError, match="metric l2 is not in the scores; available: l1, cc, or a table: accuracy"):
        hc.bench.format_table(scores, "l2")
    with pytest.raises(KeyError, match="metric colocalization_cosine, colocalization_correlation is not"):
        hc.bench.format_table(scores, "colocalization")
    with pytest.raises(KeyError, match="metric costs is not"):
        hc.bench.format_table(scores, "costs")
    with pytest.raises(KeyError, match="group 'P9' is not"):
        hc.bench.format_table(scores, group="P9")
    with pytest.raises(ValueError, match="kind must be markdown or latex"):
        hc.bench.format_table(scores, kind="html")
    with pytest.raises(ValueError, match="scores is empty"):
        hc.bench.format_table({})
