"""Damaged files: one error that names the file, no crash, no hang, no memory for what is not there."""

from __future__ import annotations

import random
import resource
import struct
import zlib
from typing import TYPE_CHECKING

import dask.array as da
import numpy as np
import pytest
import tifffile
from PIL import Image
from spatialdata import read_zarr

import histocell as hc
from histocell.images.slide_image import open_image

if TYPE_CHECKING:
    from pathlib import Path

N_MUTATIONS = 25  # of each file


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(60, 250, (300, 400, 3), dtype=np.uint8)


def write(path: Path, pixels: np.ndarray) -> Path:
    """An image of the format that the name says."""
    plain = {"photometric": "rgb", "metadata": None}
    tiled = {**plain, "tile": (128, 128)}
    match path.name:
        case "strips.tif":
            tifffile.imwrite(path, pixels, rowsperstrip=37, compression="lzw", predictor=True, **plain)
        case "tiles.tif":
            tifffile.imwrite(path, pixels, compression="jpeg", **tiled)
        case "16bit.tif":
            tifffile.imwrite(path, pixels.astype(np.uint16) * 257, compression="zlib", **tiled)
        case "palette.tif":
            table = np.arange(768, dtype=np.uint16).reshape(3, 256) * 80
            tifffile.imwrite(path, pixels[..., 0], photometric="palette", colormap=table)
        case "pyramid.ome.tif":
            size = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
            with tifffile.TiffWriter(path) as file:
                file.write(pixels, subifds=1, compression="jpeg2000", **{**tiled, "metadata": size})
                file.write(pixels[::2, ::2], subfiletype=1, compression="jpeg2000", **tiled)
        case "scan.svs":
            text = "Aperio Image Library v11.2.1\r\n400x300 (256x256) JPEG/RGB Q=30|AppMag = 20|MPP = 0.499"
            with tifffile.TiffWriter(path) as file:
                file.write(pixels, compression="jpeg", description=text, **{**tiled, "tile": (256, 256)})
                file.write(pixels[:90, :90], compression="lzw", subfiletype=1, description="Aperio\r\nlabel", **plain)
        case _:
            Image.fromarray(pixels).save(path)
    return path


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Cut, flipped, zeroed, exchanged or inserted bytes, more often in headers than in pixels."""
    out = bytearray(data)
    ends = [(0, min(len(data), 1500)), (max(0, len(data) - 1500), len(data)), (0, len(data))]
    low, high = rng.choice(ends)
    at, size = rng.randrange(low, high), rng.choice([1, 2, 4, 64, 1000])
    match rng.choice(["cut", "flip", "zero", "ones", "exchange", "insert"]):
        case "cut":
            del out[rng.randrange(len(out)) :]
        case "flip":
            for _ in range(rng.choice([1, 3, 20])):
                out[rng.randrange(low, high)] = rng.randrange(256)
        case "zero":
            out[at : at + size] = bytes(len(out[at : at + size]))
        case "ones":
            out[at : at + size] = b"\xff" * len(out[at : at + size])
        case "exchange":
            other = rng.randrange(low, high)
            out[at : at + 12], out[other : other + 12] = out[other : other + 12], out[at : at + 12]
        case "insert":
            out[at:at] = rng.randbytes(size)
    return bytes(out)


def read_all(path: Path) -> None:
    """All that a user does: open, measure, look, read windows, compute lazily."""
    image = open_image(path)
    assert image.background
    height, width = image.shape
    image.thumbnail(64)
    image.read(height - 40, width - 40, height, width)
    element = hc.io.slide(path, mpp=0.5)["he"]
    finest = element["scale0"]["image"] if hasattr(element, "children") else element
    if height * width < 2**22:
        assert finest.data.compute().shape == (3, height, width)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    ["a.jpg", "a.png", "a.bmp", "a.webp", "strips.tif", "tiles.tif", "16bit.tif", "palette.tif", "pyramid.ome.tif", "scan.svs"],
)  # fmt: skip
def test_mutations(tmp_path: Path, pixels: np.ndarray, name: str) -> None:
    """About one in ten gave a bare error of a library."""
    data, n_refused = write(tmp_path / name, pixels).read_bytes(), 0
    for number in range(N_MUTATIONS):
        rng = random.Random(f"{name} {number}")
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / name).write_bytes(mutated(data, rng))
        refused = None
        try:
            read_all(folder / name)
        except (OSError, ValueError) as error:
            refused = error
        if refused is not None:
            n_refused += 1
            assert name in str(refused)
            assert type(refused) in {OSError, ValueError}
    assert n_refused


def set_tags(path: Path, **values: int) -> Path:
    with tifffile.TiffFile(path, mode="r+") as file:
        for name, value in values.items():
            file.pages[0].tags[name].overwrite(value)
    return path


def without_reason(error: BaseException) -> str:
    """A message without what the library said, which differs between versions."""
    head, _, tail = str(error).partition(" (")
    return f"OSError: {head} (...){tail.rpartition(')')[2]}"


def test_files_that_end_early(tmp_path: Path, pixels: np.ndarray, user_sees) -> None:
    for name in ("a.jpg", "a.png", "tiles.tif", "scan.svs", "strips.tif", "pyramid.ome.tif"):
        data = write(tmp_path / name, pixels).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(OSError, match=rf"{name}: the file is damaged or truncated") as error:
            read_all(tmp_path / name)
        if name == "a.jpg":
            user_sees.line("Slides", "a JPEG that ends early", without_reason(error.value))
        if name == "a.png":
            user_sees.line("Slides", "a PNG that ends early", without_reason(error.value))
    tifffile.imwrite(tmp_path / "raw.tif", pixels, photometric="rgb", metadata=None)
    (tmp_path / "raw.tif").write_bytes((tmp_path / "raw.tif").read_bytes()[:100_000])
    with pytest.raises(OSError, match=r"raw\.tif: the file is damaged or truncated \(100000 bytes where") as error:
        open_image(tmp_path / "raw.tif")
    user_sees.line("Slides", "a TIFF that ends early", without_reason(error.value))


def test_a_damaged_tile_of_a_lazy_image(tmp_path: Path, pixels: np.ndarray, user_sees) -> None:
    """Found when it is decoded, long after the file was opened."""
    for name, where in (("tiles.tif", "tile"), ("strips.tif", "part")):
        path = write(tmp_path / name, pixels)
        with tifffile.TiffFile(path) as file:
            offset, size = file.pages[0].dataoffsets[-1], file.pages[0].databytecounts[-1]
        data = bytearray(path.read_bytes())
        data[offset : offset + size] = b"\xff" * size
        path.write_bytes(data)
        element = hc.io.slide(path, mpp=0.5)["he"]
        image = open_image(element)
        with pytest.raises(OSError, match=rf"{name}: the {where} in row \d, column \d is damaged") as error:
            image.read(290, 390, 300, 400)
        with pytest.raises(OSError, match=rf"{name}: the {where} in row \d, column \d is damaged"):
            element.data[:, 290:, 390:].compute()
        if where == "tile":
            user_sees.line("Slides", "a slide with a damaged tile", without_reason(error.value))
            assert image.read(0, 0, 30, 30).shape == (30, 30, 3)


def test_metadata_that_is_damaged(tmp_path: Path, pixels: np.ndarray, user_sees) -> None:
    path = write(tmp_path / "pyramid.ome.tif", pixels)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"<Pixels", b"<Pix<ls", 1))
    with pytest.raises(OSError, match=r"pyramid\.ome\.tif: its resolution is damaged") as error:
        open_image(path)
    user_sees.line("Slides", "an OME-TIFF with damaged metadata", without_reason(error.value))
    assert open_image(path, mpp=0.5).shape == (300, 400)
    path = write(tmp_path / "scan.svs", pixels)
    path.write_bytes(path.read_bytes().replace(b"MPP = 0.499", b"MPP = 0.4.9", 1))
    with user_sees("Slides", "an SVS whose MPP is no number", ValueError, match=r"scan\.svs.*0\.4\.9"):
        open_image(path)


def png_of(width: int, height: int) -> bytes:
    """A PNG that states a size and holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10_000)))
        + chunk(b"IEND", b"")
    )


