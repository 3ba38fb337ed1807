from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import tifffile
from spatialdata import read_zarr
from typer.testing import CliRunner

import histocell as hc
from histocell._core.outputs import RECORD
from histocell.cli import app
from histocell.cli.demo import RESULTS, run_demo
from histocell.cli.predict import encoder_name
from histocell.images.slide_image import open_image
from histocell.images.stain.normalize import TYPICAL, StainNormalizer

if TYPE_CHECKING:
    from pathlib import Path


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def visible(folder: Path) -> set[str]:
    """Names of the files in a folder, without the record of what was written."""
    return {path.name for path in folder.iterdir() if path.name != RECORD}


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
    assert visible(tmp_path / "out") == set(RESULTS)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    again = run("demo", "--out", str(tmp_path / "out"), "--model", "ridge")  # what it wrote itself it replaces
    assert again.exit_code == 0, again.output
    assert all(path.stat().st_mtime_ns > time for path, time in before.items())


@pytest.mark.parametrize("name", ["spots.h5ad", "scores.csv", "history.png"])
def test_demo_replaces_no_file_of_the_user(tmp_path, name):
    (tmp_path / name).write_bytes(b"mine")
    result = run("demo", "--out", str(tmp_path))
    assert result.exit_code == 2
    assert f"{name} would be replaced but was not written by histocell" in " ".join(result.output.split())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {name: b"mine"}


def test_demo_shows_what_is_in_the_way(tmp_path, user_sees):
    (tmp_path / "spots.h5ad").write_bytes(b"mine")
    with user_sees(
        "Files",
        "`histocell demo --out` a folder with a spots.h5ad of the user's",
        FileExistsError,
        match="not written by",
    ):
        run_demo(None, [], model="ridge", rng=0, out=tmp_path)
    assert (tmp_path / "spots.h5ad").read_bytes() == b"mine"


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


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> Path:
    """A model on patches of 60 um."""
    return fit(tmp_path_factory.mktemp("model") / "model")


def fit(folder: Path, **options) -> Path:
    sdata = hc.datasets.synthetic_tissue(2, size_px=700, spot_pitch_um=50, spot_diameter_um=50, rng=1)
    hc.pp.patches(sdata, size_um=60)
    hc.pp.embed_image(sdata, "morphology")
    hc.pp.split(sdata, fractions=(1, 0, 0))
    hc.tl.fit_abundance(sdata, model="ridge", rng=0, **options)
    hc.models.load(sdata).save(folder)
    return folder


KEY = "X_vit_tiny_patch16_224"


def predict_arguments(slide: Path, fitted: Path, out: Path) -> list[str]:
    return ["predict", str(slide), "--model", str(fitted), "--out", str(out)]


def test_predict(slide, fitted, tmp_path):
    broken = slide.with_name("broken.tif")
    broken.write_bytes(slide.read_bytes()[:1000])
    out = tmp_path / "out"
    result = run(*predict_arguments(slide, fitted, out), str(broken), "--overlap", "0.5", "--min-tissue", "0.5")
    assert result.exit_code == 1, result.output
    assert "1 of 2 slides are in" in result.output
    assert visible(out) == {"a.zarr", "a.png", "means.csv"}
    table = read_zarr(out / "a.zarr")["tile_table"]
    predicted = hc.get.abundance(table)
    assert np.isfinite(predicted.to_numpy()).all()
    assert (table.obs["tissue_fraction"] >= 0.5).all()
    assert set(table.obs["section"]) == {"a"}
    sdata = hc.io.slide(slide)
    hc.pp.tissue_mask(sdata)
    hc.pp.tiles(sdata, size_um=60, overlap=0.5, min_tissue=0.5)
    hc.pp.embed_image(sdata, "morphology")
    hc.tl.predict_abundance(sdata, model=fitted)
    np.testing.assert_allclose(predicted, sdata["tile_table"].obsm["predicted_abundance"], rtol=1e-4, atol=1e-4)
    means = pd.read_csv(out / "means.csv", index_col="slide")
    assert means.loc["a", "n_tiles"] == table.n_obs
    np.testing.assert_allclose(means.loc["a", predicted.columns].astype(float), predicted.mean(), rtol=1e-6)
    assert means.loc["a", "novelty"] == pytest.approx(
        table.obs["predicted_abundance_novelty"].median()
    )  # kept, not only said


