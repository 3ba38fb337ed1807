"""R of all pairs and its null on one section."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal, TypedDict, cast

import numpy as np

from histocell._core.settings import progress_bar
from histocell.kernels import moran, null, resampling
from histocell.kernels.neighbors import rbf_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_array

    from histocell.kernels.null import Alternative
    from histocell.tl._colocalization.inputs import Inputs

    type Floats = NDArray[np.float64]
    type Null = Literal["stationary", "shift", "permute", "permute_y", "analytic"]

NULLS = ("stationary", "shift", "permute", "permute_y", "analytic")
ALTERNATIVES = ("two-sided", "greater", "less")
BETWEEN_FIELDS = ("stationary", "shift")  # nulls that say nothing of a variable with itself
LEAST_POINTS = 4
ARRAYS = ("R", "z", "p", "n_eff", "low", "high", "scale")


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
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
        ``R, z, p, n_eff, low, high, scale`` by name, shape ``(k, k)``: x in rows, the lagged y in columns; NaN where a
        variable is constant.
    constant
        Which variables are constant, shape ``(k,)``.
    symmetric
        Whether R is.
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


def analyse(points: Inputs, options: Options, rng: np.random.Generator) -> SectionResult:
    """R of all pairs on one section, with its null; `rng` is for the nulls that draw."""
    n, k = len(points.xy), len(points.names)
    if n < LEAST_POINTS:
        undefined, empty = dict.fromkeys(ARRAYS, np.full((k, k), np.nan)), np.zeros((n, k))
        return SectionResult(undefined, np.ones(k, dtype=bool), symmetric=True, isolated=n, values=empty, lag=empty)
    weights = cast("csr_array | None", points.weights)
    if options.row_standardize and weights is None:
        weights = rbf_weights(points.xy, **options.kernel)
    columns = points.values if points.labels is None else moran.indicators(points.labels, k)
    values, constant = moran.standardize(cast("NDArray[np.floating]", columns))
    if weights is not None:
        lag = moran.sparse_lag(weights, values, row_standardize=options.row_standardize)
    elif points.labels is not None:
        lag = moran.rbf_label_lag(points.xy, points.labels, k, **options.kernel)
    else:
        lag = moran.rbf_lag(points.xy, values, **options.kernel)
    r = moran.mean_products(values, lag.values)
    if lag.symmetric:
        r = (r + r.T) / 2
    spread, z, upper, lower = _test(points.xy, values, lag, r, weights, options, rng)
    low, high = null.confidence_interval(r, spread, options.confidence)
    p = null.combine_tails(upper, lower, options.alternative)
    undefined = constant[:, None] | constant | (lag.rows.sum() == 0)
    parts = zip(ARRAYS, (r, z, p, spread.n_eff, low, high, spread.scale), strict=True)
    arrays = {name: np.where(undefined, np.nan, part) for name, part in parts}
    if options.null in BETWEEN_FIELDS:
        np.fill_diagonal(arrays["p"], np.nan)
    return SectionResult(arrays, constant, lag.symmetric, int((lag.rows == 0).sum()), values, lag.values)


def _test(
    xy: Floats,
    values: NDArray[np.floating],
    lag: moran.Lag,
    r: Floats,
    weights: csr_array | None,
    options: Options,
    rng: np.random.Generator,
) -> tuple[null.Spread, Floats, Floats, Floats]:
    """The spread of R under the null, the test statistic, and both tails."""
    length_scale = options.length_scale_um
    with np.errstate(divide="ignore", invalid="ignore"):
        if options.null == "stationary":
            spread = null.stationary_spread(xy, values, lag.values, length_scale=length_scale, symmetric=lag.symmetric)
            return spread, r / np.sqrt(spread.variance), *null.tail_probabilities(r, spread)
        spread = null.analytic_spread(lag.analytic_variance, lag.values)
        if options.null == "analytic":
            z = r / np.sqrt(spread.variance)
            return spread, z, *null.t_tails(z, np.inf)
        draws = resampling.Draws(options.n_draws, rng, partial(progress_bar, desc=options.null))
        if options.null == "shift":
            drawn = resampling.shift_fields(xy, values, lag.values, draws, pixel=length_scale / 2)
        else:
            weights = rbf_weights(xy, **options.kernel) if weights is None else weights
            weights = moran.normalize_weights(weights, row_standardize=options.row_standardize)
            permute = resampling.permute_points if options.null == "permute" else resampling.permute_second
            drawn = permute(weights, values, draws)
        return replace(spread, variance=drawn.sd**2), (r - drawn.mean) / drawn.sd, drawn.upper, drawn.lower
