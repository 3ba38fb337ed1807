from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from histocell.encoders.inference.nucleus_tokens import (
    NucleusPooling,
    nearest_tokens,
    pool_tokens,
    shared_tiles,
    token_weights,
)

GRID = {"grid": (16, 16), "patch_px": 14}


@pytest.fixture(scope="module")
def fixture(parity_dir):
    folder = parity_dir / "vit_tokens"
    with np.load(folder / "expected.npz") as arrays:
        return {**arrays, "folder": folder}


@pytest.fixture(scope="module")
def tokens(fixture):
    """Patch tokens of the fixture's network for its images, after its final norm."""
    import timm

    recipe = json.loads((fixture["folder"] / "kwargs.json").read_text())
    model = timm.create_model(
        recipe["timm_name"], **recipe["kwargs"], mlp_layer=timm.layers.SwiGLUPacked, act_layer=torch.nn.SiLU
    )
    model.load_state_dict(load_file(fixture["folder"] / "model.safetensors"), strict=True)
    with np.load(fixture["folder"] / "images.npz") as arrays:
        images = torch.from_numpy(arrays["images"]).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(recipe[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    images = (images - mean) / std
    np.testing.assert_allclose(images[:, :, ::16, ::16], fixture["preprocessed_every_16th"], atol=2e-6)
    with torch.inference_mode():
        features = model.eval().forward_features(images)
    np.testing.assert_allclose(features, fixture["forward_features"], atol=2e-5)
    np.testing.assert_allclose(features[:, 0], fixture["cls"], atol=2e-5)
    patches = features[:, recipe["prefix_tokens"] :]
    np.testing.assert_allclose(torch.cat([features[:, 0], patches.mean(dim=1)], dim=1), fixture["cls_mean"], atol=2e-5)
    np.testing.assert_allclose(patches.unflatten(1, recipe["grid"]), fixture["token_grid"], atol=2e-5)
    return patches


@pytest.mark.parametrize("k", [1, 4, 12])
def test_the_nearest_tokens_of_the_fixture(fixture, tokens, k):
    nuclei, images = fixture["nucleus_yx"], fixture["nucleus_image"]
    np.testing.assert_array_equal(nearest_tokens(nuclei, **GRID, k=k), fixture[f"k{k}_index"])
    ahead = nearest_tokens(nuclei, **GRID, k=k + 1)
    far = ((ahead[..., None] // [16, 1] % 16 + 0.5) * 14 - nuclei[:, None]) ** 2
    far = far.sum(axis=2)
    np.testing.assert_array_equal(far[:, k - 1] == far[:, k], fixture[f"k{k}_tied"])
    index, weight = token_weights(nuclei, **GRID, pooling=NucleusPooling(k=k))
    np.testing.assert_array_equal(index, fixture[f"k{k}_index"])
    pooled = pool_tokens(tokens, images, index, weight)
    np.testing.assert_allclose(pooled, fixture[f"k{k}_pool"], atol=2e-5, rtol=0)


def test_the_gaussian_of_the_fixture(fixture, tokens):
    pooling = NucleusPooling(kernel="gaussian")
    index, weight = token_weights(fixture["nucleus_yx"], **GRID, pooling=pooling)
    np.testing.assert_array_equal(index, np.broadcast_to(np.arange(256), (32, 256)))
    np.testing.assert_allclose(weight, fixture["gauss_weights"], atol=1e-7, rtol=1e-5)
    pooled = pool_tokens(tokens, fixture["nucleus_image"], index, weight)
    np.testing.assert_allclose(pooled, fixture["gauss_pool"], atol=2e-5, rtol=0)


def brute_force(yx, grid, patch_px, k):
    """All distances, exact, from places rounded to 2^-18 px."""
    y, x = (Fraction(round(v * 2**18), 2**18) for v in yx)
    half = Fraction(patch_px, 2)
    order = sorted(
        (((2 * i + 1) * half - y) ** 2 + ((2 * j + 1) * half - x) ** 2, i * grid[1] + j)
        for i in range(grid[0])
        for j in range(grid[1])
    )
    return [index for _, index in order[:k]]


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_nearest_tokens_equal_all_distances(data):
    grid = data.draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    patch_px = data.draw(st.sampled_from([1, 7, 14, 16]))
    k = data.draw(st.integers(1, grid[0] * grid[1]))
    # multiples of an eighth of a token tie often; others are as awkward as floats get
    place = [
        st.one_of(
            st.integers(0, 8 * n).map(lambda v: v * patch_px / 8), st.floats(-patch_px, (n + 1) * patch_px, width=64)
        )
        for n in grid
    ]
    points = data.draw(st.lists(st.tuples(*place), min_size=1, max_size=5))
    found = nearest_tokens(points, grid=grid, patch_px=patch_px, k=k)
    assert found.tolist() == [brute_force(point, grid, patch_px, k) for point in points]


def test_nearest_tokens_of_many_places_equal_a_sort_of_all_distances():
    points = np.random.default_rng(0).uniform(0, 518, (5000, 2))
    middle = (np.stack(np.divmod(np.arange(37 * 37), 37), axis=1) + 0.5) * 14
    square = ((points[:, None] - middle) ** 2).sum(axis=2)
    expected = np.argsort(square, axis=1, kind="stable")[:, :20]
    np.testing.assert_array_equal(nearest_tokens(points, grid=(37, 37), patch_px=14, k=20), expected)


def test_rounding_does_not_break_a_tie():
    """The middle of an even grid, computed with and without rounding errors, has the same four tokens in the same order."""
    exact = nearest_tokens([[112.0, 112.0]], **GRID, k=4)
    assert exact.tolist() == [[7 * 16 + 7, 7 * 16 + 8, 8 * 16 + 7, 8 * 16 + 8]]
    off = 112 + np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]) * 1e-9
    np.testing.assert_array_equal(nearest_tokens(off, **GRID, k=4), np.repeat(exact, 4, axis=0))


@settings(deadline=None, max_examples=60)
@given(
    place=st.tuples(st.integers(40, 140), st.integers(40, 140)),
    move=st.tuples(st.integers(-1, 1), st.integers(-1, 1)),
    k=st.integers(1, 9),
)
def test_a_step_of_one_token_moves_the_indices_by_one(place, move, k):
    before, after = nearest_tokens([place, np.array(place) + 14 * np.array(move)], **GRID, k=k)
    np.testing.assert_array_equal(after, before + 16 * move[0] + move[1])


@pytest.mark.parametrize(
    "pooling", [NucleusPooling(k=6), *(NucleusPooling(kernel="gaussian", sigma=s) for s in (0.01, 3))]
)
def test_weights_sum_to_one_and_constants_stay(pooling):
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform(0, 112, (50, 2)), [[0, 0], [112, 80], [0, 80], [56, 40]]]) * [1, 80 / 112]
    index, weight = token_weights(points, grid=(8, 5), patch_px=14, pooling=pooling)
    assert index.dtype == np.int64
    assert weight.dtype == np.float32
    np.testing.assert_allclose(weight.sum(axis=1), 1, atol=1e-6)
    values = torch.randn(2, 1, 7, generator=torch.Generator().manual_seed(0))
    tile = rng.integers(0, 2, len(points))
    pooled = pool_tokens(values.expand(2, 40, 7), tile, index, weight)
    np.testing.assert_allclose(pooled, values[tile, 0], rtol=1e-5)


