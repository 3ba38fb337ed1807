from __future__ import annotations

import dask.array as da
import numpy as np
import pytest

import histocell as hc
from histocell.datasets.scanners import SCANNERS


@pytest.fixture(scope="module")
def sdata():
    return hc.datasets.synthetic_tissue(size_px=400, rng=0)


def pixels(sdata):
    return np.moveaxis(np.asarray(sdata["he"].data), 0, -1).astype(float)


def test_each_scanner_shows_other_pixels_of_the_same_tissue(sdata):
    shown = {name: pixels(hc.datasets.rescan(sdata, name)) for name in SCANNERS}
    np.testing.assert_array_equal(shown["A"], pixels(sdata))
    for name in "BCDE":
        assert shown[name].shape == shown["A"].shape
        assert np.abs(shown[name] - shown["A"]).mean() > 3
        assert np.corrcoef(shown[name].mean(axis=2).ravel(), shown["A"].mean(axis=2).ravel())[0, 1] > 0.9


def test_closed_forms_of_colour():
    flat = np.full((16, 16, 3), (200, 100, 50), dtype=np.uint8)
    scanner = hc.datasets.Scanner(gain=(2, 1, 1), background=(255, 255, 128), gamma=2)
    expected = 255 * np.array([(200 / 255) ** 4, (100 / 255) ** 2, (50 / 255) ** 2 * 128 / 255])
    np.testing.assert_allclose(scanner.scan(flat, 0.5)[3, 3], expected, atol=0.51)


def test_blocks_show_no_seams(sdata):
    other = hc.datasets.synthetic_tissue(size_px=400, rng=0)
    other["he"].data = da.asarray(other["he"].data).rechunk((3, 128, 128))
    scanner = hc.datasets.Scanner(blur_um=0.8)
    np.testing.assert_array_equal(
        pixels(hc.datasets.rescan(other, scanner)), pixels(hc.datasets.rescan(sdata, scanner))
    )


def test_tables_tell_the_scanner_and_lose_what_is_of_other_pixels(sdata):
    sdata = hc.datasets.synthetic_tissue(size_px=400, rng=0)
    hc.pp.patches(sdata, size_um=64)
    hc.pp.embed_image(sdata, "morphology")
    table = hc.datasets.rescan(sdata, "C")["table"]
    assert set(table.obs["scanner"]) == {"C"}
    assert set(table.obs["specimen"]) == {"P1S1"}
    assert set(table.obs["section"]) == {"P1S1-C"}
    assert set(table.obsm) == {"spatial", "cell_abundance"}
    assert "scanner" not in sdata["table"].obs
    assert "X_morphology" in sdata["table"].obsm


def test_slide_of_several_scales(tmp_path):
    rng = np.random.default_rng(0)
    from PIL import Image

    Image.fromarray(rng.integers(0, 255, (600, 500, 3), dtype=np.uint8)).save(tmp_path / "slide.png")
    slide = hc.io.slide(tmp_path / "slide.png", mpp=0.5)
    other = hc.datasets.rescan(slide, "B")
    assert hc.pp.tissue_mask(other) is None


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"gain": (1, 1)}, "three positive"),
        ({"quality": 0}, "from 1 to 100"),
        ({"background": (0, 1, 1)}, "three positive"),
    ],
)
def test_bad_scanner(changes, match):
    with pytest.raises(ValueError, match=match):
        hc.datasets.Scanner(**changes)


def test_bad_input(sdata):
    with pytest.raises(ValueError, match="A, B, C, D, E"):
        hc.datasets.rescan(sdata, "Leica")
    with pytest.raises(TypeError, match="SpatialData with an image"):
        hc.datasets.rescan(sdata["table"], "A")
