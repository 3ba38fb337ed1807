from __future__ import annotations

import warnings

import numpy as np
import pytest
from PIL import Image

import histocell as hc
from histocell.images.slide_image import open_image
from histocell.nuclei.ink import find_ink, is_ink_colour
from histocell.nuclei.methods import load_method

MPP = 0.5
INKS = {
    "red": (200, 30, 40),
    "light red": (215, 95, 105),
    "green": (20, 120, 60),
    "pale green": (80, 165, 120),
    "blue": (30, 40, 160),
    "light blue": (37, 95, 160),
    "black": (30, 30, 30),
    "grey": (110, 110, 110),
}


@pytest.fixture(scope="module")
def section() -> tuple[np.ndarray, np.ndarray]:
    """Synthetic tissue (h, w, 3) and a mask of a stroke over it, 55 um wide up and down."""
    image = np.moveaxis(np.asarray(hc.datasets.synthetic_tissue(size_px=700, rng=1)["he"].data), 0, -1).copy()
    y, x = np.indices(image.shape[:2])
    return image, np.abs(y - 0.6 * x - 130) < 64


def drawn(image: np.ndarray, stroke: np.ndarray, ink: tuple[int, int, int]) -> np.ndarray:
    """The light that passes both tissue and ink."""
    return np.where(stroke[..., None], image * (np.array(ink) / 245), image).astype(np.uint8)


def names(caught) -> list[str]:
    return [str(w.message) for w in caught if "stained pixels" in str(w.message)]


@pytest.mark.parametrize("name", INKS)
def test_ink_over_tissue_is_named_and_changes_nothing_elsewhere(section, name):
    image, stroke = section
    method = load_method("watershed")
    before = method.context([image], MPP)
    with pytest.warns(UserWarning, match=r"stained pixels are .*\bink\b"):
        after = method.context([drawn(image, stroke, INKS[name])], MPP)
    cosines = np.einsum("ij,ij->i", before.stains.vectors, after.stains.vectors)
    assert (cosines > 0.995).all()  # the stains are those of the tissue beside it
    found = [method(image, MPP, context)[~stroke] for context in (before, after)]
    numbers = [len(np.unique(labels)) for labels in found]
    assert 0.9 < numbers[1] / numbers[0] < 1.1


def test_strokes_are_where_they_were_drawn(section):
    image, stroke = section
    density = -np.log10((drawn(image, stroke, INKS["red"]) + 1.0) / 246).astype(np.float32)
    ink = find_ink([density], [density.mean(axis=2) > 0.15], MPP)[0]
    assert (ink & ~stroke).mean() < 0.001
    assert ink[stroke].mean() > 0.2


def test_specks_are_no_strokes(section):
    image, _ = section
    y, x = np.indices(image.shape[:2])
    specks = np.hypot(y % 100 - 50, x % 100 - 50) < 12  # 12 um across, 4.5 % of all
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_method("watershed").context([drawn(image, specks, INKS["red"])], MPP)
    assert not names(caught)


def test_mixtures_of_haematoxylin_and_eosin_are_no_ink():
    haematoxylin, eosin = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
    share = np.linspace(0, 1, 50)[:, None]
    red, green, blue = (share * haematoxylin + (1 - share) * eosin).T
    assert not is_ink_colour(red / green, blue / green).any()
    red, green, blue = -np.log10(np.array(list(INKS.values())) / 245).T
    assert is_ink_colour(red / green, blue / green).all()


@pytest.mark.parametrize("seed", [0, 2, 3])
def test_clean_synthetic_tissue_is_not_warned_of(seed, recwarn):
    sdata = hc.datasets.synthetic_tissue(size_px=600, rng=seed, batch_effect=1.5)
    load_method("watershed").context([np.moveaxis(np.asarray(sdata["he"].data), 0, -1)], MPP)
    assert not names(recwarn)


@pytest.mark.parametrize(("folder", "mpp"), [("gbm_nuclei", 0.25), ("nucls_tiles", 0.2)])
def test_clean_real_tissue_is_not_warned_of_and_a_pen_on_it_is(data_dir, folder, mpp, recwarn):
    files = [file for file in sorted((data_dir / folder).glob("*.png")) if not file.stem.endswith("_inst")]
    tiles = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    method, glass = load_method("watershed"), np.full((32, 32, 3), 245, np.uint8)
    for tile in tiles:
        method.context([tile, glass], mpp)
    assert not names(recwarn)
    for name in ("red", "green", "black"):
        n = 0
        for tile in tiles:
            stroke = np.zeros(tile.shape[:2], bool)
            stroke[:, : int(28 / mpp)] = True
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                method.context([drawn(tile, stroke, INKS[name]), glass], mpp)
            n += bool(names(caught))
        assert n >= 0.9 * len(tiles)


def test_a_clean_slide_is_not_warned_of(data_dir, recwarn):
    slide = open_image(data_dir / "slides" / "CMU-1-Small-Region.svs")
    load_method("watershed").context([slide.read(0, 0, 2960, 2220)], slide.mpp or MPP)
    assert not names(recwarn)
