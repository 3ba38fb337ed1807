"""Counts of spots as mixtures of signatures: quasi-likelihood with coefficients from 0 up, and factors of the platform."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from histocell.models.deconvolution.solver import PairProducts, solve_nonnegative

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from histocell._core.types import Floats

_ROUNDS = 5
_OVERDISPERSION = 0.5  # of counts about their expectation; weights only, errors come from the residuals
_FLOOR = 0.01  # share of the mean spot in each expectation, so that no gene that is there is expected to be absent
_FIRST_SPREAD = 0.5  # variance of the log of platform factors, before it is estimated
_CHUNK = 20_000_000  # counts at a time


class Mixtures(NamedTuple):
    """What `fit_mixtures` finds.

    Attributes
    ----------
    weights
        Coefficient of each signature in each spot, ``(n, K)``.
    covariance
        Of the coefficients of each spot, ``(n, K, K)``.
    platform
        Factor of each gene between signatures and spots, ``(G,)``; their weighted mean log is 0.
    """

    weights: Floats
    covariance: Floats
    platform: Floats


def fit_mixtures(counts: csr_matrix, signatures: Floats, *, n_rounds: int = _ROUNDS) -> Mixtures:
    r"""Find how much of each signature is in each spot.

    The counts of spot s and gene g have the expectation :math:`\mu_{sg} = m_g \sum_k w_{sk} S_{kg}` and the variance
    :math:`\mu_{sg} + \phi \mu_{sg}^2`. Rounds of weighted least squares over :math:`w \ge 0`, with weights from the
    expectation of the round before, alternate with the factors :math:`m_g`, by which a gene is more or less often seen
    in spots than in single cells. These follow from the totals of the gene, its counts in all spots over what is expected
    of them; what a shift of the composition of the whole section would explain as well is taken out, and
    the rest is shrunk towards 1 by the noise of the total and the spread that the factors turn out to have.

    Parameters
    ----------
    counts
        Raw counts (spots, genes); spots without counts get weights of 0.
    signatures
        Mean counts of a cell of each type (types, genes).
    n_rounds
        Rounds; 0 leaves platform factors at 1 and takes the variance of a gene from its mean.

    Notes
    -----
    The covariance is the sandwich of the residuals, for the last platform factors and without the bound at 0: noise of
    counts and misfit that differs from gene to gene. Errors of the signatures themselves, which all spots share, are not in it.
    """
    total = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    by_gene = np.asarray(counts.sum(axis=0), dtype=np.float64).ravel()
    platform = np.ones(len(by_gene))
    profile = by_gene / max(by_gene.sum(), 1)
    weights: Floats | None = None
    spread = _FIRST_SPREAD
    for _ in range(n_rounds):
        if weights is None:  # the first time by the mean of each gene
            weights = _round(counts, signatures, None, total, profile)[0]
        platform, spread = _platform(weights, signatures, platform, total, by_gene, spread)
        weights = _round(counts, signatures * platform, weights, total, profile)[0]
    weights, covariance = _round(counts, signatures * platform, weights, total, profile, errors=True)
    return Mixtures(weights, covariance, platform)


def shares(weights: Floats, covariance: Floats) -> tuple[Floats, Floats]:
    """Weights as parts of 1, and their standard errors by the delta method; NaN where all are 0."""
    total = weights.sum(axis=1, keepdims=True)
    known = np.where(total > 0, total, np.nan)
    part = weights / known
    with_total = covariance.sum(axis=2)
    variance = (
        np.einsum("nkk->nk", covariance) - 2 * part * with_total + part**2 * with_total.sum(axis=1, keepdims=True)
    )
    return part, np.sqrt(np.maximum(variance, 0)) / known


def similar_pairs(signatures: Floats, least: float) -> list[tuple[int, int]]:
    """Pairs of signatures of nearly one profile: Bhattacharyya coefficients of at least `least`."""
    roots = np.sqrt(signatures / signatures.sum(axis=1, keepdims=True))
    i, j = np.nonzero(np.triu(roots @ roots.T >= least, k=1))
    return list(zip(i.tolist(), j.tolist(), strict=True))


def _expected(weights: Floats, signatures: Floats, total: Floats, profile: Floats) -> Floats:
    """Expected counts, of each spot's own total."""
    mixed = weights @ signatures
    sums = mixed.sum(axis=1)
    scale = np.divide(total, sums, out=np.zeros_like(total), where=sums > 0)
    return (1 - _FLOOR) * scale[:, None] * mixed + _FLOOR * total[:, None] * profile


def _round(
    counts: csr_matrix,
    signatures: Floats,
    weights: Floats | None,
    total: Floats,
    profile: Floats,
    *,
    errors: bool = False,
) -> tuple[Floats, Floats]:
    """Weighted least squares of all spots, chunk by chunk; covariances where they are asked for."""
    n, size = counts.shape[0], len(signatures)
    products = PairProducts(signatures)
    found = np.zeros((n, size))
    covariance = np.zeros((n if errors else 0, size, size))
    step = max(_CHUNK // max(counts.shape[1], 1), 1)
    for first in range(0, n, step):
        part = slice(first, first + step)
        seen = counts[part].toarray().astype(np.float64)
        if weights is None:
            expected = np.broadcast_to(profile * total.mean(), seen.shape)
            inverse = 1 / np.maximum(expected, 1e-3)
        else:
            expected = _expected(weights[part], signatures, total[part], profile)
            variance = expected + _OVERDISPERSION * expected**2
            inverse = np.divide(1, variance, out=np.zeros_like(variance), where=variance > 0)
        gram = products.gram(inverse)
        start = None if weights is None else weights[part]
        found[part] = solve_nonnegative(gram, (seen * inverse) @ signatures.T, start)
        if errors:
            residual = seen - found[part] @ signatures
            bread = np.linalg.pinv(gram, hermitian=True)
            covariance[part] = bread @ products.gram((residual * inverse) ** 2) @ bread
    return found, covariance


def _platform(
    weights: Floats, signatures: Floats, before: Floats, total: Floats, by_gene: Floats, spread: float
) -> tuple[Floats, float]:
    """Factor of each gene between cells and spots, and the variance of their logs."""
    mixed_total = weights @ (signatures * before).sum(axis=1)
    scale = np.divide(total, mixed_total, out=np.zeros_like(total), where=mixed_total > 0)
    composition = scale @ weights  # of all spots together
    parts = composition[:, None] * signatures  # expected counts of each gene by type, at a factor of 1
    expected = (1 - _FLOOR) * parts.sum(axis=0) + _FLOOR * by_gene / before
    log_ratio = np.log((by_gene + 0.5) / (expected + 0.5))
    noise = 1 / (by_gene + 0.5)
    precision = 1 / (noise + spread)
    # what another composition of the whole would explain, to first order, is no property of genes
    share = parts / np.maximum(parts.sum(axis=0), 1e-12)
    design = (share * precision) @ share.T
    design += 1e-6 * precision.sum() * np.eye(len(share))
    log_ratio = log_ratio - share.T @ np.linalg.solve(design, (share * precision) @ log_ratio)
    log_ratio -= np.average(log_ratio, weights=precision)
    spread = max(float(np.average(log_ratio**2 - noise, weights=precision)), 0.01)
    return np.exp(log_ratio * spread / (spread + noise)), spread
