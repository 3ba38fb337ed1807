"""TIFF pyramids (OME-TIFF, SVS, NDPI): tiles decoded one by one by tifffile, other layouts through zarr."""

from __future__ import annotations

import struct
import weakref
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from histocell.images.levels import BlockLevel, ImageFile, block_sizes
from histocell.images.pixels import channel_axis
from histocell.images.resolution import tiff_mpp

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import tifffile
    import zarr
    from numpy.typing import NDArray

    from histocell.images.levels import Block, BlockCache

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MIN_TILE = 128  # smaller tiles are read many at a time
_MIN_BLOCK = 256


def is_tiff(path: Path) -> bool:
    """Whether the file starts like a TIFF (NDPI, SVS and OME-TIFF do)."""
    with path.open("rb") as file:
        return file.read(4) in _MAGIC


def open_tiff(path: Path, cache: BlockCache) -> ImageFile:
    """Open the largest image of a TIFF; its tiles are kept in `cache`."""
    import tifffile
    import zarr

    try:
        tiff = tifffile.TiffFile(path)
        series = max(tiff.series, key=lambda entry: entry.sizes.get("height", 0) * entry.sizes.get("width", 0))
    except (tifffile.TiffFileError, ValueError, IndexError, KeyError, OSError, struct.error) as error:
        msg = f"{path} is no TIFF that can be read, it may be truncated ({error}); copy or download it again"
        raise OSError(msg) from error
    weakref.finalize(cache, tiff.close)  # every level holds the cache: the file closes with the last of them
    _check_complete(path, series)
    levels = []
    for number, level in enumerate(series.levels):
        if (page := plain_page(level)) is not None:
            levels.append(tile_level(page, cache))
        else:
            array = zarr.open_array(series.aszarr(level=number), mode="r")
            try:
                levels.append(_zarr_level(array, level.axes.lower(), cache))
            except ValueError as error:
                msg = f"{path}: {error}"
                raise ValueError(msg) from error
    return ImageFile(levels, partial(tiff_mpp, tiff, tiff.series.index(series)))


def _check_complete(path: Path, series: tifffile.TiffPageSeries) -> None:
    """An error where the pixels that the header promises are not in the file."""
    size = path.stat().st_size
    for page in (page for level in series.levels for page in level.pages if page is not None):
        ends = np.add(page.dataoffsets, page.databytecounts)
        if len(ends) and ends.max() > size:
            msg = f"{path} is truncated: {size} bytes where {ends.max()} are needed; copy or download it again"
            raise OSError(msg)


def plain_page(level: tifffile.TiffPageSeries) -> tifffile.TiffPage | None:
    """The page of a level where that is one page of large tiles of whole pixels, so that reading is decoding a tile."""
    from tifffile import PLANARCONFIG

    if len(level.pages) != 1 or level.pages[0] is None:
        return None
    page = level.pages[0].aspage()
    plain = (
        page.is_tiled
        and page.imagedepth == 1
        and page.tilelength >= _MIN_TILE <= page.tilewidth
        and page.samplesperpixel in {1, 3, 4}
        and (page.samplesperpixel == 1 or page.planarconfig == PLANARCONFIG.CONTIG)
    )
    return page if plain else None


def tile_level(page: tifffile.TiffPage, cache: BlockCache) -> BlockLevel:
    """A level over the tiles of a page, without a layer between the file and the decoder."""
    rows, columns = block_sizes(page.imagelength, page.tilelength), block_sizes(page.imagewidth, page.tilewidth)
    dtype = np.dtype(page.dtype)
    file = page.parent.filehandle
    file.set_lock(True)  # many threads read the file; only the decoding runs side by side

    def fetch_tile(row: int, column: int) -> NDArray[np.generic]:
        index = row * len(columns) + column
        shape = (rows[row], columns[column], page.samplesperpixel)
        offset, size = page.dataoffsets[index], page.databytecounts[index]
        if size == 0:  # a tile without data is empty background
            return np.full(shape, np.iinfo(dtype).max if dtype.kind == "u" else 1, dtype)
        with file.lock:
            file.seek(offset)
            data = file.read(size)
        try:
            tile = np.asarray(page.decode(data, index, jpegtables=page.jpegtables)[0])
        except (OSError, ValueError, RuntimeError, IndexError) as error:
            msg = f"{file.name}: the tile in row {row}, column {column} is damaged ({error}); copy or download it again"
            raise OSError(msg) from error
        return tile[0, : shape[0], : shape[1]]

    def fetch(blocks: list[Block]) -> list[NDArray[np.generic]]:
        return [fetch_tile(*block) for block in blocks]

    return BlockLevel(rows, columns, fetch, axis=2, dtype=dtype, cache=cache)


def _zarr_level(array: zarr.Array, dims: Sequence[str], cache: BlockCache) -> BlockLevel:
    """A level over a zarr array, in whole chunks of at least 256 px."""
    axis = channel_axis(array.shape, dims)
    first = 1 if axis == 0 else 0
    (height, width), chunks = array.shape[first : first + 2], array.chunks[first : first + 2]
    edges = [chunk * -(-_MIN_BLOCK // chunk) for chunk in chunks]

    def fetch(blocks: list[Block]) -> list[NDArray[np.generic]]:
        windows = [
            tuple(slice(index * edge, (index + 1) * edge) for index, edge in zip(block, edges, strict=True))
            for block in blocks
        ]
        return [np.asarray(array[(slice(None), *window) if axis == 0 else window]) for window in windows]

    rows, columns = block_sizes(height, edges[0]), block_sizes(width, edges[1])
    return BlockLevel(rows, columns, fetch, axis=axis, dtype=array.dtype, cache=cache)
