"""TIFF pyramids (OME-TIFF, SVS, NDPI): the image that is looked at, and checks that it is whole."""

from __future__ import annotations

import math
import re
import weakref
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from histocell._core.errors import damaged, listing, warn
from histocell.images.formats.damage import check_claim, check_size, decoding
from histocell.images.formats.orientation import UPRIGHT, TurnedLevel, turn_of
from histocell.images.formats.tiff_levels import open_level
from histocell.images.levels import ImageFile, share_range
from histocell.images.resolution import tiff_mpp

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import tifffile

    from histocell.images.levels import BlockCache

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BESIDE = re.compile(r"(slide[ _]?)?(label|macro|thumbnail|overview|map)([ _]image)?", re.IGNORECASE)
_REDUCED_OR_MASK = 0b101  # bits of NewSubfileType
_ORIENTATION = 274


def is_tiff(path: Path) -> bool:
    """Whether the file starts like a TIFF (NDPI, SVS and OME-TIFF do)."""
    with path.open("rb") as file:
        return file.read(4) in _MAGIC


def open_tiff(path: Path, cache: BlockCache, intensity_range: Sequence[float] | None = None) -> ImageFile:
    """Open the largest image of a TIFF; its tiles are kept in `cache`."""
    import tifffile

    with decoding(path):
        tiff = tifffile.TiffFile(path)
    weakref.finalize(cache, tiff.close)  # every level holds the cache: the file closes with the last of them
    with decoding(path):
        series = main_image(tiff, path)
        levels = list(series.levels)
        turn = turn_of(series.keyframe.tags.valueof(_ORIENTATION))
        index = tiff.series.index(series)
    for level in levels:
        _check_complete(path, level)
    try:
        opened = [open_level(series, number, path, cache) for number in range(len(levels))]
        given = opened[0].known if intensity_range is None else intensity_range
        values = share_range([level.level for level in opened], given, name=path.name)
    except ValueError as error:
        msg = f"{path}: {error}"
        raise ValueError(msg) from error
    upright = [level.level if turn == UPRIGHT else TurnedLevel(level.level, turn) for level in opened]
    return ImageFile(upright, partial(_mpp, path, tiff, index, exchanged=turn.exchange), values)


def _mpp(path: Path, tiff: tifffile.TiffFile, index: int, *, exchanged: bool) -> tuple[float | None, str]:
    with decoding(path, "its resolution", passing=(ValueError,)):
        return tiff_mpp(tiff, index, exchanged=exchanged)


def main_image(tiff: tifffile.TiffFile, path: Path) -> tifffile.TiffPageSeries:
    """The largest image of a TIFF that is no label, macro, thumbnail or mask."""
    images = [series for series in tiff.series if {"Y", "X"} <= set(series.axes)]
    if not images:
        raise damaged(path, "it holds no image")
    slides = [
        series
        for series in images
        if not _BESIDE.fullmatch(series.name.strip()) and not series.keyframe.subfiletype & _REDUCED_OR_MASK
    ] or images
    sizes = [(series.shape[series.axes.index("X")], series.shape[series.axes.index("Y")]) for series in slides]
    largest = max(sizes, key=math.prod)
    alike = [f"{width} x {height}" for width, height in sizes if 2 * width * height > math.prod(largest)]
    if len(alike) > 1:
        warn(
            f"{path.name} holds several images of about the same size ({listing(alike)} px); the largest is read, the first "
            "of equal ones. Write the one that you want into a file of its own"
        )
    return slides[sizes.index(largest)]


def _check_complete(path: Path, level: tifffile.TiffPageSeries) -> None:
    """An error where the pixels that the header promises are not in the file, or could not be."""
    size = path.stat().st_size
    with decoding(path):
        for page in level.pages:
            if page is None or page.keyframe is None:
                raise damaged(path, "planes of the image are missing")
            frame = page.keyframe
            check_size(path, (frame.imagelength, frame.imagewidth))
            offsets, counts = np.asarray(page.dataoffsets, np.int64), np.asarray(page.databytecounts, np.int64)
            n_pieces, n_found = math.prod(frame.chunked), min(len(offsets), len(counts))
            if n_found < n_pieces:
                raise damaged(path, f"it has {n_found} pieces of pixels, {n_pieces} are needed")
            offsets, counts = offsets[:n_found], counts[:n_found]
            end = int((offsets + counts).max())
            if end > size or counts.min() < 0 or offsets.min() < 0:
                raise damaged(path, f"{size} bytes where {end} are needed")
            check_claim(path, math.prod(frame.chunks) * np.dtype(frame.dtype).itemsize, int(counts.max()))
