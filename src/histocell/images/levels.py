"""Levels of a pyramid, which give integer windows of 8-bit RGB and read only the blocks that they need."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, product
from typing import TYPE_CHECKING, Protocol

import numpy as np

from histocell.images.pixels import channel_axis, needs_scale, to_rgb, value_scale

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from numpy.typing import NDArray

    type Pixels = NDArray[np.uint8]
    type Block = tuple[int, int]

CACHE_BYTES = 384 * 2**20  # one legacy ST section, decoded, fits


class Level(Protocol):
    """One resolution of an image."""

    shape: tuple[int, int]

    def window(self, y0: int, x0: int, y1: int, x1: int) -> Pixels:
        """Pixels (y1 - y0, x1 - x0, 3) of a window inside of the level; may be a view."""
        ...


@dataclass(frozen=True)
class ImageFile:
    """What a file holds.

    Attributes
    ----------
    levels
        Its levels, from fine to coarse.
    resolution
        Finds the micrometres per px of the finest level, and what says so.
    """

    levels: Sequence[Level]
    resolution: Callable[[], tuple[float | None, str]]


class ArrayLevel:
    """An array in memory.

    Attributes
    ----------
    shape
        Height and width.
    scale
        Factor that brings values to 0-255, `None` for 8 bit.
    """

    def __init__(self, array: NDArray[np.generic], dims: Sequence[str] | None = None) -> None:
        self._array = array
        self._axis = channel_axis(array.shape, dims)
        self.shape = (array.shape[1], array.shape[2]) if self._axis == 0 else (array.shape[0], array.shape[1])
        self.scale: float | None = None
        if needs_scale(array.dtype):
            stride = [max(1, length // 1000) for length in array.shape]
            self.scale = value_scale(array[tuple(slice(None, None, step) for step in stride)])

    def window(self, y0: int, x0: int, y1: int, x1: int) -> Pixels:
        """Pixels of a window."""
        inner = self._array[:, y0:y1, x0:x1] if self._axis == 0 else self._array[y0:y1, x0:x1]
        return to_rgb(inner, self._axis, self.scale)


class FileLevel:
    """An image file that can only be decoded whole, at the first read.

    `decode` gives the same array to all threads that ask for it.
    """

    def __init__(self, shape: tuple[int, int], decode: Callable[[], NDArray[np.generic]]) -> None:
        self.shape = shape
        self._decode = decode

    @cached_property
    def _level(self) -> ArrayLevel:
        return ArrayLevel(self._decode())

    def window(self, y0: int, x0: int, y1: int, x1: int) -> Pixels:
        """Pixels of a window."""
        return self._level.window(y0, x0, y1, x1)


class BlockCache:
    """The blocks of an image that were read last, shared by its levels; safe to use from many threads.

    A block that one thread is reading is not read again by another one: it waits.
    """

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._blocks: OrderedDict[Hashable, Future[Pixels]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, level: Hashable, blocks: list[Block], fetch: Callable[[list[Block]], list[Pixels]]) -> list[Pixels]:
        """Blocks of a level, fetching those that are not here."""
        futures: list[Future[Pixels]] = []
        missing: list[Block] = []
        with self._lock:
            for block in blocks:
                future = self._blocks.get((level, block))
                if future is None:
                    future = self._blocks[level, block] = Future()
                    missing.append(block)
                else:
                    self._blocks.move_to_end((level, block))
                futures.append(future)
        if missing:
            self._fetch(level, missing, fetch)
        return [future.result() for future in futures]

    def _fetch(self, level: Hashable, missing: list[Block], fetch: Callable[[list[Block]], list[Pixels]]) -> None:
        try:
            fetched = fetch(missing)
        except BaseException as error:
            with self._lock:
                waiting = [self._blocks.pop((level, block)) for block in missing]
            for future in waiting:
                future.set_exception(error)
            raise
        with self._lock:
            for block, pixels in zip(missing, fetched, strict=True):
                self._blocks[level, block].set_result(pixels)
                self._bytes += pixels.nbytes
            for key in list(self._blocks):
                if self._bytes <= self._max_bytes:
                    break
                if self._blocks[key].done():
                    self._bytes -= self._blocks.pop(key).result().nbytes


def block_sizes(length: int, edge: int) -> list[int]:
    """Sizes of the blocks of `edge` px that a length is cut into; the last is what is left."""
    return [min(edge, length - start) for start in range(0, length, edge)]


class BlockLevel:
    """An array that is read in blocks: chunks of a dask array, tiles of a TIFF."""

    def __init__(
        self,
        row_chunks: Sequence[int],
        column_chunks: Sequence[int],
        fetch: Callable[[list[Block]], list[NDArray[np.generic]]],
        *,
        axis: int | None,
        dtype: np.dtype,
        cache: BlockCache,
    ) -> None:
        self._rows = [0, *accumulate(row_chunks)]
        self._columns = [0, *accumulate(column_chunks)]
        self.shape = (self._rows[-1], self._columns[-1])
        self._fetch_raw = fetch
        self._axis = axis
        self._dtype = dtype
        self._cache = cache

    @cached_property
    def scale(self) -> float | None:
        """Factor that brings values to 0-255, `None` for 8 bit: by the middle block, whichever is read first."""
        if not needs_scale(self._dtype):
            return None
        middle = ((len(self._rows) - 1) // 2, (len(self._columns) - 1) // 2)
        return value_scale(self._fetch_raw([middle])[0])

    def _fetch(self, blocks: list[Block]) -> list[Pixels]:
        return [to_rgb(block, self._axis, self.scale) for block in self._fetch_raw(blocks)]

    def window(self, y0: int, x0: int, y1: int, x1: int) -> Pixels:
        """Pixels of a window."""
        rows = range(bisect_right(self._rows, y0) - 1, bisect_left(self._rows, y1))
        columns = range(bisect_right(self._columns, x0) - 1, bisect_left(self._columns, x1))
        wanted = list(product(rows, columns))
        blocks = self._cache.get(id(self), wanted, self._fetch)
        if len(blocks) == 1:
            top, left = self._rows[rows[0]], self._columns[columns[0]]
            return blocks[0][y0 - top : y1 - top, x0 - left : x1 - left]
        out = np.empty((y1 - y0, x1 - x0, 3), dtype=np.uint8)
        for (row, column), block in zip(wanted, blocks, strict=True):
            top, left = self._rows[row], self._columns[column]
            a, b = max(y0, top), min(y1, self._rows[row + 1])
            c, d = max(x0, left), min(x1, self._columns[column + 1])
            out[a - y0 : b - y0, c - x0 : d - x0] = block[a - top : b - top, c - left : d - left]
        return out
