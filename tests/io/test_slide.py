from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from spatialdata import read_zarr

import histocell as hc
from histocell.images.slide_image import open_image


@pytest.fixture
def pixels() -> np.ndarray:
    y, x = np.mgrid[:1001, :2305]
    return np.stack([x / 10, y / 5, (x + y) / 15], axis=-1).astype(np.uint8)


@pytest.fixture
def pyramid(tmp_path: Path, pixels: np.ndarray) -> Path:
    path = tmp_path / "slide.ome.tif"
    with tifffile.TiffWriter(path) as tiff:
        options = {"tile": (256, 256), "photometric": "rgb", "compression": "zlib"}
        tiff.write(pixels, subifds=1, metadata={"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}, **options)
        tiff.write(pixels[:1000:4, :2304:4], subfiletype=1, **options)
    return path


def test_pyramid(pyramid: Path, pixels: np.ndarray, tmp_path: Path) -> None:
    sdata = hc.io.slide(pyramid)
    assert not sdata.tables
    image = open_image(sdata["he"])
    assert image.shape == (1001, 2305)
    assert image.levels == [1, 4]
    assert image.mpp == pytest.approx(0.5)
    np.testing.assert_array_equal(image.read(900, 2000, 1001, 2305), pixels[900:, 2000:])
    np.testing.assert_allclose(image.read(0, 0, 800, 800, mpp=2.0), pixels[:800:4, :800:4], atol=1)
    sdata.write(tmp_path / "s.zarr")
    again = open_image(read_zarr(tmp_path / "s.zarr")["he"])
    np.testing.assert_array_equal(again.read(900, 2000, 1001, 2305), pixels[900:, 2000:])
    assert again.mpp == pytest.approx(0.5)


def test_picture(tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(pixels).save(tmp_path / "he.png")
    decoded = []
    from histocell.images.formats import raster

    real = raster._decode
    monkeypatch.setattr(raster, "_decode", lambda path: decoded.append(path) or real(path))
    with pytest.raises(ValueError, match=r"he\.png does not say its resolution; give mpp="):
        hc.io.slide(tmp_path / "he.png")
    sdata = hc.io.slide(tmp_path / "he.png", mpp=0.7, section="S1")
    assert set(sdata.images) == {"he-S1"}
    assert decoded == []
    image = open_image(sdata["he-S1"])
    assert image.mpp == pytest.approx(0.7)
    np.testing.assert_array_equal(image.read(900, 2000, 1001, 2305), pixels[900:, 2000:])
    image.thumbnail()
    open_image(sdata["he-S1"]).background  # noqa: B018
    assert len(decoded) == 1


def test_section(pyramid: Path, tmp_path: Path) -> None:
    for section, label in ((None, "slide"), ("A 1", "A 1")):
        sdata = hc.io.slide(pyramid, section=section)
        hc.pp.tiles(sdata, size_um=100, min_tissue=0)
        sdata.write(tmp_path / f"{label}.zarr")
        sdata = read_zarr(tmp_path / f"{label}.zarr")
        assert set(sdata["tile_table"].obs["section"]) == {label}
        hc.pp.tiles(sdata, size_um=200, min_tissue=0)
        assert set(sdata["tile_table"].obs["section"]) == {label}
    hc.pp.normalize_stain(sdata, method="reinhard", key_added="normalised")
    tiles = hc.pp.tiles(sdata, image_key="normalised", min_tissue=0, inplace=False)
    assert set(tiles["tile_table"].obs["section"]) == {"A 1"}


def test_an_array_is_no_slide(pixels: np.ndarray) -> None:
    with pytest.raises(TypeError, match=r"not ndarray; an image in memory goes with its spots into hc.io.from_anndata"):
        hc.io.slide(pixels, mpp=0.5)


def test_a_file_that_changed(tmp_path: Path, pixels: np.ndarray) -> None:
    path = tmp_path / "he.png"
    Image.fromarray(pixels).save(path)
    sdata = hc.io.slide(path, mpp=0.7)
    os.utime(path, (1, 1))
    with pytest.raises(OSError, match="changed since it was opened"):
        open_image(sdata["he"]).read(0, 0, 5, 5)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs the list of open files that Linux keeps")
def test_files_are_closed(pyramid: Path) -> None:
    image = open_image(pyramid)
    image.read(0, 0, 5, 5)
    del image
    gc.collect()
    open_files = {link.resolve() for link in Path("/proc/self/fd").iterdir()}
    assert pyramid.resolve() not in open_files


def test_aperio(data_dir: Path) -> None:
    path = data_dir / "slides" / "CMU-1-Small-Region.svs"
    image = open_image(hc.io.slide(path)["he"])
    assert image.mpp == pytest.approx(0.499)
    np.testing.assert_array_equal(image.read(700, 500, 900, 800), open_image(path).read(700, 500, 900, 800))
