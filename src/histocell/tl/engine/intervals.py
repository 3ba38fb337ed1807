"""Intervals of a mean over groups, and their names: of fewer than five groups there is only a range."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histocell import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from histocell._core.types import Floats

LEAST_GROUPS = 5  # percentiles of a bootstrap of fewer are the least and the greatest of them
LEVEL = 0.95
NONE = "none"

type Interval = tuple[Floats, Floats, list[str]]


def name_interval(n: int, unit: str, level: float = LEVEL) -> str:
    """What the bounds over `n` groups (``unit="groups"``), sections or patients are."""
    if n < 2:
        return NONE
    return f"range of {n} {unit}" if n < LEAST_GROUPS else f"{100 * level:g} % over {n} {unit}"


def over_groups(values: Floats, unit: str, **bootstrap: int) -> Interval:
    """Interval of the mean over groups of each target, and of the mean over targets.

    Parameters
    ----------
    values
        Shape ``(n_groups, n_targets)``; a group where a target is undefined does not count for it.
    unit
        What the groups are, in the plural.
    **bootstrap
        ``n_bootstrap`` and ``rng``.

    Returns
    -------
    Lower bounds, upper bounds and names, each of ``n_targets + 1`` entries, the mean over targets last. Of two to four
    groups the bounds are the least and the greatest of them, of one there are none.
    """
    of_groups = _with_mean(values)
    counts = np.isfinite(of_groups).sum(axis=0)
    low, high = metrics.percentile_interval(_with_mean(metrics.bootstrap_mean(values, **bootstrap)), LEVEL)
    few = counts < LEAST_GROUPS
    low[few] = np.where(np.isfinite(of_groups), of_groups, np.inf).min(axis=0)[few]
    high[few] = np.where(np.isfinite(of_groups), of_groups, -np.inf).max(axis=0)[few]
    return _named(low, high, [name_interval(count, unit) for count in counts])


def over_spots(replicates: Floats) -> Interval:
    """Interval of each target, and of their mean, from bootstrap replicates of the spots of one group."""
    low, high = metrics.percentile_interval(_with_mean(replicates), LEVEL)
    return _named(low, high, [f"{100 * LEVEL:g} % over spots"] * len(low))


def over_blocks(
    resample: Callable[..., Floats], arrays: Sequence[Floats], blocks: np.ndarray, **bootstrap: int
) -> Interval:
    """Interval of each target, and of their mean, from a bootstrap of blocks of tissue; none of fewer than five."""
    known = np.isfinite(arrays[0]).any(axis=1)
    n_blocks = len(np.unique(blocks[known]))
    replicates = resample(*(array[known] for array in arrays), blocks=blocks[known], **bootstrap)
    low, high = metrics.percentile_interval(_with_mean(replicates), LEVEL)
    name = f"{100 * LEVEL:g} % over {n_blocks} blocks" if n_blocks >= LEAST_GROUPS else NONE
    return _named(low, high, [name] * len(low))


def _with_mean(values: Floats) -> Floats:
    return np.column_stack([values, metrics.nan_mean(values, axis=1)])


def _named(low: Floats, high: Floats, names: list[str]) -> Interval:
    """No bounds where there is no interval, and no name where there are no bounds."""
    known = np.isfinite(low) & np.isfinite(high) & (np.array(names) != NONE)
    shown = [name if there else NONE for name, there in zip(names, known, strict=True)]
    return np.where(known, low, np.nan), np.where(known, high, np.nan), shown
