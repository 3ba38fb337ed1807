"""The mean attention between the tokens of cells, by group of cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from histocell._core.types import Floats, Ints

COORDINATES = "coordinates"


class Attention(NamedTuple):
    """How much of the attention of each kind of tokens goes to which, the mean over cells and heads.

    Attributes
    ----------
    mean
        Shape ``(n_groups, n_layers, n_sources, n_targets)``; sums to 1 over targets. NaN for a group without cells.
    n_cells
        Number of cells of each group that count: those that have all modalities.
    sources, targets
        Names of the kinds of tokens: ``"genes"``, ``"image"``, ``"coordinates"``, and as targets those of the neighbours, too.
    """

    mean: Floats
    n_cells: Ints
    sources: list[str]
    targets: list[str]


def token_names(modalities: list[str], *, place: bool, neighbors: bool) -> tuple[list[str], list[str | None]]:
    """Names of a cell's own tokens, and of all kinds of tokens as the network numbers them; `None` where there are none of a kind."""
    around = [f"{name} of neighbours" if neighbors else None for name in modalities]
    own = [*modalities, *([COORDINATES] if place else [])]
    return own, [*modalities, *around, COORDINATES if place else None]


def mean_by_group(
    parts: Iterator[tuple[Ints, Floats]], n_groups: int, sources: list[str], kinds: list[str | None]
) -> Attention:
    """The means, from groups of some cells and their attention ``(n, n_layers, n_sources, n_kinds)`` at a time."""
    total, count = np.zeros(1), np.zeros(n_groups, dtype=np.int64)
    for groups, values in parts:
        if total.ndim == 1:
            total = np.zeros((n_groups, *values.shape[1:]))
        np.add.at(total, groups, values)
        count += np.bincount(groups, minlength=n_groups)
    there = [index for index, name in enumerate(kinds) if name is not None]
    known = (count > 0).reshape(-1, 1, 1, 1)
    mean = np.divide(
        total[..., there], count.reshape(-1, 1, 1, 1), out=np.full(total[..., there].shape, np.nan), where=known
    )
    return Attention(mean, count, sources, [name for name in kinds if name is not None])
