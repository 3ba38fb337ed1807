"""Adapters where the command line names encoders."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from spatialdata import read_zarr
from typer.testing import CliRunner

import histocell as hc
from histocell.cli import app
from histocell.encoders import adapters, registry

pytest.importorskip("peft")


def run(*arguments):
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_embed_and_predict_with_an_adapter(folder, tmp_path, monkeypatch):
    sdata = hc.datasets.synthetic_tissue(2, size_px=500, spot_pitch_um=50, spot_diameter_um=50, rng=1)
    hc.pp.patches(sdata, size_um=60)
    hc.pp.embed_image(sdata, hc.encoders.register_adapter(folder.path), device="cpu")
    hc.pp.split(sdata, by="section", test=[])
    hc.tl.fit_abundance(sdata, "X_tiny-breast", model="ridge", standardize_by=None)
    hc.models.load(sdata).save(tmp_path / "model")
    pixels = np.moveaxis(np.asarray(sdata["he-P1S1"]), 0, -1)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", tile=(128, 128))

    monkeypatch.setattr(registry, "_REGISTRY", {})  # another process
    slide, common = tmp_path / "a.tif", ("--mpp", "1.0", "--device", "cpu", "--min-tissue", "0")
    result = run("embed", slide, "--out", tmp_path / "out", "--encoder", folder.path, "--size-um", "60", *common)
    assert result.exit_code == 0, result.output
    table = read_zarr(tmp_path / "out" / "a.zarr")["tile_table"]
    digest = adapters.read_adapter(folder.path).digest
    assert hc.get.provenance(table, "X_tiny-breast")["adapter"] == digest

    monkeypatch.setattr(registry, "_REGISTRY", {})
    result = run("predict", slide, "--model", tmp_path / "model", "--out", tmp_path / "predicted", *common)
    assert result.exit_code == 2
    assert f"with the adapter {digest}; --adapter names its folder" in " ".join(result.output.split())
    options = ("--model", tmp_path / "model", "--out", tmp_path / "predicted", "--adapter", folder.path)
    result = run("predict", slide, *options, *common)
    assert result.exit_code == 0, result.output
    assert "tiny-breast" in run("encoders", folder.path).output
