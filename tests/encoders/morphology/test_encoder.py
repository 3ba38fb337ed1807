from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numba import get_num_threads, set_num_threads
from PIL import Image
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from histocell.encoders.morphology.blocks import BLOCK_CELLS, CELL_PX, CHANNELS, HALO_CELLS, block_sums
from histocell.encoders.morphology.encoder import Morphology
from histocell.images.slide_image import open_image
from histocell.images.stain.estimate import estimate_stains, stains_of
from histocell.kernels.texture import unmix
from histocell.nuclei.measurements import nuclei_table
from histocell.nuclei.watershed import segment_nuclei

MPP = 0.5
GLASS = np.array([240.0, 236.0, 241.0])
H = np.array([0.70, 0.64, 0.31])
E = np.array([0.20, 0.88, 0.43])


@pytest.fixture(scope="module")
def encoder() -> Morphology:
    return Morphology()


def tissue(seed: int = 0, *, side: int = 1200) -> tuple[np.ndarray, np.ndarray]:
    """H&E-like pixels at 0.5 um/px, and the centres (x, y) of the nuclei: crowded on the left, sparse on the right."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    fibres = 0.25 + 0.06 * np.sin(0.15 * (x + 0.4 * y)) + rng.normal(0, 0.01, (side, side))
    h = np.full((side, side), 0.04, np.float32)
    kept: list[np.ndarray] = []
    for point in rng.uniform(20, side - 20, (4000, 2)):
        gap = 18 if point[0] < side / 2 else 45
        if not kept or np.min(np.hypot(*(np.array(kept) - point).T)) > gap:
            kept.append(point)
    for cx, cy in kept:
        window = np.s_[int(cy) - 12 : int(cy) + 13, int(cx) - 12 : int(cx) + 13]
        disc = 1 / (1 + np.exp(2 * (np.hypot(y[window] - cy, x[window] - cx) - 6.5)))
        h[window] = np.maximum(h[window], 0.75 * disc)
    vectors = np.stack([H / np.linalg.norm(H), E / np.linalg.norm(E)])
    od = h[..., None] * vectors[0] + (fibres * (1 - h))[..., None] * vectors[1]
    od[:40] = od[:, -40:] = 0
    return np.clip(GLASS * 10**-od, 0, 255).round().astype(np.uint8), np.array(kept)


@pytest.fixture(scope="module")
def section():
    image, nuclei = tissue()
    grid = np.arange(120, 1100, 140.0)
    centers = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    return image, nuclei, centers


@pytest.fixture(scope="module")
def embedding(encoder, section):
    return encoder.embed(open_image(section[0], mpp=MPP), section[2], mpp=MPP)


def correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation of each feature that varies in both."""
    varies = (a.std(axis=0) > 1e-6) & (b.std(axis=0) > 1e-6)
    a, b = a[:, varies], b[:, varies]
    return ((a - a.mean(0)) * (b - b.mean(0))).mean(0) / (a.std(0) * b.std(0))


def test_names_and_shape(encoder, embedding, section):
    assert embedding.shape == (len(section[2]), encoder.dim)
    assert embedding.dtype == np.float32
    assert embedding.flags.c_contiguous
    assert np.isfinite(embedding).all()
    assert len(set(encoder.feature_names)) == len(encoder.feature_names) == encoder.dim
    assert all(name.replace("_", "").isalnum() for name in encoder.feature_names)
    assert 100 < encoder.dim < 400
    assert list(encoder.radii_um) == sorted(encoder.radii_um)


def test_density_follows_the_planted_nuclei(encoder, embedding, section):
    _, nuclei, centers = section
    sigma = encoder.radii_um[0] / MPP
    planted = np.exp(-(cdist(centers, nuclei) ** 2) / (2 * sigma**2)).sum(axis=1)
    found = embedding[:, encoder.feature_names.index("spot_density")] ** 2
    assert np.corrcoef(planted, found)[0, 1] > 0.97


