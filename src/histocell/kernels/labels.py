"""Exact moments of R where the labels of points are exchanged at random (join counts)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histocell.kernels.moran import Lag

    type Floats = NDArray[np.float64]


@dataclass(frozen=True)
class WeightSums:
    """Sums over the weights ``w_ij`` that the moments of join counts need; `own` are the ``w_ii``, all others without them.

    Attributes
    ----------
    n
        Number of points.
    total, squares, mutual
        Sums of ``w_ij``, of its square, and of ``w_ij w_ji``.
    rows, columns, rows_columns
        Sums over points of the squared row sum, of the squared column sum, and of their product.
    own, own_squares, own_marginals
        Sums of ``w_ii``, of its square, and of ``w_ii`` times row sum plus column sum.
    """

    n: int
    total: float
    squares: float
    mutual: float
    rows: float
    columns: float
    rows_columns: float
    own: float
    own_squares: float
    own_marginals: float

    @classmethod
    def of_lag(cls, lag: Lag) -> WeightSums:
        """Of symmetric weights that give each point the same weight with itself, as those of `rbf_label_lag`."""
        n = len(lag.rows)
        own = lag.trace / n
        rows = lag.rows - own
        squares, marginals = float((lag.squares - own**2).sum()), float(rows @ rows)
        return cls(
            n=n,
            total=float(rows.sum()),
            squares=squares,
            mutual=squares,
            rows=marginals,
            columns=marginals,
            rows_columns=marginals,
            own=lag.trace,
            own_squares=n * own**2,
            own_marginals=2 * own * float(rows.sum()),
        )

    @classmethod
    def of_matrix(cls, weights: csr_array) -> WeightSums:
        """Of any weights, shape ``(n, n)``."""
        own = weights.diagonal()
        between = csr_array(weights.copy())
        between.setdiag(0)
        rows, columns = between.sum(axis=1), between.sum(axis=0)
        return cls(
            n=weights.shape[0],
            total=float(rows.sum()),
            squares=float(between.multiply(between).sum()),
            mutual=float(between.multiply(between.T).sum()),
            rows=float(rows @ rows),
            columns=float(columns @ columns),
            rows_columns=float(rows @ columns),
            own=float(own.sum()),
            own_squares=float(own @ own),
            own_marginals=float(own @ (rows + columns)),
        )


def random_labels(sums: WeightSums, abundance: Floats) -> tuple[Floats, Floats]:
    """Mean and variance of R over all arrangements of the labels, each of shape ``(k, k)``.

    R is ``sum_ij w_ij a_i b_j / n`` with standardised indicators a and b, whose sums are 0, so that the expectations
    over two, three and four different points follow from the sums of ``ab`` and of ``a^2 b^2``.

    Parameters
    ----------
    sums
        Of the weights.
    abundance
        Share of points of each type, shape ``(k,)``; types without points, and the only one, have no moments.
    """
    n = sums.n
    product, quartic = _sums_of_products(abundance, n)  # of a b and of a^2 b^2
    two, three, four = (1 / np.prod(n - np.arange(m, dtype=np.float64)) for m in (2, 3, 4))
    mean_between = -sums.total * product * two
    triples_rows = sums.rows + sums.columns - 2 * sums.squares
    triples_mixed = 2 * (sums.rows_columns - sums.mutual)
    quadruples = sums.total**2 - triples_rows - triples_mixed - sums.squares - sums.mutual
    square = (
        sums.squares * (n**2 - quartic) * two
        + sums.mutual * (product**2 - quartic) * two
        + triples_rows * (2 * quartic - n**2) * three
        + triples_mixed * (2 * quartic - product**2) * three
        + quadruples * (n**2 + 2 * product**2 - 6 * quartic) * four
    )
    variance = square - mean_between**2
    # a point with itself
    variance += (sums.own_squares - sums.own**2 / n) * (quartic - product**2 / n) / (n - 1)
    joint = -sums.own_marginals * quartic * two
    joint += (sums.total * sums.own - sums.own_marginals) * (2 * quartic - product**2) * three
    variance += 2 * (joint - mean_between * sums.own * product / n)
    return (mean_between + sums.own * product / n) / n, np.maximum(variance, 0) / n**2


def _sums_of_products(abundance: Floats, n: int) -> tuple[Floats, Floats]:
    """Sums over points of ``ab`` and of ``a^2 b^2`` for the standardised indicators a and b, shape ``(k, k)``."""
    share, absent = abundance, 1 - abundance
    with np.errstate(divide="ignore", invalid="ignore"):
        odds = np.where((share > 0) & (absent > 0), share / absent, np.nan)
        product = -np.sqrt(np.outer(odds, odds))
        # a^2 is absent / share where the point is of the type, odds where it is not
        neither = (absent[:, None] - share) * np.outer(odds, odds)
        quartic = np.outer(absent, odds) + np.outer(odds, absent) + neither
        same = absent**2 / share + absent * odds**2
    np.fill_diagonal(product, 1)
    np.fill_diagonal(quartic, same)
    return n * product, n * quartic
