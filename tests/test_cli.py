from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import tifffile
from spatialdata import read_zarr
from typer.testing import CliRunner

import histocell as hc
from histocell.cli import app
from histocell.images.slide_image import open_image

if TYPE_CHECKING:
    from pathlib import Path


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


@pytest.fixture
def slide(tissue, tmp_path) -> Path:
    image = open_image(tissue["he"])
    options = {"photometric": "rgb", "resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "a.tif", image.read(0, 0, *image.shape), **options)
    return tmp_path / "a.tif"


def test_embed(slide, tmp_path):
    broken = slide.with_name("broken.tif")
    broken.write_bytes(slide.read_bytes()[:1000])
    arguments = [
        *("embed", str(slide), str(broken), "--out", str(tmp_path / "out"), "--size-um", "60", "--overlap", "0.5"),
        *("--min-tissue", "0.5", "--mpp", "0.6", "--stain", "reinhard", "--encoder", "timm/resnet18"),
        *("--weights", "random", "--precision", "fp32", "--device", "cpu", "--batch-size", "8"),
    ]
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert "a.tif" in result.output
    assert "done" in result.output
    assert "broken.tif" in result.output
    assert "1 of 2 slides are in" in result.output
    table = read_zarr(tmp_path / "out" / "a.zarr")["tile_table"]
    assert str(table.n_obs) in result.output
    assert (table.obs["mpp"] == 0.6).all()
    assert table.obsm["X_resnet18"].shape == (table.n_obs, 512)
    assert (table.obs["tissue_fraction"] >= 0.5).all()
    assert set(np.unique(np.diff(np.unique(table.obsm["patches"][:, 0])))) == {50}
    again = run(*arguments, "--workers", "1")
    assert "skipped" in again.output
    without = run(*[argument for argument in arguments if argument != str(broken)])
    assert without.exit_code == 0


def test_embed_in_worker_processes(slide, tmp_path):
    other = slide.with_name("b.tif")
    other.write_bytes(slide.read_bytes())
    result = run("embed", str(slide), str(other), "--out", str(tmp_path / "out"), "--workers", "2")
    assert result.exit_code == 0, result.output
    assert result.output.count("done") == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--encoder", "unii"], "'unii' is not known"),
        (["--encoder", "uni", "--weights", "absent.pt"], "does not exist"),
        (["--stain", "magenta"], "magenta"),
    ],
)
def test_embed_says_what_is_wrong(slide, tmp_path, arguments, says):
    result = run("embed", str(slide), "--out", str(tmp_path / "out"), *arguments)
    assert result.exit_code == 2
    assert says in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_encoders_lists_all():
    result = run("encoders")
    assert result.exit_code == 0
    for name in hc.encoders.list_encoders().index:
        assert f" {name} " in result.output


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("morphology", ["none needed", "BSD-3-Clause"]),
        ("uni", ["1024 cls", "14 x 14 of 16 px", "huggingface.co/MahmoodLab/UNI", "hf auth login", "HF_TOKEN"]),
        ("UNI2", ["uni2-h", "1536"]),
        ("phikon", ["downloaded from", "without a network"]),
    ],
)
def test_encoders_shows_one(name, says):
    result = run("encoders", name)
    assert result.exit_code == 0
    text = " ".join(word for word in result.output.split() if word != "│")
    for part in says:
        assert part in text


def test_encoders_knows_what_it_does_not_know():
    result = run("encoders", "unii")
    assert result.exit_code == 2
    assert "did you mean uni" in " ".join(result.output.split())
