"""Stains of outlines on a slide: block by block, each read once, in threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numba
import numpy as np

from histocell.kernels.outlines.runs import count, fill
from histocell.kernels.outlines.stains import pixel_measures, ring_means, shared
from histocell.kernels.texture import unmix

if TYPE_CHECKING:
    from collections.abc import Iterator

    from histocell._core.settings import Progress
    from histocell._core.types import Floats, Ints
    from histocell.images.slide_image import SlideImage
    from histocell.images.stain.estimate import StainEstimate
    from histocell.nuclei.measuring.outlines import Outlines

BLOCK_PX = 1024
LARGEST_UM = 250.0  # nothing wider or higher is a nucleus or a cell; it would make blocks of any size


@dataclass(frozen=True)
class Raster:
    """The px that stains are measured on.

    Attributes
    ----------
    image
        The slide.
    mpp
        um per px of its full resolution.
    resolution_um
        Edge of a px that is measured, in um, at least `mpp`.
    ring_um
        Width of the ring around an object, in um.
    block_px
        Edge of a block, in px that are measured.
    """

    image: SlideImage
    mpp: float
    resolution_um: float
    ring_um: float
    block_px: int = BLOCK_PX

    @property
    def scale(self) -> float:
        """Measured px per px of full resolution."""
        return self.mpp / self.resolution_um

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in px that are measured."""
        height, width = (max(1, round(length * self.scale)) for length in self.image.shape)
        return height, width


@dataclass(frozen=True)
class Stains:
    """Stain measurements of outlines.

    Attributes
    ----------
    values
        Shape (n, 9): `histocell.nuclei.measuring.columns.STAIN`; NaN where nothing was measured.
    n_px
        Number of px in each outline, shape (n,).
    shared
        Share of them that lie in another outline, too, shape (n,).
    """

    values: Floats
    n_px: Floats
    shared: Floats


def measure_stains(outlines: Outlines, raster: Raster, stains: StainEstimate, bar: Progress) -> Stains:
    """Haematoxylin, eosin and texture in each outline, and in the ring around it.

    A px counts where its centre lies in the outline; one that lies in several counts in each. Only blocks that hold
    outlines are read, with as much of their surroundings as these need, so the size of the blocks changes nothing.

    Parameters
    ----------
    outlines
        In px of full resolution. Those of more than 250 um are not measured, and do not cover rings.
    raster
        The px to measure on.
    stains
        Of the slide.
    bar
        Is told of each outline.
    """
    n = len(outlines)
    result = Stains(np.full((n, 9), np.nan), np.zeros(n), np.zeros(n))
    job = _Job(outlines, raster, stains)
    with ThreadPoolExecutor(numba.get_num_threads()) as pool:
        try:
            for own, values in pool.map(job.measure, job.blocks()):
                result.values[own] = values[:, 1:-1]
                result.n_px[own] = values[:, 0]
                result.shared[own] = values[:, -1]
                bar.update(len(own))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return result


class _Job:
    """Outlines by block."""

    def __init__(self, outlines: Outlines, raster: Raster, stains: StainEstimate) -> None:
        self._outlines = outlines
        self._raster = raster
        self._density, self._unmixing = stains.density, stains.unmixing
        bounds = outlines.bounds
        with np.errstate(invalid="ignore"):
            large = (bounds[:, 2:] - bounds[:, :2]).max(axis=1) * raster.mpp > LARGEST_UM
            height, width = raster.image.shape
            outside = (bounds[:, :2] >= (width, height)).any(axis=1) | (bounds[:, 2:] <= 0).any(axis=1)
        rows = np.flatnonzero(outlines.known & ~large & ~outside)
        self._bounds = bounds * raster.scale
        cells = np.floor(outlines.centroids[rows] * raster.scale / raster.block_px).astype(np.int64)
        order = np.lexsort((cells[:, 0], cells[:, 1]))
        rows, cells = rows[order], cells[order]
        first = (
            np.flatnonzero(np.r_[True, (np.diff(cells, axis=0) != 0).any(axis=1)]) if len(rows) else np.zeros(0, int)
        )
        ends = np.r_[first[1:], len(rows)]
        self._rows = {(int(cells[a, 0]), int(cells[a, 1])): rows[a:b] for a, b in zip(first, ends, strict=True)}
        # an outline that reaches into the window of a block lies at most two of the largest away
        self._reach = int(np.ceil((2 * LARGEST_UM + raster.ring_um) / raster.resolution_um / raster.block_px))

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Blocks that hold outlines, row by row."""
        yield from self._rows

    def measure(self, block: tuple[int, int]) -> tuple[Ints, Floats]:
        """The outlines of a block and, for each: px, stain measurements, share of its px in others."""
        own, raster = self._rows[block], self._raster
        height, width = raster.shape
        margin = raster.ring_um / raster.resolution_um + 1
        (x0, y0), (x1, y1) = self._bounds[own, :2].min(axis=0) - margin, self._bounds[own, 2:].max(axis=0) + margin
        window = (max(0, int(y0)), max(0, int(x0)), min(height, int(y1) + 1), min(width, int(x1) + 1))
        if window[2] <= window[0] or window[3] <= window[1]:  # beyond the last px, which is rounded
            return own, np.full((len(own), 11), np.nan)
        shape = (window[2] - window[0], window[3] - window[1])
        corners = (each / raster.scale for each in window)
        maps = unmix(raster.image.read(*corners, out_shape=shape), self._density, self._unmixing)
        rows = np.concatenate([own, self._others(block, window)])
        lines = self._outlines
        starts, runs = fill(lines.xy, lines.rings, lines.objects, rows, raster.scale, window)
        times = np.zeros(shape, np.uint8)
        count(runs, times)
        starts = starts[: len(own) + 1]
        radius = raster.ring_um / raster.resolution_um
        parts = (
            pixel_measures(starts, runs, maps),
            ring_means(starts, runs, maps, times, radius),
            shared(starts, runs, times),
        )
        return own, np.column_stack(parts)

    def _others(self, block: tuple[int, int], window: tuple[int, int, int, int]) -> Ints:
        """Outlines of the blocks around that reach into the window."""
        column, row = block
        reach = range(-self._reach, self._reach + 1)
        near = [self._rows.get((column + dx, row + dy)) for dy in reach for dx in reach if dx or dy]
        rows = np.concatenate([np.zeros(0, np.intp), *(each for each in near if each is not None)])
        y0, x0, y1, x1 = window
        bounds = self._bounds[rows]
        return rows[(bounds[:, 0] < x1) & (bounds[:, 1] < y1) & (bounds[:, 2] > x0) & (bounds[:, 3] > y0)]
