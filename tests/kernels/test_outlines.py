from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.feature import graycomatrix, graycoprops
from skimage.measure import label, regionprops_table, shannon_entropy

from histocell.kernels.outlines.runs import count, fill, paint, runs_of_labels
from histocell.kernels.outlines.shapes import outline_moments, shapes_of_runs
from histocell.kernels.outlines.stains import BIN, N_BINS, pixel_measures, ring_means, shared
from histocell.nuclei.measuring.outlines import Outlines

SHAPES = {
    "area": 0,
    "centroid-0": 1,
    "centroid-1": 2,
    "perimeter": 3,
    "axis_major_length": 4,
    "axis_minor_length": 5,
    "eccentricity": 6,
    "solidity": 7,
}


def outlines(*polygons) -> Outlines:
    return Outlines.read(np.array([*polygons, None], dtype=object)[:-1])


def filled(polygons: Outlines, shape: tuple[int, int], scale: float = 1.0, origin=(0, 0)) -> list[np.ndarray]:
    """A mask of each outline."""
    y, x = origin
    window = (y, x, y + shape[0], x + shape[1])
    chosen = np.arange(len(polygons))
    starts, runs = fill(polygons.xy, polygons.rings, polygons.objects, chosen, scale, window)
    masks = []
    for i in chosen:
        out = np.zeros(shape, np.uint8)
        count(runs[starts[i] : starts[i + 1]], out)
        masks.append(out)
    return masks


def star(g: np.random.Generator, x: float, y: float, radius: float, n: int = 12) -> shapely.Polygon:
    angle = np.sort(g.uniform(0, 2 * np.pi, n))
    length = radius * g.uniform(0.4, 1, n)
    return shapely.Polygon(np.column_stack([x + length * np.cos(angle), y + length * np.sin(angle)]))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 0.37, 2.5]))
def test_filled_px_are_those_whose_centre_lies_inside(seed, scale):
    g = np.random.default_rng(seed)
    polygon = star(g, *g.uniform(-5, 45, 2), g.uniform(0.3, 20))
    ring = shapely.Polygon(polygon.buffer(3).exterior, [polygon.exterior]) if polygon.is_valid else polygon
    (mask,) = filled(outlines(ring.buffer(0)), (40, 50), scale, origin=(3, -4))
    x, y = np.meshgrid((np.arange(50) - 4 + 0.5) / scale, (np.arange(40) + 3 + 0.5) / scale)
    np.testing.assert_array_equal(mask, shapely.contains_xy(ring.buffer(0), x, y))


def test_abutting_outlines_share_no_px_and_leave_none_out():
    g = np.random.default_rng(0)
    points = shapely.MultiPoint(g.uniform(0, 40, (60, 2)))
    cells = shapely.intersection(shapely.get_parts(shapely.voronoi_polygons(points)), shapely.box(0, 0, 40, 40))
    np.testing.assert_array_equal(sum(filled(outlines(*cells), (40, 40))), 1)
    squares = [shapely.box(x, y, x + 2.5, y + 2.5) for x in np.arange(0, 40, 2.5) for y in np.arange(0, 40, 2.5)]
    np.testing.assert_array_equal(sum(filled(outlines(*squares), (40, 40))), 1)  # edges through centres of px


def test_outlines_of_px_are_filled_with_these_px():
    """A px (row, column) covers the square from (column, row) to (column + 1, row + 1)."""
    mask = np.random.default_rng(1).random((20, 30)) > 0.6
    squares = [shapely.box(c, r, c + 1, r + 1) for r, c in zip(*np.nonzero(mask), strict=True)]
    (found,) = filled(outlines(shapely.union_all(squares)), mask.shape)
    np.testing.assert_array_equal(found, mask)


def test_nothing_of_an_outline_beside_the_window():
    polygons = outlines(shapely.box(-9, 0, -1, 5), shapely.box(3, 50, 9, 60), shapely.box(2, 2, 2.3, 2.3))
    assert not any(mask.any() for mask in filled(polygons, (40, 40)))


def test_later_objects_are_painted_over_earlier_ones():
    polygons = outlines(shapely.box(0, 0, 4, 4), shapely.box(2, 2, 6, 6))
    starts, runs = fill(polygons.xy, polygons.rings, polygons.objects, np.arange(2), 1.0, (0, 0, 8, 8))
    out = np.zeros((8, 8), np.float32)
    paint(starts, runs, np.array([1, 2], np.float32), out)
    assert (out[3, 3], out[1, 1], out[5, 5], out[7, 7]) == (2, 1, 2, 0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 1.0, 3.0]))
def test_shapes_are_those_of_scikit_image(seed, smooth):
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(60, 70)), smooth)
    labels = label(field > field.std() * 0.5, connectivity=seed % 2 + 1).astype(np.int32)
    found = shapes_of_runs(*runs_of_labels(labels, labels.max()))
    truth = regionprops_table(labels, properties=[*{name.partition("-")[0] for name in SHAPES}, "orientation"])
    for name, column in SHAPES.items():
        np.testing.assert_allclose(found[:, column], truth[name], atol=1e-6, err_msg=name)
    long = truth["axis_major_length"] > truth["axis_minor_length"] + 1e-6  # a circle has no direction
    turned = np.abs(found[long, 8] - truth["orientation"][long])
    np.testing.assert_allclose(np.minimum(turned, np.pi - turned), 0, atol=1e-6)


