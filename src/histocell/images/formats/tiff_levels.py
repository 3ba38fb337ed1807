"""Levels of a TIFF: tiles decoded one by one by tifffile, other layouts through zarr."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from histocell.images.formats.damage import decoding
from histocell.images.formats.tiff_colours import CMYK, MINISWHITE, Colours, colours_of, subsampling
from histocell.images.levels import BlockLevel, block_sizes

if TYPE_CHECKING:
    from pathlib import Path

    import tifffile
    import zarr
    from numpy.typing import NDArray

    from histocell.images.levels import Block, BlockCache

_MIN_TILE = 128  # smaller tiles are read many at a time
_MIN_BLOCK = 256


class TiffLevel(NamedTuple):
    """A level, and the values of black and white where the file says them."""

    level: BlockLevel
    known: tuple[float, float] | None


def open_level(series: tifffile.TiffPageSeries, number: int, path: Path, cache: BlockCache) -> TiffLevel:
    """The level `number` of an image."""
    import zarr

    level = series.levels[number]
    dims = picture_dims(level.axes.upper(), level.shape)
    n_samples = level.shape[level.axes.upper().index(dims.strip("YX"))] if dims.strip("YX") else 1
    page = level.keyframe
    with decoding(path, passing=(ValueError,)):
        colours = colours_of(page, n_samples)
        is_subsampled = subsampling(page) != (1, 1)
    if is_subsampled:
        return TiffLevel(subsampled_level(page, colours, path, cache), None)
    if (page_of_tiles := plain_page(level)) is not None:
        return TiffLevel(tile_level(page_of_tiles, colours, path, cache), colours.known)
    with decoding(path):
        dtype = np.dtype(level.dtype)
        fill = 0 if int(page.photometric) in {MINISWHITE, CMYK} else _white(dtype)
        array = zarr.open_array(series.aszarr(level=number, fillvalue=fill), mode="r")
    return TiffLevel(zarr_level(array, level.axes.upper(), dims, colours, path, cache), colours.known)


def picture_dims(axes: str, shape: tuple[int, ...]) -> str:
    """The axes of a picture without those of length 1; an error for a stack of pictures."""
    lengths = dict(zip(axes, shape, strict=True))
    channels = [axis for axis in "CS" if lengths.get(axis, 1) > 1]
    stacked = [axis for axis in axes if axis not in "YXCS" and lengths[axis] > 1]
    if stacked or len(channels) > 1:
        what = ", ".join(f"{lengths[axis]} along {axis}" for axis in stacked or channels)
        msg = (
            f"it is a stack of images ({what}), not one; write the one that you want, "
            "tifffile.imwrite('one.tif', tifffile.imread('stack.tif', key=0)), or colours with photometric='rgb'"
        )
        raise ValueError(msg)
    dims = "".join(axis for axis in axes if axis in {"Y", "X", *channels})
    if dims.strip("CS") != "YX":
        msg = f"its axes are {axes}; an image is (y, x), (y, x, channel) or (channel, y, x)"
        raise ValueError(msg)
    return dims


def _white(dtype: np.dtype) -> int:
    return int(np.iinfo(dtype).max) if dtype.kind == "u" else 1


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
        and (page.samplesperpixel == 1 or page.planarconfig == PLANARCONFIG.CONTIG)
    )
    return page if plain else None


def tile_level(page: tifffile.TiffPage, colours: Colours, path: Path, cache: BlockCache) -> BlockLevel:
    """A level over the tiles of a page, without a layer between the file and the decoder."""
    rows, columns = block_sizes(page.imagelength, page.tilelength), block_sizes(page.imagewidth, page.tilewidth)
    file = page.parent.filehandle
    file.set_lock(True)  # many threads read the file; only the decoding runs side by side

    def fetch_tile(row: int, column: int) -> NDArray[np.generic]:
        index = row * len(columns) + column
        shape = (rows[row], columns[column], page.samplesperpixel)
        offset, size = page.dataoffsets[index], page.databytecounts[index]
        if size == 0:  # a tile without data is empty background
            return np.full((*shape[:2], 1 if shape[2] == 1 else 3), _white(colours.dtype), colours.dtype)
        with decoding(path, f"the tile in row {row}, column {column}"):
            with file.lock:
                file.seek(offset)
                data = file.read(size)
            tile = np.asarray(page.decode(data, index, jpegtables=page.jpegtables)[0])[0, : shape[0], : shape[1]]
            if tile.shape != shape:
                msg = f"{tile.shape[1]} x {tile.shape[0]} px of {tile.shape[2]} samples where {shape[1]} x {shape[0]} of {shape[2]} are stated"
                raise ValueError(msg)
            return tile if colours.convert is None else colours.convert(tile)

    def fetch(blocks: list[Block]) -> list[NDArray[np.generic]]:
        return [fetch_tile(*block) for block in blocks]

    return BlockLevel(rows, columns, fetch, axis=2, dtype=colours.dtype, cache=cache)


def zarr_level(array: zarr.Array, axes: str, dims: str, colours: Colours, path: Path, cache: BlockCache) -> BlockLevel:
    """A level over a zarr array, in whole chunks of at least 256 px; `dims` are those of its `axes` that are a picture."""
    axis = None if len(dims) == 2 else 0 if dims[0] not in "YX" else 2
    y, x = axes.index("Y"), axes.index("X")
    edges = [chunk * -(-_MIN_BLOCK // chunk) for chunk in (array.chunks[y], array.chunks[x])]

    def fetch_block(row: int, column: int) -> NDArray[np.generic]:
        window = {
            "Y": slice(row * edges[0], (row + 1) * edges[0]),
            "X": slice(column * edges[1], (column + 1) * edges[1]),
        }
        with decoding(path, f"the part in row {row}, column {column}"):
            block = np.asarray(array[tuple(window.get(name, slice(None) if name in dims else 0) for name in axes)])
            if colours.convert is None:
                return block
            return colours.convert(
                np.moveaxis(block, 0, -1) if axis == 0 else block[..., None] if axis is None else block
            )

    def fetch(blocks: list[Block]) -> list[NDArray[np.generic]]:
        return [fetch_block(*block) for block in blocks]

    rows, columns = block_sizes(array.shape[y], edges[0]), block_sizes(array.shape[x], edges[1])
    return BlockLevel(
        rows, columns, fetch, axis=axis if colours.convert is None else 2, dtype=colours.dtype, cache=cache
    )


def subsampled_level(page: tifffile.TiffPage, colours: Colours, path: Path, cache: BlockCache) -> BlockLevel:
    """A level over a page that stores less chroma than luma, decoded as a whole."""

    def fetch(blocks: list[Block]) -> list[NDArray[np.generic]]:
        with decoding(path):
            return [decode_subsampled(page, colours) for _ in blocks]

    return BlockLevel([page.imagelength], [page.imagewidth], fetch, axis=2, dtype=colours.dtype, cache=cache)


def decode_subsampled(page: tifffile.TiffPage, colours: Colours) -> NDArray[np.generic]:
    """All pixels of a page of strips of units: some Y, one Cb, one Cr (TIFF 6.0, section 21)."""
    from tifffile import TIFF

    across, down = subsampling(page)
    height, width = page.imagelength, page.imagewidth
    if page.is_tiled or page.predictor != 1 or page.samplesperpixel != 3 or page.bitspersample != 8:
        msg = "YCbCr with less colour than light is read from strips of 8 bit alone; write it as RGB"
        raise ValueError(msg)
    decompress = bytes if page.compression == 1 else TIFF.DECOMPRESSORS[page.compression]
    file, parts = page.parent.filehandle, []
    for number, (offset, size) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
        rows = min(page.rowsperstrip, height - number * page.rowsperstrip)
        with file.lock:
            file.seek(offset)
            data = file.read(size)
        shape = (-(-rows // down), -(-width // across), across * down + 2)
        units = np.frombuffer(decompress(data), np.uint8, int(np.prod(shape))).reshape(shape)
        squares = units[..., :-2].reshape(*shape[:2], down, across).swapaxes(1, 2)
        luma = squares.reshape(shape[0] * down, shape[1] * across, 1)
        chroma = units[..., -2:].repeat(down, axis=0).repeat(across, axis=1)
        parts.append(np.concatenate([luma, chroma], axis=-1)[:rows, :width])
    samples = np.concatenate(parts)
    return samples if colours.convert is None else colours.convert(samples)
