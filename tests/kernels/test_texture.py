from __future__ import annotations

import numpy as np
import pytest

from histocell.kernels import texture
from histocell.kernels.filters import halve

SIZE = 4


@pytest.fixture
def scene():
    rng = np.random.default_rng(0)
    maps = rng.random((4, 8, 12), dtype=np.float32)
    rgb = rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)
    density = rng.random((256, 3), dtype=np.float32)
    tissue = rng.random((8, 12)) > 0.3
    labels = rng.integers(0, 3, (8, 12)).astype(np.int32)
    return maps, rgb, density, tissue, labels


def cells(values: np.ndarray, size: int = SIZE) -> np.ndarray:
    """Sum over the cells of a grid."""
    rows, columns = values.shape[0] // size, values.shape[1] // size
    return values.reshape(rows, size, columns, size).sum(axis=(1, 3))


def test_unmix_solves_for_the_stains(scene):
    rgb, density = scene[1], scene[2]
    vectors = np.array([[0.6, 0.7, 0.3], [0.1, 0.9, 0.2], [0.5, -0.2, 0.7]])
    got = texture.unmix(rgb, density, np.linalg.inv(vectors).astype(np.float32))
    od = density[rgb, np.arange(3)]
    amounts = od @ np.linalg.inv(vectors)
    np.testing.assert_allclose(got[0], np.maximum(amounts[..., 0], 0), atol=1e-5)
    np.testing.assert_allclose(got[1], np.maximum(amounts[..., 1], 0), atol=1e-5)
    np.testing.assert_allclose(got[2], od.mean(axis=2), atol=1e-6)
    np.testing.assert_allclose(got[3], amounts[..., 2], atol=1e-5)


def test_haematoxylin_alone_is_that_of_all(scene):
    rgb, density = scene[1], scene[2]
    unmixing = np.linalg.inv([[0.6, 0.7, 0.3], [0.1, 0.9, 0.2], [0.5, -0.2, 0.7]]).astype(np.float32)
    low, span = np.float32(0.2), np.float32(0.7)
    expected = (texture.unmix(rgb, density, unmixing)[0] - low) / span
    np.testing.assert_array_equal(texture.unmix_haematoxylin(rgb, density, unmixing, low, span), expected)


def test_colour_sums_are_masked_sums(scene):
    maps, rgb, density, tissue, labels = scene
    edges = np.array([[0.2, 0.6], [0.3, 0.8]], np.float32)
    got = texture.colour_sums(maps, rgb, density, tissue, labels, edges, SIZE)
    h, e, _, residual = maps
    od = density[rgb, np.arange(3)]
    plain = tissue & (labels == 0)
    expected = [np.ones_like(h), tissue, h * tissue, e * tissue, h**2 * tissue, e**2 * tissue, h * e * tissue]
    expected += [od[..., k] * tissue for k in range(3)]
    expected += [residual * tissue, residual**2 * tissue]
    expected += [plain, h * plain, e * plain, h**2 * plain, e**2 * plain]
    expected += [tissue & (np.digitize(h, edges[0]) == k) for k in range(3)]
    expected += [plain & (np.digitize(e, edges[1]) == k) for k in range(3)]
    assert got.shape[2] == len(expected) == len(texture.COLOUR_SUMS) + 6
    for k, values in enumerate(expected):
        np.testing.assert_allclose(got[..., k], cells(values), rtol=1e-4, atol=1e-5)


def test_detail_is_the_difference_to_the_parent(scene):
    image = scene[0][0]
    parent = halve(image).repeat(2, 0).repeat(2, 1)
    np.testing.assert_allclose(texture.detail_sums(image, halve(image), SIZE), cells(abs(image - parent)), rtol=1e-5)


def test_gradients_are_central_differences(scene):
    image = scene[0][0].astype(float)
    padded = np.pad(image, 1, mode="edge")
    gx = (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2
    gy = (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2
    got = texture.gradient_sums(scene[0][0], SIZE)
    for k, values in enumerate([np.hypot(gx, gy), gx**2 - gy**2, 2 * gx * gy, gx**2 + gy**2]):
        np.testing.assert_allclose(got[..., k], cells(values), rtol=1e-4, atol=1e-5)


def test_structure_tensor_sees_the_direction_of_stripes():
    stripes = np.tile(np.sin(np.arange(32) * 0.8).astype(np.float32), (32, 1))
    across = texture.gradient_sums(stripes, 8)[1:3, 1:3]
    np.testing.assert_allclose(across[..., 1], across[..., 3], rtol=1e-4)
    along = texture.gradient_sums(np.ascontiguousarray(stripes.T), 8)[1:3, 1:3]
    np.testing.assert_allclose(along[..., 1], -along[..., 3], rtol=1e-4)


def test_lbp_against_a_naive_loop(scene):
    image, tissue = scene[0][0], scene[3]
    expected = np.zeros((2, 3, texture.N_LBP))
    ring = [(-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1)]
    for y in range(1, 7):
        for x in range(1, 11):
            if tissue[y, x]:
                bits = [image[y + dy, x + dx] >= image[y, x] for dy, dx in ring]
                changes = sum(a != b for a, b in zip(bits, bits[1:] + bits[:1], strict=True))
                expected[y // SIZE, x // SIZE, sum(bits) if changes <= 2 else 9] += 1
    np.testing.assert_array_equal(texture.lbp_sums(image, tissue, SIZE), expected)


def test_lbp_does_not_change_when_the_image_turns(scene):
    image, tissue = scene[0][0], np.ones((8, 12), bool)
    counts = texture.lbp_sums(image, tissue, SIZE).sum(axis=(0, 1))
    turned = texture.lbp_sums(np.ascontiguousarray(np.rot90(image)), tissue.T.copy(), SIZE).sum(axis=(0, 1))
    np.testing.assert_array_equal(counts, turned)


def test_boundary_counts_changes_to_the_right_and_below(scene):
    tissue = scene[3]
    padded = np.pad(tissue, ((0, 1), (0, 1)), mode="edge")
    changes = (tissue != padded[:-1, 1:]).astype(int) + (tissue != padded[1:, :-1])
    np.testing.assert_array_equal(texture.boundary_sums(tissue, SIZE), cells(changes))
