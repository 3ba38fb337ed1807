"""One reader over every source: the same window has the same pixels."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import dask.array as da
import numpy as np
import pytest
from spatialdata.models import Image2DModel
from spatialdata.transformations import Affine, Identity, Scale
from xarray import DataArray

from histocell.images.levels import BlockCache
from histocell.images.slide_image import SlideImage, open_image


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """Smooth colours, 300 x 400, bright glass at the left."""
    y, x = np.mgrid[:300, :400]
    image = np.stack([x * 0.6, y * 0.8, (x + y) * 0.3], axis=-1).astype(np.uint8)
    image[:, :120] = (244, 240, 242)
    return image


def test_sources_agree(pixels: np.ndarray) -> None:
    channels_first = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    element = Image2DModel.parse(channels_first, dims=("c", "y", "x"))
    multiscale = Image2DModel.parse(channels_first, dims=("c", "y", "x"), scale_factors=[2, 2])
    sources = [
        channels_first,
        da.from_array(pixels, chunks=(64, 50, 3)),
        da.from_array(channels_first, chunks=(1, 64, 50)),
        DataArray(pixels, dims=("y", "x", "c")),
        element,
        multiscale,
    ]
    reference = open_image(pixels)
    windows = [(10, 20, 90, 200), (-30, -10, 50, 60), (250, 380, 330, 420), (0, 0, 300, 400), (12.5, 7.25, 50.5, 70.25)]
    for source in sources:
        image = open_image(source)
        assert image.shape == (300, 400)
        assert image.background == reference.background
        for window in windows:
            np.testing.assert_array_equal(image.read(*window), reference.read(*window))
            small = image.read(*window, out_shape=(40, 30))
            np.testing.assert_allclose(small, reference.read(*window, out_shape=(40, 30)), atol=1)


def test_background_and_padding(pixels: np.ndarray) -> None:
    image = open_image(pixels)
    assert image.background == (244, 240, 242)
    window = image.read(-10, -20, 10, 30)
    assert (window[:10] == image.background).all()
    assert (window[:, :20] == image.background).all()
    np.testing.assert_array_equal(window[10:, 20:], pixels[:10, :30])
    assert (image.read(1000, 1000, 1010, 1010) == image.background).all()
    assert (image.read(-10, 0, 0, 5, fill=(1, 2, 3)) == (1, 2, 3)).all()


def test_a_window_is_a_copy(pixels: np.ndarray) -> None:
    image = open_image(pixels)
    before = pixels[0, 0].copy()
    window = image.read(0, 0, 5, 5)
    window[:] = 0
    assert window.flags.c_contiguous
    np.testing.assert_array_equal(pixels[0, 0], before)


def test_geometry_of_a_ramp() -> None:
    """Pixel k covers the interval from k to k + 1, at every level and zoom."""
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (256, 256, 3)).copy()
    multiscale = Image2DModel.parse(ramp.transpose(2, 0, 1), dims=("c", "y", "x"), scale_factors=[2, 2])
    for image in (open_image(ramp), open_image(multiscale)):
        for x0, x1, n_out in ((40, 200, 80), (41.5, 201.5, 37), (50, 90, 160), (63.25, 127.75, 200), (20, 220, 20)):
            step = (x1 - x0) / n_out
            expected = x0 + (np.arange(n_out) + 0.5) * step - 0.5
            got = image.read(100, x0, 120, x1, out_shape=(10, n_out))[0, :, 0]
            assert np.abs(got - expected).max() < 1.01


def test_windows_tile_seamlessly(pixels: np.ndarray) -> None:
    image = open_image(pixels)
    whole = image.read(0, 0, 300, 400, out_shape=(600, 800))
    part = image.read(100, 150, 200, 250, out_shape=(200, 200))
    np.testing.assert_array_equal(part, whole[200:400, 300:500])


def test_large_windows_are_read_in_bands(pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    image = open_image(pixels)
    expected = image.read(3.5, 0, 299, 400, out_shape=(70, 90))
    monkeypatch.setattr("histocell.images.slide_image._BAND_PIXELS", 5000)
    np.testing.assert_allclose(image.read(3.5, 0, 299, 400, out_shape=(70, 90)), expected, atol=1)


def test_resolution(pixels: np.ndarray) -> None:
    image = open_image(pixels, mpp=0.5)
    assert (image.mpp, image.mpp_source) == (0.5, "argument")
    assert image.read(0, 0, 200, 100, mpp=1.0).shape == (100, 50, 3)
    assert image.thumbnail(100).shape == (75, 100, 3)
    assert "400 x 300 px (w x h), 0.5 um/px (argument)" in repr(image)
    assert open_image(image) is image
    assert open_image(image, mpp=0.7).mpp == 0.7
    unknown = open_image(pixels)
    assert (unknown.mpp, unknown.mpp_source) == (None, "unknown")
    with pytest.raises(ValueError, match="open it with mpp="):
        unknown.read(0, 0, 10, 10, mpp=1.0)
    for wrong in (0.0, 0.01, 500.0, np.nan):
        with pytest.raises(ValueError, match="um per px"):
            open_image(pixels, mpp=wrong)


def test_mpp_of_an_element(pixels: np.ndarray) -> None:
    def element(**systems: object) -> DataArray:
        return Image2DModel.parse(pixels, dims=("y", "x", "c"), transformations={"global": Identity(), **systems})

    for name in ("um", "um-C2"):
        image = open_image(element(**{name: Scale([0.69, 0.69], axes=("x", "y"))}))
        assert image.mpp == pytest.approx(0.69)
        assert image.mpp_source == "transformation"
    assert open_image(element(umbra=Scale([0.69, 0.69], axes=("x", "y")))).mpp is None
    rotated = Affine([[0, -0.5, 3], [0.5, 0, 1], [0, 0, 1]], input_axes=("x", "y"), output_axes=("x", "y"))
    assert open_image(element(um=rotated)).mpp == pytest.approx(0.5)
    with pytest.raises(ValueError, match="along x"):
        open_image(element(um=Scale([0.5, 0.8], axes=("x", "y"))))


def test_only_needed_chunks_are_computed(pixels: np.ndarray) -> None:
    computed = []

    def block(block_info: dict) -> np.ndarray:
        (y0, y1), (x0, x1), _ = block_info[None]["array-location"]
        computed.append((y0 // 50, x0 // 50))
        return pixels[y0:y1, x0:x1]

    lazy = da.map_blocks(block, chunks=((50,) * 6, (50,) * 8, (3,)), dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8))
    image = open_image(lazy)
    assert computed == []
    np.testing.assert_array_equal(image.read(60, 110, 90, 140), pixels[60:90, 110:140])
    assert computed == [(1, 2)]
    np.testing.assert_array_equal(image.read(90, 140, 110, 160), pixels[90:110, 140:160])
    assert sorted(computed) == [(1, 2), (1, 3), (2, 2), (2, 3)]
    image.read(60, 110, 110, 160)
    assert len(computed) == 4


def test_coarse_level_is_used_where_it_is_fine_enough(pixels: np.ndarray) -> None:
    seen = []

    class Level:
        def __init__(self, factor: int) -> None:
            self.factor, self.shape = factor, (300 // factor, 400 // factor)

        def window(self, y0: int, x0: int, y1: int, x1: int) -> np.ndarray:
            seen.append(self.factor)
            return np.zeros((y1 - y0, x1 - x0, 3), dtype=np.uint8)

    image = SlideImage([Level(4), Level(1), Level(2)], mpp=None, mpp_source="unknown")
    assert image.levels == [1, 2, 4]
    for n_out, factor in ((200, 1), (80, 1), (60, 1), (50, 2), (40, 2), (25, 4), (5, 4)):
        seen.clear()
        image.read(100, 100, 200, 200, out_shape=(n_out, n_out))
        assert seen == [factor]


def test_truncated_pyramids_keep_whole_factors() -> None:
    class Level:
        def __init__(self, *shape: int) -> None:
            self.shape = shape

    image = SlideImage([Level(2967, 2220), Level(1483, 1110), Level(741, 555)], mpp=None, mpp_source="unknown")
    assert image.levels == [1.0, 2.0, 4.0]
    assert SlideImage([Level(1000, 1000), Level(300, 300)], mpp=None, mpp_source="").levels[1] == pytest.approx(10 / 3)


def test_cache_is_bounded_and_reads_a_block_once() -> None:
    cache, fetched = BlockCache(max_bytes=3 * 300), []

    def fetch(blocks: list[tuple[int, int]]) -> list[np.ndarray]:
        fetched.extend(blocks)
        time.sleep(0.02)
        return [np.full((10, 10, 3), block[0], dtype=np.uint8) for block in blocks]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: cache.get("level", [(7, 0)], fetch)[0], range(8)))
    assert all((block == 7).all() for block in found)
    assert fetched == [(7, 0)]
    for row in range(5):
        cache.get("level", [(row, 0)], fetch)
    assert cache._bytes <= 900
    assert len(cache._blocks) == 3


def test_a_failed_block_is_tried_again() -> None:
    cache, attempts = BlockCache(), []

    def fetch(blocks: list[tuple[int, int]]) -> list[np.ndarray]:
        attempts.append(blocks)
        if len(attempts) == 1:
            msg = "disk"
            raise OSError(msg)
        return [np.zeros((1, 1, 3), dtype=np.uint8)] * len(blocks)

    with pytest.raises(OSError, match="disk"):
        cache.get(0, [(0, 0)], fetch)
    assert cache.get(0, [(0, 0)], fetch)[0].shape == (1, 1, 3)


def test_many_threads(pixels: np.ndarray) -> None:
    image = open_image(da.from_array(pixels, chunks=(32, 32, 3)))
    rng = np.random.default_rng(0)
    corners = np.column_stack([rng.integers(-20, 280, 300), rng.integers(-20, 380, 300)]).tolist()
    barrier = threading.Barrier(4)
    reference = open_image(pixels)

    def read(part: list[list[int]]) -> bool:
        barrier.wait()
        return all(
            np.array_equal(image.read(y, x, y + 40, x + 40), reference.read(y, x, y + 40, x + 40)) for y, x in part
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, [corners[i::4] for i in range(4)]))


def test_wide_integers_and_floats(pixels: np.ndarray) -> None:
    expected = open_image(pixels).read(0, 0, 300, 400)
    wide = pixels.astype(np.uint16) * 257
    for source in (wide, wide / 65535, da.from_array(wide, chunks=(100, 100, 3))):
        np.testing.assert_array_equal(open_image(source).read(0, 0, 300, 400), expected)


def test_bad_requests(pixels: np.ndarray) -> None:
    image = open_image(pixels, mpp=1.0)
    with pytest.raises(ValueError, match="empty"):
        image.read(10, 10, 10, 20)
    with pytest.raises(ValueError, match="not both"):
        image.read(0, 0, 10, 10, out_shape=(5, 5), mpp=2.0)
    with pytest.raises(TypeError, match="no image in an object of type list"):
        open_image([1, 2, 3])
