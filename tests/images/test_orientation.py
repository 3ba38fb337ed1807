"""Images that are stored turned or mirrored are upright, as every viewer shows them."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

import histocell as hc
from histocell.images.slide_image import open_image

if TYPE_CHECKING:
    from pathlib import Path

ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    y, x = np.mgrid[:300, :400]
    return np.stack([x * 0.6, y * 0.8, (x + y) * 0.3], axis=-1).astype(np.uint8)


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The image as Pillow turns it."""
    image = Image.fromarray(pixels)
    image.getexif()[ORIENTATION] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


def assert_reads(path: Path, expected: np.ndarray, within: int = 0) -> None:
    sdata = hc.io.slide(path, mpp=0.5)
    for image in (open_image(path), open_image(sdata["he"])):
        assert image.shape == expected.shape[:2]
        found = image.read(0, 0, *image.shape)
        assert np.abs(found.astype(int) - expected).max() <= within
        part = image.read(33, 120, 150, 290)
        np.testing.assert_array_equal(part, found[33:150, 120:290])
    element = sdata["he"]["scale0"]["image"] if hasattr(sdata["he"], "children") else sdata["he"]
    np.testing.assert_array_equal(element.data.compute().transpose(1, 2, 0), found)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_exif(tmp_path: Path, pixels: np.ndarray, name: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"quality": 98, "subsampling": 0} if name == "a.jpg" else {"lossless": True} if name == "a.webp" else {}
    Image.fromarray(pixels).save(tmp_path / name, exif=exif, **options)
    assert_reads(tmp_path / name, upright(pixels, orientation), within=6 if name == "a.jpg" else 0)


def test_exif_behind_the_pixels_of_a_png(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    chunk = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    data = (tmp_path / "a.png").read_bytes()
    end = data.index(b"IEND") - 4
    chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "a.png").write_bytes(data[:end] + chunk + data[end:])
    with Image.open(tmp_path / "a.png") as image:
        assert ImageOps.exif_transpose(image).size == (300, 400)
    assert_reads(tmp_path / "a.png", upright(pixels, 6))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("layout", ["strips", "tiles", "pyramid"])
def test_tiff(tmp_path: Path, pixels: np.ndarray, layout: str, orientation: int) -> None:
    path = tmp_path / "a.tif"
    tag = [(274, 3, 1, orientation, True)]
    options = {} if layout == "strips" else {"tile": (128, 128)}
    with tifffile.TiffWriter(path) as file:
        n_levels = 1 if layout == "pyramid" else 0
        file.write(pixels, photometric="rgb", extratags=tag, subifds=n_levels, metadata=None, **options)
        if n_levels:
            file.write(pixels[::2, ::2], photometric="rgb", subfiletype=1, metadata=None, **options)
    expected = upright(pixels, orientation)
    assert_reads(path, expected)
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(image)), expected)
    if n_levels:
        image = open_image(path)
        assert image.levels == [1, 2]
        half = image.read(0, 0, *image.shape, out_shape=(image.shape[0] // 2, image.shape[1] // 2))
        np.testing.assert_array_equal(half, upright(pixels[::2, ::2], orientation))


def test_spots_lie_on_the_upright_image(tmp_path: Path, pixels: np.ndarray) -> None:
    """x and y are those of the image that one sees."""
    from anndata import AnnData

    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    adata = AnnData(np.ones((2, 1), np.float32), obsm={"spatial": np.array([[250.0, 350.0], [30.0, 90.0]])})
    sdata = hc.io.from_anndata(adata, image=tmp_path / "a.png", mpp=0.5)
    image = open_image(sdata["he"])
    assert image.shape == (400, 300)
    expected = upright(pixels, 6)
    np.testing.assert_array_equal(image.read(340, 240, 360, 260), expected[340:360, 240:260])


def test_oblong_pixels_of_a_turned_image(tmp_path: Path, pixels: np.ndarray) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", pixels, photometric="rgb", extratags=[(274, 3, 1, 6, True)], metadata=None,
        resolution=(20000, 40000), resolutionunit="CENTIMETER",
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"0\.25 um per px along x and 0\.5 along y"):
        open_image(tmp_path / "a.tif")
