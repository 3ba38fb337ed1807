"""The built-in encoder: what an expert would measure on H&E, without a network, a GPU or a download."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from histocell._core.geometry import check_patches, local_order
from histocell.encoders.morphology.blocks import BLOCK_CELLS, CELL_PX, CHANNELS, COARSE, HALO_CELLS, MPP, block_sums
from histocell.encoders.morphology.features import context_features, spot_features, surroundings_features
from histocell.encoders.registry import get_spec
from histocell.images.stain.estimate import stains_of
from histocell.kernels.pooling import pool_gaussian

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from histocell.encoders.spec import EncoderSpec
    from histocell.images.slide_image import SlideImage
    from histocell.images.stain.estimate import StainEstimate
    from histocell.images.stain.normalize import StainTransform

_CELL_UM = CELL_PX * MPP
_BLOCK_UM = BLOCK_CELLS * _CELL_UM
_REACH = 2.0  # a neighbourhood ends at this many standard deviations
_COARSE_FROM_UM = 90.0  # wider neighbourhoods are summed over coarse cells
_PATCH_UM = 112.0
_NEIGHBOURHOODS = (("spot", spot_features), ("near", surroundings_features), ("wide", context_features))

type _Block = tuple[int, int]
type _Grids = dict[_Block, tuple[np.ndarray, np.ndarray]]


class Morphology:
    """Colour, texture, nuclei and architecture around each point, at three distances.

    The slide is read at 1 um/px in blocks of 512 um. Stains are separated with vectors found on the slide itself,
    nuclei are segmented, and everything is summed up in grid cells of 8 um. The features of a point come from the
    Gaussian-weighted sums of the cells around it, so surroundings shared by many points are computed once. They depend
    on the slide and the point alone: not on the other points, nor on the number of threads.

    Attributes
    ----------
    name, version
        What the features are called, and which features they are; the version changes when values change.
    radii_um
        Standard deviations of the Gaussian neighbourhoods: the spot itself (for a patch of 112 um; it grows with the
        patch), its surroundings, its wide context. Each ends at two standard deviations.

    References
    ----------
    Stain separation: Macenko et al. (2009), A method for normalizing histology slides for quantitative analysis.
    Local binary patterns: Ojala et al. (2002), equation 9. Structure tensor: Bigün and Granlund (1987). Flooding:
    Vincent and Soille (1991), Watersheds in digital spaces.
    """

    name = "morphology"
    version = "1"
    pool = "native"
    precision = "fp32"
    batch_size: int | None = None
    chunk_rows = 4096
    radii_um: tuple[float, ...] = (45.0, 140.0, 250.0)

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the columns: `spot_`, `near_` or `wide_` and what is measured."""
        nothing = np.zeros((1, len(CHANNELS)))
        return tuple(f"{prefix}_{name}" for prefix, derive in _NEIGHBOURHOODS for name in derive(nothing))

    @property
    def spec(self) -> EncoderSpec:
        """What the registry knows of it."""
        return get_spec(self.name)

    @staticmethod
    def order(centers: np.ndarray, *, mpp: float, size_um: float) -> np.ndarray:
        """Points sorted so that those near each other are computed one after the other."""
        return local_order(centers)

    @property
    def dim(self) -> int:
        """Number of features."""
        return len(self.feature_names)

    def embed(
        self,
        image: SlideImage,
        centers: np.ndarray,
        *,
        mpp: float,
        size_um: float = _PATCH_UM,
        stain: StainTransform | None = None,
        progress: Any = None,
    ) -> np.ndarray:
        """Features of the tissue around points.

        Parameters
        ----------
        image
            The slide. Beyond its border there is background.
        centers
            Shape (n, 2): x, y in px of its full resolution.
        mpp
            um per px of its full resolution.
        size_um
            Side of the patch that the first neighbourhood stands for.
        stain
            Must be `None`: the stains are found and separated anyway.
        progress
            A bar with ``update(n)``, told of every few points that are done.

        Returns
        -------
        Shape (n, dim), float32, finite.

        Raises
        ------
        ValueError
            If `centers` is not a finite array of two columns, or a size is not above 0.
        """
        if stain is not None:
            msg = "morphology finds the stains of each slide by itself; leave stain= out"
            raise ValueError(msg)
        centers = check_patches(centers, mpp=mpp, size_um=size_um)
        out = np.zeros((len(centers), self.dim), np.float32)
        if len(centers):
            stains = stains_of(image, mpp=mpp)
            radii = (self.radii_um[0] * size_um / _PATCH_UM, *self.radii_um[1:])
            sweep = _Sweep(image, stains, mpp=mpp, radii_um=radii)
            sweep.run(centers[:, ::-1] * mpp, out, progress=progress)
        return out

    def embed_chunks(
        self,
        image: SlideImage,
        chunks: Sequence[np.ndarray],
        *,
        mpp: float,
        size_um: float = _PATCH_UM,
        stain: StainTransform | None = None,
        progress: Any = None,
    ) -> Generator[np.ndarray]:
        """Features of one chunk of points after the other, as :meth:`embed` gives them."""
        for centers in chunks:
            yield self.embed(image, centers, mpp=mpp, size_um=size_um, stain=stain, progress=progress)