def test_the_same_whatever_else_is_asked_for(encoder, embedding, section):
    image, _, centers = section
    some = [3, 17, 40]
    np.testing.assert_array_equal(encoder.embed(open_image(image, mpp=MPP), centers[some], mpp=MPP), embedding[some])
    order = np.random.default_rng(0).permutation(len(centers))
    np.testing.assert_array_equal(encoder.embed(open_image(image, mpp=MPP), centers[order], mpp=MPP), embedding[order])


def test_the_same_on_any_number_of_threads(encoder, embedding, section):
    threads = get_num_threads()
    set_num_threads(1)
    try:
        alone = encoder.embed(open_image(section[0], mpp=MPP), section[2], mpp=MPP)
    finally:
        set_num_threads(threads)
    np.testing.assert_array_equal(alone, embedding)


def test_half_the_resolution_says_the_same(encoder, embedding, section):
    image, _, centers = section
    half = image.reshape(600, 2, 600, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8)
    other = encoder.embed(open_image(half, mpp=2 * MPP), centers / 2, mpp=2 * MPP)
    found = correlations(embedding, other)
    assert np.median(found) > 0.99
    assert np.mean(found) > 0.95


@pytest.mark.parametrize(
    "change",
    [lambda v: v * 0.88, lambda v: 255 * (v / 255) ** np.array([1.15, 0.9, 1.05]), lambda v: v * (1, 0.92, 0.97)],
    ids=["dim lamp", "stain", "tinted light"],
)
def test_another_scanner_says_the_same(encoder, embedding, section, change):
    image, _, centers = section
    other = np.clip(change(image.astype(float)), 0, 255).round().astype(np.uint8)
    found = correlations(embedding, encoder.embed(open_image(other, mpp=MPP), centers, mpp=MPP))
    assert np.median(found) > 0.98
    assert np.mean(found) > 0.9


def test_a_larger_patch_widens_the_spot_only(encoder, embedding, section):
    image, _, centers = section
    wider = encoder.embed(open_image(image, mpp=MPP), centers, mpp=MPP, size_um=224)
    spot = np.array([name.startswith("spot_") for name in encoder.feature_names])
    np.testing.assert_array_equal(wider[:, ~spot], embedding[:, ~spot])
    assert not np.allclose(wider[:, spot], embedding[:, spot])


@pytest.mark.parametrize(
    "image",
    [
        np.full((500, 400, 3), 255, np.uint8),
        np.zeros((500, 400, 3), np.uint8),
        np.full((500, 400, 3), (180, 120, 190), np.uint8),
        np.random.default_rng(0).integers(0, 256, (500, 400, 3), dtype=np.uint8),
        np.full((7, 500, 3), 90, np.uint8),
    ],
    ids=["white", "black", "constant", "noise", "sliver"],
)
def test_any_image_gives_finite_features(encoder, image):
    centers = np.array([[0.0, 0.0], [200.0, 250.0], [-3000.0, 50.0]])
    got = encoder.embed(open_image(image, mpp=MPP), centers, mpp=MPP)
    assert got.shape == (3, encoder.dim)
    assert np.isfinite(got).all()


def test_an_image_smaller_than_a_patch(encoder):
    with pytest.raises(ValueError, match="larger than the image"):
        encoder.embed(open_image(np.full((1, 1, 3), 90, np.uint8), mpp=MPP), np.zeros((1, 2)), mpp=MPP)


def test_no_points(encoder, section):
    assert encoder.embed(open_image(section[0], mpp=MPP), np.zeros((0, 2)), mpp=MPP).shape == (0, encoder.dim)


def test_progress_counts_the_points(encoder, section):
    class Bar:
        n = 0

        def update(self, n: int) -> None:
            self.n += n

    bar = Bar()
    encoder.embed(open_image(section[0], mpp=MPP), section[2][:9], mpp=MPP, progress=bar)
    assert bar.n == 9


@pytest.mark.parametrize(
    ("centers", "mpp", "message"),
    [
        (np.zeros((3, 3)), 0.5, "two columns"),
        (np.array([[np.nan, 1.0]]), 0.5, "finite"),
        (np.zeros((1, 2)), 0.0, "above 0"),
        (np.zeros((1, 2)), np.nan, "above 0"),
    ],
)
def test_bad_input(encoder, section, centers, mpp, message):
    with pytest.raises(ValueError, match=message):
        encoder.embed(open_image(section[0], mpp=MPP), centers, mpp=mpp)


