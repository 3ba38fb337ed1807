"""Random fields and point processes in the plane, on the raster of a synthetic section."""

from __future__ import annotations

import numpy as np
import scipy.ndimage as ndi
import scipy.sparse as sp

from histocell.kernels.compiled import njit

GRID_UM = 1.0  # spacing of the raster on which compartments are drawn


def upsample(field: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Bilinear enlargement of a raster (h, w) to `shape`, pixel centres aligned, float32."""

    def weights(n_out: int, n_in: int) -> sp.csr_array:
        position = np.clip((np.arange(n_out) + 0.5) * n_in / n_out - 0.5, 0, n_in - 1)
        low = np.minimum(position.astype(int), max(n_in - 2, 0))
        share = (position - low).astype(np.float32)
        columns = np.stack([low, np.minimum(low + 1, n_in - 1)], axis=1)
        pointer = np.arange(0, 2 * n_out + 1, 2)
        return sp.csr_array((np.stack([1 - share, share], axis=1).ravel(), columns.ravel(), pointer), (n_out, n_in))

    rows, cols = (weights(o, i) for o, i in zip(shape, field.shape, strict=True))
    return rows @ np.ascontiguousarray((cols @ np.ascontiguousarray(field.T, dtype=np.float32)).T)


def smooth_noise(rng: np.random.Generator, side_um: float, *, scale_um: float) -> np.ndarray:
    """Gaussian random field of unit variance and correlation length `scale_um` on the raster of a section."""
    n = max(round(side_um / GRID_UM), 1)
    coarse = int(np.ceil(8 * side_um / scale_um)) + 1
    if coarse >= n:
        field, sigma = rng.standard_normal((n, n), dtype=np.float32), scale_um / GRID_UM / 2
    else:  # white noise on the grid that the correlation length needs, then enlarged
        field, sigma = rng.standard_normal((coarse, coarse), dtype=np.float32), 4.0
    field = ndi.gaussian_filter(field, sigma, mode="wrap") * np.float32(2 * np.sqrt(np.pi) * max(sigma, 0.3))
    return field if field.shape == (n, n) else upsample(field, (n, n))


def sample(field: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Values of a raster at positions in um, those at its border beyond it."""
    return field[cell_index(y, field.shape[0]), cell_index(x, field.shape[1])]


def cell_index(position_um: np.ndarray, n: int) -> np.ndarray:
    """Index of the cells of a raster with `n` of them along an axis."""
    return (position_um / GRID_UM).astype(int).clip(0, n - 1)


def ramp(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


@njit(cache=True)
def thin_discs(x: np.ndarray, y: np.ndarray, free: np.ndarray, side_um: float) -> np.ndarray:  # pragma: no cover
    """First come, first served: keep a disc when it overlaps none that was kept before."""
    n = len(x)
    keep = np.zeros(n, dtype=np.bool_)
    if n == 0:
        return keep
    bin_um = 2 * free.max()
    m = int(side_um / bin_um) + 1
    head = np.full((m, m), -1, dtype=np.int64)
    link = np.full(n, -1, dtype=np.int64)
    for i in range(n):
        row, col = int(y[i] / bin_um), int(x[i] / bin_um)
        clash = False
        for r in range(max(row - 1, 0), min(row + 2, m)):
            for c in range(max(col - 1, 0), min(col + 2, m)):
                j = head[r, c]
                while j >= 0:
                    reach = free[i] + free[j]
                    if (x[i] - x[j]) ** 2 + (y[i] - y[j]) ** 2 < reach * reach:
                        clash = True
                    j = link[j]
        if not clash:
            keep[i] = True
            link[i] = head[row, col]
            head[row, col] = i
    return keep
