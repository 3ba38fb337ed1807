"""Dask arrays over the levels of image files, levels over arrays, and image elements whose pixels are changed when they are read."""

from __future__ import annotations

import re
import zlib
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from histocell._core.errors import listing
from histocell._core.forks import is_forked
from histocell.images.files import check_path, file_stamp, is_decoded_whole, open_file
from histocell.images.intensities import Range, needs_range
from histocell.images.levels import ArrayLevel, BlockCache, BlockLevel, block_sizes, share_range
from histocell.images.pixels import channel_axis, to_rgb
from histocell.images.transformations import element_scales

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import dask.array as da
    from numpy.typing import NDArray
    from xarray import DataArray, DataTree

    from histocell.images.intensities import IntensityRange
    from histocell.images.levels import Block, ImageFile, Level

_CHUNK = 2048
_N_OPEN = 8  # slides that stay open between the chunks that are read of them
_OPEN_CACHE_BYTES = 64 * 2**20
# The name of a dask array that holds a level of a file, and nothing else, says all that is needed to read it.
_NAME = "histocell-image-{level}-{mtime}-{size}-{low},{high},{sampled},{path}"
_NAMED = re.compile(
    r"histocell-image-(?P<level>\d+)-(?P<mtime>\d+)-(?P<size>\d+)-(?P<low>[^,]*),(?P<high>[^,]*),(?P<sampled>\d?),(?P<path>.+)",
    re.DOTALL,
)


def is_dask(source: object) -> TypeGuard[da.Array]:
    """Whether an object is a dask array."""
    return hasattr(source, "__dask_graph__")


def file_arrays(path: Path, intensity_range: Sequence[float] | None = None) -> list[da.Array]:
    """The levels of a file as lazy arrays (c, y, x) of 8-bit RGB, finest first as in the file.

    The arrays keep no file open, in this process or another: a chunk opens its file again when it is read. Where pixels
    have more than 8 bit, all chunks have one range of values, the given one or that of a sample of the image.
    """
    import dask.array as da

    path = path.absolute()
    mtime, size = file_stamp(path)
    file = open_file(path, intensity_range=intensity_range)
    values = None if file.values is None else file.values.bounds
    low, high, sampled = ("", "", "") if values is None else (values.low, values.high, int(values.is_sampled))
    return [
        da.map_blocks(
            _read_chunk,
            path=str(path),
            stamp=(mtime, size),
            level=number,
            intensity_range=values,
            chunks=((3,), *(tuple(block_sizes(length, _CHUNK)) for length in level.shape)),
            dtype=np.uint8,
            meta=np.empty((0, 0, 0), dtype=np.uint8),
            name=_NAME.format(level=number, mtime=mtime, size=size, low=low, high=high, sampled=sampled, path=path),
        )
        for number, level in enumerate(file.levels)
    ]


def _read_chunk(
    path: str, stamp: tuple[int, int], level: int, intensity_range: Range | None, block_info: Any = None
) -> NDArray[np.uint8]:
    """One chunk of a file, read wherever dask runs it; `block_info` is dask's."""
    (_, (y0, y1), (x0, x1)) = block_info[None]["array-location"]
    file = _unchanged(path, stamp)
    # what is decoded whole is kept, or not, by its reader
    opened = (
        open_file(file, intensity_range=intensity_range)
        if is_decoded_whole(file)
        else _keep_open(path, stamp, intensity_range)
    )
    return opened.levels[level].window(y0, x0, y1, x1).transpose(2, 0, 1)


def _unchanged(path: str, stamp: tuple[int, int]) -> Path:
    file = check_path(path)
    if file_stamp(file) != stamp:
        msg = f"{file} changed since it was opened; read it again"
        raise OSError(msg)
    return file


@lru_cache(maxsize=_N_OPEN)
def _keep_open(path: str, stamp: tuple[int, int], intensity_range: Range | None) -> ImageFile:
    """A file that was opened lately; one that falls out closes when the last chunk that is read from it is done."""
    return open_file(path, cache=BlockCache(_OPEN_CACHE_BYTES), intensity_range=intensity_range)


def array_levels(
    arrays: Sequence[NDArray[np.generic] | da.Array],
    dims: Sequence[str] | None,
    intensity_range: Sequence[float] | None = None,
) -> tuple[Sequence[Level], IntensityRange | None]:
    """Levels over arrays of one image, and the values of black and white where it has more than 8 bit.

    Arrays from `file_arrays` that were neither cut nor changed are read from their file, which spares what dask does for
    each chunk.

    Parameters
    ----------
    arrays
        Numpy or dask arrays.
    dims
        Names of their axes, where known.
    intensity_range
        The values of black and white; by default found in a sample of the image.
    """
    names = [_NAMED.fullmatch(str(getattr(array, "name", ""))) for array in arrays]
    facts = [name.groupdict() for name in names if name]
    same = {tuple(value for name, value in fact.items() if name != "level") for fact in facts}
    if len(facts) == len(arrays) and len(same) == 1:
        fact = facts[0]
        path = _unchanged(fact["path"], (int(fact["mtime"]), int(fact["size"])))
        values = Range(float(fact["low"]), float(fact["high"]), fact["sampled"] == "1") if fact["low"] else None
        file = open_file(path, intensity_range=values if intensity_range is None else intensity_range)
        return [file.levels[int(fact["level"])] for fact in facts], file.values
    cache = BlockCache()
    levels = [array_level(array, dims, cache) for array in arrays]
    return levels, share_range(levels, intensity_range)


