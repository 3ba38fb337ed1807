"""The built-in encoder: what an expert would measure on H&E, without a network, a GPU or a download."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING

import numba
import numpy as np

from histocell._core.settings import progress_bar
from histocell.encoders.morphology_features import features
from histocell.encoders.morphology_maps import BLOCK_CELLS, CELL_PX, CHANNELS, COARSE, HALO_CELLS, MPP, block_sums
from histocell.encoders.stain import estimate_stains, sample_tissue
from histocell.kernels.pooling import pool_gaussian

if TYPE_CHECKING:
    from histocell._core.images import SlideImage
    from histocell.encoders.stain import StainEstimate

_CELL_UM = CELL_PX * MPP
_BLOCK_UM = BLOCK_CELLS * _CELL_UM
_REACH = 2.5  # neighbourhoods end at this many standard deviations
_COARSE_FROM_UM = 90.0

type _Block = tuple[int, int]
type _Grids = dict[_Block, tuple[np.ndarray, np.ndarray]]


class Morphology:
    """Colour, texture, nuclei and architecture around each point, at several distances.

    The slide is read at 1 um/px in blocks of 512 um. Stains are separated with vectors found on the slide itself,
    nuclei are segmented, and everything is summed up in grid cells of 8 um. A point's features come from the
    Gaussian-weighted sums of the cells around it, so surroundings shared by many points are computed once. The result
    for a point depends on the slide and the point alone: not on the other points, nor on the number of threads.

    Parameters
    ----------
    radii_um
        Standard deviations of the Gaussian neighbourhoods for patches of 112 um. The first is the spot itself and
        grows with the patch; the others are its surroundings and stay.

    References
    ----------
    Stain separation: Macenko et al. (2009); local binary patterns: Ojala et al. (2002); flooding: Vincent and Soille
    (1991); structure tensor: Bigün and Granlund (1987).
    """

    name = "morphology"
    version = "1"

    def __init__(self, radii_um: tuple[float, ...] = (40.0, 80.0, 180.0)) -> None:
        if not radii_um or any(r <= 0 for r in radii_um) or list(radii_um) != sorted(set(radii_um)):
            msg = f"radii_um must increase and be above 0, got {tuple(radii_um)}"
            raise ValueError(msg)
        self.radii_um = tuple(float(r) for r in radii_um)

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the columns, `<feature>_r<radius in um>`."""
        names = tuple(features(np.zeros((1, len(CHANNELS)))))
        return tuple(f"{name}_r{str(radius).removesuffix('.0').replace('.', '_')}" for radius in self.radii_um for name in names)

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
        size_um: float = 112.0,
        progress: bool = True,
    ) -> np.ndarray:
        """Features of the tissue around points.

        Parameters
        ----------
        image
            The slide.
        centers
            Shape (n, 2): x, y in px of its full resolution.
        mpp
            um per px of its full resolution.
        size_um
            Side of the patch that the first neighbourhood stands for.
        progress
            Whether a bar may be shown.

        Returns
        -------
        Shape (n, dim), float32, finite.

        Raises
        ------
        ValueError
            If `centers` is not a finite array of two columns, or a size is not above 0.
        """
        centers = np.asarray(centers, np.float64)
        if centers.ndim != 2 or centers.shape[1] != 2 or not np.isfinite(centers).all():
            msg = f"centers must be finite x, y in two columns, got shape {centers.shape}"
            raise ValueError(msg)
        if not (mpp > 0 and size_um > 0):
            msg = f"mpp and size_um must be above 0, got {mpp} and {size_um}"
            raise ValueError(msg)
        out = np.zeros((len(centers), self.dim), np.float32)
        if len(centers) == 0:
            return out
        stains = estimate_stains(sample_tissue(image, mpp=mpp), background=image.background)
        radii = (self.radii_um[0] * size_um / 112.0, *self.radii_um[1:])
        sweep = _Sweep(image, stains, mpp, radii)
        n_threads = numba.get_num_threads()
        with ThreadPoolExecutor(n_threads) as pool:
            sweep.run(centers[:, ::-1] * mpp, out, pool, progress=progress)
        return out


