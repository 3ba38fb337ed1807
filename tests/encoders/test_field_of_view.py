"""What an embedding depends on ends where its spec says: pixels beyond the field of view change nothing."""

from __future__ import annotations

import numpy as np
import pytest

import histocell as hc
from histocell.encoders import NucleusPooling
from histocell.encoders.catalog import CATALOG
from histocell.encoders.morphology.encoder import Morphology
from histocell.encoders.morphology.grids import GridPass
from histocell.images.slide_image import open_image
from histocell.images.stain.estimate import stains_of


@pytest.mark.parametrize("spec", CATALOG, ids=lambda spec: spec.name)
def test_networks_see_their_patch(spec):
    assert spec.field_of_view(112.0) == (1200.0 if spec.name == "morphology" else 112.0)


@pytest.mark.parametrize("size_um", [112.0, 800.0])
def test_reach_of_morphology(size_um):
    """The furthest pixels that change a feature, the stains of the slide given; they are measured on all of it."""
    field = Morphology().spec.field_of_view(size_um)
    side = int(field) + 400
    pixels = hc.datasets.synthetic_tissue(size_px=1000, rng=0)["he"].to_numpy().transpose(1, 2, 0)
    pixels = np.tile(pixels, (3, 3, 1))[:side, :side]  # taken for 1 um per px
    stains = stains_of(open_image(pixels, mpp=1.0), mpp=1.0)
    rng = np.random.default_rng(int(size_um))
    center = side / 2 + rng.uniform(-150, 150, (1, 2))
    distance = np.abs(np.mgrid[:side, :side] + 0.5 - center[0][:, None, None]).max(axis=0)
    radii = (Morphology.radii_um[0] * size_um / 112, *Morphology.radii_um[1:])

    def features(beyond: float, other: object) -> np.ndarray:
        changed = np.where((distance > beyond)[..., None], other, pixels)
        grids = GridPass(open_image(changed, mpp=1.0), stains, mpp=1.0, radii_um=radii)
        return next(values for _, values in grids.features(center))[0]

    expected = features(np.inf, 0)
    for other in (np.uint8(40), rng.integers(0, 255, pixels.shape, dtype=np.uint8)):
        assert (features(size_um / 2 + 74, other) != expected).sum() > 100  # it sees past its patch
        # whatever the grid, it ends within the field, and the field is not far beyond
        assert (features(field / 2 - 110, other) != expected).any()
        for beyond in (field / 2, field / 2 + 100):
            np.testing.assert_array_equal(features(beyond, other), expected)


@pytest.mark.parametrize(
    ("pool", "patches"),
    [(None, 1.0), ("nucleus", 1.0), (NucleusPooling("shared"), 1.5), (NucleusPooling("shared", overlap=0.2), 1.8)],
)
def test_reach_of_a_network(pool, patches):
    size = 56  # px, and um at 1 um per px
    encoder = hc.encoders.load("timm/vit_tiny_patch16_224", weights="random", pool=pool, batch_size=1, device="cpu")
    assert encoder.spec.field_of_view(112.0) == 112.0 * patches
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (400, 400, 3), dtype=np.uint8)
    reach = 0.0
    for center in [np.array([[x, 201.0]]) for x in (200.0, 207.0, 224.0, 251.0)]:
        expected = encoder.embed(open_image(pixels, mpp=1.0), center, mpp=1.0, size_um=size)
        distance = np.abs(np.mgrid[:400, :400] + 0.5 - center[0][::-1, None, None]).max(axis=0)
        for beyond in range(size // 2 - 4, size + 4, 4):
            changed = np.where((distance > beyond)[..., None], 255 - pixels, pixels)
            found = encoder.embed(open_image(changed, mpp=1.0), center, mpp=1.0, size_um=size)
            if not np.array_equal(found, expected):
                reach = max(reach, beyond)
    assert size * patches / 2 - 8 <= reach < size * patches / 2


def test_an_embedding_records_it(tissue):
    hc.pp.patches(tissue)
    hc.pp.embed_image(tissue, "morphology")
    assert hc.get.provenance(tissue, "X_morphology")["field_um"] == 1200
    pool = NucleusPooling("shared")
    hc.pp.embed_image(tissue, "timm/vit_tiny_patch16_224", weights="random", pool=pool, key_added="X_vit")
    assert hc.get.provenance(tissue, "X_vit")["field_um"] == 168
