"""Image files: JPEG, PNG and the like by Pillow, TIFF pyramids by tifffile, other slide formats by OpenSlide."""

from __future__ import annotations

import struct
import threading
import weakref
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histocell._core.errors import import_optional
from histocell.images.levels import BlockCache, FileLevel, OpenSlideLevel, zarr_level
from histocell.images.resolution import openslide_mpp, tiff_mpp
from histocell.images.tiff_level import tiff_level

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    from histocell.images.levels import Level

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_OPENSLIDE_ONLY = {".mrxs", ".vms", ".vmu", ".svslide", ".dcm"}
_FORMATS = "JPEG, PNG, TIFF, OME-TIFF, Aperio SVS and, with the extra wsi, what OpenSlide reads"


@dataclass(frozen=True)
class ImageFile:
    """What a file holds: levels from fine to coarse, micrometres per px of the finest and where that was found."""

    levels: list[Level]
    mpp: float | None
    mpp_source: str


def check_path(path: str | os.PathLike[str]) -> Path:
    """The path of an existing file, or an error that says what is wrong."""
    path = Path(path).expanduser()
    if path.is_dir():
        msg = (
            f"{path} is a folder, not an image. A SpatialData store opens with spatialdata.read_zarr(path); then give "
            'its image element, sdata["he"]'
        )
        raise IsADirectoryError(msg)
    if not path.exists():
        parent = next(folder for folder in path.absolute().parents if folder.exists())
        msg = f"image {path} does not exist (the existing part of the path is {parent})"
        raise FileNotFoundError(msg)
    return path