class _Sweep:
    """One pass over the blocks of a slide, row by row; grids are dropped as soon as no point needs them."""

    def __init__(self, image: SlideImage, stains: StainEstimate, mpp: float, radii_um: tuple[float, ...]) -> None:
        self._image = image
        self._stains = stains
        self._mpp = mpp
        self._radii = radii_um
        fine = [r for r in radii_um if r < _COARSE_FROM_UM]
        self._fine_um = _REACH * max(fine, default=0.0)
        self._margin = int(np.ceil(_REACH * max(radii_um) / _BLOCK_UM))

    def run(self, points: np.ndarray, out: np.ndarray, pool: ThreadPoolExecutor, *, progress: bool) -> None:
        """Fill `out` with the features of points (n, 2), (y, x) in um."""
        owner = np.floor(points / _BLOCK_UM).astype(np.int64)
        members: dict[_Block, list[int]] = {}
        for i, block in enumerate(map(tuple, owner.tolist())):
            members.setdefault(block, []).append(i)
        reach = range(-self._margin, self._margin + 1)
        needed: dict[int, set[_Block]] = {}
        for (row, column), dy, dx in product(members, reach, reach):
            needed.setdefault(row + dy, set()).add((row + dy, column + dx))
        grids: _Grids = {}
        with progress_bar(total=sum(map(len, needed.values())), desc="morphology", unit="block") if progress else _Silent() as bar:
            for row in sorted(needed):
                blocks = sorted(needed[row])
                for block, pair in zip(blocks, pool.map(self._compute, blocks), strict=True):
                    grids[block] = pair
                    bar.update()
                ready = [block for block in members if block[0] == row - self._margin]
                jobs = [(block, np.array(members.pop(block)), grids) for block in sorted(ready)]
                for index, values in pool.map(lambda job: self._pool(points, *job), jobs):
                    out[index] = values
                for block in [b for b in grids if b[0] < row - 2 * self._margin + 1]:
                    del grids[block]

    def _compute(self, block: _Block) -> tuple[np.ndarray, np.ndarray]:
        side = (BLOCK_CELLS + 2 * HALO_CELLS) * CELL_PX
        halo = HALO_CELLS * _CELL_UM
        y0, x0 = ((index * _BLOCK_UM - halo) / self._mpp for index in block)
        length = side * MPP / self._mpp
        rgb = self._image.read(y0, x0, y0 + length, x0 + length, out_shape=(side, side))
        fine = block_sums(rgb, self._stains)
        n = BLOCK_CELLS // COARSE
        return fine, fine.reshape(n, COARSE, n, COARSE, -1).mean(axis=(1, 3))

    def _pool(self, points: np.ndarray, block: _Block, index: np.ndarray, grids: _Grids) -> tuple[np.ndarray, np.ndarray]:
        columns = []
        fine = self._window(block, grids, level=0) if self._fine_um else None
        coarse = self._window(block, grids, level=1)
        corner = (np.array(block) - self._margin) * _BLOCK_UM
        for radius in self._radii:
            grid, cell_um = (fine, _CELL_UM) if radius < _COARSE_FROM_UM else (coarse, _CELL_UM * COARSE)
            sums = pool_gaussian(grid, (points[index] - corner) / cell_um, radius / cell_um, _REACH * radius / cell_um)
            columns.append(np.stack(list(features(sums).values()), axis=1))
        return index, np.concatenate(columns, axis=1)

    def _window(self, block: _Block, grids: _Grids, *, level: int) -> np.ndarray:
        reach = range(-self._margin, self._margin + 1)
        return np.concatenate(
            [
                np.concatenate([grids[block[0] + dy, block[1] + dx][level] for dx in reach], axis=1)
                for dy in reach
            ]
        )


class _Silent:
    """A progress bar that shows nothing."""

    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self) -> None:
        """Do nothing."""
