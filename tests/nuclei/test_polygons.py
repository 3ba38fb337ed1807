"""Outlines of objects against marching squares of scikit-image, and the laws that they keep."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from skimage.draw import disk
from skimage.measure import find_contours

from histocell.nuclei.polygons import BOTTOM, LEFT, RIGHT, TOP, compact_labels, find_objects, trace_outlines


def polygons(labels: np.ndarray) -> np.ndarray:
    """Outlines of all labels in px."""
    found = find_objects(labels)
    outlines = trace_outlines(labels, found.labels)
    index = np.arange(len(found.labels) + 1)
    return shapely.from_ragged_array(shapely.GeometryType.POLYGON, outlines.points / 2, (outlines.offsets, index))


def test_outlines_are_those_of_marching_squares():
    labels = np.zeros((60, 70), np.int32)
    for label, (y, x, radius) in enumerate([(12, 12, 9), (30, 50, 14), (52, 10, 7), (5, 60, 4)], 1):
        labels[disk((y, x), radius, shape=labels.shape)] = label
    for label, polygon in enumerate(polygons(labels), 1):
        mask = np.pad(labels == label, 1).astype(float)
        contour = find_contours(mask, 0.5)[0]  # between the centres of px, which lie at whole numbers
        expected = shapely.Polygon(contour[:, ::-1] - 1 + 0.5)
        assert polygon.equals(expected)
        assert shapely.get_num_coordinates(polygon) < len(contour)


def test_a_pixel_is_a_square_of_its_own_place():
    labels = np.zeros((5, 8), np.int32)
    labels[2, 6] = 3
    (polygon,) = polygons(labels)
    assert polygon.equals(shapely.Polygon([(6.5, 2), (7, 2.5), (6.5, 3), (6, 2.5)]))
    labels[1:4, 5:8] = 3
    (polygon,) = polygons(labels)
    assert polygon.bounds == (5, 1, 8, 4)
    assert polygon.centroid.coords[0] == (6.5, 2.5)


def test_holes_are_filled_and_small_pieces_dropped():
    labels = np.zeros((20, 30), np.int32)
    labels[2:12, 3:13] = 1
    labels[5:8, 6:9] = 0
    labels[6, 7] = 2
    labels[15:17, 20:22] = 1
    ring, inner = polygons(labels)
    assert ring.area == 100 - 0.5
    assert not ring.interiors
    assert inner.area == 0.5
    assert ring.bounds == (3, 2, 13, 12)


def test_corners_join_where_nothing_else_does():
    joined = np.array([[1, 0], [0, 1]], np.int32)
    (polygon,) = polygons(joined)
    assert polygon.area == 2 - 0.5
    assert polygon.is_valid
    crossed = np.array([[1, 2], [2, 1]], np.int32)
    one, two = polygons(crossed)
    assert one.area == two.area == 0.5
    third = np.array([[1, 2], [3, 1]], np.int32)
    assert [each.area for each in polygons(third)] == [1.5, 0.5, 0.5]


@given(arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 3)))
def test_laws_of_any_labels(labels):
    outlines = polygons(labels)
    assert shapely.is_valid(outlines).all()
    y, x = np.mgrid[: labels.shape[0], : labels.shape[1]]
    for k, (label, polygon) in enumerate(zip(find_objects(labels).labels, outlines, strict=True)):
        inside = shapely.contains_xy(polygon, x + 0.5, y + 0.5)
        assert inside.sum() == polygon.area + 0.5
        pieces, n = ndimage.label(labels == label, structure=np.ones((3, 3)))
        if n == 1 and not _is_crossed(labels, label):
            assert (inside == ndimage.binary_fill_holes(pieces)).all()
        for other in outlines[k + 1 :]:
            shared = polygon.intersection(other).area
            assert shared in {0, polygon.area, other.area}  # one lies in what was a hole of the other


def _is_crossed(labels: np.ndarray, label: int) -> bool:
    """Whether pixels of a label touch at a corner where another label crosses them."""
    a, b, c, d = labels[:-1, :-1], labels[:-1, 1:], labels[1:, :-1], labels[1:, 1:]
    own = ((a == label) & (d == label) & (b != label)) | ((b == label) & (c == label) & (a != label))
    return bool((own & (a != 0) & (b != 0) & ((a == d) & (b == c))).any())


def test_positions_and_sides():
    labels = np.zeros((10, 12), np.int32)
    labels[0:4, 0:3] = 7
    labels[6:10, 9:12] = 2
    found = find_objects(labels)
    assert found.labels.tolist() == [2, 7]
    assert found.pixels.tolist() == [12, 12]
    assert found.center.tolist() == [[7, 10], [1, 1]]
    assert found.sides.tolist() == [BOTTOM | RIGHT, TOP | LEFT]


@pytest.mark.parametrize("background", [0, 5])
def test_huge_labels_are_numbered_anew(background):
    labels = np.array([[2**40, background], [2**50, 2**40]])
    first = int(background > 0)
    assert compact_labels(labels).tolist() == [[1 + first, first], [2 + first, 1 + first]]
