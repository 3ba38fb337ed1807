"""Random numbers by SPEC 7: `rng` is a seed, a generator or nothing; no global state is touched."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

type RNGLike = np.random.Generator | np.random.BitGenerator
type SeedLike = int | np.integer | Sequence[int] | np.random.SeedSequence


def as_rng(rng: SeedLike | RNGLike | None = None) -> np.random.Generator:
    """A generator from anything that SPEC 7 allows."""
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        msg = f"rng must be a seed (a whole number from 0), a numpy generator or None, not {rng!r}"
        raise type(error)(msg) from error


def draw_seed(rng: np.random.Generator) -> int:
    """An integer seed for a library that wants one."""
    return int(rng.integers(2**31 - 1))
