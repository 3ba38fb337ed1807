from __future__ import annotations

import numpy as np
import pytest
import tifffile

import histocell as hc
from histocell.images.formats.tiff_colours import colours_of
from histocell.images.formats.tiff_levels import plain_page, tile_level
from histocell.images.levels import BlockCache
from histocell.images.patch_source import PatchSource
from histocell.images.slide_image import open_image

RNG = np.random.default_rng(0)


def cut(source: PatchSource, centers: np.ndarray) -> np.ndarray:
    out = np.zeros((len(centers), source.edge, source.edge, 3), np.uint8)
    source.read(np.asarray(centers, float), out)
    return out


def test_patches_are_whole_pixels_around_their_centres():
    pixels = RNG.integers(0, 255, (90, 120, 3), dtype=np.uint8)
    source = PatchSource(open_image(pixels, mpp=0.5), size_px=20, input_px=20)
    centers = np.array([[30.0, 40.0], [30.4, 40.4], [61.6, 50.0]])
    corners = source.corners(centers)
    assert corners.tolist() == [[30, 20], [30, 20], [40, 52]]
    for patch, (y, x) in zip(cut(source, centers), corners.astype(int), strict=True):
        assert (patch == pixels[y : y + 20, x : x + 20]).all()


def test_beyond_the_border_there_is_background():
    pixels = np.full((60, 60, 3), 90, np.uint8)
    pixels[:30] = 240
    image = open_image(pixels, mpp=0.5)
    (patch,) = cut(PatchSource(image, size_px=20, input_px=20), np.array([[2.0, 58.0]]))
    assert (patch[12:] == image.background).all()
    assert (patch[:, :8] == image.background).all()
    assert (patch[:12, 8:] == 90).all()


def test_the_coarsest_level_that_suffices_is_read(tmp_path):
    full = RNG.integers(0, 255, (512, 512, 3), dtype=np.uint8)
    half = full[::2, ::2]
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(full, tile=(128, 128), subifds=1, photometric="rgb")
        file.write(half, tile=(128, 128), subfiletype=1, photometric="rgb")
    image = open_image(tmp_path / "a.tif", mpp=0.5)
    source = PatchSource(image, size_px=64, input_px=32)
    assert source.edge == 32
    (patch,) = cut(source, np.array([[200.0, 100.0]]))
    assert (patch == half[34:66, 84:116]).all()
    assert PatchSource(image, size_px=64, input_px=40).edge == 64


def test_far_too_large_patches_are_shrunk_where_they_are_read():
    pixels = np.repeat(np.repeat(RNG.integers(0, 255, (20, 20, 3), dtype=np.uint8), 10, axis=0), 10, axis=1)
    source = PatchSource(open_image(pixels, mpp=0.5), size_px=100, input_px=10)
    assert source.edge == 10
    assert source.scale().tolist() == [10, 10]
    (patch,) = cut(source, np.array([[100.0, 100.0]]))
    assert (patch == pixels[55:150:10, 55:150:10]).all()
    with pytest.raises(ValueError, match="size"):
        PatchSource(open_image(pixels), size_px=0, input_px=10)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((300, 400, 3), {"compression": "jpeg", "photometric": "ycbcr", "subsampling": (2, 2)}),
        ((300, 400, 3), {"compression": "lzw", "predictor": True}),
        ((300, 400), {"compression": "deflate"}),
        ((300, 400, 4), {}),
    ],
)
def test_tiles_of_a_tiff_are_what_tifffile_reads(tmp_path, shape, options):
    pixels = RNG.integers(0, 255, shape, dtype=np.uint8)
    photometric = {2: "minisblack"}.get(len(shape), "rgb")
    tifffile.imwrite(tmp_path / "a.tif", pixels, **{"tile": (128, 144), "photometric": photometric, **options})
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        whole = file.asarray()
        page = plain_page(file.series[0].levels[0])
        assert page is not None
        found = tile_level(page, colours_of(page, page.samplesperpixel), tmp_path, BlockCache()).window(
            100, 30, 290, 400
        )
    if len(shape) == 2:
        whole = np.repeat(whole[..., None], 3, axis=2)
    if shape[-1] == 4:
        alpha = whole[..., 3:] / 255
        whole = (whole[..., :3] * alpha + 255 * (1 - alpha) + 0.5).astype(np.uint8)
    assert np.abs(found.astype(int) - whole[100:290, 30:400]).max() <= (shape[-1] == 4)


def test_other_layouts_are_left_to_tifffile(tmp_path):
    tifffile.imwrite(tmp_path / "strips.tif", np.zeros((64, 64, 3), np.uint8), photometric="rgb")
    tifffile.imwrite(
        tmp_path / "planes.tif", np.zeros((3, 256, 256), np.uint8), tile=(128, 128), planarconfig="separate"
    )
    for name in ("strips", "planes"):
        with tifffile.TiffFile(tmp_path / f"{name}.tif") as file:
            assert plain_page(file.series[0].levels[0]) is None
        assert open_image(tmp_path / f"{name}.tif").read(0, 0, 9, 9).shape == (9, 9, 3)


def test_a_damaged_tile_says_where_it_is(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RNG.integers(0, 255, (256, 256, 3), dtype=np.uint8), tile=(128, 128), compression="jpeg")
    with tifffile.TiffFile(path) as file:
        offset, size = file.pages[0].dataoffsets[3], file.pages[0].databytecounts[3]
    data = bytearray(path.read_bytes())
    data[offset : offset + size] = bytes(size)
    path.write_bytes(data)
    image = open_image(path, mpp=0.5)
    assert image.read(0, 0, 128, 128).shape == (128, 128, 3)
    with pytest.raises(OSError, match="row 1, column 1 is damaged"):
        image.read(130, 130, 140, 140)


def test_lazy_elements_of_files_are_read_without_dask(tmp_path, monkeypatch):
    pixels = RNG.integers(0, 255, (300, 300, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(128, 128), photometric="rgb")
    element = hc.io.slide(tmp_path / "a.tif", mpp=0.5)["he"]
    cropped = element.isel(x=slice(50, None))

    def fail(*args, **kwargs):
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr("dask.compute", fail)
        assert (open_image(element).read(0, 0, 300, 300) == pixels).all()
    # what was cut is another image
    assert (open_image(cropped).read(0, 0, 300, 250) == pixels[:, 50:]).all()
    tifffile.imwrite(tmp_path / "a.tif", pixels[:200], tile=(128, 128), photometric="rgb")
    with pytest.raises(OSError, match="changed"):
        open_image(element)
