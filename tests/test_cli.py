from __future__ import annotations

import anndata as ad
import pandas as pd
import pytest
from typer.testing import CliRunner

import histocell as hc
from histocell.cli import app


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_version():
    assert run("--version").output.strip() == hc.__version__


def test_demo_writes_what_it_says(tmp_path, monkeypatch):
    small = hc.datasets.synthetic_tissue
    monkeypatch.setattr(
        hc.datasets,
        "synthetic_tissue",
        lambda n, **kwargs: small(n, size_px=700, spot_pitch_um=50, spot_diameter_um=50, **kwargs),
        raising=False,
    )
    result = run("demo", "--out", str(tmp_path / "out"), "--model", "ridge")
    assert result.exit_code == 0, result.output
    for name in ("spots.h5ad", "scores.csv", "abundance.png", "patches.png", "scores.png", "history.png"):
        assert (tmp_path / "out" / name).stat().st_size > 0
        assert name in result.output
    table = ad.read_h5ad(tmp_path / "out" / "spots.h5ad")
    assert "predicted_abundance" in table.obsm
    scores = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert {"ridge", "mean"} <= set(scores["model"])
    assert not list((tmp_path / "out").glob("*partial*"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--section", "B4"], "go together"),
        (["--train", "C2"], "go together"),
        (["--section", "C2", "--train", "C2", "C3"], "both predicted and trained on"),
    ],
)
def test_demo_asks_for_what_is_missing(arguments, says):
    result = run("demo", *arguments)
    assert result.exit_code == 2
    assert says in " ".join(result.output.split())


@pytest.mark.filterwarnings("ignore:all training rows come from one patient")
def test_demo_on_real_sections(tmp_path, data_dir, monkeypatch):
    monkeypatch.setattr(hc.settings, "data_dir", data_dir)
    result = run("demo", "--section", "C4", "--train", "C2", "C3", "--model", "ridge", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    scores = pd.read_csv(tmp_path / "scores.csv").query("metric == 'cc' and cell_type == 'mean' and model == 'ridge'")
    assert scores["value"].max() > 0.35
