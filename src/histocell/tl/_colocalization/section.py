"""R of all pairs and its null on one section."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal, TypedDict, cast

import numpy as np

from histocell._core.settings import progress_bar
from histocell.kernels import moran, null, resampling
from histocell.kernels.labels import WeightSums, random_labels
from histocell.kernels.neighbors import rbf_weights
from histocell.kernels.preference import LEAST_PARTS, no_preference

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from scipy.sparse import csr_array

    from histocell.kernels.null import Alternative
    from histocell.tl._colocalization.inputs import Inputs

    type Floats = NDArray[np.float64]
    type Null = Literal["stationary", "no_preference", "labels", "shift", "permute", "permute_y", "analytic"]

NULLS = {  # what is tested
    "stationary": "R of two independent smooth fields is 0",
    "no_preference": "neighbours of another type come in proportion to abundance",
    "labels": "types are placed at random",
    "shift": "fields that are shifted, turned and mirrored agree as well",
    "permute": "points are exchanged at random, all variables together",
    "permute_y": "points of the lagged variable are exchanged at random",
    "analytic": "points do not depend on each other",
}
ALTERNATIVES = ("two-sided", "greater", "less")
BETWEEN_FIELDS = ("stationary", "shift")  # nulls that say nothing of a variable with itself
LEAST_POINTS = 4
FLAT = 1e-6  # standard deviation of a lag of standardised values that is rounding noise
ARRAYS = ("R", "expected", "z", "p", "n_eff", "low", "high", "scale")


def check_choice(name: str, value: str, allowed: Iterable[str]) -> None:
    """An error that lists what is allowed."""
    if value not in allowed:
        msg = f"{name} must be one of {', '.join(allowed)}, not {value!r}"
        raise ValueError(msg)


class Kernel(TypedDict):
    """Parameters of RBF weights."""

    length_scale: float
    cutoff: float
    include_self: bool


@dataclass(frozen=True)
class Options:
    """How R and its p-value are computed.

    Attributes
    ----------
    length_scale_um, length_scale_source
        Of the RBF weights and of the autocovariances; where it comes from.
    weights
        Where the weights come from.
    cutoff, include_self
        Of the RBF weights.
    row_standardize
        Whether weights are made to sum to 1 in each row.
    null, alternative, n_draws, confidence
        Of the test; `n_draws` is 0 where nothing is drawn.
    """

    length_scale_um: float
    length_scale_source: str
    weights: str
    cutoff: float
    include_self: bool
    row_standardize: bool
    null: Null
    alternative: Alternative
    n_draws: int
    confidence: float

    @property
    def kernel(self) -> Kernel:
        """Of the RBF weights."""
        return {"length_scale": self.length_scale_um, "cutoff": self.cutoff, "include_self": self.include_self}


@dataclass(frozen=True)
class SectionResult:
    """R and its test on one section.

    Attributes
    ----------
    arrays
        ``R, expected, z, p, n_eff, low, high, scale`` by name, shape ``(k, k)``: x in rows, the lagged y in columns;
        NaN where a variable is constant.
    constant
        Which variables are constant, shape ``(k,)``.
    symmetric
        Whether R and its test are.
    isolated
        Number of points without neighbours.
    values, lag
        Standardised variables and their lags, shape ``(n, k)``.
    """

    arrays: dict[str, Floats]
    constant: NDArray[np.bool_]
    symmetric: bool
    isolated: int
    values: NDArray[np.floating]
    lag: NDArray[np.floating]


@dataclass(frozen=True)
class Test:
    """What R is compared with, and what comes of it; arrays of shape ``(k, k)``.

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