def file_stamp(path: Path) -> tuple[int, int]:
    """Time and size of a file, which tell whether it changed."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def is_tiff(path: Path) -> bool:
    """Whether the file starts like a TIFF (NDPI, SVS and OME-TIFF do)."""
    with path.open("rb") as file:
        return file.read(4) in _TIFF_MAGIC


def open_file(path: str | Path, *, mpp: float | None = None, cache: BlockCache | None = None) -> ImageFile:
    """Open an image file; pixels are read when windows ask for them.

    Parameters
    ----------
    path
        The file.
    mpp
        Micrometres per px; the file is asked only without it.
    cache
        Where the tiles of a TIFF are kept.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        If there is no such file.
    OSError
        If the file is truncated.
    ValueError
        If no reader knows its format.
    """
    path = check_path(path)
    if path.suffix.lower() in _OPENSLIDE_ONLY:
        return _open_openslide(path, mpp)
    if is_tiff(path):
        return _open_tiff(path, mpp, BlockCache() if cache is None else cache)
    return _open_picture(path, mpp)


_lazy: dict[str, tuple[str, tuple[int, int], int]] = {}


def remember_lazy(name: str, path: str, stamp: tuple[int, int], level: int) -> None:
    """Note that the dask array of this name holds a level of a file, and nothing else."""
    _lazy[name] = (path, stamp, level)


def levels_behind(names: list[str]) -> list[Level] | None:
    """The levels of the file that dask arrays of these names hold; `None` where an array is anything else.

    An array that was cut or changed has another name. Reading the file itself spares what dask does for each chunk.

    Parameters
    ----------
    names
        Names of dask arrays.
    """
    found = [_lazy.get(name) for name in names]
    if not found or found[0] is None or any(item is None or item[:2] != found[0][:2] for item in found):
        return None
    path, stamp, _ = found[0]
    levels = open_file(_unchanged(path, stamp), mpp=1.0).levels
    return [levels[item[2]] for item in found if item is not None]


def _unchanged(path: str, stamp: tuple[int, int]) -> Path:
    file = check_path(path)
    if file_stamp(file) != stamp:
        msg = f"{file} changed since it was opened; read it again"
        raise OSError(msg)
    return file


def reopen(path: str, stamp: tuple[int, int]) -> ImageFile:
    """A file for one block of a lazy array: slides stay open between blocks, pictures share what `decode` keeps."""
    file = _unchanged(path, stamp)
    if is_tiff(file) or file.suffix.lower() in _OPENSLIDE_ONLY:
        return _keep_open(path, stamp)
    return open_file(file, mpp=1.0)


@lru_cache(maxsize=8)
def _keep_open(path: str, stamp: tuple[int, int]) -> ImageFile:
    return open_file(path, mpp=1.0, cache=BlockCache(64 * 2**20))


def _picture(path: Path) -> Any:
    """Open with Pillow, without its limit on the size: slides are large on purpose."""
    from PIL import Image, JpegImagePlugin, PngImagePlugin

    with path.open("rb") as file:
        magic = file.read(8)
    # the plugins themselves have no limit; Image.open has, for pictures from strangers
    if magic.startswith(b"\xff\xd8\xff"):
        return JpegImagePlugin.JpegImageFile(path)
    if magic == b"\x89PNG\r\n\x1a\n":
        return PngImagePlugin.PngImageFile(path)
    return Image.open(path)


def _open_picture(path: Path, mpp: float | None) -> ImageFile:
    from PIL import Image

    try:
        with _picture(path) as picture:
            width, height = picture.size
    except (Image.UnidentifiedImageError, SyntaxError) as error:
        try:
            return _open_openslide(path, mpp)
        except (ImportError, ValueError):
            msg = f"{path} is no image that can be read ({_FORMATS})"
            raise ValueError(msg) from error
    level = FileLevel((height, width), partial(decode, path, file_stamp(path)))
    return ImageFile([level], mpp, "argument")


_decoded: weakref.WeakValueDictionary[tuple[Path, tuple[int, int]], NDArray[Any]] = weakref.WeakValueDictionary()
_last_decoded: list[NDArray[Any]] = []
_decoding = threading.Lock()


def decode(path: Path, stamp: tuple[int, int]) -> NDArray[Any]:
    """All pixels of a picture file; decoded once for all who hold it, and the last one is kept."""
    with _decoding:
        pixels = _decoded.get((path, stamp))
        if pixels is None:
            pixels = _decode(path)
            _decoded[path, stamp] = pixels
        _last_decoded[:] = [pixels]
    return pixels


def _decode(path: Path) -> NDArray[Any]:
    try:
        with _picture(path) as picture:
            if picture.mode in {"P", "LA", "PA"}:
                picture = picture.convert("RGBA")
            elif picture.mode not in {"1", "L", "RGB", "RGBA", "I;16", "I", "F"}:
                picture = picture.convert("RGB")
            return np.array(picture)
    except (OSError, SyntaxError) as error:
        msg = f"{path} cannot be decoded, it is truncated or damaged ({error}); copy or download it again"
        raise OSError(msg) from error


def _open_tiff(path: Path, mpp: float | None, cache: BlockCache) -> ImageFile:
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
    levels: list[Level] = []
    for number, level in enumerate(series.levels):
        if (tiles := tiff_level(level, cache)) is not None:
            levels.append(tiles)
            continue
        array = zarr.open(series.aszarr(level=number), mode="r")
        try:
            levels.append(zarr_level(array, level.axes.lower(), cache))
        except ValueError as error:
            msg = f"{path}: {error}"
            raise ValueError(msg) from error
    if mpp is not None:
        return ImageFile(levels, mpp, "argument")
    try:
        return ImageFile(levels, *tiff_mpp(tiff, tiff.series.index(series)))
    except ValueError as error:
        msg = f"{path}: {error}"
        raise ValueError(msg) from error


def _check_complete(path: Path, series: Any) -> None:
    """An error where the pixels that the header promises are not in the file."""
    size = path.stat().st_size
    for level in series.levels:
        for page in level.pages:
            if page is None:
                continue
            ends = np.add(page.dataoffsets, page.databytecounts)
            if len(ends) and ends.max() > size:
                msg = f"{path} is truncated: {size} bytes where {ends.max()} are needed; copy or download it again"
                raise OSError(msg)


def _open_openslide(path: Path, mpp: float | None) -> ImageFile:
    openslide = import_optional("openslide", "wsi")
    try:
        slide = openslide.OpenSlide(path)
    except openslide.OpenSlideError as error:
        msg = f"{path} is no slide that can be read ({error}); readable are {_FORMATS}"
        raise ValueError(msg) from error
    levels: list[Level] = [OpenSlideLevel(slide, number) for number in range(slide.level_count)]
    if mpp is not None:
        return ImageFile(levels, mpp, "argument")
    return ImageFile(levels, *openslide_mpp(slide.properties))