class _Sweep:
    """One pass over the blocks of a slide, row by row; a grid is dropped as soon as no point needs it."""

    def __init__(self, image: SlideImage, stains: StainEstimate, *, mpp: float, radii_um: tuple[float, ...]) -> None:
        self._image = image
        self._stains = stains
        self._mpp = mpp
        self._radii = radii_um
        self._reach_um = _REACH * max(radii_um)
        self._margin = int(np.ceil(self._reach_um / _BLOCK_UM))

    def run(self, points: np.ndarray, out: np.ndarray, *, progress: Any) -> None:
        """Fill `out` with the features of points (n, 2), (y, x) in um."""
        members: dict[_Block, list[int]] = {}
        for i, (row, column) in enumerate(np.floor(points / _BLOCK_UM).astype(np.int64).tolist()):
            members.setdefault((row, column), []).append(i)
        needed = self._needed(points)
        last = max(needed)
        grids: _Grids = {}
        with ThreadPoolExecutor(numba.get_num_threads()) as pool:
            started: dict[int, list[tuple[_Block, Future[tuple[np.ndarray, np.ndarray]]]]] = {}
            rows = sorted(needed)
            for position, row in enumerate(rows):
                for ahead in rows[position : position + 2]:  # no thread waits for the end of a row
                    if ahead not in started:
                        started[ahead] = [(block, pool.submit(self._compute, block)) for block in sorted(needed[ahead])]
                for block, future in started.pop(row):
                    grids[block] = future.result()
                ready = sorted(block for block in members if block[0] + self._margin <= row or row == last)
                jobs = [(block, np.array(members.pop(block))) for block in ready]
                for (_, index), values in zip(
                    jobs, pool.map(lambda job: self._pool(points[job[1]], job[0], grids), jobs), strict=True
                ):
                    out[index] = values
                    if progress is not None:
                        progress.update(len(index))
                for block in [block for block in grids if block[0] + 2 * self._margin <= row]:
                    del grids[block]

    def _needed(self, points: np.ndarray) -> dict[int, set[_Block]]:
        """The blocks that the discs around the points touch, by row."""
        first = np.floor((points - self._reach_um) / _BLOCK_UM).astype(np.int64)
        steps = range(2 * self._margin + 2)
        needed: dict[int, set[_Block]] = {}
        for step in product(steps, steps):
            blocks = first + np.array(step)
            gap = np.maximum(np.maximum(blocks * _BLOCK_UM - points, points - (blocks + 1) * _BLOCK_UM), 0)
            touched = np.hypot(gap[:, 0], gap[:, 1]) <= self._reach_um
            for row, column in np.unique(blocks[touched], axis=0).tolist():
                needed.setdefault(row, set()).add((row, column))
        return needed

    def _compute(self, block: _Block) -> tuple[np.ndarray, np.ndarray]:
        """The grid of a block, and the same in coarse cells."""
        side = (BLOCK_CELLS + 2 * HALO_CELLS) * CELL_PX
        y0, x0 = ((index * _BLOCK_UM - HALO_CELLS * _CELL_UM) / self._mpp for index in block)
        length = side * MPP / self._mpp
        rgb = self._image.read(y0, x0, y0 + length, x0 + length, out_shape=(side, side))
        fine = block_sums(rgb, self._stains)
        n = BLOCK_CELLS // COARSE
        return fine, fine.reshape(n, COARSE, n, COARSE, -1).mean(axis=(1, 3))

    def _pool(self, points: np.ndarray, block: _Block, grids: _Grids) -> np.ndarray:
        """Features of the points of one block."""
        columns: list[np.ndarray] = []
        for radius, (_, derive) in zip(self._radii, _NEIGHBOURHOODS, strict=True):
            level = int(radius >= _COARSE_FROM_UM)
            cell_um = _CELL_UM * COARSE if level else _CELL_UM
            margin = int(np.ceil(_REACH * radius / cell_um))
            grid = _window(block, margin, grids, level=level)
            places = (points - np.array(block) * _BLOCK_UM) / cell_um + margin
            sums = pool_gaussian(grid, places, radius / cell_um, _REACH * radius / cell_um)
            columns += derive(sums).values()
        return np.stack(columns, axis=1)


def _window(block: _Block, margin: int, grids: _Grids, *, level: int) -> np.ndarray:
    """The grid of a block with `margin` cells around it, from the blocks that were computed.

    Blocks that no disc touches were not computed: they have no weight and stay 0.
    """
    side = BLOCK_CELLS // COARSE if level else BLOCK_CELLS
    reach = -(-margin // side)
    n_channels = grids[block][level].shape[2]
    out = np.zeros((side + 2 * margin, side + 2 * margin, n_channels), np.float32)
    for dy, dx in product(range(-reach, reach + 1), repeat=2):
        pair = grids.get((block[0] + dy, block[1] + dx))
        if pair is None:
            continue
        top, left = dy * side + margin, dx * side + margin
        y0, x0 = max(top, 0), max(left, 0)
        y1, x1 = min(top + side, out.shape[0]), min(left + side, out.shape[1])
        out[y0:y1, x0:x1] = pair[level][y0 - top : y1 - top, x0 - left : x1 - left]
    return out
