"""R of a section against its null: expectation, spread, z and p of all pairs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from histocell._core.settings import progress_bar
from histocell.kernels import moran, null, resampling
from histocell.kernels.labels import WeightSums, random_labels
from histocell.kernels.neighbors import rbf_weights
from histocell.kernels.preference import LEAST_PARTS, no_preference

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_array

    from histocell.tl._colocalization.inputs import Inputs
    from histocell.tl._colocalization.options import Options

    type Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """R beside what the null expects; arrays of shape ``(k, k)``.

    Attributes
    ----------
    expected
        R under the null, the nearest value where the null allows a range.
    spread
        Of R about it.
    z, p
        Statistic and p-value.
    """

    expected: Floats
    spread: null.Spread
    z: Floats
    p: Floats


@dataclass(frozen=True)
class Lagged:
    """The variables of a section, their lags and R."""

    points: Inputs
    columns: NDArray[np.floating]  # values before they are standardised
    values: NDArray[np.floating]
    constant: NDArray[np.bool_]
    lag: moran.Lag
    r: Floats
    weights: csr_array | None  # as given

    def normalized_weights(self, options: Options) -> csr_array:
        """All weights, which sum to n."""
        weights = rbf_weights(self.points.xy, **options.kernel) if self.weights is None else self.weights
        return moran.normalize_weights(weights, row_standardize=options.row_standardize)


def compare(section: Lagged, options: Options, rng: np.random.Generator) -> Comparison:
    """R of all pairs against the null of the options; `rng` is for the nulls that draw."""
    if options.null == "labels":
        return _against_labels(section, options)
    if options.null == "no_preference":
        return _against_no_preference(section, options)
    return _against_fields(section, options, rng)


def _against_fields(section: Lagged, options: Options, rng: np.random.Generator) -> Comparison:
    """Smooth fields, and points that are exchanged."""
    xy, values, lag, r = section.points.xy, section.values, section.lag, section.r
    length_scale, zero = options.length_scale_um, np.zeros_like(r)
    with np.errstate(divide="ignore", invalid="ignore"):
        if options.null == "stationary":
            spread = null.stationary_spread(xy, values, lag.values, length_scale=length_scale, symmetric=lag.symmetric)
            tails = null.tail_probabilities(r, spread)
            return Comparison(
                zero, spread, r / np.sqrt(spread.variance), null.combine_tails(*tails, options.alternative)
            )
        spread = null.analytic_spread(lag.analytic_variance, lag.values)
        if options.null == "analytic":
            z = r / np.sqrt(spread.variance)
            return Comparison(zero, spread, z, null.combine_tails(*null.t_tails(z, np.inf), options.alternative))
        draws = resampling.Draws(options.n_draws, rng, partial(progress_bar, desc=options.null))
        if options.null == "shift":
            drawn = resampling.shift_fields(xy, values, lag.values, draws, pixel=length_scale / 2)
        else:
            permute = resampling.permute_points if options.null == "permute" else resampling.permute_second
            drawn = permute(section.normalized_weights(options), values, draws)
        p = null.combine_tails(drawn.upper, drawn.lower, options.alternative)
        return Comparison(drawn.mean, replace(spread, variance=drawn.sd**2), (r - drawn.mean) / drawn.sd, p)


def _against_labels(section: Lagged, options: Options) -> Comparison:
    """All arrangements of the labels, by exact moments."""
    if section.weights is None:
        sums = WeightSums.of_lag(section.lag)
    else:
        sums = WeightSums.of_matrix(section.normalized_weights(options))
    expected, variance = random_labels(sums, section.columns.mean(axis=0, dtype=np.float64))
    spread = replace(null.analytic_spread(0.0, section.lag.values), variance=variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (section.r - expected) / np.sqrt(variance)
    return Comparison(expected, spread, z, null.combine_tails(*null.t_tails(z, np.inf), options.alternative))


def _against_no_preference(section: Lagged, options: Options) -> Comparison:
    """Neighbours in proportion to abundance; types with themselves against random labels."""
    categories = section.points.labels is not None
    k = len(section.r)
    if categories:
        comparison = _against_labels(section, options)
    else:
        undefined = np.full((k, k), np.nan)
        comparison = Comparison(np.zeros((k, k)), null.Spread(undefined, undefined, undefined), undefined, undefined)
    there = np.flatnonzero(~section.constant)
    pairs = ~np.eye(k, dtype=bool)
    arrays = [
        comparison.expected,
        comparison.spread.variance,
        comparison.spread.scale,
        comparison.spread.skew,
        comparison.z,
        comparison.p,
    ]
    expected, variance, scale, skew, z, p = (np.where(pairs, np.nan, part) for part in arrays)
    if len(there) >= LEAST_PARTS:
        block, pairs = np.ix_(there, there), pairs[: len(there), : len(there)]
        lag = section.lag.values
        if not section.lag.symmetric:  # the neighbours of x are those that its row of the weights names
            lag = (section.normalized_weights(options).T @ section.values).astype(lag.dtype)
        xy, columns = section.points.xy, section.columns[:, there]
        found = no_preference(xy, columns, lag[:, there], length_scale=options.length_scale_um, categories=categories)
        r = section.r[block]
        own = found.spread
        nearest = np.where(np.isnan(own.variance), np.nan, found.nearest(r))
        with np.errstate(divide="ignore", invalid="ignore"):
            score, chance = (r - nearest) / np.sqrt(own.variance), found.p_values(r, options.alternative)
        for whole, part in (
            (expected, nearest),
            (variance, own.variance),
            (scale, own.scale),
            (skew, own.skew),
            (z, score),
            (p, chance),
        ):
            whole[block] = np.where(pairs, part, whole[block])
    return Comparison(expected, null.Spread(variance, scale, skew), z, p)
