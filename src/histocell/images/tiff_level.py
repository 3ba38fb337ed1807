"""Tiles of a TIFF, decoded one by one without a layer between the file and the decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from histocell.images.levels import BlockLevel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histocell.images.levels import Block, BlockCache

_MIN_TILE = 128  # smaller tiles are read many at a time


def tiff_level(level: Any, cache: BlockCache) -> BlockLevel | None:
    """A level over the tiles of a page of tifffile; `None` for layouts that need more than decoding a tile.

    Parameters
    ----------
    level
        A level of a series of tifffile.
    cache
        Where the tiles are kept.
    """
    page = level.pages[0]
    plain = (
        len(level.pages) == 1
        and page is not None
        and page.is_tiled
        and page.imagedepth == 1
        and page.tilelength >= _MIN_TILE <= page.tilewidth
        and page.samplesperpixel in {1, 3, 4}
        and (page.samplesperpixel == 1 or page.planarconfig == page.planarconfig.CONTIG)
    )
    if not plain:
        return None
    page = page.aspage()
    height, width = page.imagelength, page.imagewidth
    rows, columns = (
        [min(size, length - start) for start in range(0, length, size)]
        for length, size in ((height, page.tilelength), (width, page.tilewidth))
    )
    file = page.parent.filehandle
    file.set_lock(True)  # many threads read the file; only the decoding runs side by side

    def fetch(blocks: list[Block]) -> list[NDArray[Any]]:
        found = []
        for row, column in blocks:
            index = row * len(columns) + column
            shape = (rows[row], columns[column], page.samplesperpixel)
            offset, size = page.dataoffsets[index], page.databytecounts[index]
            if size == 0:  # a tile without data is empty glass
                found.append(np.full(shape, np.iinfo(page.dtype).max if page.dtype.kind == "u" else 1, page.dtype))
                continue
            with file.lock:
                file.seek(offset)
                data = file.read(size)
            try:
                tile = page.decode(data, index, jpegtables=page.jpegtables)[0]
            except (OSError, ValueError, RuntimeError, IndexError) as error:
                msg = f"{file.name}: the tile in row {row}, column {column} is damaged ({error}); copy or download it again"
                raise OSError(msg) from error
            found.append(tile[0, : shape[0], : shape[1]])
        return found

    return BlockLevel(rows, columns, fetch, axis=2, dtype=page.dtype, cache=cache)
