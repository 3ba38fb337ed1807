"""Null distribution of R between the parts of a whole: neighbours that are not x are the other types as by chance.

Parts of a whole are not independent: where x is, there is less room for all others, and of two types the one is the
other's complement. Given how strongly x clusters, what is left to ask is whether its neighbours of other types favour y.
Let y take the share q_xy of the room that x leaves. Then ``v = y + q x``, centred, says where y has more or less than
that, and ``mean(u v)`` with the lag u of x is what R exceeds its expectation ``-q R_xx sd(x) / sd(y)`` by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from histocell.kernels.latent import border_shares
from histocell.kernels.null import SKEW_FACTOR, Raster, Spread, choose_pixel, combine_tails, tail_probabilities

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histocell.kernels.null import Alternative

    type Floats = NDArray[np.float64]

LEAST_PARTS = 3  # of two, the one is the other's complement
LEAST_OTHERS = 8  # points that are not x; of fewer, the variance is too uncertain
CLOSED = 0.1
NOISE = 2.0  # standard deviations


@dataclass(frozen=True)
class NoPreference:
    """R where no type prefers another one, each array of shape ``(k, k)``: x in rows, its neighbour y in columns.

    Attributes
    ----------
    low, high
        The range of R that no preference allows: one number for shares. For types it reaches from strict proportion
        to the borders between independent smooth fields, which hold more of the rare types.
    spread
        Of R about it.
    """

    low: Floats
    high: Floats
    spread: Spread

    def nearest(self, r: Floats) -> Floats:
        """The value of the range that is nearest to R."""
        return np.clip(r, self.low, self.high)

    def p_values(self, r: Floats, alternative: Alternative) -> Floats:
        """The p-value of the alternative, the largest over the range; R can leave a wide range on one side only."""
        upper = tail_probabilities(r - self.high, self.spread)[0]
        lower = tail_probabilities(r - self.low, self.spread)[1]
        if alternative != "two-sided":
            return combine_tails(upper, lower, alternative)
        tail = np.minimum(upper, lower)
        width = (self.high - self.low) / np.sqrt(self.spread.variance)
        return np.minimum(1, tail + special.ndtr(special.ndtri(tail) - width))


def is_whole(values: NDArray[np.floating]) -> bool:
    """Whether the columns are parts of a whole: their sum varies far less than it would if they were independent."""
    total = values.sum(axis=1, dtype=np.float64)
    return bool(total.var() < CLOSED * values.var(axis=0, dtype=np.float64).sum())


def no_preference(
    xy: Floats, values: NDArray[np.floating], lag: NDArray[np.floating], *, length_scale: float, categories: bool
) -> NoPreference:
    """The null for all ordered pairs of three or more parts, of which none is constant; the diagonal says nothing.

    Where fewer than eight points are not x, the spread is NaN.

    Parameters
    ----------
    xy
        Coordinates, shape ``(n, 2)``.
    values
        Shares, or indicators of types, shape ``(n, k)``.
    lag
        Lags of the standardised values under the transposed weights, which are those of the neighbours of x.
    length_scale
        Of the weights, in the unit of `xy`; sets the resolution of the autocovariances.
    categories
        Whether `values` are indicators. The positions of x are then given, and v is a field of the other points.
    """
    n, k = values.shape
    mean, deviation = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
    centered = (values - mean).astype(np.float64)
    own = np.einsum("ij,ij->j", centered, lag) / (n * deviation)  # R of x with itself
    room = mean.sum() - mean
    share = mean / room[:, None]
    pairs = _PairSums.of(xy, centered, length_scale)
    variance, scale, skew = np.empty((k, k)), np.empty((k, k)), np.empty((k, k))
    for x in range(k):
        rest = np.maximum(room[x] - centered[:, x], 0)
        if rest.sum() ** 2 < LEAST_OTHERS * (rest @ rest):
            variance[x] = scale[x] = skew[x] = np.nan
            continue
        u = lag[:, x].astype(np.float64)
        u -= rest @ u / rest.sum()
        variance[x] = pairs.variance(x, rest * u, share[x], room[x])
        second, third = (rest @ u**power / rest.sum() for power in (2, 3))
        second_v, third_v = _moments(centered, x, rest, share[x], categories=categories)
        with np.errstate(divide="ignore", invalid="ignore"):
            scale[x] = room[x] * np.sqrt(second * second_v) / deviation
            skew[x] = third * third_v / (second * second_v) ** 1.5
    variance /= (n * deviation) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        n_eff = 1 + scale**2 / variance
    others = mean * (1 - mean) * np.maximum(1 - own, 0)  # of categories: weight of the neighbours of another type
    independent = border_shares(mean, float((mean - others).sum())) if categories else _independent_shares(mean)
    room_of_x = own[:, None] * deviation[:, None] / deviation
    expected = -share * room_of_x
    per_share = others[:, None] / np.outer(deviation, deviation) if categories else -room_of_x
    other = expected + per_share * (independent - share)
    spread = Spread(variance, scale, SKEW_FACTOR * skew / np.sqrt(n_eff))
    return NoPreference(np.minimum(expected, other), np.maximum(expected, other), spread)


def _moments(centered: Floats, x: int, rest: Floats, share: Floats, *, categories: bool) -> tuple[Floats, Floats]:
    """Second and third moment of the share of the rest that each part takes, about its mean, weighted by the rest."""
    if categories:
        second = share * (1 - share)
        return second, second * (1 - 2 * share)
    v = centered + share * centered[:, [x]]
    taken = np.divide(v, rest[:, None], out=np.zeros_like(v), where=rest[:, None] > 1e-9 * rest.max())
    return rest @ taken**2 / rest.sum(), rest @ taken**3 / rest.sum()


def _independent_shares(mean: Floats) -> Floats:
    """Share of what x leaves that y takes where the parts are variables of equal relative variance divided by their sum.

    To first order the covariance of two parts is proportional to ``m_x m_y (sum_z m_z^2 - m_x - m_y)``.
    """
    part = mean / mean.sum()
    covariance = np.outer(part, part) * ((part**2).sum() - part[:, None] - part)
    np.fill_diagonal(covariance, 0)
    return covariance / covariance.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class _PairSums:
    """Sums over the pairs of points of each distance bin.

    Attributes
    ----------
    raster
        That makes them.
    parts
        Of part a at one point times part b at the other, shape ``(k, k, bins)``; the parts are centred.
    alone
        Of part a, shape ``(k, bins)``.
    """

    raster: Raster
    parts: Floats
    alone: Floats

    @classmethod
    def of(cls, xy: Floats, centered: Floats, length_scale: float) -> _PairSums:
        """Of centred parts, shape ``(n, k)``."""
        pixel = choose_pixel(xy, length_scale)
        raster = Raster(xy, pixel, max(pixel, length_scale / 2))
        n, k = centered.shape
        ones = raster.spectrum(np.ones(n))
        spectra = [raster.spectrum(column) for column in centered.T]
        inner = centered.T @ centered
        parts, alone = np.empty((k, k, len(raster.n_pairs))), np.empty((k, len(raster.n_pairs)))
        for a in range(k):
            alone[a] = raster.cross_sums(spectra[a], ones, 0.0)
            for b in range(a + 1):
                parts[a, b] = parts[b, a] = raster.cross_sums(spectra[a], spectra[b], float(inner[a, b]))
        return cls(raster, parts, alone)

    def variance(self, x: int, lag: Floats, share: Floats, room: float) -> Floats:
        """n^2 times the variance of ``mean(lag v)`` for each part y, where x leaves this room on average."""
        own = self.parts[x, x]
        v = np.einsum("aab->ab", self.parts) + 2 * share[:, None] * self.parts[x] + share[:, None] ** 2 * own
        weight = room**2 * self.raster.n_pairs - 2 * room * self.alone[x] + own
        known = (self.raster.n_pairs > 0) & (weight > 1e-9 * weight[0])
        weight, covariance = weight[known], v[:, known] / weight[known]
        # what points without any smoothness would show by chance is noise, and a few points have much of it
        point = covariance[:, :1]
        chance = np.abs(covariance + point / weight[0]) < NOISE * np.sqrt(2 / weight) * point
        covariance[:, 1:][chance[:, 1:]] = 0
        products = self.raster.pair_sums(lag)[known] * covariance
        # as for independent fields: noise at long distances must not cancel what is there at short ones
        return np.maximum(products.sum(axis=1), 0.1 * np.abs(products).sum(axis=1))