def test_a_narrow_gaussian_is_the_nearest_token():
    points = np.random.default_rng(0).uniform(0, 224, (40, 2))
    index, weight = token_weights(points, **GRID, pooling=NucleusPooling(kernel="gaussian", sigma=1e-3))
    nearest = nearest_tokens(points, **GRID, k=1)
    np.testing.assert_array_equal(np.take_along_axis(index, weight.argmax(axis=1)[:, None], axis=1), nearest)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_pools_equal_loops_in_double_precision(dtype):
    rng = np.random.default_rng(1)
    tokens = torch.from_numpy(rng.normal(size=(3, 12, 5))).to(dtype)
    tile, index = rng.integers(0, 3, 20), rng.integers(0, 12, (20, 4))
    weight = rng.dirichlet(np.ones(4), 20)
    pooled = pool_tokens(tokens, tile, index, weight)
    assert pooled.dtype == torch.float32
    expected = np.zeros((20, 5))
    for i in range(20):
        for q in range(4):
            expected[i] += weight[i, q] * tokens[tile[i], index[i, q]].double().numpy()
    # half-precision tokens are summed in float32, so they lose nothing here
    np.testing.assert_allclose(pooled, expected, atol=1e-6)


def test_no_points():
    index, weight = token_weights(np.empty((0, 2)), **GRID, pooling=NucleusPooling())
    assert index.shape == weight.shape == (0, 4)
    assert pool_tokens(torch.zeros(1, 256, 3), np.empty(0, int), index, weight).shape == (0, 3)
    tiles, tile = shared_tiles(np.empty((0, 2)), size_px=224, overlap=0.5)
    assert tiles.shape == (0, 2)
    assert tile.shape == (0,)


