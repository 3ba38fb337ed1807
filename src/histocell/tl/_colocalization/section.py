"""R of all pairs and its null on one section."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from histocell.kernels import moran, null
from histocell.kernels.neighbors import rbf_weights
from histocell.tl._colocalization.nulls import Lagged, compare

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_array

    from histocell.tl._colocalization.inputs import Inputs
    from histocell.tl._colocalization.options import Options

    type Floats = NDArray[np.float64]

BETWEEN_FIELDS = ("stationary", "shift")  # nulls that say nothing of a variable with itself
LEAST_POINTS = 4
FLAT = 1e-6  # standard deviation of a lag of standardised values that is rounding noise
ARRAYS = ("R", "expected", "z", "p", "n_eff", "low", "high", "scale")


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
    test = compare(Lagged(points, columns, values, constant, lag, r, weights), options, rng)
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
