"""Images of more than 8 bit: one range of values for the whole slide, stated, and to be given."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import dask.array as da
import numpy as np
import pytest
import tifffile
from anndata import AnnData
from PIL import Image
from spatialdata import read_zarr
from spatialdata.models import Image2DModel

import histocell as hc
from histocell.images.slide_image import open_image

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def wide() -> np.ndarray:
    """A 16-bit slide that is bright but for its middle, 1024 x 1024."""
    y, x = np.mgrid[:1024, :1024]
    pixels = np.stack([40000 + 20 * x, 30000 + 25 * y, 50000 + 5 * (x + y)], axis=-1).astype(np.uint16)
    pixels[512:768, 512:768] = 200  # the middle tile
    return pixels


def eight_bit(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.floor(np.clip((pixels - low) / (high - low), 0, 1) * 255 + 0.5)


def write(path: Path, pixels: np.ndarray, **options: object) -> Path:
    with tifffile.TiffWriter(path) as file:
        file.write(pixels, photometric="rgb", subifds=1, **options)
        file.write(pixels[::4, ::4], photometric="rgb", subfiletype=1, **options)
    return path


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(found.astype(float) - expected).max() <= 1


@pytest.mark.parametrize("tile", [128, 256])
def test_a_dark_middle_saturates_nothing(tmp_path: Path, wide: np.ndarray, tile: int) -> None:
    """The range came from the middle tile."""
    path = write(tmp_path / "a.tif", wide, tile=(tile, tile))
    tifffile.imwrite(tmp_path / "flat.tif", wide, photometric="rgb", tile=(tile, tile))
    for name in ("a.tif", "flat.tif"):
        image = open_image(tmp_path / name)
        assert_close(image.read(0, 0, 1024, 1024), eight_bit(wide, 0, 65535))
        assert image.intensity_range == (0, 65535)
    coarse = open_image(path).read(0, 0, 1024, 1024, out_shape=(256, 256))
    assert_close(coarse, eight_bit(wide[::4, ::4], 0, 65535))


def test_levels_share_the_range(wide: np.ndarray) -> None:
    """Each level of an element found its own, by its own middle."""
    dark = wide // 40
    dark[5, 5] = 20000  # so bright at full resolution alone
    element = Image2DModel.parse(dark.transpose(2, 0, 1), dims=("c", "y", "x"), scale_factors=[4])
    image = open_image(element)
    with pytest.warns(UserWarning, match=r"values reach 20000.*0 to 4095.*intensity_range"):
        fine = image.read(0, 0, 512, 512)
    assert fine[5, 5].tolist() == [255] * 3
    coarse = image.read(0, 0, 512, 512, out_shape=(128, 128))
    assert abs(float(fine.mean()) - float(coarse.mean())) < 1


def test_the_range_is_stated_and_kept(tmp_path: Path, wide: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "a.tif", wide // 16, tile=(256, 256))
    with caplog.at_level(logging.INFO, logger="histocell"):
        sdata = hc.io.slide(path, mpp=0.5)
    assert "a.tif: values from 0 to 4095 are read as black to white" in caplog.text
    assert sdata.attrs["histocell"]["intensity_range"] == {"he": [0, 4095]}
    adata = AnnData(np.ones((1, 1), np.float32), obsm={"spatial": np.array([[500.0, 500.0]])})
    placed = hc.io.from_anndata(adata, image=path, mpp=0.5)
    assert placed.attrs["histocell"]["intensity_range"] == {"he": [0, 4095]}
    given = hc.io.from_anndata(adata, image=hc.io.slide(path, mpp=0.5, intensity_range=(0, 5000))["he"], mpp=0.5)
    assert open_image(given["he"]).intensity_range == (0, 5000)
    sdata.write(tmp_path / "a.zarr")
    again = read_zarr(tmp_path / "a.zarr")
    assert again.attrs["histocell"]["intensity_range"] == {"he": [0, 4095]}
    assert_close(open_image(again["he"]).read(0, 0, 1024, 1024), eight_bit(wide // 16, 0, 4095))


def test_a_bright_spot_that_the_sample_missed_is_said(tmp_path: Path, wide: np.ndarray, user_sees) -> None:
    dark = wide // 40
    dark[700, 900] = 20000
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(dark, photometric="rgb", subifds=1, tile=(256, 256))
        file.write(dark[::4, 1::4], photometric="rgb", subfiletype=1, tile=(256, 256))
    sdata = hc.io.slide(tmp_path / "a.tif", mpp=0.5)
    assert sdata.attrs["histocell"]["intensity_range"] == {"he": [0, 4095]}
    image = open_image(sdata["he"])
    with user_sees("Slides", "a 16-bit slide brighter than its sample", UserWarning, match="values reach 20000"):
        image.read(600, 800, 800, 1000)
    given = hc.io.slide(tmp_path / "a.tif", mpp=0.5, intensity_range=(0, 4095))
    open_image(given["he"]).read(600, 800, 800, 1000)  # as asked for, so nothing is said


@pytest.mark.parametrize("name", ["a.tif", "strips.tif", "a.png"])
def test_a_given_range(tmp_path: Path, wide: np.ndarray, name: str) -> None:
    path, pixels = tmp_path / name, wide
    if name == "a.png":
        pixels = wide[..., :1]
        Image.fromarray(wide[..., 0]).save(path)
    elif name == "a.tif":
        write(path, wide, tile=(256, 256))
    else:
        tifffile.imwrite(path, wide, photometric="rgb")
    sdata = hc.io.slide(path, mpp=0.5, intensity_range=(30000, 60000))
    expected = np.broadcast_to(eight_bit(pixels.astype(float), 30000, 60000), wide.shape)
    image = open_image(sdata["he"])
    assert image.intensity_range == (30000, 60000)
    assert_close(image.read(0, 0, 1024, 1024), expected)
    element = sdata["he"]["scale0"]["image"] if name == "a.tif" else sdata["he"]
    assert_close(element.data[:, 300:700].compute(), expected[300:700].transpose(2, 0, 1))


def test_ranges_that_are_none(tmp_path: Path, wide: np.ndarray, user_sees) -> None:
    path = write(tmp_path / "a.tif", wide, tile=(256, 256))
    with user_sees(
        "Slides", "intensity_range= with white below black", ValueError, match="intensity_range must be two"
    ):
        hc.io.slide(path, mpp=0.5, intensity_range=(4095, 0))
    for given in ((0, np.nan), (0, np.inf), (5,), "ab"):
        with pytest.raises(ValueError, match="intensity_range must be two"):
            open_image(path, intensity_range=given)
    Image.fromarray((wide >> 8).astype(np.uint8)).save(tmp_path / "a.png")
    with user_sees("Slides", "intensity_range= for a PNG of 8 bit", ValueError, match="more than 8 bit"):
        open_image(tmp_path / "a.png", intensity_range=(0, 4095))


@pytest.mark.parametrize("top", [1.0, 255.0])
def test_floats(tmp_path: Path, wide: np.ndarray, top: float) -> None:
    pixels = (wide / 65535 * top).astype(np.float32)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", tile=(256, 256))
    assert_close(open_image(tmp_path / "a.tif").read(0, 0, 1024, 1024), eight_bit(pixels, 0, top))


def test_floats_of_another_range(tmp_path: Path, wide: np.ndarray, user_sees) -> None:
    pixels = (wide / 1000).astype(np.float32)
    for values in (pixels * 20, pixels / 40):
        tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", tile=(256, 256))
        with pytest.raises(ValueError, match=r"a\.tif: float pixels reach .* intensity_range="):
            open_image(tmp_path / "a.tif").read(0, 0, 9, 9)
    image = open_image(tmp_path / "a.tif", intensity_range=(0, 1.6384))
    assert_close(image.read(0, 0, 1024, 1024), eight_bit(values, 0, 1.6384))
    values = pixels / 70
    values[1000, 1000] = np.nan
    tifffile.imwrite(tmp_path / "nan.tif", values, photometric="rgb", tile=(256, 256))
    with user_sees("Slides", "a float TIFF with NaN", ValueError, match=r"nan\.tif: pixels are missing"):
        open_image(tmp_path / "nan.tif").read(0, 0, 9, 9)
    with pytest.raises(ValueError, match=r"nan\.tif: pixels are missing"):
        open_image(tmp_path / "nan.tif", intensity_range=(0, 1)).read(990, 990, 1010, 1010)


def test_packed_bits_are_known(tmp_path: Path) -> None:
    """12 bits per sample are 12, however dark the image."""
    values = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) % 200
    bits = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(64, 64, 2), axis=-1)[..., 4:]
    data = np.packbits(bits.reshape(64, -1), axis=-1).tobytes()
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((64, 64), np.uint16), photometric="minisblack", metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        tags, offset = file.pages[0].tags, file.pages[0].dataoffsets[0]
        tags["BitsPerSample"].overwrite(12)
        tags["StripByteCounts"].overwrite(len(data))
    with (tmp_path / "a.tif").open("r+b") as file:
        file.seek(offset)
        file.write(data)
    image = open_image(tmp_path / "a.tif")
    assert image.intensity_range == (0, 4095)
    assert_close(image.read(0, 0, 64, 64)[..., 0], eight_bit(values, 0, 4095))


def test_arrays_of_more_than_8_bit(wide: np.ndarray) -> None:
    lazy = da.from_array(wide, chunks=(256, 256, 3))
    for source in (wide, lazy):
        assert_close(open_image(source).read(0, 0, 1024, 1024), eight_bit(wide, 0, 65535))
        assert_close(
            open_image(source, intensity_range=(100, 60000)).read(0, 0, 1024, 1024),
            eight_bit(wide.astype(float), 100, 60000),
        )
