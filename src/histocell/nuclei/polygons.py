"""Outlines of labelled objects: through the middles of the pixel edges around them, without holes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from histocell.kernels.compiled import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOP, LEFT, BOTTOM, RIGHT = 1, 2, 4, 8  # sides of an image that an object touches
_DOWN = np.array([0, 1, 0, -1])  # steps of the directions right, down, left, up
_ACROSS = np.array([1, 0, -1, 0])
# From a corner of the pixel grid: the pixel ahead to the right of each direction. That to the left is the one of the
# direction before.
_AHEAD_Y = np.array([0, 0, -1, -1])
_AHEAD_X = np.array([0, -1, -1, 0])


class Objects(NamedTuple):
    """Objects of a label image, one entry for each label that has pixels.

    Attributes
    ----------
    labels
        Their labels, ascending.
    pixels
        Number of pixels.
    center
        Shape (n, 2): row and column of the pixel that holds the mean of their pixels.
    sides
        The sides of the image that they touch, a sum of `TOP`, `LEFT`, `BOTTOM` and `RIGHT`.
    """

    labels: NDArray[np.int64]
    pixels: NDArray[np.int64]
    center: NDArray[np.int64]
    sides: NDArray[np.uint8]


class Outlines(NamedTuple):
    """Rings of objects.

    Attributes
    ----------
    points
        Shape (m, 2), int32: x and y in half pixels; pixel (row r, column c) covers x 2c to 2c + 2 and y 2r to 2r + 2.
        Rings are closed: their first point is their last one, too.
    offsets
        Shape (n + 1,), int64: ring i holds the points from offsets[i] to offsets[i + 1].
    """

    points: NDArray[np.int32]
    offsets: NDArray[np.int64]


def compact_labels(labels: NDArray[np.integer]) -> NDArray[np.int32]:
    """The labels as int32; numbered anew, in their order, where they are far larger than the image has pixels."""
    if int(labels.max(initial=0)) > 4 * labels.size + 1024:
        values, index = np.unique(labels, return_inverse=True)
        labels = (index + (values[0] != 0)).reshape(labels.shape)
    return np.ascontiguousarray(labels, dtype=np.int32)


def find_objects(labels: NDArray[np.int32]) -> Objects:
    """The objects of a label image, shape (h, w), 0 outside of them."""
    n = int(labels.max(initial=0))
    sums, sides = _sum_pixels(labels, n)
    there = np.flatnonzero(sums[:, 0])
    pixels = sums[there, 0]
    return Objects(there, pixels, sums[there, 1:] // pixels[:, None], sides[there])


def trace_outlines(labels: NDArray[np.int32], wanted: NDArray[np.int64]) -> Outlines:
    """Outlines of some labels.

    An outline runs through the middles of the pixel edges around an object and so cuts every corner of a pixel at 45
    degrees; points on a straight line are left out. It is what marching squares draw at one half of the mask. It is always
    simple, the pixels whose centres it holds are those of the object, and its area is their number less one half. Outlines
    of two labels do not overlap, unless one lies in a hole of the other.

    Holes are filled. Of an object in several pieces the largest counts; pixels that touch at a corner are one piece,
    unless the other two pixels at that corner are both of one other object.

    Parameters
    ----------
    labels
        Shape (h, w), 0 outside of objects.
    wanted
        Labels that have pixels, in the order of the result.

    References
    ----------
    Lorensen and Cline (1987), Marching cubes.
    """
    rank = np.full(int(labels.max(initial=0)) + 1, -1, np.int64)
    rank[wanted] = np.arange(len(wanted))
    points, starts, stops = _trace(labels, rank, len(wanted))
    lengths = stops - starts
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    index = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    return Outlines(points[index], offsets)


@njit(nogil=True, cache=True)
def _sum_pixels(labels: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Number of pixels, and sums of their rows and columns, of the labels 0 to n (none of 0); sides that they touch."""
    height, width = labels.shape
    sums = np.zeros((n + 1, 3), np.int64)
    sides = np.zeros(n + 1, np.uint8)
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label:
                sums[label, 0] += 1
                sums[label, 1] += y
                sums[label, 2] += x
    for x in range(width):
        sides[labels[0, x]] |= TOP
        sides[labels[height - 1, x]] |= BOTTOM
    for y in range(height):
        sides[labels[y, 0]] |= LEFT
        sides[labels[y, width - 1]] |= RIGHT
    return sums, sides