def test_stain_and_spread_are_those_of_the_px():
    g = np.random.default_rng(2)
    labels = label(ndimage.gaussian_filter(g.normal(size=(50, 60)), 2) > 0.05).astype(np.int32)
    maps = g.random((2, 50, 60)).astype(np.float32)
    n = labels.max()
    found = pixel_measures(*runs_of_labels(labels, n), maps)
    for i in range(n):
        h, e = maps[:, labels == i + 1].astype(float)
        np.testing.assert_allclose(found[i, :5], [len(h), h.mean(), h.std(), e.mean(), e.std()], atol=1e-9)
        bins = np.minimum((h / BIN).astype(int), N_BINS - 1)
        np.testing.assert_allclose(found[i, 7], shannon_entropy(bins), atol=1e-9)


def test_texture_is_that_of_the_cooccurrence_matrix():
    g = np.random.default_rng(3)
    levels = ndimage.gaussian_filter(g.normal(size=(30, 40)), 1)
    levels = np.digitize(levels, np.quantile(levels, np.linspace(0, 1, 9)[1:-1])).astype(np.uint8)
    found = pixel_measures(
        *runs_of_labels(np.ones((30, 40), np.int32), 1), np.stack([levels, levels]).astype(np.float32)
    )
    counts = graycomatrix(levels, [1], [0, np.pi / 2], levels=8, symmetric=True).sum(axis=3, keepdims=True)
    matrix = counts / counts.sum()
    np.testing.assert_allclose(found[0, 5], graycoprops(matrix, "contrast")[0, 0], rtol=1e-9)
    np.testing.assert_allclose(found[0, 6], graycoprops(matrix, "correlation")[0, 0], rtol=1e-9)


def test_pairs_of_an_object_in_pieces():
    """Rows of several runs, an empty row between: each pair of px that share an edge counts once."""
    g = np.random.default_rng(4)
    mask = g.random((12, 15)) > 0.45
    mask[6] = False
    image = g.random((12, 15))
    pairs = [
        (image[y, x], image[y + dy, x + dx])
        for dy, dx in ((0, 1), (1, 0))
        for y in range(12 - dy)
        for x in range(15 - dx)
        if mask[y, x] and mask[y + dy, x + dx]
    ]
    a, b = np.array(pairs).T
    found = pixel_measures(*runs_of_labels(mask.astype(np.int32), 1), np.stack([image] * 2).astype(np.float32))
    np.testing.assert_allclose(found[0, 5], ((a - b) ** 2).mean(), rtol=1e-5)
    np.testing.assert_allclose(found[0, 6], np.corrcoef(np.r_[a, b], np.r_[b, a])[0, 1], rtol=1e-5)


@pytest.mark.parametrize("radius", [1.0, 2.9, 6.0])
def test_ring_holds_the_free_px_near_an_object(radius):
    g = np.random.default_rng(5)
    labels = label(ndimage.gaussian_filter(g.normal(size=(60, 50)), 2) > 0.15).astype(np.int32)
    maps = g.random((2, 60, 50)).astype(np.float32)
    starts, runs = runs_of_labels(labels, labels.max())
    found = ring_means(starts, runs, maps, (labels > 0).astype(np.uint8), radius)
    for i in range(labels.max()):
        ring = (ndimage.distance_transform_edt(labels != i + 1) <= radius) & (labels == 0)
        np.testing.assert_allclose(found[i], maps[:, ring].astype(float).mean(axis=1), atol=1e-9)


def test_a_ring_without_free_px_is_unknown():
    labels = np.arange(1, 10, dtype=np.int32).reshape(3, 3)
    found = ring_means(*runs_of_labels(labels, 9), np.ones((2, 3, 3), np.float32), np.ones((3, 3), np.uint8), 1.0)
    assert np.isnan(found).all()


def test_px_in_several_objects_are_counted():
    polygons = outlines(shapely.box(0, 0, 4, 4), shapely.box(2, 0, 4, 4), shapely.box(5, 5, 6, 6))
    starts, runs = fill(polygons.xy, polygons.rings, polygons.objects, np.arange(3), 1.0, (0, 0, 8, 8))
    times = np.zeros((8, 8), np.uint8)
    count(runs, times)
    np.testing.assert_allclose(shared(starts, runs, times), [0.5, 1, 0])


def test_moments_of_a_ring_of_a_rectangle():
    """Closed form: those of the outer rectangle less those of the hole, about the common centre."""
    outer, inner = shapely.box(100, 200, 110, 204), shapely.box(103, 201, 107, 203)
    hollow = outer.difference(inner)
    part = outlines(hollow, shapely.reverse(hollow))
    found = outline_moments(part.xy, part.rings, part.objects, part.holes)
    vx, vy = ((40 * a**2 - 8 * b**2) / 12 / 32 for a, b in ((10, 4), (4, 2)))
    np.testing.assert_allclose(found[:, :3], [[vx, vy, 0]] * 2, atol=1e-9)
    np.testing.assert_array_equal(found[:, 3:], [[8, 2]] * 2)
