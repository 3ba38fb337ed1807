"""Types as the largest of independent smooth Gaussian fields: how often two types are neighbours.

Of k independent fields of one smoothness the largest at a place gives its type; constants added to the fields give
the types their abundances. This is the tissue without any preference, and it tells which share of its border a type
has with each other one: where it borders others all fields are high, so a border holds more of the rare types than
abundance says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import optimize, special

if TYPE_CHECKING:
    from numpy.typing import NDArray

    type Floats = NDArray[np.float64]

NODES, WEIGHTS = np.polynomial.legendre.leggauss(32)
MARGIN = 5.0  # standard deviations beyond the offsets
SMOOTHEST = 0.999
TINY = float(np.finfo(np.float64).tiny)


def border_shares(abundance: Floats, same: float) -> Floats:
    """Share of each other type among the neighbours of another type, shape ``(k, k)``: rows sum to 1, diagonal 0.

    Parameters
    ----------
    abundance
        Share of each type, shape ``(k,)``, none of them 0.
    same
        Share of neighbours that are of the same type, over all points; sets the smoothness of the fields.
    """
    if len(abundance) < 2:
        return np.zeros((len(abundance), len(abundance)))
    offsets = _offsets(abundance)

    def excess(correlation: float) -> float:
        return float(np.trace(_neighbours(offsets, correlation))) - same

    correlation = 0.0
    if excess(0.0) < 0:
        correlation = SMOOTHEST if excess(SMOOTHEST) < 0 else float(optimize.brentq(excess, 0, SMOOTHEST, xtol=1e-4))
    pairs = _neighbours(offsets, correlation)
    np.fill_diagonal(pairs, 0)
    return pairs / pairs.sum(axis=1, keepdims=True)


def _grid(offsets: Floats) -> tuple[Floats, Floats]:
    """Heights of the largest field, and their quadrature weights."""
    low, high = -MARGIN, float(offsets.max()) + MARGIN
    return (NODES + 1) / 2 * (high - low) + low, WEIGHTS * (high - low) / 2


def _offsets(abundance: Floats) -> Floats:
    """Constants that give the largest of independent standard normal variables these probabilities."""
    offsets = special.ndtri(abundance)
    for _ in range(300):
        height, weight = _grid(offsets)
        below = np.maximum(special.ndtr(height[:, None] - offsets), TINY)
        density = np.exp(-((height[:, None] - offsets) ** 2) / 2) / np.sqrt(2 * np.pi)
        found = (weight * np.exp(np.log(below).sum(axis=1))) @ (density / below)
        step = np.log(abundance) - np.log(found)
        offsets = offsets + 0.7 * step
        offsets -= offsets.mean()
        if np.abs(step).max() < 1e-9:
            break
    return offsets


def _neighbours(offsets: Floats, correlation: float) -> Floats:
    """Probability that two neighbours are of types x and y, where each field has this correlation between them."""
    height, weight = _grid(offsets)
    first, second = np.broadcast_arrays(height[:, None, None] - offsets, height[None, :, None] - offsets)
    rest = np.sqrt(1 - correlation**2)
    below = np.maximum(_bivariate_normal(first, second, correlation), TINY)
    density, other = (np.exp(-(each**2) / 2) / np.sqrt(2 * np.pi) for each in (first, second))
    given = (second - correlation * first) / rest
    wins_first = density * special.ndtr(given) / below
    wins_second = other * special.ndtr((first - correlation * second) / rest) / below
    wins_both = density * np.exp(-(given**2) / 2) / np.sqrt(2 * np.pi) / rest / below
    chance = np.exp(np.log(below).sum(axis=-1)) * weight[:, None] * weight
    k = len(offsets)
    pairs = (chance[..., None] * wins_first).reshape(-1, k).T @ wins_second.reshape(-1, k)
    np.fill_diagonal(pairs, chance.ravel() @ wins_both.reshape(-1, k))
    return (pairs + pairs.T) / 2


def _bivariate_normal(x: Floats, y: Floats, correlation: float) -> Floats:
    """Distribution function of two standard normal variables (Owen, Annals of Mathematical Statistics 27, 1956)."""
    x, y = np.where(x == 0, 1e-12, x), np.where(y == 0, 1e-12, y)
    rest = np.sqrt(1 - correlation**2)
    opposite = np.where(x * y > 0, 0, 0.5)
    return (
        (special.ndtr(x) + special.ndtr(y)) / 2
        - special.owens_t(x, (y / x - correlation) / rest)
        - special.owens_t(y, (x / y - correlation) / rest)
        - opposite
    )
