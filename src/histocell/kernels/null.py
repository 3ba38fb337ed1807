"""Null distributions of R between independent fields that are spatially smooth, and p-values.

Under independence ``Var(R_ab) = n^-2 sum_ij C_a(i, j) C_ub(i, j)``. For stationary fields the covariances depend on
the distance only, so they are estimated once per field, from all pairs of points, by a Fourier transform of the field
on a raster; K autocovariances serve all K^2 pairs.

References
----------
Clifford, Richardson and Hémon, Biometrics 45 (1989); Dutilleul, Biometrics 49 (1993).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import fft, special, stats

from histocell._core.errors import warn

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    type Alternative = Literal["two-sided", "greater", "less"]

FINE = 2**18  # rasters up to this many px get px of a quarter of the length scale, larger ones of a half
LARGEST = 2**26
BLOCK = 8  # columns that are brought together at a time
SKEW_FACTOR = 0.75
MAX_SKEW = 1.5
TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class Spread:
    """Null distribution of R for all pairs, each array of shape ``(k, k)``.

    Attributes
    ----------
    variance
        Of R, if the two variables are independent.
    scale
        The largest possible R: the standard deviation of the lagged variable.
    skew
        Skewness of R.
    """

    variance: NDArray[np.float64]
    scale: NDArray[np.float64]
    skew: NDArray[np.float64]

    @property
    def n_eff(self) -> NDArray[np.float64]:
        """Number of independent points that would give as much variance."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return 1 + self.scale**2 / self.variance


