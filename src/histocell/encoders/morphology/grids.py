"""Grids of sums over a slide, computed block by block in threads and pooled around points."""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product, repeat
from typing import TYPE_CHECKING

import numba
import numpy as np

from histocell.encoders.morphology.blocks import BLOCK_CELLS, CELL_PX, COARSE, HALO_CELLS, MPP, block_sums
from histocell.encoders.morphology.features import context_features, spot_features, surroundings_features
from histocell.kernels.pooling import pool_gaussian

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from histocell.images.slide_image import SlideImage
    from histocell.images.stain.estimate import StainEstimate

    type Block = tuple[int, int]  # row and column
    type Grid = tuple[NDArray[np.float32], NDArray[np.float32]]  # in fine and in coarse cells
    type Grids = dict[Block, Grid]

# Prefix and definition of the features of each neighbourhood, from the smallest to the widest.
NEIGHBOURHOODS = (("spot", spot_features), ("near", surroundings_features), ("wide", context_features))

_CELL_UM = CELL_PX * MPP
_BLOCK_UM = BLOCK_CELLS * _CELL_UM
_REACH = 2.0  # a neighbourhood ends at this many standard deviations
_COARSE_FROM_UM = 90.0  # wider neighbourhoods are summed over coarse cells


@dataclass
class GridPass:
    """One pass over the blocks of a slide, row by row; a grid is dropped as soon as no point needs it.

    Parameters
    ----------
    image
        The slide.
    stains
        Its stains.
    mpp
        um per px of its full resolution.
    radii_um
        Standard deviation of each neighbourhood.
    """

    image: SlideImage
    stains: StainEstimate
    mpp: float
    radii_um: tuple[float, ...]

    def __post_init__(self) -> None:
        self._reach_um = _REACH * max(self.radii_um)
        self._margin = int(np.ceil(self._reach_um / _BLOCK_UM))

    def features(self, points: NDArray[np.float64]) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float64]]]:
        """Features of points (y, x) in um, block by block: the rows of `points`, and their features."""
        members: dict[Block, list[int]] = defaultdict(list)
        for i, (row, column) in enumerate(np.floor(points / _BLOCK_UM).astype(np.int64).tolist()):
            members[row, column].append(i)
        needed = self._needed(points)
        rows = sorted(needed)
        grids: Grids = {}
        started: dict[int, dict[Block, Future[Grid]]] = {}
        with ThreadPoolExecutor(numba.get_num_threads()) as pool:
            for position, row in enumerate(rows):
                for ahead in rows[position : position + 2]:  # no thread waits for the end of a row
                    if ahead not in started:
                        started[ahead] = {block: pool.submit(self._grid, block) for block in sorted(needed[ahead])}
                grids |= {block: future.result() for block, future in started.pop(row).items()}
                ready = sorted(block for block in members if block[0] + self._margin <= row or row == rows[-1])
                index = [np.array(members.pop(block)) for block in ready]
                pooled = pool.map(self._pool, [points[part] for part in index], ready, repeat(grids))
                yield from zip(index, pooled, strict=False)
                for block in [block for block in grids if block[0] + 2 * self._margin <= row]:
                    del grids[block]

    def _needed(self, points: NDArray[np.float64]) -> dict[int, set[Block]]:
        """The blocks that the discs around the points touch, by row."""
        first = np.floor((points - self._reach_um) / _BLOCK_UM).astype(np.int64)
        needed: dict[int, set[Block]] = defaultdict(set)
        for step in product(range(2 * self._margin + 2), repeat=2):
            blocks = first + np.array(step)
            gap = np.maximum(np.maximum(blocks * _BLOCK_UM - points, points - (blocks + 1) * _BLOCK_UM), 0)
            touched = np.hypot(gap[:, 0], gap[:, 1]) <= self._reach_um
            for row, column in np.unique(blocks[touched], axis=0).tolist():
                needed[row].add((row, column))
        return needed

    def _grid(self, block: Block) -> Grid:
        """The sums of a block in fine and in coarse cells."""
        side = (BLOCK_CELLS + 2 * HALO_CELLS) * CELL_PX
        y0, x0 = ((index * _BLOCK_UM - HALO_CELLS * _CELL_UM) / self.mpp for index in block)
        length = side * MPP / self.mpp
        rgb = self.image.read(y0, x0, y0 + length, x0 + length, out_shape=(side, side))
        fine = block_sums(rgb, self.stains)
        n = BLOCK_CELLS // COARSE
        return fine, fine.reshape(n, COARSE, n, COARSE, -1).mean(axis=(1, 3), dtype=np.float32)

    def _pool(self, points: NDArray[np.float64], block: Block, grids: Grids) -> NDArray[np.float64]:
        """Features of the points of one block."""
        columns: list[NDArray[np.float64]] = []
        for radius, (_, derive) in zip(self.radii_um, NEIGHBOURHOODS, strict=True):
            level = int(radius >= _COARSE_FROM_UM)
            cell_um = _CELL_UM * COARSE if level else _CELL_UM
            margin = int(np.ceil(_REACH * radius / cell_um))
            grid = _window(block, margin, grids, level=level)
            cells = (points - np.array(block) * _BLOCK_UM) / cell_um + margin
            columns += derive(pool_gaussian(grid, cells, radius / cell_um, _REACH * radius / cell_um)).values()
        return np.stack(columns, axis=1)


def _window(block: Block, margin: int, grids: Grids, *, level: int) -> NDArray[np.float32]:
    """The grid of a block with `margin` cells around it, from the blocks that were computed.

    Blocks that no disc touches were not computed: they have no weight and stay 0.
    """
    side = BLOCK_CELLS // COARSE if level else BLOCK_CELLS
    reach = -(-margin // side)
    n_channels = grids[block][level].shape[2]
    window = np.zeros((side + 2 * margin, side + 2 * margin, n_channels), np.float32)
    for dy, dx in product(range(-reach, reach + 1), repeat=2):
        neighbour = grids.get((block[0] + dy, block[1] + dx))
        if neighbour is None:
            continue
        top, left = dy * side + margin, dx * side + margin
        y0, x0 = max(top, 0), max(left, 0)
        y1, x1 = min(top + side, window.shape[0]), min(left + side, window.shape[1])
        window[y0:y1, x0:x1] = neighbour[level][y0 - top : y1 - top, x0 - left : x1 - left]
    return window