@pytest.mark.parametrize("overlap", [0, 0.3, 0.5, 0.9])
def test_each_point_lies_in_the_middle_of_the_tile_with_the_nearest_centre(overlap):
    points = np.random.default_rng(2).uniform(-300, 5000, (400, 2))
    tiles, tile = shared_tiles(points, size_px=220.7, overlap=overlap)
    stride = 220.7 * (1 - overlap)
    assert (np.abs(points - tiles[tile]) <= stride / 2 + 1e-9).all()
    distance = np.linalg.norm(points[:, None] - tiles, axis=2)
    np.testing.assert_array_equal(distance.argmin(axis=1), tile)
    # every tile is needed, and lies on a grid that starts at the origin
    np.testing.assert_array_equal(np.unique(tile), np.arange(len(tiles)))
    np.testing.assert_allclose(tiles / stride - 0.5, np.rint(tiles / stride - 0.5), atol=1e-9)


def test_the_tile_of_a_point_does_not_depend_on_the_others():
    rng = np.random.default_rng(3)
    points = rng.uniform(0, 9000, (3000, 2))
    tiles, tile = shared_tiles(points, size_px=224, overlap=0.5)
    order = rng.permutation(3000)
    again, tile_again = shared_tiles(points[order], size_px=224, overlap=0.5)
    np.testing.assert_array_equal(again, tiles)
    np.testing.assert_array_equal(tile_again, tile[order])
    for some in (slice(0, 1), slice(100, 160)):
        fewer, tile_fewer = shared_tiles(points[some], size_px=224, overlap=0.5)
        np.testing.assert_array_equal(fewer[tile_fewer], tiles[tile[some]])


def test_tiles_come_block_by_block():
    yx = np.stack(np.meshgrid(np.arange(0, 6000, 100), np.arange(0, 6000, 100), indexing="ij"), axis=-1).reshape(-1, 2)
    tiles, _ = shared_tiles(yx[:, ::-1], size_px=200, overlap=0.5)
    key = [(y // 2048, x // 2048, y, x) for x, y in tiles.tolist()]
    assert len(key) == 3600
    assert key == sorted(key)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strategy": "central"}, "strategy must be one of centered, shared, not 'central'"),
        ({"kernel": "max"}, "kernel must be one of mean, gaussian"),
        ({"k": 0}, "k must be a whole number of tokens above 0, not 0"),
        ({"k": 2.5}, "k must be a whole number"),
        ({"sigma": 0}, "sigma must be above 0"),
        ({"sigma": float("nan")}, "sigma must be above 0"),
        ({"sigma": float("inf")}, "sigma must be above 0"),
        ({"block": 1.5}, "block must be a whole number"),
        ({"overlap": 1}, r"overlap must be in \[0, 1\)"),
        ({"overlap": -0.1}, r"overlap must be in \[0, 1\)"),
    ],
)
def test_a_pooling_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        NucleusPooling(**arguments)


@pytest.mark.parametrize(
    ("points", "grid", "k", "message"),
    [
        ([[50.0, 50.0]], (3, 4), 13, "the grid of 3 x 4 tokens has 12"),
        ([[5.0, 5.0, 5.0]], (16, 16), 4, "two columns, y and x"),
        ([[5.0, 5.0], [5.0, np.nan]], (16, 16), 4, r"1 points lie outside .* yx_px\[1\]"),
        ([[5.0, 12000.0]], (16, 16), 4, "not of the slide"),
        ([[5.0, 5.0]], (0, 16), 4, "must have an edge of 1"),
        ([[5.0, 5.0]], (2000, 2000), 4, "4096 px"),
    ],
)
def test_points_and_grids_that_do_not_fit(points, grid, k, message):
    with pytest.raises(ValueError, match=message):
        token_weights(points, grid=grid, patch_px=14, pooling=NucleusPooling(k=k))


@pytest.mark.parametrize(
    ("centers", "arguments", "message"),
    [
        ([[1.0, np.inf]], {"size_px": 224, "overlap": 0.5}, "centers must be finite"),
        ([1.0, 2.0], {"size_px": 224, "overlap": 0.5}, "two columns"),
        ([[1.0, 2.0]], {"size_px": 0, "overlap": 0.5}, "size_px must be above 0"),
        ([[1.0, 2.0]], {"size_px": 224, "overlap": 1.0}, "overlap must be in"),
    ],
)
def test_tiles_that_cannot_be(centers, arguments, message):
    with pytest.raises(ValueError, match=message):
        shared_tiles(centers, **arguments)
