"""Nuclei found in blocks, as compact arrays, and their union without seams or twins."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import shapely

from histocell.nuclei.polygons import BOTTOM, LEFT, RIGHT, TOP, compact_labels, find_objects, trace_outlines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histocell.pp._segment_nuclei.blocks import Block, Grid

SPARE_UM = 2.0  # objects centred this far outside of a core are kept until its neighbours are known to have them
_BORDER_UM = 10.0  # objects centred this near to a border of a core may be those of the neighbour, seen otherwise
_TWIN = 0.2  # shared area of two outlines over that of their union


@dataclass(frozen=True)
class Found:
    """Nuclei, in px of the grid of the slide.

    Attributes
    ----------
    points, offsets
        Rings as of :class:`histocell.nuclei.polygons.Outlines`.
    center
        Shape (n, 2), int64: row and column of the px that holds the mean of their px.
    is_spare
        Whether the centre lies outside of the core of the block.
    is_border
        Whether the centre lies near a border of the core.
    n_cut
        Shape (1,): number of objects that reach from the core of the block beyond its window.
    """

    points: NDArray[np.int32]
    offsets: NDArray[np.int64]
    center: NDArray[np.int64]
    is_spare: NDArray[np.bool_]
    is_border: NDArray[np.bool_]
    n_cut: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.center)

    def take(self, rows: NDArray[np.intp]) -> Found:
        """Some of them."""
        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        index = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        center, is_spare, is_border = self.center[rows], self.is_spare[rows], self.is_border[rows]
        return Found(self.points[index], offsets, center, is_spare, is_border, self.n_cut)

    def polygons(self, scale: float = 1.0) -> NDArray[np.object_]:
        """Their outlines, in px of the grid times `scale`."""
        index = np.arange(len(self) + 1)
        points = self.points * (0.5 * scale)
        return shapely.from_ragged_array(shapely.GeometryType.POLYGON, points, (self.offsets, index))

    @classmethod
    def join(cls, parts: Sequence[Found]) -> Found:
        """All of several blocks."""
        ends = np.cumsum([0, *(part.offsets[-1] for part in parts)])
        joined = {
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(cls)
            if field.name not in {"offsets", "n_cut"}
        }
        offsets = [part.offsets[:-1] + end for part, end in zip(parts, ends[:-1], strict=True)]
        n_cut = np.array([sum(int(part.n_cut[0]) for part in parts)])
        return cls(**joined, offsets=np.concatenate([*offsets, ends[-1:]]), n_cut=n_cut)


def find_nuclei(labels: NDArray[np.integer], block: Block, grid: Grid) -> Found:
    """The objects of a block, whose labels are those of its window."""
    labels = compact_labels(labels)
    objects = find_objects(labels)
    top, left, bottom, right = block.window
    center = objects.center + (top, left)
    # how far inside of the core, in px
    y0, x0, y1, x1 = block.core
    depth = np.minimum(center - (y0, x0), np.array([y1 - 1, x1 - 1]) - center).min(axis=1)
    kept = depth >= -SPARE_UM / grid.mpp
    inner = (
        (TOP * (top > 0))
        | (LEFT * (left > 0))
        | (BOTTOM * (bottom < grid.shape[0]))
        | (RIGHT * (right < grid.shape[1]))
    )
    in_core = np.zeros(int(labels.max(initial=0)) + 1, bool)
    in_core[labels[y0 - top : y1 - top, x0 - left : x1 - left]] = True
    n_cut = (objects.sides & inner > 0) & in_core[objects.labels]
    outlines = trace_outlines(labels, objects.labels[kept])
    return Found(
        points=outlines.points + np.array([2 * left, 2 * top], np.int32),
        offsets=outlines.offsets,
        center=center[kept],
        is_spare=depth[kept] < 0,
        is_border=depth[kept] < _BORDER_UM / grid.mpp,
        n_cut=np.array([n_cut.sum()]),
    )


def union(parts: Sequence[Found]) -> Found:
    """The nuclei of all blocks, each once, in the order of their rows and columns.

    A method that sees the same of an object in two blocks gives it to the one whose core holds its centre. Where blocks
    differ, an object that two of them give is taken from the first, and one that its own block lacks from its neighbour.
    """
    found = Found.join(parts)
    block = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    border = np.flatnonzero(found.is_border)
    border = border[np.argsort(found.is_spare[border], kind="stable")]
    lost = border[_twins(found.take(border).polygons(), block[border])]
    kept = np.setdiff1d(np.arange(len(found)), lost)
    rows, columns = found.center[kept].T
    return found.take(kept[np.lexsort((columns, rows))])


def _twins(polygons: NDArray[np.object_], block: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which polygons overlap one of another block that comes before them and is kept."""
    lost = np.zeros(len(polygons), bool)
    if not len(polygons):
        return lost
    one, other = shapely.STRtree(polygons).query(polygons, predicate="intersects")
    pairs = np.column_stack([one, other])[(one < other) & (block[one] != block[other])]
    area = shapely.area(polygons)
    shared = shapely.area(shapely.intersection(*polygons[pairs].T))
    pairs = pairs[shared > _TWIN * (area[pairs].sum(axis=1) - shared)]  # not those that lie in a hole of another
    for first, second in pairs[np.lexsort(pairs.T)].tolist():  # by the second: whether the first is kept is known
        lost[second] |= not lost[first]
    return lost
