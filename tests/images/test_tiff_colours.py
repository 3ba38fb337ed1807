"""Colours of TIFFs: what is read is what went into the file, whatever its photometric interpretation."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

import histocell as hc
from histocell.images.slide_image import open_image

if TYPE_CHECKING:
    from pathlib import Path

TILED = {"tile": (128, 144)}
STRIPS = {"rowsperstrip": 37}
LAYOUTS = pytest.mark.parametrize("layout", [TILED, STRIPS], ids=["tiles", "strips"])


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    """Smooth colours of a stained section, 300 x 400."""
    y, x = np.mgrid[:300, :400]
    return np.stack([250 - x * 0.3, 90 + y * 0.5, 160 + (x + y) * 0.1], axis=-1).astype(np.uint8)


@pytest.fixture(scope="module")
def grey(rgb: np.ndarray) -> np.ndarray:
    return rgb[..., 0]


def read(path: Path) -> np.ndarray:
    """The whole image by the reader, and the same by its lazy element."""
    image = open_image(path)
    pixels = image.read(0, 0, *image.shape)
    np.testing.assert_array_equal(image.read(101, 130, 290, 399), pixels[101:290, 130:399])
    element = hc.io.slide(path, mpp=0.5)["he"]
    np.testing.assert_array_equal(element.transpose("y", "x", "c").to_numpy(), pixels)
    return pixels


def as_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=-1)


def assert_close(found: np.ndarray, expected: np.ndarray, within: int) -> None:
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= within


@LAYOUTS
@pytest.mark.parametrize("bits", [8, 16])
def test_white_is_zero(tmp_path: Path, grey: np.ndarray, layout: dict, bits: int) -> None:
    inverted = 255 - grey if bits == 8 else 65535 - grey.astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "a.tif", inverted, photometric="miniswhite", **layout)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), as_rgb(grey))


def write_strip(path: Path, data: bytes, tags: dict[int, tuple[int, int, int]]) -> Path:
    """A TIFF of one strip, written by hand; `tags` are type, count and value by number."""
    tags = {273: (4, 1, 200), 278: (4, 1, 300), 279: (4, 1, len(data)), **tags}
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    head += b"".join(struct.pack("<HHII", number, *tags[number]) for number in sorted(tags))
    path.write_bytes((head.ljust(190, b"\0") + struct.pack("<3H", 8, 8, 8)).ljust(200, b"\0") + data)
    return path


@LAYOUTS
@pytest.mark.parametrize("photometric", ["miniswhite", "minisblack"])
def test_one_bit(tmp_path: Path, grey: np.ndarray, layout: dict, photometric: str) -> None:
    bright = grey > 180
    stored = ~bright if photometric == "miniswhite" else bright
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric=photometric, **layout)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), as_rgb(np.where(bright, 255, 0)))


@pytest.mark.parametrize("photometric", [0, 1], ids=["miniswhite", "minisblack"])
@pytest.mark.parametrize("bits", [2, 4])
def test_few_bits(tmp_path: Path, grey: np.ndarray, photometric: int, bits: int) -> None:
    top = 2**bits - 1
    shades = grey >> (8 - bits)
    stored = top - shades if photometric == 0 else shades
    data = np.packbits(np.unpackbits(stored[..., None], axis=-1)[..., 8 - bits :].reshape(300, -1), axis=-1).tobytes()
    tags = {256: (4, 1, 400), 257: (4, 1, 300), 258: (3, 1, bits), 259: (3, 1, 1), 262: (3, 1, photometric)}
    found = read(write_strip(tmp_path / "a.tif", data, tags))
    np.testing.assert_array_equal(found, as_rgb(np.rint(shades * (255 / top)).astype(np.uint8)))


@LAYOUTS
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("scale", [257, 1], ids=["16-bit table", "8-bit table"])
def test_palette(tmp_path: Path, grey: np.ndarray, layout: dict, bits: int, scale: int) -> None:
    table = np.random.default_rng(0).integers(0, 256, (3, 2**bits)).astype(np.uint16)
    table[:, 0] = 255
    indices = grey if bits == 8 else grey.astype(np.uint16) * 200
    tifffile.imwrite(tmp_path / "a.tif", indices, photometric="palette", colormap=table * np.uint16(scale), **layout)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), table.T[indices])


@LAYOUTS
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_cmyk(tmp_path: Path, rgb: np.ndarray, layout: dict, planar: str) -> None:
    cmyk = Image.fromarray(rgb).convert("CMYK")
    cmyk = Image.fromarray(np.dstack([np.asarray(cmyk)[..., :3], rgb[..., 2] // 4]), mode="CMYK")
    samples = np.asarray(cmyk)
    if planar == "separate":
        samples = np.ascontiguousarray(np.moveaxis(samples, -1, 0))
    tifffile.imwrite(tmp_path / "a.tif", samples, photometric="separated", planarconfig=planar, **layout)
    assert_close(read(tmp_path / "a.tif"), np.asarray(cmyk.convert("RGB")), within=1)
    tifffile.imwrite(
        tmp_path / "b.tif", samples.astype(np.uint16) * 257, photometric="separated", planarconfig=planar, **layout
    )
    assert_close(read(tmp_path / "b.tif"), np.asarray(cmyk.convert("RGB")), within=1)


def ink_profile() -> bytes:
    """An ICC profile of inks: each of them darkens and shifts L*a*b* by a table with two points per ink (lut8, ICC 10.9)."""
    corners = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing="ij"), axis=-1).reshape(-1, 4).astype(float)
    lightness = 100 - corners @ [35, 45, 10, 90]
    table = np.column_stack(
        [np.clip(lightness, 0, 100) * 2.55, 128 + corners @ [-35, 70, -5, 0], 128 + corners @ [-45, 0, 90, 0]]
    )
    identity = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * np.eye(3).astype(int)).ravel())
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + identity * 4
    lut += np.clip(np.rint(table), 0, 255).astype(np.uint8).tobytes() + identity * 3
    lut += bytes(-len(lut) % 4)
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"inks\0" + bytes(78)
    text += bytes(-len(text) % 4)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", *(int(v * 65536) for v in (0.9642, 1.0, 0.8249)))
    tags, body, offset = [(b"desc", text), (b"wtpt", white), (b"A2B0", lut)], b"", 128 + 4 + 3 * 12
    directory = struct.pack(">I", len(tags))
    for name, content in tags:
        directory += name + struct.pack(">II", offset + len(body), len(content))
        body += content
    head = struct.pack(">I4sI4s4s4s", offset + len(body), bytes(4), 0x02100000, b"prtr", b"CMYK", b"Lab ")
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head + bytes(128 - len(head)) + directory + body


@pytest.mark.parametrize("name", ["tiles.tif", "strips.tif", "he.jpg"])
def test_cmyk_with_a_profile(tmp_path: Path, rgb: np.ndarray, name: str) -> None:
    cmyk, profile = Image.fromarray(rgb).convert("CMYK"), ink_profile()
    if name == "he.jpg":
        cmyk.save(tmp_path / name, icc_profile=profile, quality=100, subsampling=0)
    else:
        layout = TILED if name == "tiles.tif" else STRIPS
        tifffile.imwrite(tmp_path / name, np.asarray(cmyk), photometric="separated", iccprofile=profile, **layout)
    with Image.open(tmp_path / name) as image:
        stored = image if name != "tiles.tif" else cmyk
        expected = ImageCms.profileToProfile(
            stored, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    found = read(tmp_path / name)
    np.testing.assert_array_equal(found, np.asarray(expected))
    assert np.abs(found.astype(int) - np.asarray(cmyk.convert("RGB"))).max() > 20  # it is not the plain conversion


@LAYOUTS
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", ["cielab", "icclab"])
def test_lab(tmp_path: Path, rgb: np.ndarray, layout: dict, bits: int, kind: str) -> None:
    image = Image.fromarray(rgb)
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = np.asarray(ImageCms.applyTransform(image, to_lab))  # a and b signed, as TIFF has them
    if kind == "icclab":
        lab = lab ^ np.array([0, 128, 128], np.uint8)
    if bits == 16:
        lab = lab.astype(np.uint16) * 256
    tifffile.imwrite(tmp_path / "a.tif", lab, photometric=kind, **layout)
    assert_close(read(tmp_path / "a.tif"), rgb, within=6)


@LAYOUTS
def test_ycbcr(tmp_path: Path, rgb: np.ndarray, layout: dict) -> None:
    ycbcr = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    tifffile.imwrite(tmp_path / "raw.tif", ycbcr, photometric="ycbcr", **layout)
    assert_close(read(tmp_path / "raw.tif"), rgb, within=3)
    tifffile.imwrite(
        tmp_path / "jpeg.tif", rgb, photometric="rgb", compression="jpeg", compressionargs={"level": 98}, **layout
    )
    with tifffile.TiffFile(tmp_path / "jpeg.tif") as file:
        assert file.pages[0].photometric == tifffile.PHOTOMETRIC.YCBCR
        np.testing.assert_array_equal(read(tmp_path / "jpeg.tif"), file.asarray())


@pytest.mark.parametrize("compression", [1, 8], ids=["none", "deflate"])
@pytest.mark.parametrize(("across", "down"), [(2, 2), (2, 1), (4, 2)])
def test_ycbcr_with_less_colour(tmp_path: Path, rgb: np.ndarray, across: int, down: int, compression: int) -> None:
    """Strips of units of Y, Cb, Cr as TIFF 6.0, section 21 has them, beside what libtiff reads."""
    smooth = np.ascontiguousarray(rgb[:, :399])  # not a multiple of the unit
    ycbcr = np.asarray(Image.fromarray(smooth).convert("YCbCr"))
    padded = np.pad(ycbcr, ((0, -300 % down), (0, -399 % across), (0, 0)), mode="edge")
    rows, columns = padded.shape[0] // down, padded.shape[1] // across
    units = padded.reshape(rows, down, columns, across, 3).swapaxes(1, 2)
    luma = units[..., 0].reshape(rows, columns, down * across)
    chroma = units[..., 1:].mean(axis=(2, 3)).round().astype(np.uint8)
    data = np.concatenate([luma, chroma], axis=-1).tobytes()
    if compression == 8:
        data = zlib.compress(data)
    tags = {256: (4, 1, 399), 257: (4, 1, 300), 258: (3, 3, 190), 259: (3, 1, compression), 262: (3, 1, 6)}
    path = write_strip(tmp_path / "a.tif", data, {**tags, 277: (3, 1, 3), 530: (3, 2, across | down << 16)})
    found = read(path)
    assert_close(found, smooth, within=6)
    if compression == 8:  # what is not compressed Pillow reads without libtiff, as if nothing were subsampled
        with Image.open(path) as image:
            assert np.abs(found.astype(int) - np.asarray(image.convert("RGB"))).mean() < 2


@LAYOUTS
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("kind", ["unspecified", "assocalpha", "unassalpha"])
def test_extra_samples(tmp_path: Path, rgb: np.ndarray, layout: dict, kind: str, dtype: type) -> None:
    full = np.iinfo(dtype).max
    alpha = np.full(rgb.shape[:2], 0.6)
    alpha[:, :200] = 1
    pixels = rgb / 255 * (alpha[..., None] if kind == "assocalpha" else 1)
    stored = np.rint(np.dstack([pixels, alpha]) * full).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", extrasamples=[kind], **layout)
    on_white = rgb * alpha[..., None] + 255 * (1 - alpha[..., None])
    assert_close(read(tmp_path / "a.tif"), rgb if kind == "unspecified" else np.rint(on_white), within=1)


@LAYOUTS
def test_grey_with_alpha(tmp_path: Path, grey: np.ndarray, layout: dict) -> None:
    alpha = np.full_like(grey, 102)
    tifffile.imwrite(
        tmp_path / "a.tif", np.dstack([grey, alpha]), photometric="minisblack", extrasamples=["unassalpha"], **layout
    )
    expected = np.asarray(Image.fromarray(np.dstack([grey, alpha]), mode="LA").convert("RGBA"))
    expected = np.rint(expected[..., :3] * 0.4 + 255 * 0.6)
    assert_close(read(tmp_path / "a.tif"), expected, within=1)


def test_aperio_jpeg2000_of_ycbcr(tmp_path: Path, rgb: np.ndarray) -> None:
    """Compression 33003 holds YCbCr, whatever the photometric interpretation says; OpenSlide reads the same."""
    imagecodecs = pytest.importorskip("imagecodecs")
    ycbcr = np.asarray(Image.fromarray(rgb).convert("YCbCr"))[:256, :256]
    tile = imagecodecs.jpeg2k_encode(ycbcr, codecformat="j2k", mct=False, reversible=True, level=0)
    tifffile.imwrite(
        tmp_path / "a.svs", iter([tile]), shape=(256, 256, 3), dtype=np.uint8, photometric="rgb", tile=(256, 256),
        compression=33003, description="Aperio Image Library v11\n256x256 |AppMag = 20|MPP = 0.5", metadata=None,
    )  # fmt: skip
    assert_close(open_image(tmp_path / "a.svs").read(0, 0, 256, 256), rgb[:256, :256], within=3)


def test_what_has_no_true_colours_is_refused(tmp_path: Path, rgb: np.ndarray, grey: np.ndarray, user_sees) -> None:
    tifffile.imwrite(tmp_path / "luv.tif", rgb, photometric="logluv")
    with user_sees("Slides", "a TIFF in LogLuv", ValueError, match=r"luv\.tif.*LOGLUV.*convert it"):
        open_image(tmp_path / "luv.tif")
    tifffile.imwrite(tmp_path / "channels.tif", np.dstack([rgb, grey]), photometric="minisblack", planarconfig="contig")
    with user_sees("Slides", "a TIFF of four grey channels", ValueError, match="4 channels of grey"):
        open_image(tmp_path / "channels.tif")
    tifffile.imwrite(
        tmp_path / "channels.ome.tif", np.stack([grey] * 4), photometric="minisblack", metadata={"axes": "CYX"}
    )
    with pytest.raises(ValueError, match="4 channels of grey"):
        open_image(tmp_path / "channels.ome.tif")