@njit(nogil=True, cache=True)
def _at(labels: np.ndarray, y: int, x: int) -> int:
    inside = 0 <= y < labels.shape[0] and 0 <= x < labels.shape[1]
    return labels[y, x] if inside else 0


@njit(nogil=True, cache=True)
def _turn(labels: np.ndarray, label: int, y: int, x: int, d: int) -> int:
    """The direction in which an outline goes on from a corner of the pixel grid, its object to the right."""
    left = (d + 3) & 3
    right = _at(labels, y + _AHEAD_Y[d], x + _AHEAD_X[d])
    ahead = _at(labels, y + _AHEAD_Y[left], x + _AHEAD_X[left])
    if right == label:
        return left if ahead == label else d
    if ahead == label:
        back = (d + 2) & 3  # the fourth pixel, behind to the left
        behind = _at(labels, y + _AHEAD_Y[back], x + _AHEAD_X[back])
        if right == 0 or right != behind:
            return left
    return (d + 1) & 3


@njit(nogil=True, cache=True)
def _with_room(points: np.ndarray, end: int) -> np.ndarray:
    """The points, in twice the space where less than two more would fit."""
    if end + 2 <= points.shape[0]:
        return points
    grown = np.empty((2 * points.shape[0] + 2, 2), np.int32)
    grown[:end] = points[:end]
    return grown


@njit(nogil=True, cache=True)
def _follow(
    labels: np.ndarray, row: int, column: int, seen: np.ndarray, points: np.ndarray, end: int
) -> tuple[np.ndarray, int, int]:
    """The ring from the upper edge of a pixel on: all points with it, where they end, its pixels (below 0 for a hole)."""
    label, start = labels[row, column], end
    y, x, d, area = row, column, 0, 0
    before, second = -1, -1
    while True:
        if d == 0:
            seen[y, x] = True
            area -= y
        elif d == 2:
            area += y
        after = _turn(labels, label, y + _DOWN[d], x + _ACROSS[d], d)
        if before == -1:  # whether the first edge is a corner is known when the ring closes
            second = after
        elif before != after:
            points = _with_room(points, end)
            points[end, 0], points[end, 1] = 2 * x + _ACROSS[d], 2 * y + _DOWN[d]
            end += 1
        y, x = y + _DOWN[d], x + _ACROSS[d]
        before, d = d, after
        if y == row and x == column and d == 0:
            break
    points = _with_room(points, end)
    if before != second:
        points[end, 0], points[end, 1] = 2 * column + 1, 2 * row
        end += 1
    points[end] = points[start]
    return points, end + 1, area


@njit(nogil=True, cache=True)
def _trace(labels: np.ndarray, rank: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points of outlines, and where that of each rank starts and stops."""
    height, width = labels.shape
    seen = np.zeros((height, width), np.bool_)  # upper edges that an outline went along
    points = np.empty((1024 + 24 * n, 2), np.int32)
    starts, stops, largest = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
    end = 0
    for row in range(height):
        here, above = labels[row], labels[max(row - 1, 0)]
        for column in range(width):
            label = here[column]
            if label == 0 or (above[column] == label and row > 0) or seen[row, column] or rank[label] < 0:
                continue
            points, stop, area = _follow(labels, row, column, seen, points, end)
            i = rank[label]
            if area > largest[i]:  # else a hole, or a smaller piece
                starts[i], stops[i], largest[i] = end, stop, area
                end = stop
    return points, starts, stops