def test_claims_take_no_memory(tmp_path: Path, pixels: np.ndarray, user_sees) -> None:
    """A header may state any size; memory is taken for pixels that can be there."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (tmp_path / "a.png").write_bytes(png_of(1_000_000, 1_000_000))
    with user_sees("Slides", "a PNG that states 1,000,000 x 1,000,000 px", OSError, match="more than any slide has"):
        open_image(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(png_of(60_000, 60_000))
    with user_sees(
        "Slides", "a PNG that states 60,000 x 60,000 px in 10 kB", OSError, match="claims 10800000000 bytes"
    ):
        open_image(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(png_of(90_000, 90_000))
    with user_sees(
        "Slides", "a PNG too large to be decoded as a whole", ValueError, match="convert it to a tiled TIFF"
    ):
        open_image(tmp_path / "c.png")
    for name in ("tiles.tif", "strips.tif"):
        path = set_tags(write(tmp_path / name, pixels), ImageWidth=1_000_000, ImageLength=1_000_000)
        with pytest.raises(OSError, match=rf"{name}: the file is damaged .*more than any slide has"):
            open_image(path)
        path = set_tags(write(tmp_path / name, pixels), ImageWidth=90_000, ImageLength=90_000)
        with pytest.raises(OSError, match=rf"{name}: the file is damaged .*pieces of pixels"):
            open_image(path)
    path = set_tags(write(tmp_path / "tiles.tif", pixels[:100, :100]), TileWidth=65_536, TileLength=65_536)
    with pytest.raises(OSError, match="claims 12884901888 bytes"):
        open_image(path)
    lazy = da.zeros((3, 1_000_000, 1_000_000), chunks=(3, 10_000, 10_000), dtype=np.uint8)
    with pytest.raises(ValueError, match="more than any scanner makes"):
        open_image(lazy)
    with pytest.raises(ValueError, match="no pixels"):
        open_image(np.zeros((0, 5, 3), np.uint8))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


def test_errors_of_the_disk_stay_what_they_are(tmp_path: Path, pixels: np.ndarray, monkeypatch) -> None:
    path = write(tmp_path / "tiles.tif", pixels)
    image = open_image(path)

    def fail(*args: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(tifffile.FileHandle, "read", fail)
    with pytest.raises(OSError, match="Input/output error") as error:
        image.read(0, 0, 10, 10)
    assert error.value.errno == 5


def test_a_damaged_chunk_of_a_store(tmp_path: Path, tissue, user_sees) -> None:
    tissue.write(tmp_path / "a.zarr")
    (chunk,) = (tmp_path / "a.zarr/images/he/s0/c").rglob("0/0/0")
    chunk.write_bytes(chunk.read_bytes()[:5000])
    image = open_image(read_zarr(tmp_path / "a.zarr")["he"])
    with pytest.raises(OSError, match=r"row 0, column 0.*the store that they lie in is damaged") as error:
        image.read(0, 0, 10, 10)
    user_sees.line("Slides", "a SpatialData with a damaged chunk", without_reason(error.value))
