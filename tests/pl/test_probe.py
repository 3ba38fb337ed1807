from __future__ import annotations

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import histocell as hc


def table(models=("hest",)):
    base = {"IDC": 0.55, "PRAD": 0.36, "COAD": 0.28}
    rows = [
        {
            **{"task": task, "model": model, "features": encoder, "group": group, "gene": gene, "metric": "pearson"},
            **{"value": value + 0.02 * i - 0.01 * j, "low": value - 0.05, "high": value + 0.06},
            "interval": "95 % over 6 groups",
        }
        for task, value in base.items()
        for i, encoder in enumerate(["X_resnet50", "X_uni2-h", "uni2-h SEAL"])
        for j, model in enumerate(models)
        for group in ("P1", "all")
        for gene in ("EPCAM", "mean")
    ]
    frame = pd.DataFrame(rows)
    frame.loc[(frame["task"] == "COAD") & (frame["features"] == "X_resnet50"), ["value", "low", "high"]] = np.nan
    return frame


def labels(ax):
    return [[label.get_text() for label in each] for each in (ax.get_yticklabels(), ax.get_xticklabels())]


def test_looks(looks_like):
    looks_like(hc.pl.probe(table()), "probe")


def test_values_bounds_and_the_best():
    ax = hc.pl.probe(table())
    assert labels(ax) == [["resnet50", "uni2-h", "uni2-h SEAL"], ["IDC", "PRAD", "COAD"]]
    texts = {text.get_text(): text for text in ax.texts}
    assert {"0.550", "0.590", "0.320"} <= set(texts)
    assert texts["0.590"].get_weight() == "bold"
    assert texts["0.550"].get_weight() == "normal"
    assert sum(text.get_gid() == "bounds" for text in ax.texts) == 8  # one score is not defined
    assert ax.get_xlabel() == "95 % over 6 groups"
    assert not [text for text in hc.pl.probe(table(), intervals=False).texts if text.get_gid() == "bounds"]


def test_choices_and_protocols():
    ax = hc.pl.probe(table(("hest", "hest-cv")), tasks=["COAD", "IDC"], encoders=["uni2-h"])
    assert labels(ax) == [["uni2-h, hest", "uni2-h, hest-cv"], ["COAD", "IDC"]]
    result = SimpleNamespace(scores=table().rename(columns={"gene": "target"}))
    _, own = plt.subplots()
    assert hc.pl.probe(result, ax=own, title="HEST-Bench") is own
    assert own.get_title("left") == "HEST-Bench"


def test_what_cannot_be_shown():
    with pytest.raises(ValueError, match="no table of probes: column task not found"):
        hc.pl.probe(table().drop(columns="task"))
    with pytest.raises(ValueError, match="metric"):
        hc.pl.probe(table(), metric="auc")
    with pytest.raises(ValueError, match="task"):
        hc.pl.probe(table(), tasks="SKCM")
    with pytest.raises(ValueError, match="several scores of 'resnet50'"):
        hc.pl.probe(pd.concat([table(), table()]))
    with pytest.raises(ValueError, match=r"several tasks \(IDC, PRAD, COAD\).*hc\.pl\.probe"):
        hc.pl.group_scores(table(), metric="pearson")
