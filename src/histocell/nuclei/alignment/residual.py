"""Residual between nuclei and image: offset with its precision, small turn and scale."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats
from scipy.ndimage import map_coordinates

from histocell.nuclei.alignment.surface import surface

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histocell._core.types import Floats, Ints
    from histocell.nuclei.alignment.contrast import ContrastMaps

BLOCK_REACH_UM = 60.0
BLOCK_NUCLEI = 40  # fewer in a block would not find their place
MOST_BLOCKS = 16
BLOCK_Z = 6.0
AGREE_UM = 4.0  # blocks that one map explains to within this agree
ALPHA = 1e-3  # of turn and scale beside a shift
FINE_UM = 6.0  # reach of the last search
MOST_NUCLEI = 3000  # of the last search
N_BOOTSTRAP = 200


@dataclass(frozen=True)
class Residual:
    """A small similarity that moves nuclei onto their image.

    Attributes
    ----------
    matrix
        Shape (3, 3), um to um.
    offset_um
        What it moves the middle of the nuclei by, (x, y).
    se_um
        Standard error of the offset, by a bootstrap over blocks of neighbouring nuclei.
    rotation, scale
        Angle in degrees, x towards y, and factor; 0 and 1 where a shift alone explains as much.
    largest_um
        Displacement that 95 % of the nuclei stay below.
    """

    matrix: Floats
    offset_um: Floats
    se_um: Floats
    rotation: float
    scale: float
    largest_um: float


def find_residual(maps: ContrastMaps, xy_um: Floats, shift_um: Floats, rng: np.random.Generator) -> Residual:
    """The similarity that puts nuclei onto dark places, starting from the best shift.

    Parameters
    ----------
    maps
        The contrast of the image.
    xy_um
        Centres of the nuclei, shape ``(n, 2)``, in um.
    shift_um
        The best shift, (x, y).
    rng
        Draws the nuclei of the last search and the bootstrap.
    """
    matrix = np.eye(3)
    matrix[:2, 2] = shift_um
    start = xy_um + shift_um
    middles, offsets, weights = _block_offsets(maps, start)
    similarity = _agreeing_similarity(middles, offsets, weights)
    if similarity is not None:
        matrix = similarity @ matrix
    moved = apply(matrix, xy_um)
    windows = maps.windows_of(moved)
    inside = np.concatenate([*windows.values(), np.empty((0, 2))])
    chosen = inside[rng.permutation(len(inside))[:MOST_NUCLEI]]
    fine, se = _fine_offset(maps, chosen, rng)
    matrix[:2, 2] += fine
    displaced = apply(matrix, xy_um) - xy_um
    middle = xy_um.mean(axis=0)
    rotation, scale = turn_and_scale(matrix)
    return Residual(
        matrix,
        apply(matrix, middle[None])[0] - middle,
        se,
        rotation,
        scale,
        float(np.quantile(np.hypot(*displaced.T), 0.95)),
    )


def apply(matrix: Floats, points: Floats) -> Floats:
    """Points (n, 2) mapped by an affine matrix (3, 3)."""
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def turn_and_scale(matrix: Floats) -> tuple[float, float]:
    """Angle in degrees and factor of a similarity."""
    return float(np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0]))), float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))


def neighbours(points: Floats, n_blocks: int) -> list[Ints]:
    """Rows of points in about `n_blocks` blocks of neighbours, of nearly equal number: halved along the longer side."""
    blocks = [np.arange(len(points))]
    while len(blocks) < n_blocks:
        halves = []
        for rows in blocks:
            axis = int(np.argmax(np.ptp(points[rows], axis=0)))
            halves += np.array_split(rows[np.argsort(points[rows, axis], kind="stable")], 2)
        blocks = halves
    return [rows for rows in blocks if len(rows)]


def _block_offsets(maps: ContrastMaps, xy_um: Floats) -> tuple[Floats, Floats, Floats]:
    """Middles of blocks of nuclei, the offset that each finds for itself, and its height; those that find none are left out."""
    if maps.whole:
        n_blocks = min(MOST_BLOCKS, len(xy_um) // BLOCK_NUCLEI)
        blocks = [xy_um[rows] for rows in neighbours(xy_um, n_blocks)] if n_blocks > 1 else []
    else:
        blocks = [points for points in maps.windows_of(xy_um).values() if len(points) >= BLOCK_NUCLEI]
    found = []
    for points in blocks:
        peak = surface(maps, points, reach_um=BLOCK_REACH_UM).peak()
        if peak is not None and peak.z >= BLOCK_Z:
            found.append((points.mean(axis=0), peak.offset_um, [peak.z]))
    if not found:
        return np.empty((0, 2)), np.empty((0, 2)), np.empty(0)
    middles, offsets, heights = (np.array(each) for each in zip(*found, strict=True))
    return middles, offsets, heights[:, 0]


def _agreeing_similarity(middles: Floats, offsets: Floats, weights: Floats) -> Floats | None:
    """The similarity that the most blocks agree on, `None` where a shift explains as many.

    Each pair of blocks proposes one; the best is fitted again to all that agree with it.
    """
    if len(middles) < 3:
        return None
    targets = middles + offsets
    by_shift = max((_agree(offsets, one).sum() for one in offsets), default=0)
    best, most = None, by_shift
    for one, two in combinations(range(len(middles)), 2):
        pair = [one, two]
        model = _fit(middles[pair], targets[pair], weights[pair])
        number = _agree(apply(model, middles), targets).sum()
        if number > most or (best is None and number == most):
            best, most = model, number
    if best is None or most < 3:
        return None
    agreed = _agree(apply(best, middles), targets)
    model = _fit(middles[agreed], targets[agreed], weights[agreed])
    return model if _beats_shift(model, middles[agreed], targets[agreed], weights[agreed]) else None


def _agree(points: Floats, targets: Floats) -> np.ndarray:
    return np.hypot(*(points - targets).T) < AGREE_UM


def _fit(points: Floats, targets: Floats, weights: Floats) -> Floats:
    """Weighted least-squares similarity, shape (3, 3)."""
    w = weights**2 / (weights**2).sum()
    middle, goal = w @ points, w @ targets
    p, q = (points - middle) @ [1, 1j], (targets - goal) @ [1, 1j]
    spread = float(w @ np.abs(p) ** 2)
    factor = complex((w * np.conj(p)) @ q) / spread if spread > 0 else 1.0 + 0j
    matrix = np.eye(3)
    matrix[:2, :2] = [[factor.real, -factor.imag], [factor.imag, factor.real]]
    matrix[:2, 2] = goal - matrix[:2, :2] @ middle
    return matrix


def _beats_shift(model: Floats, points: Floats, targets: Floats, weights: Floats) -> bool:
    """Whether turn and scale lower the squared error by more than two parameters do by chance."""
    w = weights**2 / (weights**2).sum()
    shift = w @ (targets - points)
    left = float(w @ ((apply(model, points) - targets) ** 2).sum(axis=1))
    before = float(w @ ((points + shift - targets) ** 2).sum(axis=1))
    degrees = 2 * len(points) - 4
    if degrees < 1:
        return False
    # a peak on a grid of px is known to a tenth of a um at best
    return bool(stats.f.sf((before - left) / 2 / (max(left, 0.01) / degrees), 2, degrees) < ALPHA)


def _fine_offset(maps: ContrastMaps, xy_um: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Last small shift, and its standard error by a bootstrap over blocks of neighbours, both (x, y) in um."""
    step = maps.resolution_um / 2
    reach = int(np.ceil(FINE_UM / step))
    axis: Floats = np.arange(-reach, reach + 1, dtype=np.float64) * step
    values = []
    kept = []
    for number, points in maps.windows_of(xy_um).items():
        window = maps.window(number)
        edge = np.array(window.contrast.shape[::-1]) * maps.resolution_um - FINE_UM
        place = points - window.corner  # at the border of a window half of the shifts show nothing
        points = points[((place >= FINE_UM) & (place <= edge)).all(axis=1)]
        y, x = (
            ((points - window.corner)[:, [k], None, None] + grid) / maps.resolution_um - 0.5
            for k, grid in ((1, axis[:, None]), (0, axis[None, :]))
        )
        shape = np.broadcast_shapes(y.shape, x.shape)
        places = [np.broadcast_to(each, shape).reshape(len(points), -1) for each in (y, x)]
        values.append(map_coordinates(window.contrast, places, order=1, mode="constant"))
        kept.append(points)
    if not sum(map(len, kept)):
        return np.zeros(2), np.full(2, np.nan)
    sums, points = np.concatenate(values), np.concatenate(kept)
    groups = neighbours(points, min(64, max(len(points) // 5, 4)))
    blocks: Floats = np.array([sums[rows].sum(axis=0) for rows in groups], dtype=np.float64)
    shape = (len(axis), len(axis))
    best = _top(blocks.sum(axis=0).reshape(shape), axis)
    draws = rng.multinomial(len(blocks), np.full(len(blocks), 1 / len(blocks)), size=N_BOOTSTRAP)
    tops = np.array([_top((draw @ blocks).reshape(shape), axis) for draw in draws])
    return best, tops.std(axis=0)


def _top(values: NDArray[np.floating], axis: Floats) -> Floats:
    """Place (x, y) of the maximum, by a parabola through a neighbourhood of two steps on each side."""
    row, column = np.unravel_index(int(np.argmax(values)), values.shape)
    place = []
    for line, index in ((values[row], int(column)), (values[:, column], int(row))):
        low, high = max(index - 2, 0), min(index + 3, len(axis))
        if high - low < 4:
            place.append(axis[index])
            continue
        bend, slope, _ = np.polyfit(axis[low:high] - axis[index], line[low:high], 2)
        move = -slope / (2 * bend) if bend < 0 else 0.0
        place.append(axis[index] + float(np.clip(move, -2 * (axis[1] - axis[0]), 2 * (axis[1] - axis[0]))))
    return np.array(place)
