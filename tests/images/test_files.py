"""Files: what they hold, what they state, and how they fail."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
from PIL import Image

from histocell.images.slide_image import open_image

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    y, x = np.mgrid[:520, :700]
    return np.stack([200 + x / 20, 120 + y / 6, 150 + (x + y) / 15], axis=-1).astype(np.uint8)


def write_pyramid(path: Path, pixels: np.ndarray, metadata: dict | None = None, **kwargs: object) -> Path:
    with tifffile.TiffWriter(path, ome=path.name.endswith(".ome.tif")) as tiff:
        options = {"tile": (128, 128), "photometric": "rgb", "compression": "zlib", **kwargs}
        tiff.write(pixels, subifds=2, metadata={"axes": "YXS", **(metadata or {})}, **options)
        for step in (2, 4):
            tiff.write(pixels[::step, ::step], subfiletype=1, **options)
    return path


@pytest.mark.parametrize("name", ["image.png", "image.bmp", "image.tif", "tiled.tif", "planar.tif", "pyramid.ome.tif"])
def test_formats(tmp_path: Path, pixels: np.ndarray, name: str) -> None:
    path = tmp_path / name
    if name == "pyramid.ome.tif":
        write_pyramid(path, pixels)
    elif name == "tiled.tif":
        tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb", compression="lzw")
    elif name == "planar.tif":
        tifffile.imwrite(path, np.moveaxis(pixels, -1, 0), photometric="rgb", planarconfig="separate")
    else:
        Image.fromarray(pixels).save(path)
    image = open_image(path)
    assert image.shape == (520, 700)
    assert image.levels == ([1, 2, 4] if name == "pyramid.ome.tif" else [1])
    np.testing.assert_array_equal(image.read(100, 120, 400, 300), pixels[100:400, 120:300])
    np.testing.assert_array_equal(image.read(500, 690, 530, 710)[:20, :10], pixels[500:, 690:])


def test_jpeg(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "he.jpg", quality=95)
    image = open_image(tmp_path / "he.jpg")
    assert np.abs(image.read(0, 0, 520, 700).astype(int) - pixels).mean() < 2
    assert image.mpp is None


def test_large_images_need_no_switch(tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("he.jpg", "he.png"):
        Image.fromarray(pixels).save(tmp_path / name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for name in ("he.jpg", "he.png"):
        assert open_image(tmp_path / name).read(0, 0, 10, 10).shape == (10, 10, 3)


@pytest.mark.parametrize("mode", ["L", "1", "RGBA", "P", "LA", "CMYK", "I;16"])
def test_modes_of_pixels(tmp_path: Path, pixels: np.ndarray, mode: str) -> None:
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    if mode == "I;16":
        Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(path)
    elif mode == "CMYK":
        path = tmp_path / "image.jpg"
        Image.fromarray(pixels).convert(mode).save(path)
    else:
        Image.fromarray(pixels).convert(mode).save(path)
    window = open_image(path).read(0, 0, 520, 700)
    assert window.shape == (520, 700, 3)
    if mode == "RGBA":
        np.testing.assert_array_equal(window, pixels)
    if mode == "I;16":
        np.testing.assert_array_equal(window[..., 1], pixels[..., 0])


@pytest.mark.parametrize(
    ("kwargs", "mpp", "source"),
    [
        ({"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}, 0.5, "tiff"),
        ({"resolution": (50800, 50800), "resolutionunit": "INCH"}, 0.5, "tiff"),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, None, "unknown"),
        ({"resolution": (300, 300), "resolutionunit": "INCH"}, None, "unknown"),
        ({"resolution": (2, 2), "resolutionunit": "NONE"}, None, "unknown"),
        ({"resolution": (4, 4), "imagej": True, "metadata": {"unit": "um", "axes": "YXS"}}, 0.25, "tiff"),
        ({}, None, "unknown"),
    ],
)
def test_mpp_of_tiff_tags(tmp_path: Path, pixels: np.ndarray, kwargs: dict, mpp: float | None, source: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", **kwargs)
    image = open_image(tmp_path / "a.tif")
    assert image.mpp == (None if mpp is None else pytest.approx(mpp))
    assert image.mpp_source == source
    assert open_image(tmp_path / "a.tif", mpp=0.3).mpp == 0.3


@pytest.mark.parametrize(
    ("size", "unit", "mpp"),
    [(0.4, "µm", 0.4), (0.4, None, 0.4), (400, "nm", 0.4), (0.0004, "mm", 0.4), (1, "pixel", None)],
)
def test_mpp_of_ome(tmp_path: Path, pixels: np.ndarray, size: float, unit: str | None, mpp: float | None) -> None:
    metadata: dict = {"PhysicalSizeX": size, "PhysicalSizeY": size}
    if unit:
        metadata |= {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    image = open_image(write_pyramid(tmp_path / "a.ome.tif", pixels, metadata))
    assert image.mpp == (None if mpp is None else pytest.approx(mpp))
    assert image.mpp_source == ("unknown" if mpp is None else "ome")


def test_impossible_resolutions(tmp_path: Path, pixels: np.ndarray) -> None:
    oblong = write_pyramid(tmp_path / "a.ome.tif", pixels, {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.7})
    with pytest.raises(ValueError, match=r"a\.ome\.tif.*along x.*mpp="):
        open_image(oblong)
    assert open_image(oblong, mpp=0.5).mpp == 0.5
    tiny = write_pyramid(tmp_path / "b.ome.tif", pixels, {"PhysicalSizeX": 0.001, "PhysicalSizeY": 0.001})
    with pytest.raises(ValueError, match=r"0\.001 um per px"):
        open_image(tiny)


def test_tiff_reads_only_the_tiles_it_needs(
    tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_pyramid(tmp_path / "a.ome.tif", np.tile(pixels, (4, 4, 1)))
    n_bytes = []
    read = tifffile.FileHandle.read

    def counted(self: tifffile.FileHandle, size: int = -1, /) -> bytes:
        data = read(self, size)
        n_bytes.append(len(data))
        return data

    image = open_image(path)
    monkeypatch.setattr(tifffile.FileHandle, "read", counted)
    image.read(700, 700, 900, 900)
    assert 0 < sum(n_bytes) < path.stat().st_size / 8
    before = len(n_bytes)
    image.read(710, 710, 800, 800)
    assert len(n_bytes) == before


def test_missing_file_folder_and_nonsense(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.tif does not exist"):
        open_image(tmp_path / "nothing.tif")
    with pytest.raises(IsADirectoryError, match="read_zarr"):
        open_image(tmp_path)
    (tmp_path / "notes.jpg").write_text("these are notes, not pixels")
    with pytest.raises(ValueError, match=r"notes\.jpg is no image"):
        open_image(tmp_path / "notes.jpg")
    (tmp_path / "empty.tif").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty\.tif is no image"):
        open_image(tmp_path / "empty.tif")


@pytest.mark.parametrize("name", ["he.jpg", "he.png", "strips.tif", "tiles.ome.tif", "header.tif"])
def test_truncated_files(tmp_path: Path, pixels: np.ndarray, name: str) -> None:
    path = tmp_path / name
    if name.startswith("tiles"):
        write_pyramid(path, pixels)
    else:
        Image.fromarray(pixels).save(path)
    data = path.read_bytes()
    path.write_bytes(data[:6] if name == "header.tif" else data[: len(data) * 2 // 3])
    with pytest.raises(OSError, match=rf"{name}.*(truncated|damaged)"):
        open_image(path).read(0, 0, 520, 700)


def test_no_openslide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openslide", None)
    (tmp_path / "slide.mrxs").write_bytes(b"x")
    with pytest.raises(ImportError, match=r"histocell\[wsi\]"):
        open_image(tmp_path / "slide.mrxs")


def test_aperio_as_openslide_reads_it(data_dir: Path) -> None:
    openslide = pytest.importorskip("openslide")
    path = data_dir / "slides" / "CMU-1-Small-Region.svs"
    image = open_image(path)
    assert image.shape == (2967, 2220)
    assert image.mpp == pytest.approx(0.499)
    with openslide.OpenSlide(path) as slide:
        expected = np.asarray(slide.read_region((500, 700), 0, (300, 200)).convert("RGB"))
    np.testing.assert_array_equal(image.read(700, 500, 900, 800), expected)


def test_openslide_levels(data_dir: Path) -> None:
    pytest.importorskip("openslide")
    from histocell.images.formats.openslide import open_openslide
    from histocell.images.slide_image import SlideImage

    path = data_dir / "slides" / "CMU-1-Small-Region.svs"
    file = open_openslide(path)
    mpp, mpp_source = file.resolution()
    assert (mpp, mpp_source) == (pytest.approx(0.499), "openslide")
    slide = SlideImage(file.levels, mpp=mpp, mpp_source=mpp_source)
    np.testing.assert_array_equal(
        slide.read(-5, 300, 200, 500), open_image(path).read(-5, 300, 200, 500, fill=slide.background)
    )