def analyse(points: Inputs, options: Options, rng: np.random.Generator) -> SectionResult:
    """R of all pairs on one section, with its null; `rng` is for the nulls that draw."""
    n, k = len(points.xy), len(points.names)
    if n < LEAST_POINTS or not np.ptp(points.xy, axis=0).any():
        undefined, empty = dict.fromkeys(ARRAYS, np.full((k, k), np.nan)), np.zeros((n, k))
        return SectionResult(undefined, np.ones(k, dtype=bool), symmetric=True, isolated=n, values=empty, lag=empty)
    weights = cast("csr_array | None", points.weights)
    if options.row_standardize and weights is None:
        weights = rbf_weights(points.xy, **options.kernel)
    columns = cast(
        "NDArray[np.floating]", points.values if points.labels is None else moran.indicators(points.labels, k)
    )
    values, constant = moran.standardize(columns)
    if weights is not None:
        lag = moran.sparse_lag(weights, values, row_standardize=options.row_standardize)
    elif points.labels is not None:
        lag = moran.rbf_label_lag(points.xy, points.labels, k, **options.kernel)
    else:
        lag = moran.rbf_lag(points.xy, values, **options.kernel)
    r = moran.mean_products(values, lag.values)
    if lag.symmetric:
        r = (r + r.T) / 2
    section = _Section(points, columns, values, constant, lag, r, weights)
    test = _TESTS.get(options.null, _against_fields)(section, options, rng)
    low, high = null.confidence_interval(r - test.expected, test.spread, options.confidence)
    flat = lag.values.std(axis=0, dtype=np.float64) < FLAT
    undefined = constant[:, None] | constant | flat | (lag.rows.sum() == 0)
    parts = (r, test.expected, test.z, test.p, test.spread.n_eff, low + test.expected, high + test.expected)
    arrays = {
        name: np.where(undefined, np.nan, part) for name, part in zip(ARRAYS, (*parts, test.spread.scale), strict=True)
    }
    if options.null in BETWEEN_FIELDS:
        np.fill_diagonal(arrays["p"], np.nan)
    symmetric = lag.symmetric and options.null != "no_preference"
    return SectionResult(arrays, constant, symmetric, int((lag.rows == 0).sum()), values, lag.values)


@dataclass(frozen=True)
class _Section:
    """What the tests read."""

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


def _against_fields(section: _Section, options: Options, rng: np.random.Generator) -> Test:
    """Smooth fields, and points that are exchanged."""
    xy, values, lag, r = section.points.xy, section.values, section.lag, section.r
    length_scale, zero = options.length_scale_um, np.zeros_like(r)
    with np.errstate(divide="ignore", invalid="ignore"):
        if options.null == "stationary":
            spread = null.stationary_spread(xy, values, lag.values, length_scale=length_scale, symmetric=lag.symmetric)
            tails = null.tail_probabilities(r, spread)
            return Test(zero, spread, r / np.sqrt(spread.variance), null.combine_tails(*tails, options.alternative))
        spread = null.analytic_spread(lag.analytic_variance, lag.values)
        if options.null == "analytic":
            z = r / np.sqrt(spread.variance)
            return Test(zero, spread, z, null.combine_tails(*null.t_tails(z, np.inf), options.alternative))
        draws = resampling.Draws(options.n_draws, rng, partial(progress_bar, desc=options.null))
        if options.null == "shift":
            drawn = resampling.shift_fields(xy, values, lag.values, draws, pixel=length_scale / 2)
        else:
            permute = resampling.permute_points if options.null == "permute" else resampling.permute_second
            drawn = permute(section.normalized_weights(options), values, draws)
        p = null.combine_tails(drawn.upper, drawn.lower, options.alternative)
        return Test(drawn.mean, replace(spread, variance=drawn.sd**2), (r - drawn.mean) / drawn.sd, p)


def _against_labels(section: _Section, options: Options, rng: np.random.Generator) -> Test:
    """All arrangements of the labels."""
    del rng  # the moments are exact
    if section.weights is None:
        sums = WeightSums.of_lag(section.lag)
    else:
        sums = WeightSums.of_matrix(section.normalized_weights(options))
    expected, variance = random_labels(sums, section.columns.mean(axis=0, dtype=np.float64))
    spread = replace(null.analytic_spread(0.0, section.lag.values), variance=variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (section.r - expected) / np.sqrt(variance)
    return Test(expected, spread, z, null.combine_tails(*null.t_tails(z, np.inf), options.alternative))


def _against_no_preference(section: _Section, options: Options, rng: np.random.Generator) -> Test:
    """Neighbours in proportion to abundance; types with themselves against random labels."""
    categories = section.points.labels is not None
    k = len(section.r)
    if categories:
        test = _against_labels(section, options, rng)
    else:
        undefined = np.full((k, k), np.nan)
        test = Test(np.zeros((k, k)), null.Spread(undefined, undefined, undefined), undefined, undefined)
    there = np.flatnonzero(~section.constant)
    pairs = ~np.eye(k, dtype=bool)
    arrays = [test.expected, test.spread.variance, test.spread.scale, test.spread.skew, test.z, test.p]
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
    return Test(expected, null.Spread(variance, scale, skew), z, p)


_TESTS = {"labels": _against_labels, "no_preference": _against_no_preference}
