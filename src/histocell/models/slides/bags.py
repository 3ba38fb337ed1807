"""Bags of tiles: features of one slide, read a block of rows at a time, wherever they lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from histocell._core.errors import listing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from histocell._core.types import Floats, Ints

BLOCK = 4096  # tiles in memory at a time


class Rows(Protocol):
    """Anything with rows: arrays of numpy, zarr, h5py and dask, or rows that are made when they are read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Numbers of tiles and of features."""

    def __getitem__(self, rows: slice, /) -> object:
        """Some consecutive rows."""


@dataclass(frozen=True, eq=False)
class Bag:
    """The tiles of one slide.

    Attributes
    ----------
    array
        Features, ``(n, dim)``; only blocks of consecutive rows are read.
    rows
        Which of its rows are the tiles of the slide, ascending; `None` for all.
    """

    array: Rows
    rows: Ints | None = None

    def __post_init__(self) -> None:
        shape = tuple(getattr(self.array, "shape", ()))
        if len(shape) != 2 or shape[1] == 0:
            msg = f"a bag must have shape (tiles, features); this one has {shape}"
            raise ValueError(msg)

    def __len__(self) -> int:
        return int(self.array.shape[0] if self.rows is None else len(self.rows))

    @property
    def dim(self) -> int:
        """Number of features."""
        return int(self.array.shape[1])

    def read(self, start: int, stop: int) -> np.ndarray:
        """Some consecutive tiles of the slide as float32."""
        stop = min(stop, len(self))
        if self.rows is None or stop <= start:
            return _numbers(self.array[start:stop])
        rows = self.rows[start:stop]
        first, last = int(rows[0]), int(rows[-1]) + 1
        if isinstance(self.array, np.ndarray):
            return _numbers(self.array[rows])
        return _numbers(self.array[first:last])[rows - first]

    def blocks(self, size: int = BLOCK) -> Iterator[tuple[int, np.ndarray]]:
        """All tiles, at most so many at a time, each with the position of the first."""
        for start in range(0, len(self), size):
            yield start, self.read(start, start + size)

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """At most `n` tiles with finite features, drawn by chance without replacement, in their order."""
        chosen = np.arange(len(self)) if len(self) <= n else np.sort(rng.choice(len(self), n, replace=False))
        tiles = self._chosen(chosen)
        if not len(tiles):  # nearly all tiles lack features
            tiles = next((part for _, each in self.blocks() if len(part := finite(each))), tiles)[:n]
        return tiles

    def _chosen(self, chosen: Ints) -> np.ndarray:
        if isinstance(self.array, np.ndarray):
            rows = chosen if self.rows is None else self.rows[chosen]
            return finite(_numbers(self.array[rows]))
        parts = [np.zeros((0, self.dim), dtype=np.float32)]
        for start in range(0, len(self), BLOCK):
            inside = chosen[(chosen >= start) & (chosen < start + BLOCK)]
            if len(inside):
                parts.append(finite(self.read(start, start + BLOCK)[inside - start]))
        return np.concatenate(parts)

    def mean(self) -> tuple[Floats, int]:
        """Mean of the tiles with finite features, NaN where there is none, and their number."""
        total, count = np.zeros(self.dim), 0
        for _, tiles in self.blocks():
            there = finite(tiles)
            total += there.sum(axis=0, dtype=np.float64)
            count += len(there)
        return (total / count if count else np.full(self.dim, np.nan)), count


def finite(tiles: np.ndarray) -> np.ndarray:
    """The tiles whose features are all finite."""
    known = np.isfinite(tiles).all(axis=1)
    return tiles if known.all() else tiles[known]


def check_dims(bags: dict[str, Bag]) -> int:
    """The number of features that all bags have.

    Raises
    ------
    ValueError
        When they differ, as those of two encoders do.
    """
    dims: dict[int, list[str]] = {}
    for name, bag in bags.items():
        dims.setdefault(bag.dim, []).append(name)
    if len(dims) > 1:
        what = "; ".join(f"{dim} features: {listing(names, 3)}" for dim, names in dims.items())
        msg = (
            f"the slides have embeddings of several widths, so of several encoders: {what}. Embed all with one encoder"
        )
        raise ValueError(msg)
    return next(iter(dims))


def _numbers(value: object) -> np.ndarray:
    """A block as float32, computed if it is lazy."""
    value = value.compute() if hasattr(value, "compute") else value
    value = value.toarray() if hasattr(value, "toarray") else value
    return np.asarray(value, dtype=np.float32)
