from __future__ import annotations

import json
import logging
import warnings
from typing import TYPE_CHECKING

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from spatialdata import read_zarr

import histocell as hc
from histocell._core import keys
from histocell.encoders.spec import IMAGENET_MEAN, IMAGENET_STD
from histocell.images.slide_image import open_image

if TYPE_CHECKING:
    from pathlib import Path

MPP, PITCH_UM = 0.5, 100.0


class Mean(torch.nn.Module):
    """The mean of each channel, an embedding that can be computed by hand."""

    def forward(self, images):
        return images.mean(dim=(2, 3))


def write_sample(folder: Path, name: str, *, metadata: dict, n: int = 5) -> None:
    """A sample of n x n spots, 100 um apart at 0.5 um per px, on a slide of random pixels, with patches of most spots."""
    rng = np.random.default_rng(len(name))
    step = PITCH_UM / MPP
    row, column = (grid.ravel() for grid in np.mgrid[:n, :n])
    xy = np.column_stack([column, row]) * step + 300
    obs = pd.DataFrame(
        {"in_tissue": True, "array_row": row, "array_col": column}, index=[f"{i:03d}x" for i in range(n * n)]
    )
    adata = ad.AnnData(rng.poisson(1, (n * n, 4)).astype(np.float64), obs=obs, obsm={"spatial": xy})
    adata.var_names = ["G1", "G2", "G3", "G3"] if name == "TENX1" else ["G1", "G2", "G3", "G4"]
    adata.uns["spatial"] = {"ST": {"images": {"downscaled_fullres": np.zeros((4, 4, 3), np.uint8)}}}
    for part in ("st", "wsis", "metadata", "patches"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    adata.write_h5ad(folder / "st" / f"{name}.h5ad")
    pixels = rng.integers(0, 255, (1400, 1500, 3), dtype=np.uint8)
    tifffile.imwrite(folder / "wsis" / f"{name}.tif", pixels, tile=(256, 256), photometric="rgb")
    (folder / "metadata" / f"{name}.json").write_text(json.dumps(metadata))
    order = rng.permutation(n * n)[:-3]  # not the order of the spots, three without a patch
    corners = (xy[order] - 112).astype(int)
    patches = [pixels[y : y + 224, x : x + 224] for x, y in corners]
    with h5py.File(folder / "patches" / f"{name}.h5", "w") as file:
        file["img"] = np.stack(patches)
        file["coords"] = corners
        file["barcode"] = np.array([[name.encode()] for name in adata.obs_names[order]])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "hest"
    common = {"pixel_size_um_estimated": MPP, "inter_spot_dist": 100.0, "spot_diameter": 55.0}
    write_sample(folder, "TENX1", metadata={**common, "st_technology": "Visium", "license": None})
    write_sample(folder, "NCBI22", metadata={**common, "st_technology": "Xenium", "spot_diameter": float("nan")})
    table = pd.DataFrame(
        {
            "dataset_title": ["Study", "Other, with a comma"],
            "id": ["TENX1", "NCBI22"],
            "patient": ["P1", None],
            "organ": ["Breast", "Lung"],
            "license": ["CC BY 4.0", None],
            "pixel_size_um_estimated": [99, 99],  # the file of the sample is more specific
        }
    )
    table.to_csv(folder / "HEST_v1_1_0.csv", index=False, encoding="utf-8-sig")
    return folder


def read_raw(folder: Path, name: str) -> ad.AnnData:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Variable names are not unique")
        return ad.read_h5ad(folder / "st" / f"{name}.h5ad")


def change(folder: Path, name: str, **facts) -> None:
    path = folder / "metadata" / f"{name}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


def test_sample(folder: Path, tmp_path: Path) -> None:
    sdata = hc.io.hest(folder, "TENX1")
    raw = read_raw(folder, "TENX1")
    table = sdata["table"]
    np.testing.assert_array_equal(table.X.toarray(), raw.X)
    assert table.X.dtype == np.float32
    assert table.var_names.is_unique
    np.testing.assert_array_equal(table.obsm["spatial"], raw.obsm["spatial"])
    assert set(table.obs["mpp"]) == {MPP}
    assert {name: set(table.obs[name]) for name in ("section", "patient", "organ", "st_technology")} == {
        "section": {"TENX1"},
        "patient": {"Study: P1"},
        "organ": {"Breast"},
        "st_technology": {"Visium"},
    }
    assert sdata["spots"]["radius"].iloc[0] == pytest.approx(55 / 2 / MPP)
    source = keys.read_provenance(table, "hest")["TENX1"]
    assert (source["license"], source["dataset_title"]) == ("CC BY 4.0", "Study")
    assert keys.read_provenance(table, "mpp")["spots"] == [MPP, "metadata"]
    image = open_image(sdata["he"])
    assert image.mpp == MPP
    pixels = tifffile.imread(folder / "wsis" / "TENX1.tif")
    np.testing.assert_array_equal(image.read(100, 200, 300, 500), pixels[100:300, 200:500])
    sdata.validate_table_in_spatialdata(table)
    sdata.write(tmp_path / "s.zarr")
    assert keys.read_provenance(read_zarr(tmp_path / "s.zarr")["table"], "hest")["TENX1"] == source


def test_pseudo_spots_without_patient_or_diameter(folder: Path) -> None:
    table = hc.io.hest(folder, "NCBI22")["table"]
    assert set(table.obs["patient"]) == {"Other, with a comma"}
    assert "license" not in keys.read_provenance(table, "hest")["NCBI22"]


def test_several_samples_embed_from_their_patches(folder: Path) -> None:
    sdata = hc.io.hest(folder, ["TENX1", "NCBI22"])
    assert set(sdata.shapes) == {"spots-TENX1", "spots-NCBI22"}
    table = sdata["table"]
    with pytest.warns(UserWarning, match="6 of 50 rows have no patch"):
        hc.pp.embed_patches(sdata, Mean(), device="cpu", precision="fp32", key_added="X_mean")
    for name in ("TENX1", "NCBI22"):
        pixels = tifffile.imread(folder / "wsis" / f"{name}.tif")
        with h5py.File(folder / "patches" / f"{name}.h5") as file:
            there = {raw[0].decode() for raw in file["barcode"][()]}
        raw = read_raw(folder, name)
        rows = np.flatnonzero(table.obs["section"] == name)
        for row, barcode, (x, y) in zip(rows, raw.obs_names, raw.obsm["spatial"].astype(int), strict=True):
            patch = pixels[y - 112 : y + 112, x - 112 : x + 112] / 255
            mean = (patch.mean(axis=(0, 1)) - IMAGENET_MEAN) / IMAGENET_STD
            expected = mean if barcode in there else np.full(3, np.nan)
            np.testing.assert_allclose(table.obsm["X_mean"][row], expected, atol=1e-4)
    facts = keys.read_provenance(table, "X_mean")
    assert (facts["size_um"], facts["mpp"], facts["stain"]) == (112, 0.5, "none")


def test_patches_equal_those_of_the_slide(folder: Path) -> None:
    sdata = hc.io.hest(folder, "TENX1")
    with pytest.warns(UserWarning, match="3 of 25"):
        ours = hc.pp.embed_patches(sdata, Mean(), device="cpu", precision="fp32", inplace=False)
    hc.pp.patches(sdata)
    slide = hc.pp.embed_image(sdata, Mean(), device="cpu", precision="fp32", inplace=False)
    has = np.isfinite(ours).all(axis=1)
    np.testing.assert_allclose(ours[has], slide[has], atol=1e-4)


def test_no_slide(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "wsis" / "TENX1.tif").unlink()
    with caplog.at_level(logging.INFO, logger="histocell"):
        sdata = hc.io.hest(folder, "TENX1")
    assert "hc.pp.embed_patches" in caplog.text
    assert not sdata.images
    (folder / "patches" / "TENX1.h5").unlink()
    with pytest.warns(UserWarning, match=r"neither a slide \(wsis/TENX1.tif\) nor patches"):
        sdata = hc.io.hest(folder, "TENX1")
    with pytest.raises(FileNotFoundError, match="no file of patches of TENX1"):
        hc.pp.embed_patches(sdata, Mean())


def test_contradicting_resolution(folder: Path) -> None:
    change(folder, "NCBI22", pixel_size_um_estimated=0.2125)
    with pytest.warns(UserWarning, match=r"0\.2125 um per px by what is stated, but 0\.5 by its spots"):
        sdata = hc.io.hest(folder, "NCBI22")
    assert set(sdata["table"].obs["mpp"]) == {0.5}
    assert keys.read_provenance(sdata["table"], "mpp")["spots"] == [0.5, "spot pitch"]
    assert set(hc.io.hest(folder, "NCBI22", mpp=0.21)["table"].obs["mpp"]) == {0.21}
    (folder / "HEST_v1_1_0.csv").unlink()
    change(folder, "NCBI22", pixel_size_um_estimated=None, pixel_size_um_embedded=0.51)
    assert set(hc.io.hest(folder, "NCBI22")["table"].obs["mpp"]) == {0.51}
    change(folder, "NCBI22", inter_spot_dist=None, pixel_size_um_embedded=1)
    with pytest.warns(UserWarning, match="lie 100 um apart; going on with 0.5"):
        hc.io.hest(folder, "NCBI22")


def test_what_is_missing(folder: Path) -> None:
    with pytest.raises(ValueError, match="2 samples, name those to read: NCBI22, TENX1"):
        hc.io.hest(folder)
    with pytest.raises(FileNotFoundError, match=r"has no st/TENX9\.h5ad; samples there: NCBI22, TENX1"):
        hc.io.hest(folder, "TENX9")
    with pytest.raises(ValueError, match="single sample"):
        hc.io.hest(folder, ["TENX1", "NCBI22"], mpp=0.5)
    with pytest.raises(ValueError, match="each once"):
        hc.io.hest(folder, ["TENX1", "TENX1"])
    with pytest.raises(FileNotFoundError, match=r"no st/<id>\.h5ad.*TENX1\.tif"):
        hc.io.hest(folder / "wsis")
    (folder / "HEST_v1_1_0.csv").unlink()
    (folder / "metadata" / "TENX1.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither metadata/TENX1\.json nor a HEST_\*\.csv"):
        hc.io.hest(folder, "TENX1")
    change(
        folder, "NCBI22", pixel_size_um_estimated=None, inter_spot_dist=None, st_technology="Spatial Transcriptomics"
    )
    with pytest.raises(ValueError, match="NCBI22 is stated nowhere; give mpp="):
        hc.io.hest(folder, "NCBI22")


def test_truncated_files(folder: Path) -> None:
    sdata = hc.io.hest(folder, "TENX1")
    for part, call in (
        ("patches", lambda: hc.pp.embed_patches(sdata, Mean(), device="cpu")),
        ("st", lambda: hc.io.hest(folder, "TENX1")),
    ):
        path = next((folder / part).glob("TENX1.*"))
        path.write_bytes(path.read_bytes()[:3000])
        with pytest.raises(OSError, match=rf"TENX1\.{path.suffix[1:]}: the file is damaged or truncated"):
            call()


def test_patches_of_something_else(folder: Path) -> None:
    path = folder / "patches" / "TENX1.h5"
    sdata = hc.io.hest(folder, "TENX1")
    with h5py.File(path, "a") as file:
        names = file["barcode"][()]
        file["barcode"][...] = np.tile(names[0], (len(names), 1))
    with pytest.raises(ValueError, match="21 of them repeated"):
        hc.pp.embed_patches(sdata, Mean(), device="cpu")
    with h5py.File(path, "a") as file:
        file["barcode"][...] = np.char.add(b"z", names.astype("S3"))
    with pytest.raises(ValueError, match="no barcode of"):
        hc.pp.embed_patches(sdata, Mean(), device="cpu")
    with h5py.File(path, "a") as file:
        del file["img"]
    with pytest.raises(ValueError, match="expected img and barcode, it holds barcode, coords"):
        hc.pp.embed_patches(sdata, Mean(), device="cpu")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        hc.pp.embed_patches(sdata, Mean(), file=folder / "x.h5", device="cpu")


@pytest.mark.parametrize("text", ["", '{"a": 1', "[1, 2]"])
def test_damaged_metadata_are_named(folder: Path, text: str) -> None:
    (folder / "metadata" / "TENX1.json").write_text(text)
    with pytest.raises(OSError, match=r"TENX1\.json: the file is damaged or truncated"):
        hc.io.hest(folder, "TENX1")


def test_spots_that_share_a_name(folder: Path) -> None:
    path = folder / "st" / "TENX1.h5ad"
    adata = read_raw(folder, "TENX1")
    adata.obs_names = ["a", *adata.obs_names[:-1]]
    adata.obs_names = adata.obs_names.where(adata.obs_names != adata.obs_names[2], "a")
    adata.write_h5ad(path)
    with pytest.raises(ValueError, match=r"TENX1\.h5ad: each spot needs a name of its own; repeated or missing: a"):
        hc.io.hest(folder, "TENX1")


def test_an_h5ad_without_coordinates_is_named(folder: Path) -> None:
    adata = read_raw(folder, "TENX1")
    del adata.obsm["spatial"]
    adata.write_h5ad(folder / "st" / "TENX1.h5ad")
    with pytest.raises(KeyError, match=r"TENX1\.h5ad: obsm\[\"spatial\"\] not found"):
        hc.io.hest(folder, "TENX1")


def test_patches_of_another_type_are_named(folder: Path) -> None:
    with h5py.File(folder / "patches" / "TENX1.h5", "r+") as file:
        images = file["img"][()] / 255
        del file["img"]
        file["img"] = images
    sdata = hc.io.hest(folder, "TENX1")
    with pytest.raises(ValueError, match=r"TENX1\.h5: img must be uint8 .* it is float64"):
        hc.pp.embed_patches(sdata, Mean(), device="cpu")
