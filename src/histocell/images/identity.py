"""Checksums of the content of images: of every byte of a file, or of every pixel that can be read of an array."""

from __future__ import annotations

import hashlib
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise, product
from typing import TYPE_CHECKING

import numpy as np

from histocell.images.files import OPENSLIDE_ONLY, check_path
from histocell.images.levels import BlockLevel

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from histocell.images.levels import Level
    from histocell.images.slide_image import SlideImage

    type Window = tuple[int, int, int, int]

_BLOCK_BYTES = 2**23
_BAND_PIXELS = 2**22


def image_checksum(image: SlideImage, *, px: float = 1.0) -> str:
    """What tells an image from any other one: its shape, how a sample of it is read, and a checksum of its content.

    Parameters
    ----------
    image
        The image. One of a file is read as bytes, which costs about a second for each gigabyte the first time.
    px
        Level-0 px per px that is going to be read. Of arrays only the levels are looked at that this needs.
    """
    if image.path is not None:
        return f"{image.fingerprint()}-{_of_values(image)}{file_checksum(image.path)}"
    scaled = image.level_for(px)
    levels = [item.level for item in image._levels if item.y >= scaled.y]
    return f"{image.fingerprint()}-{_digest(crc for level in levels for crc in _checksums_of_level(level))}"


def _of_values(image: SlideImage) -> str:
    """The values of black and white: a sample may be the same with others, and the bytes of a file say nothing of them."""
    return "" if image.intensity_range is None else "{:g}:{:g}-".format(*image.intensity_range)


def file_checksum(path: Path) -> str:
    """A checksum of a slide file, and of the files that belong to it; not computed again while they are untouched."""
    return _file_checksum(path.absolute(), file_state(path))


def file_state(path: Path) -> str:
    """Size, times and inode of a slide file and of the files that belong to it: equal as long as nobody touches them."""
    states = [file.stat() for file in _files_of(check_path(path))]
    return _digest((state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino) for state in states)


@lru_cache(maxsize=1024)
def _file_checksum(path: Path, state: str) -> str:
    files = _files_of(path)
    blocks = [(file, start) for file in files for start in range(0, file.stat().st_size, _BLOCK_BYTES)]
    with _pool() as pool:
        return _digest([*(file.stat().st_size for file in files), *pool.map(_checksum_of_block, blocks)])


def _files_of(path: Path) -> list[Path]:
    """The file of a slide, and the others that some formats keep in a folder or beside it."""
    suffix = path.suffix.lower()
    others: Iterable[Path] = ()
    if suffix in OPENSLIDE_ONLY:
        folder = path.with_suffix("")
        beside = [each for each in path.parent.iterdir() if each.suffix.lower() == suffix == ".dcm"]
        if suffix in {".vms", ".vmu"}:
            beside = [each for each in path.parent.iterdir() if each.name.startswith(path.stem)]
        others = [*beside, *(folder.rglob("*") if folder.is_dir() else ())]
    return [path, *sorted(each for each in others if each.is_file() and each != path)]


def _checksum_of_block(block: tuple[Path, int]) -> int:
    path, start = block
    with path.open("rb") as file:
        file.seek(start)
        return zlib.crc32(file.read(_BLOCK_BYTES))


def _checksums_of_level(level: Level) -> Iterator[int]:
    """Checksums of windows that together are a level."""

    def checksum(window: Window) -> int:
        return zlib.crc32(np.ascontiguousarray(level.window(*window)))

    with _pool() as pool:
        yield from (zlib.crc32(repr(level.shape).encode()), *pool.map(checksum, _windows(level)))


def _windows(level: Level) -> list[Window]:
    """Windows that can be read one by one without reading anything twice."""
    if isinstance(level, BlockLevel):
        rows, columns = level._rows, level._columns
    else:
        height, width = level.shape
        rows, columns = [*range(0, height, max(1, _BAND_PIXELS // width)), height], [0, width]
    return [(y0, x0, y1, x1) for (y0, y1), (x0, x1) in product(pairwise(rows), pairwise(columns))]


def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1))  # zlib lets other threads run


def _digest(values: Iterable[object]) -> str:
    return hashlib.sha256(repr(list(values)).encode()).hexdigest()[:16]