def array_level(
    array: NDArray[np.generic] | da.Array, dims: Sequence[str] | None, cache: BlockCache
) -> ArrayLevel | BlockLevel:
    """A level over an array; each chunk of a dask array is computed when a window first needs it."""
    if not is_dask(array):
        return ArrayLevel(np.asarray(array), dims)
    axis = channel_axis(array.shape, dims)
    first = 1 if axis == 0 else 0

    def fetch(blocks: list[Block]) -> list[NDArray[np.generic]]:
        import dask

        chosen = [array.blocks[(slice(None), *block) if axis == 0 else block] for block in blocks]
        # an array of one chunk is computed as it is; dask would copy the chunk of an array
        tasks = [part.to_delayed().item() if part.npartitions == 1 else part for part in chosen]
        try:
            # one block on this thread; several in one graph, so that what they share is computed once
            return list(dask.compute(*tasks, scheduler="synchronous" if len(tasks) == 1 or is_forked() else "threads"))
        except (RuntimeError, EOFError, zlib.error) as error:  # of the codecs of zarr
            where = listing((f"row {row}, column {column}" for row, column in blocks), 3)
            msg = (
                f"chunks of the image cannot be computed ({where}): {type(error).__name__}: {error}; the store that they lie "
                "in is damaged, write it again"
            )
            raise OSError(msg) from error

    rows, columns = array.chunks[first : first + 2]
    return BlockLevel(rows, columns, fetch, axis=axis, dtype=array.dtype, cache=cache)


def file_behind(arrays: Sequence[NDArray[np.generic] | da.Array]) -> Path | None:
    """The file that arrays from `file_arrays` are read from, `None` for others."""
    names = [_NAMED.fullmatch(str(getattr(array, "name", ""))) for array in arrays]
    paths = {name["path"] if name else None for name in names}
    path = paths.pop() if len(paths) == 1 else None
    return None if path is None else Path(path)


def changed_element(
    element: DataArray | DataTree,
    change: Callable[[NDArray[np.uint8], float], NDArray[np.uint8]],
    *,
    mpp: float,
    intensity_range: tuple[float, float] | None,
    reach_px: Callable[[float], int] | None = None,
) -> DataArray | DataTree:
    """An image element like another, of RGB pixels that are changed when they are asked for.

    Parameters
    ----------
    element
        The image.
    change
        Makes of an image ``(h, w, 3)`` and its um per px another of the same shape; called block by block, at each scale.
    mpp
        um per px of the finest scale.
    intensity_range
        The values of black and white where pixels have more than 8 bit, as where windows of the slide are read.
    reach_px
        How far a changed pixel depends on its surroundings, in px of so many um.
    """
    from xarray import Dataset, DataTree

    scales = element_scales(element)
    values = None if intensity_range is None else Range(*intensity_range)
    width = scales[0].sizes["x"]
    changed = [_changed_scale(scale, change, mpp * width / scale.sizes["x"], values, reach_px) for scale in scales]
    if not hasattr(element, "children"):
        return changed[0]
    named = zip(element.children, changed, strict=True)
    return DataTree.from_dict({name: Dataset({"image": scale}) for name, scale in named})


def _changed_scale(
    scale: DataArray,
    change: Callable[[NDArray[np.uint8], float], NDArray[np.uint8]],
    mpp: float,
    values: Range | None,
    reach_px: Callable[[float], int] | None,
) -> DataArray:
    """One scale; coordinates and transformations as they are, channels r, g, b."""
    import dask.array as da
    from xarray import DataArray

    def rgb(block: NDArray[Any]) -> NDArray[np.uint8]:
        image = to_rgb(block, channel_axis(block.shape, ("c", "y", "x")), values if needs_range(scale.dtype) else None)
        return np.moveaxis(image, -1, 0)

    def changed(block: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.moveaxis(change(np.moveaxis(block, 0, -1), mpp), -1, 0)

    pixels = da.asarray(scale.data).rechunk({0: -1})
    out: dict[str, Any] = {"dtype": np.uint8, "meta": np.empty((0, 0, 0), np.uint8)}
    blocks = da.map_blocks(rgb, pixels, chunks=((3,), *pixels.chunks[1:]), **out)
    reach = 0 if reach_px is None else min(reach_px(mpp), *pixels.shape[1:])
    blocks = da.map_overlap(changed, blocks, depth=(0, reach, reach), boundary="nearest", **out)
    axes = {axis: scale.coords[axis] for axis in ("y", "x") if axis in scale.coords}
    coords = {"c": ["r", "g", "b"], **axes}
    return DataArray(blocks, dims=scale.dims, coords=coords, name=scale.name, attrs=deepcopy(scale.attrs))
