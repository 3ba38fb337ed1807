from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from histocell.kernels.level_sets.necks import cut_necks, inner_distance
from histocell.kernels.level_sets.objects import fill_holes, label_sums
from histocell.kernels.level_sets.outlines import grow
from histocell.kernels.level_sets.tree import choose_nodes, component_tree, ellipse_fill


def discs(*rows: tuple[float, float, float, float], shape: tuple[int, int] = (80, 100)) -> np.ndarray:
    """Blurred discs (y, x, radius, height), the highest where they overlap."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    sharp = np.max([h * (np.hypot(y - a, x - b) < r) for a, b, r, h in rows], axis=0)
    return ndimage.gaussian_filter(sharp, 1.5).astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_nodes_are_the_connected_parts_of_the_level_sets(seed):
    surface = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(20, 25)), 1.2).astype(np.float32)
    step = float(np.ptp(surface)) / 12
    levels, _, order, stops, parents, sums = component_tree(surface, -0.1, step)
    pixels = order[stops - 1]
    framed = levels.reshape(22, 27)
    inner = framed[1:-1, 1:-1]
    assert ((inner >= 0) == (surface >= np.float32(-0.1))).all()
    padded = np.pad(surface, 1)
    expected = set()
    for level in np.unique(inner[inner >= 0]):
        parts, n = ndimage.label(framed >= level)
        for k in range(1, n + 1):
            part = parts == k
            if (framed[part] == level).any():  # else it is a node of a higher level, too
                y, x = np.nonzero(part)
                edges = steps = 0
                for v, u in ((1, 0), (-1, 0), (0, 1), (0, -1)):
                    out = ~part[y + v, x + u] & (framed[y + v, x + u] != -2)
                    edges += out.sum()
                    steps += np.abs(padded[y, x] - padded[y + v, x + u])[out].sum()
                expected.add((level, part.sum(), y.sum(), x.sum(), (y * x).sum(), edges, round(float(steps), 3)))
    nodes = np.arange(len(pixels))
    assert (parents >= nodes).all()  # children come first
    assert ((levels[pixels[parents]] < levels[pixels]) | (parents == nodes)).all()
    found = {(levels[pixels[t]], *sums[t, [0, 1, 2, 5, 6]], round(sums[t, 7], 3)) for t in nodes}
    assert len(found) == len(expected)
    for a, b in zip(sorted(found), sorted(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3)


@pytest.mark.parametrize("seed", range(3))
def test_a_tree_without_small_nodes_is_the_rest_of_the_whole(seed):
    surface = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(40, 50)), 1.5).astype(np.float32)
    whole, rest = (component_tree(surface, -0.1, float(np.ptp(surface)) / 20, least) for least in (1, 8))
    large = np.flatnonzero(whole.sums[:, 0] >= 8)
    assert 0 < len(large) < len(whole.stops)
    np.testing.assert_allclose(rest.sums, whole.sums[large], atol=1e-6)
    np.testing.assert_array_equal(large[rest.parents], whole.parents[large])
    for stop, area in zip(rest.stops, rest.sums[:, 0].astype(int), strict=True):
        part = np.zeros(rest.levels.size, bool)
        part[rest.order[stop - area : stop]] = True
        labels, _ = ndimage.label(rest.levels.reshape(42, 52) >= rest.levels[rest.order[stop - 1]])
        np.testing.assert_array_equal(part, (labels == labels.ravel()[rest.order[stop - 1]]).ravel())


def test_an_ellipse_fills_itself_and_two_circles_do_not():
    y, x = np.mgrid[:60, :60]

    def fill(mask):
        v, u = y[mask], x[mask]
        sums = [mask.sum(), v.sum(), u.sum(), (v**2).sum(), (u**2).sum(), (v * u).sum(), 0, 0]
        return ellipse_fill(np.array(sums, float))

    assert fill(((y - 30) / 20) ** 2 + ((x - 30) / 9) ** 2 < 1) == pytest.approx(1, abs=0.01)
    pair = (np.hypot(y - 30, x - 19) < 10) | (np.hypot(y - 30, x - 39) < 10)
    assert fill(pair) == pytest.approx(2 / (4 * np.sqrt(5 / 16)), abs=0.02)


def found(surface: np.ndarray, floor: float = 0.1) -> np.ndarray:
    tree = component_tree(surface, floor, 2.0 / 160)
    nodes, marks = choose_nodes(tree, (20.0, 800.0, 60.0), (0.02, 0.5), (0.6, 0.95), 1.0)
    return grow(tree, nodes, marks, surface.shape, 0.2, 800.0)


def test_pale_and_dark_objects_get_their_own_outlines():
    rows = [(20, 20, 9, 1.5), (20, 60, 9, 0.5), (55, 30, 12, 0.9), (60, 75, 5, 1.2)]
    labels = found(discs(*rows))
    assert labels.max() == 4
    for y, x, r, _ in rows:
        assert (labels == labels[y, x]).sum() == pytest.approx(np.pi * r**2, rel=0.12)


def test_touching_objects_are_separate_and_share_no_pixel():
    labels = found(discs((40, 30, 9, 1.0), (40, 48, 9, 1.2), (58, 38, 9, 0.8)))
    assert len({labels[40, 30], labels[40, 47], labels[58, 38], 0}) == 4
    assert (labels > 0).sum() == pytest.approx(3 * np.pi * 81, rel=0.15)


def test_flat_slopes_and_sheets_are_not_taken():
    y, x = np.mgrid[:80, :100]
    assert found((x / 100).astype(np.float32)).max() == 0
    assert found(np.full((80, 100), 0.7, np.float32)).max() == 0
    assert found(np.zeros((80, 100), np.float32)).max() == 0
    assert found(np.zeros((0, 0), np.float32)).size == 0


def random_labels(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mask = ndimage.gaussian_filter(rng.normal(size=(50, 60)), 2) > 0.02
    return (mask * (1 + (np.indices(mask.shape)[1] > 30))).astype(np.int32)


@pytest.mark.parametrize("seed", range(5))
def test_distances_are_those_of_scipy_to_half_a_pixel(seed):
    labels = random_labels(seed)
    exact = np.zeros(labels.shape)
    for k in (1, 2):
        # the border is no edge: beyond it, everything goes on
        far = np.pad(labels == k, 60, mode="edge")
        exact += ndimage.distance_transform_edt(far)[60:-60, 60:-60] * (labels == k)
    got = inner_distance(labels)
    assert ((got > 0) == (labels > 0)).all()
    inside = np.zeros(labels.shape, bool)
    inside[12:-12, 12:-12] = labels[12:-12, 12:-12] > 0  # nearer to an edge than to the border
    np.testing.assert_allclose(got[inside], exact[inside] - 0.5, rtol=0.06, atol=0.56)


@pytest.mark.parametrize("seed", range(5))
def test_holes_are_those_of_scipy(seed):
    labels = random_labels(seed)
    expected = labels.copy()
    for k in (1, 2):
        expected[ndimage.binary_fill_holes(labels == k) & (labels == 0)] = k
    fill_holes(labels, labels.size)
    np.testing.assert_array_equal(labels, expected)


def test_large_holes_and_those_between_labels_stay():
    labels = np.ones((9, 9), np.int32)
    labels[2:5, 2:5] = 0
    once = labels.copy()
    fill_holes(once, 8)
    assert (once == 0).sum() == 9
    labels[:, 5:] = 2
    fill_holes(labels, 100)
    assert (labels == 0).sum() == 9


def test_necks_are_cut_and_ellipses_are_not():
    y, x = np.mgrid[:60, :90]
    pair = (np.hypot(y - 15, x - 20) < 10) | (np.hypot(y - 15, x - 35) < 10)
    ellipse = ((y - 40) / 8) ** 2 + ((x - 50) / 22) ** 2 < 1
    labels = (pair + 2 * ellipse).astype(np.int32)
    heights = np.log(np.maximum(inner_distance(labels), 0.5)).astype(np.float32)
    parts = labels.copy()
    assert cut_necks(parts, heights, -np.log(0.8), np.log(3.0)) == 4  # of the pair, 3 and 4
    assert set(np.unique(parts)) == {0, 2, 3, 4}
    assert parts[15, 20] != parts[15, 35]
    assert len(np.unique(parts[ellipse])) == 1
    assert ((parts > 0) == (labels > 0)).all()
    assert cut_necks(labels, heights, -np.log(0.8), np.log(30.0)) == 2  # no part is that wide


def cut_one_by_one(labels: np.ndarray, heights: np.ndarray, depth: float, least: float) -> np.ndarray:
    """All pixels of all labels from the highest to the lowest, in bins of 1/400; parts numbered by their first pixel."""
    height, width = labels.shape
    places = [(int((6.0 - float(heights[y, x])) * 400), y, x) for y, x in np.argwhere(labels)]
    part_of, peak, merged = {}, {}, {}

    def root(k):
        while merged[k] != k:
            k = merged[k]
        return k

    for _, y, x in sorted(places):
        best = None
        for v in range(max(y - 1, 0), min(y + 2, height)):
            for u in range(max(x - 1, 0), min(x + 2, width)):
                if (v, u) not in part_of or labels[v, u] != labels[y, x]:
                    continue
                other = root(part_of[v, u])
                if best in (None, other):
                    best = other
                    continue
                low, best = sorted((best, other), key=peak.__getitem__)
                if peak[low] - heights[y, x] < depth or peak[low] < least:
                    merged[low] = best
        if best is None:
            best = (y, x)
            merged[best], peak[best] = best, heights[y, x]
        part_of[y, x] = best
    number: dict[tuple[int, int], int] = {}
    out = np.zeros(labels.shape, np.int32)
    for _, y, x in sorted(places):
        out[y, x] = number.setdefault(root(part_of[y, x]), len(number) + 1)
    return out


@pytest.mark.parametrize("seed", range(6))
def test_cuts_are_those_of_one_flood_of_all_labels(seed):
    rng = np.random.default_rng(seed)
    labels = ndimage.label(ndimage.gaussian_filter(rng.normal(size=(60, 70)), 2.5) > -0.02)[0].astype(np.int32)
    rough = 0.15 * ndimage.gaussian_filter(rng.normal(size=labels.shape), 1)
    heights = (np.log(np.maximum(inner_distance(labels), 0.5)) + rough).astype(np.float32)
    depth, least = -np.log(0.8), np.log(1.5)
    expected = cut_one_by_one(labels, heights, depth, least)
    n_labels = labels.max()
    last = cut_necks(labels, heights, depth, least)
    pairs = np.unique(np.stack([labels.ravel(), expected.ravel()]), axis=1)
    assert labels.max() == last
    assert pairs.shape[1] == len(np.unique(labels)) == expected.max() + 1 > n_labels + 1


def test_sums_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (7, 9)).astype(np.int32)
    surface = rng.random((7, 9)).astype(np.float32)
    rgb = rng.integers(0, 256, (7, 9, 3)).astype(np.uint8)
    density = rng.random((256, 3)).astype(np.float32)
    got = label_sums(labels, 3, surface, rgb, density)
    assert (got[0] == 0).all()
    for k in (1, 2, 3):
        mask = labels == k
        colours = density[rgb[mask], np.arange(3)].sum(axis=0)
        np.testing.assert_allclose(got[k], [mask.sum(), surface[mask].sum(), *colours], rtol=1e-5)
