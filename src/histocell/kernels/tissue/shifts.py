"""Null distribution of how two labels of points occur together, by shifts of one of them over the tissue."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from histocell._core.types import Floats, Ints

_GAP = 1.5  # pixels from a point up to which a pixel is tissue
_LEAST_OVERLAP = (
    0.8  # with less, p is too small where fields are smooth over a tenth of the tissue: 8 % at 5 % with 0.6
)
_LEAST_PIXELS = 20  # along each axis: fewer give too few different shifts
_MOST_PIXELS = 4_000_000
_TRIES = 20


class Together(NamedTuple):
    """Counts of points by the pair of their labels, each shape ``(k, m)``.

    Attributes
    ----------
    observed
        Points with both labels.
    expected
        The same if labels were independent within each section.
    z
        What is observed over expected, in standard deviations of independent points.
    p
        Two-sided, by shifts; NaN where nothing can be said.
    """

    observed: Floats
    expected: Floats
    z: Floats
    p: Floats


class _Section(NamedTuple):
    """Labels of the points of a section, and the second label on a raster, -1 outside of the tissue."""

    first: Ints
    second: Ints
    pixel: Ints
    raster: Ints


def occur_together(
    xy: Sequence[Floats],
    first: Sequence[Ints],
    second: Sequence[Ints],
    *,
    n_labels: tuple[int, int],
    n_permutations: int,
    rng: np.random.Generator,
) -> Together:
    """Count points by pairs of labels, beside shifts of the second label over the tissue of each section.

    A shift keeps the second label's own pattern and breaks its ties to the first: the label of a point becomes that of the
    nearest point at a random displacement, on a torus, mirrored along either axis at random. Points that land outside of the
    tissue are left out. The statistic is the excess over independence in standard deviations, which does not depend on how many
    points are left (variance correction).

    Parameters
    ----------
    xy
        Coordinates of the points, by section, ``(n, 2)``.
    first, second
        Their labels, numbered from 0.
    n_labels
        How many labels there are of both kinds, k and m.
    n_permutations
        Number of shifts.
    rng
        For the shifts.

    References
    ----------
    Lotwick and Silverman, JRSS B 44 (1982): toroidal shifts. Mrkvička, Dvořák, González and Mateu, Spatial Statistics 42
    (2021): variance correction.
    """
    observed, expected, variance = _counts(first, second, n_labels)
    z = _excess(observed, expected, variance)
    sections = [_rasterize(*each) for each in zip(xy, first, second, strict=True)]
    usable = [section for section in sections if section is not None]
    if not usable:
        return Together(observed, expected, z, np.full(n_labels, np.nan))
    # of sections that are too small to be shifted nothing is known; they do not count for p
    z_usable = z
    if len(usable) < len(sections):
        z_usable = _excess(*_counts([each.first for each in usable], [each.second for each in usable], n_labels))
    above, below = np.ones(n_labels), np.ones(n_labels)
    for _ in range(n_permutations):
        pairs = [_shift(section, rng) for section in usable]
        shifted = _excess(*_counts([one for one, _ in pairs], [other for _, other in pairs], n_labels))
        shifted = np.where(np.isfinite(shifted), shifted, 0.0)  # a label that fell outside
        above += shifted >= z_usable - 1e-9
        below += shifted <= z_usable + 1e-9
    p = np.minimum(1.0, 2 * np.minimum(above, below) / (n_permutations + 1))
    return Together(observed, expected, z, np.where(np.isfinite(z_usable), p, np.nan))


def _counts(first: Sequence[Ints], second: Sequence[Ints], n_labels: tuple[int, int]) -> tuple[Floats, Floats, Floats]:
    """Points by pair of labels, those expected, and their variance, summed over sections."""
    totals = np.zeros((3, *n_labels))
    for one, other in zip(first, second, strict=True):
        n = len(one)
        counts = np.bincount(one * n_labels[1] + other, minlength=n_labels[0] * n_labels[1]).reshape(n_labels)
        rows, columns = counts.sum(axis=1, keepdims=True) / max(n, 1), counts.sum(axis=0, keepdims=True) / max(n, 1)
        totals += np.stack([counts, n * rows * columns, n * rows * columns * (1 - rows) * (1 - columns)])
    return totals[0], totals[1], totals[2]


def _excess(observed: Floats, expected: Floats, variance: Floats) -> Floats:
    """Observed less expected in standard deviations, NaN where a label is on no point or on all."""
    return np.divide(observed - expected, np.sqrt(variance), out=np.full(observed.shape, np.nan), where=variance > 0)


def _rasterize(xy: Floats, first: Ints, second: Ints) -> _Section | None:
    """A section on a raster of pixels as wide as points lie apart; `None` where it is too small."""
    if len(xy) < _LEAST_PIXELS**2 / 4:
        return None
    low, extent = xy.min(axis=0), np.ptp(xy, axis=0)
    spacing = float(np.median(cKDTree(xy).query(xy[:: max(1, len(xy) // 2000)], k=2)[0][:, 1]))
    edge = max(spacing, float(np.sqrt(extent.prod() / _MOST_PIXELS)), 1e-9)
    pixel = np.floor((xy - low) / edge).astype(np.intp)[:, ::-1]
    shape = pixel.max(axis=0) + 1
    if shape.min() < _LEAST_PIXELS or shape.prod() > 2 * _MOST_PIXELS:
        return None
    raster = np.full(shape, -1, dtype=np.intp)
    raster[pixel[:, 0], pixel[:, 1]] = second
    distance, nearest = distance_transform_edt(raster < 0, return_indices=True)
    return _Section(first, second, pixel, np.where(distance <= _gap(xy, edge), raster[tuple(nearest)], -1))


def _gap(xy: Floats, edge: float) -> float:
    """Pixels from a point up to which there is tissue: as far as the third neighbour of nearly all points."""
    distance = cKDTree(xy).query(xy[:: max(1, len(xy) // 2000)], k=min(4, len(xy)))[0][:, -1]
    return max(_GAP, float(np.percentile(distance, 90)) / edge)


def _shift(section: _Section, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Labels of the points under a random displacement, of those that land on tissue."""
    best, shape = (np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.intp)), section.raster.shape
    for _ in range(_TRIES):
        way = int(rng.integers(4))
        turned = section.raster[:: 1 - 2 * (way // 2), :: 1 - 2 * (way % 2)]
        row, column = ((section.pixel + rng.integers(0, shape)) % shape).T
        label = turned[row, column]
        kept = np.flatnonzero(label >= 0)
        if len(kept) >= len(best[0]):
            best = kept, label
        if len(kept) >= _LEAST_OVERLAP * len(label):
            break
    kept, label = best
    return section.first[kept], label[kept]
