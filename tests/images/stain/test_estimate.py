from __future__ import annotations

import numpy as np
import pytest

from histocell.images.slide_image import open_image
from histocell.images.stain.estimate import REFERENCE, estimate_stains, stains_of
from histocell.images.stain.normalize import StainNormalizer

H = np.array([0.72, 0.62, 0.31])
E = np.array([0.22, 0.88, 0.42])


def stained(n: int, *, glass: tuple[int, int, int] = (240, 236, 241), seed: int = 0) -> np.ndarray:
    """Pixels of nuclei (mostly haematoxylin), stroma (mostly eosin) and glass by the law of Beer and Lambert."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(3, n, p=[0.3, 0.4, 0.3])
    h = np.choose(kind, [rng.normal(0.9, 0.15, n), rng.normal(0.06, 0.03, n), np.zeros(n)])
    e = np.choose(kind, [rng.normal(0.06, 0.03, n), rng.normal(0.45, 0.1, n), np.zeros(n)])
    amounts = np.maximum(np.stack([h, e], axis=1), 0)
    vectors = np.stack([H, E]) / np.linalg.norm([H, E], axis=1, keepdims=True)
    rgb = np.array(glass) * 10 ** -(amounts @ vectors)
    return np.clip(rgb.round(), 0, 255).astype(np.uint8)


def angle(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))))


@pytest.mark.parametrize("glass", [(255, 255, 255), (240, 236, 241), (221, 208, 224)])
def test_the_stains_of_a_mixture_are_found(glass):
    found = estimate_stains(stained(20000, glass=glass), background=glass)
    assert found.estimated
    assert angle(found.vectors[0], H) < 6
    assert angle(found.vectors[1], E) < 10
    # 0.2 of the reference is mixed in; without it the stain itself is found
    assert angle(found.vectors[0], H) < angle(REFERENCE[0], H)
    assert angle(found.vectors[1], E) < angle(REFERENCE[1], E)
    assert 0.2 < found.nuclear_threshold < 0.7


def test_unmixing_gives_the_amounts_back():
    found = estimate_stains(stained(20000), background=(240, 236, 241))
    amounts = np.array([[0.8, 0.1], [0.0, 0.5]]) @ (found.vectors * found.strength[:, None])
    got = amounts @ found.unmixing
    np.testing.assert_allclose(got, [[0.8, 0.1, 0], [0, 0.5, 0]], atol=1e-5)


def test_density_is_zero_on_glass_and_above():
    found = estimate_stains(stained(20000), background=(240, 236, 241))
    assert found.density[240, 0] == found.density[255, 2] == 0
    assert found.density[24, 0] == pytest.approx(1)
    assert np.isfinite(found.density).all()


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((5000, 3), 255, np.uint8),
        np.zeros((5000, 3), np.uint8),
        np.full((5000, 3), (20, 160, 40), np.uint8),
        np.random.default_rng(0).integers(0, 255, (5000, 3), dtype=np.uint8),
        stained(100),
    ],
    ids=["white", "black", "green pen", "noise", "too few"],
)
def test_what_is_not_stained_tissue_gets_the_reference(pixels):
    found = estimate_stains(pixels, background=(255, 255, 255))
    assert not found.estimated
    np.testing.assert_array_equal(found.vectors, REFERENCE)
    assert np.isfinite(found.unmixing).all()
    assert (found.strength > 0).all()


def slide(height: int, width: int, glass: tuple[int, int, int]) -> np.ndarray:
    image = np.empty((height, width, 3), np.uint8)
    image[:] = glass
    image[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = stained(
        (height // 2) * (width // 2), glass=glass
    ).reshape(height // 2, width // 2, 3)
    return image


def test_the_stains_of_a_slide_are_those_of_its_tissue():
    image = slide(1600, 1200, (240, 236, 241))
    image = image.repeat(2, 0).repeat(2, 1)  # tiles are read at 2 um/px; keep the colours pure
    found = stains_of(open_image(image, mpp=1.0), mpp=1.0)
    assert found.estimated
    np.testing.assert_allclose(found.background, (240, 236, 241), atol=2)
    again = stains_of(open_image(image, mpp=1.0), mpp=1.0)
    np.testing.assert_array_equal(found.vectors, again.vectors)


@pytest.mark.parametrize("side_px", [300, 640])
def test_an_image_smaller_than_a_tile_is_taken_whole(data_dir, side_px):
    """58 and 123 um of a slide have stains close to those of all of it."""
    image = open_image(data_dir / "slides" / "CMU-1-Small-Region.svs").read(1000, 700, 1640, 1340)
    whole = stains_of(open_image(image.repeat(2, 0).repeat(2, 1), mpp=0.2), mpp=0.2)
    small = stains_of(open_image(image[:side_px, :side_px], mpp=0.192), mpp=0.192)
    assert small.estimated
    assert (whole.vectors * small.vectors).sum(axis=1).min() > 0.98


def test_strongly_tinted_glass_is_not_taken_for_stain():
    image = slide(1600, 1200, (229, 202, 252))
    found = stains_of(open_image(image, mpp=2.0), mpp=2.0)
    np.testing.assert_allclose(found.background, (229, 202, 252), atol=2)


@pytest.mark.parametrize("shape", [(1, 1), (5, 300), (40, 40)])
def test_tiny_slides(shape):
    found = stains_of(open_image(np.full((*shape, 3), 180, np.uint8), mpp=0.5), mpp=0.5)
    assert np.isfinite(found.unmixing).all()


def test_the_threshold_lies_between_nuclei_and_the_rest():
    found = estimate_stains(stained(20000), background=(240, 236, 241))
    vectors = np.stack([H, E]) / np.linalg.norm([H, E], axis=1, keepdims=True)
    nucleus, stroma = np.array([[0.9, 0.06], [0.06, 0.45]]) @ vectors @ found.unmixing[:, 0]
    assert stroma < found.nuclear_threshold < nucleus


def test_a_slide_is_measured_once(monkeypatch):
    opened = open_image(slide(800, 600, (240, 236, 241)), mpp=1.0)
    n_read = []
    read = type(opened).read
    monkeypatch.setattr(type(opened), "read", lambda *args, **kwargs: n_read.append(1) or read(*args, **kwargs))
    first = stains_of(opened, mpp=1.0)
    n_first = len(n_read)
    assert stains_of(opened, mpp=1.0) is first
    assert len(n_read) == n_first
    StainNormalizer("macenko").fit(opened, mpp=1.0)
    n_tiles = 32
    assert len(n_read) - n_first <= n_tiles  # its own tiles; where the tissue is was seen before
    n_second = len(n_read)
    StainNormalizer("macenko").fit(opened, mpp=1.0)
    assert len(n_read) == n_second
