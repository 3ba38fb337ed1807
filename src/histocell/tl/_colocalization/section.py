"""R and its null on one section."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import stats

from histocell._core.settings import progress_bar
from histocell.kernels import moran, null, resampling
from histocell.kernels.neighbors import rbf_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_array

    from histocell.kernels.null import Alternative

    type Floats = NDArray[np.float64]
    type Null = Literal["stationary", "shift", "permute", "permute_y", "analytic"]

NULLS = ("stationary", "shift", "permute", "permute_y", "analytic")
ALTERNATIVES = ("two-sided", "greater", "less")
BETWEEN_FIELDS = ("stationary", "shift")  # nulls that say nothing of a variable with itself


@dataclass(frozen=True)
class Options:
    """How R and its p-value are computed.

    Attributes
    ----------
    length_scale
        Of the RBF weights and of the autocovariances, in the unit of the coordinates.
    cutoff, include_self
        Of the RBF weights.
    row_standardize
        Whether weights are made to sum to 1 in each row.
    null, alternative, n_draws, confidence
        Of the test.
    """

    length_scale: float
    cutoff: float
    include_self: bool
    row_standardize: bool
    null: Null
    alternative: Alternative
    n_draws: int
    confidence: float


@dataclass(frozen=True)
class SectionResult:
    """Arrays of shape ``(k, k)``, x in rows, the lagged y in columns; z and u of shape ``(n, k)``."""

    r: Floats
    statistic: Floats
    p: Floats
    n_eff: Floats
    low: Floats
    high: Floats
    scale: Floats
    constant: NDArray[np.bool_]
    symmetric: bool
    isolated: int
    z: NDArray[np.floating]
    lag: NDArray[np.floating]


def analyse(
    xy: Floats,
    values: NDArray[np.floating] | None,
    labels: NDArray[np.int64] | None,
    *,
    n_variables: int,
    weights: csr_array | None,
    options: Options,
    rng: np.random.Generator,
) -> SectionResult:
    """R of all pairs, with its null.

    Parameters
    ----------
    xy
        Coordinates, shape ``(n, 2)``.
    values, labels
        Values of shape ``(n, k)``, or labels from 0 of shape ``(n,)``.
    n_variables
        The number k.
    weights
        Given weights; RBF weights of the distance where `None`.
    options
        How.
    rng
        For the nulls that draw.
    """
    n = len(xy)
    if n < 4:
        return _undefined(n, n_variables)
    if labels is not None:
        z, constant = moran.standardize(moran.indicators(labels, n_variables))
    else:
        z, constant = moran.standardize(np.asarray(values))
    kernel: dict[str, Any] = {
        "length_scale": options.length_scale,
        "cutoff": options.cutoff,
        "include_self": options.include_self,
    }
    if options.row_standardize and weights is None:
        weights = rbf_weights(xy, **kernel)
    if weights is not None:
        lag = moran.sparse_lag(weights, z, row_standardize=options.row_standardize)
    elif labels is not None:
        lag = moran.rbf_label_lag(xy, labels, n_variables, **kernel)
    else:
        lag = moran.rbf_lag(xy, z, **kernel)
    r = moran.mean_products(z, lag.values)
    if lag.symmetric:
        r = (r + r.T) / 2
    spread, statistic, upper, lower = _test(xy, z, lag, r, weights=weights, options=options, rng=rng)
    low, high = null.confidence_interval(r, spread, options.confidence)
    undefined = constant[:, None] | constant[None] | (lag.rows.sum() == 0)
    p = np.where(undefined, np.nan, null.combine_tails(upper, lower, options.alternative))
    if options.null in BETWEEN_FIELDS:
        np.fill_diagonal(p, np.nan)

    def known(part: Floats) -> Floats:
        return np.where(undefined, np.nan, part)

    return SectionResult(
        known(r),
        known(statistic),
        p,
        known(spread.n_eff),
        known(low),
        known(high),
        known(spread.scale),
        constant,
        lag.symmetric,
        int((lag.rows == 0).sum()),
        z,
        lag.values,
    )


def _undefined(n: int, k: int) -> SectionResult:
    nothing = np.full((k, k), np.nan)
    empty = np.zeros((n, k))
    return SectionResult(
        nothing,
        nothing,
        nothing,
        nothing,
        nothing,
        nothing,
        nothing,
        constant=np.ones(k, dtype=bool),
        symmetric=True,
        isolated=n,
        z=empty,
        lag=empty,
    )


def _test(
    xy: Floats,
    z: NDArray[np.floating],
    lag: moran.Lag,
    r: Floats,
    *,
    weights: csr_array | None,
    options: Options,
    rng: np.random.Generator,
) -> tuple[null.Spread, Floats, Floats, Floats]:
    """The spread of R under the null, the test statistic, and both tails."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if options.null == "stationary":
            spread = null.stationary_spread(
                xy, z, lag.values, length_scale=options.length_scale, symmetric=lag.symmetric
            )
            return spread, r / np.sqrt(spread.variance), *null.tail_probabilities(r, spread)
        plain = null.analytic_spread(lag.analytic_variance, lag.values)
        if options.null == "analytic":
            statistic = r / np.sqrt(plain.variance)
            tails = (np.clip(stats.norm.sf(side * statistic), null.TINY, 1) for side in (1, -1))
            return plain, statistic, *tails
        drawn = _draw(xy, z, lag, weights=weights, options=options, rng=rng)
        spread = null.Spread(drawn.sd**2, plain.scale, plain.skew)
        return spread, (r - drawn.mean) / drawn.sd, drawn.upper, drawn.lower


def _draw(
    xy: Floats,
    z: NDArray[np.floating],
    lag: moran.Lag,
    *,
    weights: csr_array | None,
    options: Options,
    rng: np.random.Generator,
) -> resampling.Resampled:
    loop: dict[str, Any] = {
        "n_draws": options.n_draws,
        "rng": rng,
        "progress": lambda draws: progress_bar(draws, desc=options.null),
    }
    if options.null == "shift":
        return resampling.shift_fields(xy, z, lag.values, pixel=options.length_scale / 2, **loop)
    if weights is None:
        weights = rbf_weights(
            xy, length_scale=options.length_scale, cutoff=options.cutoff, include_self=options.include_self
        )
    weights = moran.normalize_weights(weights, row_standardize=options.row_standardize)
    permute = resampling.permute_points if options.null == "permute" else resampling.permute_second
    return permute(weights, z, **loop)