def test_means_of_earlier_runs_stay(slide, fitted, tmp_path):
    out, other = tmp_path / "out", slide.with_name("NA.tif")  # a name that pandas takes for a missing value
    other.write_bytes(slide.read_bytes())
    assert run(*predict_arguments(slide, fitted, out)).exit_code == 0
    assert run(*predict_arguments(other, fitted, out)).exit_code == 0
    means = pd.read_csv(out / "means.csv", index_col="slide", keep_default_na=False)
    assert list(means.index) == ["a", "NA"]
    np.testing.assert_array_equal(means.loc["a"], means.loc["NA"])
    assert run(*predict_arguments(slide, fitted, out)).exit_code == 0
    assert set(pd.read_csv(out / "means.csv", keep_default_na=False)["slide"]) == {"a", "NA"}
    shutil.rmtree(out / "a.zarr")
    assert run(*predict_arguments(other, fitted, out)).exit_code == 0
    assert list(pd.read_csv(out / "means.csv", keep_default_na=False)["slide"]) == ["NA"]


@pytest.mark.filterwarnings("always:the model standardises")
def test_predict_says_where_means_do_not_tell_slides_apart(slide, tmp_path):
    """As in the README: features are standardised within slides."""
    model = fit(tmp_path / "model", standardize_by="section")
    result = run(*predict_arguments(slide, model, tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert "means over slides (means.csv) come out alike, whatever is on them" in " ".join(result.output.split())


@pytest.mark.parametrize("stain", ["macenko", StainNormalizer("reinhard", TYPICAL["reinhard"])])
def test_predict_embeds_as_the_model_was_fitted(slide, tmp_path, stain):
    sdata = hc.io.slide(slide)
    hc.pp.tiles(sdata, size_um=40)
    hc.pp.embed_image(sdata, "timm/vit_tiny_patch16_224", weights="random", stain=stain, pool="mean", precision="fp32")
    table = sdata["tile_table"]
    table.obsm["cell_abundance"] = pd.DataFrame({"a": table.obs["tissue_fraction"] + table.obsm["spatial"][:, 0]})
    hc.pp.split(sdata, block_um=100, fractions=(0.9, 0, 0.1), rng=0)
    with pytest.warns(UserWarning, match="one group"):
        hc.tl.fit_abundance(sdata, model="ridge", rng=0)
    model = hc.models.load(sdata)
    assert model.features[0]["library"] == "timm"
    model.save(tmp_path / "model")
    arguments = [*predict_arguments(slide, tmp_path / "model", tmp_path / "out"), "--precision", "fp32"]
    result = run(*arguments, "--weights", "random")
    assert result.exit_code == 0, result.output
    found = read_zarr(tmp_path / "out" / "a.zarr")["tile_table"]
    np.testing.assert_allclose(found.obsm[KEY], table.obsm[KEY], atol=1e-4)
    assert np.isfinite(found.obsm["predicted_abundance"]).all(axis=None)


@pytest.mark.parametrize(
    ("encoder", "library", "name"),
    [
        ("uni", "timm", "uni"),
        ("resnet18", "timm", "timm/resnet18"),
        ("lazyslide-plip", "lazyslide", "lazyslide:plip"),
        ("plip", "lazyslide", "lazyslide:plip"),
    ],
)
def test_predict_finds_the_encoder_again(encoder, library, name):
    assert encoder_name({"encoder": encoder, "library": library}) == name


def test_predict_cannot_find_a_module_again():
    with pytest.raises(ValueError, match="'mine', which `histocell predict` cannot load"):
        encoder_name({"encoder": "mine", "library": "module"})


@pytest.mark.parametrize("name", ["a.png", "means.csv"])
def test_predict_replaces_no_file_of_the_user(slide, fitted, tmp_path, name):
    """A folder that holds the slides themselves, or tables and pictures of the user's, is refused before any work."""
    out = tmp_path / "out"
    out.mkdir()
    file = out / name
    if name == "a.png":
        plt.imsave(file, np.zeros((4, 4, 3)))
    else:
        file.write_text("patient,mean\nP1,3\n")
    before = file.read_bytes()
    result = run(*predict_arguments(slide, fitted, out))
    assert result.exit_code == 2
    assert "was not written by" in result.output
    assert file.read_bytes() == before
    assert {path.name for path in out.iterdir()} == {name}


def test_predict_replaces_no_table_that_was_edited(slide, fitted, tmp_path):
    out = tmp_path / "out"
    assert run(*predict_arguments(slide, fitted, out)).exit_code == 0
    table = (out / "means.csv").read_text()
    (out / "means.csv").write_text(table.replace("\na,", "\na (blurred),"))
    before = (out / "means.csv").read_bytes()
    result = run(*predict_arguments(slide, fitted, out))
    assert result.exit_code == 2
    assert "was changed since" in " ".join(result.output.split())
    assert (out / "means.csv").read_bytes() == before


def test_predict_keeps_what_was_added_to_a_result(slide, fitted, tmp_path):
    out = tmp_path / "out"
    assert run("embed", str(slide), "--out", str(out), "--size-um", "60").exit_code == 0
    (out / "a.zarr" / "notes.txt").write_text("mine")
    result = run(*predict_arguments(slide, fitted, out))
    assert result.exit_code == 0, result.output
    assert (out / "a.zarr" / "notes.txt").read_text() == "mine"
    assert "predicted_abundance" in read_zarr(out / "a.zarr")["tile_table"].obsm


@pytest.mark.parametrize("damage", ["lost chunk", "half of the table"])
def test_predict_from_a_damaged_result(slide, fitted, tmp_path, damage):
    out = tmp_path / "out"
    assert run(*predict_arguments(slide, fitted, out)).exit_code == 0
    table = out / "a.zarr" / "tables" / "tile_table"
    if damage == "lost chunk":
        next(
            path for path in (table / "obsm" / "X_morphology").rglob("*") if path.is_file() and path.suffix != ".json"
        ).unlink()
    else:
        shutil.rmtree(table / "obs")
    result = run(*predict_arguments(slide, fitted, out))
    assert result.exit_code == 1
    assert "failed" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("step", ["replace_store", "draw_map"])
def test_predict_goes_on_after_it_was_killed(slide, fitted, tmp_path, step):
    out = tmp_path / "out"
    arguments = predict_arguments(slide, fitted, out)
    # the process ends with the old store gone, or with the store written and no map
    kill = {"replace_store": "shutil.rmtree(output) or os._exit(9)", "draw_map": "os._exit(9)"}[step]
    script = f"import os, shutil; from histocell.cli import app, predict; predict.{step} = lambda sdata, output, *_: {kill}; app({arguments})"
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert killed.returncode == 9, killed.stderr
    again = run(*arguments)
    assert again.exit_code == 0, again.output
    assert ("done" if step == "replace_store" else "skipped") in again.output
    assert visible(out) == {"a.zarr", "a.png", "means.csv"}
    stamps = {path: path.stat().st_mtime_ns for path in (out / "a.zarr", out / "a.png")}
    third = run(*arguments)
    assert "skipped" in third.output
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    # the features of `embed` are the same, and another model predicts from them
    other = fitted.parent / "other"
    model = hc.models.load(fitted)
    model.facts["note"] = "another"
    model.save(other, overwrite=True)
    fourth = run(*predict_arguments(slide, other, out))
    assert "skipped" in fourth.output
    assert (out / "a.png").stat().st_mtime_ns > stamps[out / "a.png"]


def test_predict_says_what_is_wrong(slide, fitted, tmp_path):
    out = tmp_path / "out"
    result = run(*predict_arguments(slide, tmp_path / "absent", out))
    assert result.exit_code == 2
    assert "absent" in result.output
    model = hc.models.load(fitted)
    (feature,) = model.features
    del feature["columns"]
    model.features = [feature | {"dim": feature["dim"] - 7}, {**feature, "key": "X_uni", "encoder": "uni", "dim": 7}]
    model.save(tmp_path / "two")
    result = run(*predict_arguments(slide, tmp_path / "two", out))
    assert result.exit_code == 2
    assert "fitted on 2 embeddings (X_morphology, X_uni)" in " ".join(result.output.split())
    model.features = [{"key": "X_mine", "dim": feature["dim"]}]
    model.save(tmp_path / "mine")
    result = run(*predict_arguments(slide, tmp_path / "mine", out))
    assert result.exit_code == 2
    assert "does not know the encoder, size_um" in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert not out.exists()


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
