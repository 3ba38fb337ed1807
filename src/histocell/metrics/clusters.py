"""Agreement of clusters with labels from their table of counts, and how labels mix among neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import gammaln, xlogy

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from histocell._core.types import Floats, Ints


def agreement(counts: ArrayLike) -> dict[str, float]:
    """Adjusted Rand index, adjusted mutual information and mutual information of two partitions.

    Parameters
    ----------
    counts
        Number of rows by class of one and class of the other, shape ``(n_first, n_second)``; whole numbers.

    Returns
    -------
    ``ari`` (Hubert and Arabie 1985), ``ami`` (Vinh, Epps and Bailey 2010, mean of both entropies) and ``mi`` in nats, as
    scikit-learn computes them from labels. One class against one class agrees fully.

    Examples
    --------
    >>> import histocell as hc
    >>> hc.metrics.agreement([[5, 0], [0, 5]])["ari"].item()
    1.0
    """
    table = np.asarray(counts, dtype=np.float64)
    table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    n, a, b = table.sum(), table.sum(axis=1), table.sum(axis=0)
    if min(table.shape, default=0) == 0 or (table.shape == (1, 1)):
        return {"ari": 1.0, "ami": 1.0, "mi": 0.0}
    mi = float(max((xlogy(table, table * n) - xlogy(table, np.outer(a, b))).sum() / n, 0.0))
    pairs, of_a, of_b = (float((each * (each - 1)).sum() / 2) for each in (table, a, b))
    by_chance = of_a * of_b / (n * (n - 1) / 2)
    most = (of_a + of_b) / 2
    ari = 1.0 if most == by_chance else (pairs - by_chance) / (most - by_chance)
    if max(len(a), len(b)) == n and min(len(a), len(b)) == n:
        return {"ari": ari, "ami": 1.0, "mi": mi}
    expected = _expected_mi(a, b, n)
    entropy = -sum((xlogy(each / n, each / n)).sum() for each in (a, b)) / 2
    span = entropy - expected
    span = min(span, -np.finfo(float).eps) if span < 0 else max(span, np.finfo(float).eps)
    return {"ari": ari, "ami": float((mi - expected) / span), "mi": mi}


def _expected_mi(a: Floats, b: Floats, n: float) -> float:
    """Expected mutual information of partitions of these sizes, under the hypergeometric model (Vinh et al. 2010)."""
    total = 0.0
    for x in a:
        for y in b:
            k = np.arange(max(1.0, x + y - n), min(x, y) + 1)
            chance = gammaln(x + 1) + gammaln(y + 1) + gammaln(n - x + 1) + gammaln(n - y + 1) - gammaln(n + 1)
            chance = chance - gammaln(k + 1) - gammaln(x - k + 1) - gammaln(y - k + 1) - gammaln(n - x - y + k + 1)
            total += float((k / n * np.log(n * k / (x * y)) * np.exp(chance)).sum())
    return total


def neighbor_purity(labels: Ints, neighbors: Ints, candidates: NDArray[np.floating]) -> Floats:
    """How much more often neighbours have the label of a row than chance gives, 1 where all of them do.

    ``(share - chance) / (1 - chance)``, which is 0 for labels that mix as if dealt at random.

    Parameters
    ----------
    labels
        Label of each row, from 0, shape ``(n,)``.
    neighbors
        Rows that are most similar to each row, shape ``(n, k)``; -1 for none.
    candidates
        Share of the rows that may be neighbours of a row that have its label, shape ``(n,)``.

    Returns
    -------
    Shape ``(n,)``, NaN where a row has no neighbour or all that may be have its label.

    Examples
    --------
    >>> import numpy as np
    >>> import histocell as hc
    >>> hc.metrics.neighbor_purity(np.array([0, 0, 1]), np.array([[1], [2], [-1]]), np.array([0.5, 0.5, 0.5]))
    array([ 1., -1., nan])
    """
    known = neighbors >= 0
    same = ((labels[np.maximum(neighbors, 0)] == labels[:, None]) & known).sum(axis=1)
    n_known = known.sum(axis=1)
    share = np.divide(same, n_known, out=np.full(len(labels), np.nan), where=n_known > 0)
    return np.divide(share - candidates, 1 - candidates, out=np.full(len(labels), np.nan), where=candidates < 1)


def robustness_index(biology: Ints, batch: Ints, neighbors: Ints) -> tuple[Ints, Ints]:
    """Numbers of neighbours that speak for biology and for the batch, each shape ``(n,)``.

    Those of the biology of a row and another batch, and those of its batch and another biology. The robustness index is
    the sum of the first by that of both: above one half biology brings rows together more than the batch does.

    Parameters
    ----------
    biology, batch
        Labels of each row, from 0, shape ``(n,)``.
    neighbors
        Rows that are most similar to each row, shape ``(n, k)``; -1 for none.

    Returns
    -------
    Number of neighbours for biology, and for the batch.

    References
    ----------
    Koemen et al.: Towards robust foundation models for digital pathology, Nat Commun 17 (2026), arXiv:2507.17845.

    Examples
    --------
    >>> import numpy as np
    >>> import histocell as hc
    >>> biology, batch = np.array([0, 0, 1]), np.array([0, 1, 0])
    >>> hc.metrics.robustness_index(biology, batch, np.array([[1, 2], [0, -1], [0, 1]]))
    (array([1, 1, 0]), array([1, 0, 1]))
    """
    known, others = neighbors >= 0, np.maximum(neighbors, 0)
    same_biology, same_batch = biology[others] == biology[:, None], batch[others] == batch[:, None]
    return ((same_biology & ~same_batch & known).sum(axis=1), (~same_biology & same_batch & known).sum(axis=1))