class Raster:
    """Points on a raster, for sums over all pairs by distance.

    Parameters
    ----------
    xy
        Coordinates, shape ``(n, 2)``.
    pixel
        Edge of a pixel, in the unit of `xy`.
    width
        Width of the distance bins. Bin 0 is a point with itself, bin 1 starts at distance 0.
    """

    def __init__(self, xy: NDArray[np.float64], pixel: float, width: float) -> None:
        pixels = np.rint((xy[:, ::-1] - xy[:, ::-1].min(axis=0)) / pixel).astype(np.int64)
        self.shape = tuple(int(size) for size in pixels.max(axis=0) + 1)
        self.padded = tuple(fft.next_fast_len(2 * size - 1, real=True) for size in self.shape)
        self.flat = pixels[:, 0] * self.shape[1] + pixels[:, 1]
        # an autocorrelation is symmetric: half of the rows of displacements suffice
        self.rows = self.padded[0] // 2 + 1
        dy = np.arange(self.rows)
        dx = np.fft.fftfreq(self.padded[1], 1 / self.padded[1])
        distance = np.hypot(dy[:, None], dx[None]) * (pixel / width)
        self.bin = (np.rint(distance).astype(np.int32) + 1).ravel()
        twice = (dy > 0) & (2 * dy != self.padded[0])
        self.times = np.repeat(np.where(twice, 2.0, 1.0), self.padded[1])
        self.n_pairs = np.rint(self.pair_sums(np.ones(len(xy))))

    def pair_sums(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Sum of ``values_i values_j`` over the ordered pairs of each distance bin."""
        spectrum = self.spectrum(values)
        return self.cross_sums(spectrum, spectrum, float(np.square(values, dtype=np.float64).sum()))

    def spectrum(self, values: NDArray[np.floating]) -> NDArray[np.complex128]:
        """Fourier transform of a field, for :meth:`cross_sums`."""
        image = np.bincount(self.flat, weights=values, minlength=self.shape[0] * self.shape[1]).reshape(self.shape)
        return fft.rfft2(image, s=self.padded, workers=-1)

    def cross_sums(
        self, first: NDArray[np.complex128], second: NDArray[np.complex128], own: float
    ) -> NDArray[np.float64]:
        """Sum of ``a_i b_j`` over the ordered pairs of each bin, from the spectra of a and b and the sum of ``a_i b_i``."""
        power = first.real * second.real + first.imag * second.imag
        # columns first, so that only the rows that are needed are transformed back along the other axis
        half = fft.ifft(power, axis=0, workers=-1)[: self.rows]
        correlation = fft.irfft(half, n=self.padded[1], axis=1, workers=-1)
        sums = np.bincount(self.bin, weights=correlation.ravel() * self.times)
        sums[1] -= own
        sums[0] = own
        return sums


def choose_pixel(xy: NDArray[np.float64], length_scale: float) -> float:
    """A quarter of the length scale, a half where that makes the raster large; coarser, with a warning, when huge."""
    extent = np.ptp(xy, axis=0)

    def size(pixel: float) -> float:
        return float(np.prod(2 * extent / pixel + 1))

    if size(length_scale / 4) <= FINE:
        return length_scale / 4
    pixel = length_scale / 2
    if size(pixel) > LARGEST:
        pixel *= float(np.sqrt(size(pixel) / LARGEST))
        warn(
            f"points spread over {extent[0]:.3g} x {extent[1]:.3g} with a length scale of {length_scale:.3g}: "
            f"autocovariances are estimated on a raster of {pixel / length_scale:.2g} length scales instead of half of one"
        )
    return pixel


def stationary_spread(
    xy: NDArray[np.float64],
    z: NDArray[np.floating],
    lag: NDArray[np.floating],
    *,
    length_scale: float,
    symmetric: bool = True,
) -> Spread:
    """Null distribution of R between independent stationary fields.

    Parameters
    ----------
    xy
        Coordinates, shape ``(n, 2)``.
    z
        Standardised variables, shape ``(n, k)``.
    lag
        Their spatial lags, shape ``(n, k)``.
    length_scale
        Of the weights, in the unit of `xy`; sets the resolution of the autocovariances.
    symmetric
        Whether the weights are symmetric; then R_ab and R_ba are one number and get one variance.
    """
    n, k = z.shape
    pixel = choose_pixel(xy, length_scale)
    raster = Raster(xy, pixel, max(pixel, length_scale / 2))
    own, _, skew_own = _field_sums(raster, z)
    lagged, deviation, skew_lag = _field_sums(raster, lag)
    pairs = np.where(raster.n_pairs > 0, raster.n_pairs, np.inf)[:, None]
    variance = (own / pairs).T @ lagged / n**2
    # estimates are noisy at long distances; they must not cancel what is there at short ones
    variance = np.maximum(variance, 0.1 * (np.abs(own) / pairs).T @ np.abs(lagged) / n**2)
    scale = np.broadcast_to(deviation, (k, k))
    skew = np.outer(skew_own, skew_lag)
    if symmetric:
        variance, skew = (variance + variance.T) / 2, (skew + skew.T) / 2
        scale = np.sqrt(np.outer(deviation, deviation))
    n_eff = 1 + scale**2 / np.where(variance > 0, variance, np.inf)
    return Spread(variance, scale, SKEW_FACTOR * skew / np.sqrt(n_eff))


def _field_sums(
    raster: Raster, values: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Pair sums of the centred columns, shape ``(bins, k)``, their standard deviations and skewness."""
    k = values.shape[1]
    sums, deviation, skew = np.empty((len(raster.n_pairs), k)), np.zeros(k), np.zeros(k)
    for start in range(0, k, BLOCK):
        columns = np.ascontiguousarray(values[:, start : start + BLOCK].T, dtype=np.float64)
        for v, column in enumerate(columns, start):
            column -= column.mean()
            sums[:, v] = raster.pair_sums(column)
            square = column * column
            deviation[v] = np.sqrt(square.mean())
            if deviation[v] > 0:
                skew[v] = np.mean(np.multiply(square, column, out=square)) / deviation[v] ** 3
    return sums, deviation, skew


def tail_probabilities(r: NDArray[np.float64], spread: Spread) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probabilities that R would be as high, and as low, or more so.

    Dutilleul's t test of the correlation ``R / scale`` with ``n_eff - 2`` degrees of freedom; its normal score is then
    read in a Pearson type III distribution with the skewness of R, because skewed fields make R skewed.
    """
    df = np.maximum(spread.n_eff - 2, 0.5)
    # a field without variance has no correlation: NaN, not rounding over 0
    correlation = np.divide(r, spread.scale, out=np.full_like(r, np.nan), where=spread.scale > 0).clip(-1, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(correlation) * np.sqrt(df / (1 - correlation**2))
    score = -special.ndtri(np.clip(stats.t.sf(t, df), TINY, 0.5)) * np.sign(correlation)
    skew = np.clip(spread.skew, -MAX_SKEW, MAX_SKEW)
    upper, lower = stats.pearson3.sf(score, skew), stats.pearson3.cdf(score, skew)
    return np.clip(upper, TINY, 1), np.clip(lower, TINY, 1)


def combine_tails(
    upper: NDArray[np.float64], lower: NDArray[np.float64], alternative: Alternative
) -> NDArray[np.float64]:
    """The p-value of the alternative from the two tails."""
    if alternative == "greater":
        return upper
    if alternative == "less":
        return lower
    return np.minimum(1, 2 * np.minimum(upper, lower))


def confidence_interval(
    r: NDArray[np.float64], spread: Spread, level: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Interval for R by Fisher's z transformation of ``R / scale`` with n_eff points.

    The whole range where there are fewer than about three effective points.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        half = special.ndtri((1 + level) / 2) / np.sqrt(np.maximum(spread.n_eff - 3, 0))
        center = np.arctanh(np.clip(r / spread.scale, -1 + 1e-12, 1 - 1e-12))
        return np.tanh(center - half) * spread.scale, np.tanh(center + half) * spread.scale


def analytic_spread(variance: float, lag: NDArray[np.floating]) -> Spread:
    """SpatialDM's null: all arrangements of independent points are equally likely. Far too narrow for smooth fields."""
    k = lag.shape[1]
    deviation = lag.std(axis=0, dtype=np.float64)
    return Spread(np.full((k, k), variance), np.sqrt(np.outer(deviation, deviation)), np.zeros((k, k)))


def t_tails(statistic: NDArray[np.float64], df: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Upper and lower tail of t distributions, normal where `df` is infinite; never 0."""
    return np.clip(stats.t.sf(statistic, df), TINY, 1), np.clip(stats.t.cdf(statistic, df), TINY, 1)


def false_discovery(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Benjamini-Hochberg adjusted p-values; NaN stays NaN and does not count."""
    out = np.full(p.shape, np.nan)
    known = np.isfinite(p)
    if known.any():
        out[known] = stats.false_discovery_control(p[known])
    return out


def false_discovery_pairs(p: NDArray[np.float64], *, symmetric: bool) -> NDArray[np.float64]:
    """Benjamini-Hochberg over the pairs of a ``(k, k)`` matrix, and over its diagonal by itself.

    With `symmetric` each pair is counted once.
    """
    out = np.full(p.shape, np.nan)
    upper = np.triu(np.ones(p.shape, dtype=bool), 1)
    pairs = upper if symmetric else upper | upper.T
    out[pairs] = false_discovery(p[pairs])
    if symmetric:
        out.T[upper] = out[upper]
    np.fill_diagonal(out, false_discovery(np.diag(p)))
    return out


def local_tail(
    own: NDArray[np.floating], lagged: NDArray[np.floating], *, rng: np.random.Generator, n_draws: int = 99_999
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Local R ``own_i lagged_i`` and the probability of being as high if the two fields were independent.

    The null pairs the value at one point with the lag at another one. It keeps the distribution of both, and with it
    the large variance of lags in smooth fields. A point where both are below average counts as 0: absence together
    is no co-localization.

    Parameters
    ----------
    own, lagged
        Shape ``(n,)``.
    rng
        For the pairings.
    n_draws
        Number of pairings.
    """

    def presence(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
        product = a.astype(np.float64) * b
        return np.where((a <= 0) & (b <= 0), 0, product)

    n = len(own)
    null = np.sort(presence(own[rng.integers(n, size=n_draws)], lagged[rng.integers(n, size=n_draws)]))
    observed = presence(own, lagged)
    at_least = n_draws - np.searchsorted(null, observed - 1e-12, side="left")
    return own.astype(np.float64) * lagged, (1 + at_least) / (1 + n_draws)
