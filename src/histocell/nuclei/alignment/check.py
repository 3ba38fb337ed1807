"""The verdict on nuclei and the image that they are said to lie on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from histocell.nuclei.alignment.contrast import ContrastMaps
from histocell.nuclei.alignment.hypotheses import AS_IT_IS, common_factors, scaled, scales, tilted, turned
from histocell.nuclei.alignment.residual import apply, find_residual, turn_and_scale
from histocell.nuclei.alignment.surface import surface

if TYPE_CHECKING:
    from collections.abc import Iterable

    from histocell._core.types import Floats
    from histocell.images.slide_image import SlideImage
    from histocell.nuclei.alignment.hypotheses import Hypothesis
    from histocell.nuclei.alignment.residual import Residual
    from histocell.nuclei.alignment.surface import Peak, Surface

FINEST_UM = 1.0  # um per px of the maps
ALPHA = 1e-3  # of the best of all maps and shifts
CLEAR = 1.2  # how much higher than the highest other shift the best must be
AS_GOOD = 0.95  # of the highest peak
FEWEST = 20
MOST_INSIDE = 0.5  # share of the nuclei that a map must leave on the image
NEAR_UM = 10.0  # shifts that are tried by themselves, of nuclei too few to stand out among all shifts
PLAIN = 0.5  # effect, in standard deviations, of nuclei that lie on dark places
BRIGHTER = 6.0  # standard deviations
FEW_WINDOWS = 4  # of the search for a scale


@dataclass(frozen=True)
class Facts:
    """The nuclei where they are said to be.

    Attributes
    ----------
    effect, p, n_shifts
        Contrast over that of shifted copies, its p-value, and their number.
    on_tissue
        Share of the nuclei on tissue.
    stains_estimated
        Whether the image looked like haematoxylin and eosin.
    brighter
        Whether the image is brighter under the nuclei than under nearly all shifted copies, as in fluorescence.
    """

    effect: float
    p: float
    n_shifts: int
    on_tissue: float
    stains_estimated: bool
    brighter: bool


@dataclass(frozen=True)
class Check:
    """What was found on one section.

    Attributes
    ----------
    verdict
        ``fits``, ``shifted``, ``swapped``, ``mirrored``, ``rotated``, ``wrong pixel size`` or ``unrelated``.
    found
        Name of the map that puts the nuclei where they belong, empty where none does.
    z, p_found
        Height of the best place of the best map over its other shifts, and its p-value among all that were tried.
    residual
        What is left after the map that was found, `None` where none was.
    matrix
        Shape (3, 3): px of the image, as the coordinates say it, to where the nuclei belong; NaN where that is unknown.
    here
        The nuclei where they are said to be.
    tried
        Each map with its peak, the highest first.
    profile
        The surface of the nuclei as they are, or after the map that was found.
    """

    verdict: str
    found: str
    z: float
    p_found: float
    residual: Residual | None
    matrix: Floats
    here: Facts
    tried: list[tuple[Hypothesis, Peak]]
    profile: Surface

    @property
    def factor(self) -> float:
        """What the coordinates must be multiplied by, NaN where it is unknown."""
        return np.nan if self.residual is None else turn_and_scale(self.matrix)[1]


class Search:
    """Maps that are tried on one section, and their peaks.

    Parameters
    ----------
    image
        The slide.
    xy_px
        Centres of the nuclei, shape ``(n, 2)``, x and y in px of its full resolution.
    mpp
        um per px.
    radius_um
        Radius of a nucleus.
    reach_um
        Largest shift.
    """

    def __init__(self, image: SlideImage, xy_px: Floats, *, mpp: float, radius_um: float, reach_um: float) -> None:
        self.xy_px, self.mpp, self.reach_um = xy_px, mpp, reach_um
        step = max(FINEST_UM, mpp)
        self.maps = ContrastMaps(image, mpp=mpp, resolution_um=step, radius_um=radius_um)
        self._coarse = ContrastMaps(image, mpp=mpp, resolution_um=2 * step, radius_um=max(radius_um, 2 * step))
        self._shape = image.shape
        self.tried: list[tuple[Hypothesis, Peak]] = []
        self._order: dict[str, int] = {}
        self._radius_um, self._area_um2 = radius_um, 0.0

    def places_um(self, hypothesis: Hypothesis) -> Floats:
        """Centres of the nuclei in um, were they mapped so."""
        return apply(hypothesis.matrix, self.xy_px) * self.mpp

    def surface(self, hypothesis: Hypothesis) -> Surface:
        """Contrast under the nuclei by shift, were they mapped so."""
        return surface(self.maps, self.places_um(hypothesis), reach_um=self.reach_um)

    def best(self, here: Surface) -> tuple[Hypothesis, Peak, float] | None:
        """The map with the highest peak and its p-value, where it stands out among all that were tried.

        Where none does, few nuclei can still lie where they are said to: `here` is their surface, of which the shifts of
        some um are far fewer to try than all. Their effect must then be that of nuclei on dark places, which chance
        does not reach with many nuclei.
        """
        self._try([AS_IT_IS])
        found = self._standing_out()
        if found and found[1].effect >= PLAIN:  # nothing else can be as dark
            return found
        middle = (self.xy_px.min(axis=0) + self.xy_px.max(axis=0)) / 2
        self._try([*turned(self._shape, middle), *map(scaled, common_factors(self.mpp))])
        if found := self._standing_out():
            return found
        near = here.peak(within_um=NEAR_UM)
        if near is not None and near.z > near.second and near.number >= FEWEST and near.effect >= PLAIN:
            p_near = self.p_value(near, near.area_um2)
            if p_near < ALPHA:
                return AS_IT_IS, near, p_near
        # half of the step is what is off at most: at the border of a window by two thirds of a nucleus
        step = float(np.clip(8 / self._coarse.extent_um, 0.003, 0.015))
        self._scan([*scales(step), *tilted(self.xy_px.mean(axis=0))])
        return self._standing_out()

    def p_value(self, peak: Peak, area_um2: float | None = None) -> float:
        """Chance of a peak as high among all maps and shifts that were tried, by the expected number of such peaks.

        Parameters
        ----------
        peak
            The peak.
        area_um2
            Area of the shifts, where they are not all that were tried.
        """
        area = self._area_um2 if area_um2 is None else area_um2
        number = area / (np.pi * self._radius_um**2) * max(peak.z, 1.0) ** 2
        return float(min(1.0, number * stats.pearson3.sf(peak.z, peak.skew)))

    def _try(self, hypotheses: Iterable[Hypothesis]) -> None:
        for each in hypotheses:
            peak = self.surface(each).peak() if self._lies_inside(each) else None
            if peak is not None and peak.number >= FEWEST:
                self._area_um2 += peak.area_um2
                self._order.setdefault(each.name, len(self._order))
                self.tried.append((each, peak))
        self.tried.sort(key=lambda item: -item[1].z)

    def _lies_inside(self, hypothesis: Hypothesis) -> bool:
        """Whether a map leaves most nuclei on the image, as a right one must; the nuclei as they are need not."""
        xy, size = apply(hypothesis.matrix, self.xy_px), np.array(self._shape[::-1])
        reach = self.reach_um / self.mpp
        inside = ((xy > -reach) & (xy < size + reach)).all(axis=1)
        return hypothesis is AS_IT_IS or float(inside.mean()) >= MOST_INSIDE

    def _scan(self, hypotheses: list[Hypothesis]) -> None:
        """Look for the best of many maps at half of the resolution; those that stand out are tried at the full one."""
        rough = []
        for each in filter(self._lies_inside, hypotheses):
            found = surface(self._coarse, self.places_um(each), reach_um=self.reach_um, most=FEW_WINDOWS).peak()
            if found is not None:
                self._area_um2 += found.area_um2
                rough.append((found.z, each))
        rough.sort(key=lambda item: -item[0])
        self._try([each for _, each in rough[:3]])

    def _standing_out(self) -> tuple[Hypothesis, Peak, float] | None:
        if not self.tried:
            return None
        highest = self.tried[0][1].z
        # of maps that are as good, the first: about the middle of the image before that of the nuclei
        hypothesis, peak = min(
            (each for each in self.tried if each[1].z >= AS_GOOD * highest), key=lambda each: self._order[each[0].name]
        )
        p = self.p_value(peak)
        return (hypothesis, peak, p) if p < ALPHA and peak.z > CLEAR * peak.second else None


def check_nuclei(
    image: SlideImage,
    xy_px: Floats,
    *,
    mpp: float,
    radius_um: float,
    reach_um: float,
    tolerance_um: float,
    rng: np.random.Generator,
) -> Check:
    """Whether nuclei lie on the dark places of an image, and what would put them there.

    Parameters
    ----------
    image, xy_px, mpp, radius_um, reach_um
        As in `Search`.
    tolerance_um
        Largest displacement of nuclei that fit.
    rng
        For the precision of the offset.
    """
    search = Search(image, xy_px, mpp=mpp, radius_um=radius_um, reach_um=reach_um)
    here = search.surface(AS_IT_IS)
    effect, p, n_shifts = here.test()
    half = here.number.shape[0] // 2
    on_tissue = float(here.number[half, half]) / len(xy_px)
    top, depth = here.peak(), -here.z_here()
    brighter = depth > BRIGHTER and (top is None or depth > top.z)  # nuclei of H&E that are off may lie between others
    found = None if brighter else search.best(here)
    facts = Facts(effect, p, n_shifts, on_tissue, search.maps.stains.estimated, brighter)
    if found is None:
        z, p_found = (search.tried[0][1].z, search.p_value(search.tried[0][1])) if search.tried else (np.nan, 1.0)
        return Check("unrelated", "", z, p_found, None, np.full((3, 3), np.nan), facts, search.tried, here)
    hypothesis, peak, p_found = found
    residual = find_residual(search.maps, search.places_um(hypothesis), peak.offset_um, rng)
    to_um = np.diag([mpp, mpp, 1.0])
    matrix = np.linalg.inv(to_um) @ residual.matrix @ to_um @ hypothesis.matrix
    verdict = hypothesis.verdict if hypothesis is not AS_IT_IS else _small(residual, xy_px * mpp, tolerance_um)
    profile = here if hypothesis is AS_IT_IS else search.surface(hypothesis)
    return Check(verdict, hypothesis.name, peak.z, p_found, residual, matrix, facts, search.tried, profile)


def _small(residual: Residual, xy_um: Floats, tolerance_um: float) -> str:
    """The verdict on nuclei that are roughly where they belong."""
    if residual.largest_um <= tolerance_um:
        return "fits"
    reach = float(np.quantile(np.hypot(*(xy_um - xy_um.mean(axis=0)).T), 0.95))
    by_scale, by_turn = abs(residual.scale - 1) * reach, abs(np.radians(residual.rotation)) * reach
    if max(by_scale, by_turn) <= tolerance_um:
        return "shifted"
    return "wrong pixel size" if by_scale >= by_turn else "rotated"
