"""Labels of cells in the tissue: share of like neighbours, and enrichment of cell types."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree
from scipy.stats import false_discovery_control

from histocell._core.errors import warn
from histocell.kernels.tissue.shifts import occur_together

if TYPE_CHECKING:
    from histocell._core.types import Floats, Ints

_NEAREST = 6
_COUNTED = 1000  # cells of a section whose discs are counted


def typical_count(xy: Floats, where: list[Ints], radius: float, rng: np.random.Generator) -> float:
    """Mean number of cells of a section within `radius` of a cell, itself among them."""
    total = 0.0
    for rows in where:
        some = xy[rows] if len(rows) <= _COUNTED else xy[rng.choice(rows, _COUNTED, replace=False)]
        total += len(rows) * cKDTree(xy[rows]).query_ball_point(some, radius, return_length=True).mean()
    return total / sum(map(len, where))


def coherence(xy: Floats, labels: Ints, where: list[Ints]) -> list[Floats]:
    """Share of the six nearest cells of a section that have the same label, by label, and what chance would give.

    Chance: labels permuted within each section. NaN for labels without a cell that has neighbours.
    """
    n = int(labels.max()) + 1
    same, chance, cells = np.zeros(n), np.zeros(n), np.zeros(n)
    for rows in where:
        k = min(_NEAREST, len(rows) - 1)
        if k < 1:
            continue
        # a cell may not be the first of its own list, where others lie on the same place
        found = cKDTree(xy[rows]).query(xy[rows], k=k + 1)[1]
        is_other = found != np.arange(len(rows))[:, None]
        is_other[is_other.all(axis=1), -1] = False
        near = found[is_other].reshape(len(rows), k)
        mine = labels[rows]
        size = np.bincount(mine, minlength=n)
        same += np.bincount(mine, weights=(mine[near] == mine[:, None]).mean(axis=1), minlength=n)
        chance += size * (size - 1) / (len(rows) - 1)
        cells += size
    return [np.divide(each, cells, out=np.full(n, np.nan), where=cells > 0) for each in (same, chance)]


def enrichment(
    xy: Floats, labels: Ints, types: pd.Series, where: list[Ints], n_permutations: int, rng: np.random.Generator
) -> pd.DataFrame:
    """Number of cells by niche and cell type, beside what independence gives, with p by shifts."""
    codes, names = types.cat.codes.to_numpy().astype(np.intp), list(types.cat.categories)
    if unknown := int((codes < 0).sum()):
        warn(f"{unknown} of {len(codes)} cells with a niche have no type; left out of the enrichment")
    parts = [rows[codes[rows] >= 0] for rows in where]
    parts = [rows for rows in parts if len(rows)]
    n_labels = (len(names), int(labels.max()) + 1)
    places = [xy[rows] for rows in parts]
    kinds, niches = ([values[rows] for rows in parts] for values in (codes, labels))
    # niches are shifted, types stay
    found = occur_together(places, kinds, niches, n_labels=n_labels, n_permutations=n_permutations, rng=rng)
    if len(names) > 1 and n_labels[1] > 1 and np.isnan(found.p).all():
        warn("no section is large enough to shift niches over it (20 cells across): p of the enrichment is unknown")
    observed, expected, z, p = (getattr(found, name).T.ravel() for name in ("observed", "expected", "z", "p"))
    known = np.isfinite(p)
    q = np.full(p.shape, np.nan)
    q[known] = false_discovery_control(p[known]) if known.any() else np.nan
    pairs = {
        "niche": np.repeat([str(number) for number in range(n_labels[1])], len(names)),
        "cell_type": np.tile([str(name) for name in names], n_labels[1]),
    }
    numbers = {"observed": observed.astype(int), "expected": expected}
    numbers["log2_enrichment"] = np.log2((observed + 0.5) / (expected + 0.5))
    return pd.DataFrame({**pairs, **numbers, "z": z, "p": p, "q": q})
