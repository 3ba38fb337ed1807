"""Mean contrast of an image under shifted copies of nuclei, over all shifts at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import fft

from histocell.nuclei.alignment.contrast import N_WINDOWS, padded_shape

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histocell._core.types import Bools, Floats
    from histocell.nuclei.alignment.contrast import ContrastMaps, Window

PEAK_UM = 20.0  # shifts nearer to a peak than this belong to it
STEP_UM = 8.0  # shifts that differ by more show contrasts that know nothing of each other
LEAST_SHARE = 0.5  # of the nuclei on tissue, below which a shift says too little


@dataclass(frozen=True)
class Surface:
    """Sums over shifted copies of the nuclei; row and column of the middle are the shift 0.

    Attributes
    ----------
    total
        Sum of the contrast under the nuclei, shape ``(2 k + 1, 2 k + 1)``.
    number
        Number of them on tissue.
    step
        um between neighbouring shifts.
    """

    total: Floats
    number: Floats
    step: float

    @property
    def known(self) -> Bools:
        """The shifts that leave enough nuclei on tissue."""
        return self.number >= max(LEAST_SHARE * float(self.number.max()), 10)

    @property
    def effect(self) -> Floats:
        """Mean contrast by shift, NaN where too few nuclei are left."""
        return np.where(self.known, self.total / np.maximum(self.number, 1), np.nan)

    @property
    def score(self) -> Floats:
        """Contrast in units that do not depend on the number of nuclei, NaN where too few are left."""
        return np.where(self.known, self.total / np.sqrt(np.maximum(self.number, 1)), np.nan)

    def away_from(self, row: int, column: int) -> Bools:
        """The known shifts that do not belong to a peak."""
        y, x = np.ogrid[: self.total.shape[0], : self.total.shape[1]]
        return self.known & (np.hypot(y - row, x - column) * self.step > PEAK_UM)

    def peak(self, within_um: float = np.inf) -> Peak | None:
        """The shift of at most `within_um` under which the image is darkest, `None` where none is known."""
        score, half = self.score, self.total.shape[0] // 2
        y, x = np.ogrid[: score.shape[0], : score.shape[1]]
        asked = self.known & (np.hypot(y - half, x - half) * self.step <= within_um)
        if not asked.any():
            return None
        row, column = np.unravel_index(np.argmax(np.where(asked, score, -np.inf)), score.shape)
        others = score[self.away_from(int(row), int(column))]
        if len(others) * self.step**2 < 50 * STEP_UM**2:  # too few to know what chance does
            return None
        middle, spread = float(others.mean()), max(float(others.std()), 1e-9)
        fine = np.array([_vertex(score[row, :], int(column)), _vertex(score[:, column], int(row))])
        return Peak(
            (fine - half) * self.step,
            (float(score[row, column]) - middle) / spread,
            (float(others.max()) - middle) / spread,
            max(float(((others - middle) ** 3).mean()) / spread**3, 0.0),
            float(asked.sum()) * self.step**2,
            float(self.number[row, column]),
            (float(score[row, column]) - middle) / float(np.sqrt(self.number[row, column])),
        )

    def z_here(self) -> float:
        """The nuclei where they are: how much darker than under other shifts, in their standard deviations; 0 if unknown."""
        half = self.total.shape[0] // 2
        others = self.score[self.away_from(half, half)]
        if not self.known[half, half] or len(others) < 2 or others.std() == 0:
            return 0.0
        return float((self.score[half, half] - others.mean()) / others.std())

    def test(self) -> tuple[float, float, int]:
        """The nuclei where they are: effect, p-value and number of shifted copies that they are compared with.

        Copies lie so far apart that their contrasts know nothing of each other, and away from the place itself.
        """
        half = self.total.shape[0] // 2
        if not self.known[half, half]:
            return np.nan, 1.0, 0
        stride = max(1, int(np.ceil(STEP_UM / self.step)))
        grid = np.zeros_like(self.known)
        grid[half % stride :: stride, half % stride :: stride] = True
        away = self.away_from(half, half) & grid
        others = self.score[away]
        if len(others) == 0:
            return np.nan, 1.0, 0
        effect = float(self.effect[half, half] - self.effect[away].mean())
        return effect, float((1 + (others >= self.score[half, half]).sum()) / (1 + len(others))), len(others)


@dataclass(frozen=True)
class Peak:
    """The highest place of a surface.

    Attributes
    ----------
    offset_um
        Shift (x, y) that puts the nuclei onto the dark places.
    z
        Height over the other shifts, in their standard deviations.
    second
        That of the highest other place.
    skew
        Skewness of the other shifts: of few nuclei chance alone is not normal. At least 0.
    area_um2
        Area of the shifts that were tried.
    number
        Nuclei on tissue there.
    effect
        Mean contrast there over that of the other shifts.
    """

    offset_um: Floats
    z: float
    second: float
    skew: float
    area_um2: float
    number: float
    effect: float


def surface(maps: ContrastMaps, xy_um: Floats, *, reach_um: float, most: int = N_WINDOWS) -> Surface:
    """Correlate nuclei with the contrast of an image over all shifts of at most `reach_um` in x and in y.

    Parameters
    ----------
    maps
        The contrast of the image.
    xy_um
        Centres of the nuclei, shape ``(n, 2)``, x and y in um from the corner of the image.
    reach_um
        Largest shift.
    most
        Number of windows of a large slide that are looked at: those with the most nuclei.
    """
    step = maps.resolution_um
    pad = max(1, round(reach_um / step))
    total = np.zeros((2 * pad + 1, 2 * pad + 1))
    number = np.zeros_like(total)
    for each in maps.windows_of(xy_um, most):
        window = maps.window(each)
        if window.tissue.any():
            sums = _correlate(window, xy_um, step, pad)
            total += sums[0]
            number += np.maximum(sums[1], 0)
    return Surface(total, number, step)


def _correlate(window: Window, xy_um: Floats, step: float, pad: int) -> list[NDArray[np.float32]]:
    """Sums of contrast and of tissue under the nuclei, shape ``(2 pad + 1, 2 pad + 1)`` each."""
    shape = padded_shape(window.contrast.shape, pad)
    points = (xy_um - window.corner) / step - 0.5 + pad  # px k is centred on k + 1/2
    size = np.array(window.contrast.shape[::-1]) + 2 * pad
    points = points[((points >= 0) & (points < size - 1)).all(axis=1)]
    nuclei = np.conj(fft.rfft2(_spread(points, shape)))
    sums = []
    for transform in window.transforms(pad):
        product = fft.irfft2(transform * nuclei, shape)
        index = np.arange(-pad, pad + 1)
        sums.append(product[np.ix_(index, index)])
    return sums


def _spread(points: Floats, shape: list[int]) -> NDArray[np.float32]:
    """Points (x, y) as an image: each is shared among the four px around it."""
    whole = np.floor(points).astype(np.int64)
    x, y = (points - whole).T
    out = np.zeros(shape[0] * shape[1], dtype=np.float32)
    for down, across in ((0, 0), (0, 1), (1, 0), (1, 1)):
        weight = (y if down else 1 - y) * (x if across else 1 - x)
        cells = (whole[:, 1] + down) * shape[1] + whole[:, 0] + across
        out += np.bincount(cells, weights=weight, minlength=len(out)).astype(np.float32)
    return out.reshape(shape)


def _vertex(values: Floats, index: int) -> float:
    """Place of the top of the parabola through a maximum and its neighbours."""
    if not 0 < index < len(values) - 1 or not np.isfinite(values[index - 1 : index + 2]).all():
        return float(index)
    low, top, high = values[index - 1 : index + 2]
    bend = low - 2 * top + high
    return index + (0.5 * float((low - high) / bend) if bend < 0 else 0.0)