def test_block_sums_add_up(section):
    side = (BLOCK_CELLS + 2 * HALO_CELLS) * CELL_PX
    image = open_image(section[0], mpp=MPP)
    rgb = image.read(0, 0, 2 * side, 2 * side, out_shape=(side, side))
    stains = stains_of(image, mpp=MPP)
    sums = dict(zip(CHANNELS, np.moveaxis(block_sums(rgb, stains), -1, 0), strict=True))
    assert (sums["pixels"] == CELL_PX**2).all()
    for name in ("tissue", "plain"):
        assert (sums[name] <= sums["pixels"]).all()
    bins = sum(sums[f"h_bin{i}"] for i in range(7))
    np.testing.assert_allclose(bins, sums["tissue"])
    kinds = [v for k, v in sums.items() if k.startswith("nuclei_") and k.endswith(("_round", "_long"))]
    np.testing.assert_allclose(sum(kinds), sums["nuclei_n"])
    inside = HALO_CELLS * CELL_PX
    planted = section[1] * MPP
    expected = ((planted >= inside) & (planted < side - inside)).all(axis=1).sum()
    assert sums["nuclei_n"].sum() == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(("mpp", "bar"), [(0.2, 0.78), (1.0, 0.76)])
def test_nuclei_of_real_tiles_are_found(data_dir, mpp, bar):
    """F1 of centroids within 4 um, over 10 annotated tiles of breast cancer of nominally 0.2 um/px."""
    folder = data_dir / "nucls_tiles"
    hits = n_found = n_true = 0
    for tile, truth in pd.read_csv(folder / "nuclei.csv").groupby("tile"):
        picture = Image.open(folder / f"{tile}.png").convert("RGB")
        stains = estimate_stains(np.asarray(picture).reshape(-1, 3), background=(242, 242, 242))
        size = [round(n * 0.2 / mpp) for n in picture.size]
        maps = unmix(np.asarray(picture.resize(size, Image.Resampling.BILINEAR)), stains.density, stains.unmixing)
        labels, n = segment_nuclei(maps[0], threshold=stains.nuclear_threshold, mpp=mpp)
        nuclei = nuclei_table(labels, n, maps, threshold=stains.nuclear_threshold, mpp=mpp)
        distance = cdist(truth[["y", "x"]] * 0.2, np.stack([nuclei["y"], nuclei["x"]], axis=1))
        rows, columns = linear_sum_assignment(np.minimum(distance, 4))
        hits += (distance[rows, columns] < 4).sum()
        n_found += distance.shape[1]
        n_true += distance.shape[0]
    assert 2 * hits / (n_found + n_true) > bar


def test_composition_of_an_unseen_section_is_predicted(encoder, data_dir):
    """A fixed ridge on standardised features: section C3 from C2, mean correlation over cell types."""
    features, truth = [], []
    for name in ("C2", "C3"):
        folder = data_dir / "her2st" / name
        spots = pd.read_csv(folder / "selection.tsv", sep="\t").query("selected == 1")
        spots.index = [f"{x}x{y}" for x, y in zip(spots["x"], spots["y"], strict=True)]
        composition = pd.read_csv(folder / "props_major.tsv", sep="\t", index_col=0)
        spots = spots.loc[spots.index.intersection(composition.index)]
        image = open_image(folder / "he.jpg", mpp=0.689)
        found = encoder.embed(image, spots[["pixel_x", "pixel_y"]].to_numpy(), mpp=0.689)
        features.append((found - found.mean(0)) / np.maximum(found.std(0), 1e-6))
        truth.append(composition.loc[spots.index].to_numpy())
    train, test = features
    gram = train.T @ train + 300 * np.eye(train.shape[1])
    predicted = test @ np.linalg.solve(gram, train.T @ (truth[0] - truth[0].mean(0)))
    scores = [np.corrcoef(predicted[:, k], truth[1][:, k])[0, 1] for k in range(truth[1].shape[1])]
    assert np.mean(scores) > 0.5
