"""Image files: checks of a path, and the reader for each format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from histocell.images.formats.openslide import open_openslide
from histocell.images.formats.raster import open_raster
from histocell.images.formats.tiff import is_tiff, open_tiff
from histocell.images.levels import BlockCache

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from histocell.images.levels import ImageFile

OPENSLIDE_ONLY = {".mrxs", ".vms", ".vmu", ".svslide", ".dcm"}
_FORMATS = "JPEG, PNG, TIFF, OME-TIFF, Aperio SVS and, with the extra wsi, what OpenSlide reads"


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


def is_decoded_whole(path: Path) -> bool:
    """Whether a window can only be read by decoding the whole file."""
    return path.suffix.lower() not in OPENSLIDE_ONLY and not is_tiff(path)


def open_file(
    path: str | Path, *, cache: BlockCache | None = None, intensity_range: Sequence[float] | None = None
) -> ImageFile:
    """Open an image file; pixels are read when windows ask for them.

    Parameters
    ----------
    path
        The file.
    cache
        Where the tiles of a TIFF are kept.
    intensity_range
        The values of black and white in pixels of more than 8 bit; by default found in a sample of the image.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        If there is no such file.
    OSError
        If the file is damaged or truncated.
    ValueError
        If no reader knows its format, or it is no picture that can become RGB.
    """
    from PIL import UnidentifiedImageError

    path = check_path(path)
    if path.suffix.lower() in OPENSLIDE_ONLY:
        return open_openslide(path)
    if is_tiff(path):
        return open_tiff(path, BlockCache() if cache is None else cache, intensity_range)
    try:
        return open_raster(path, file_stamp(path), intensity_range)
    except UnidentifiedImageError as error:
        try:
            return open_openslide(path)
        except (ImportError, ValueError):
            msg = f"{path} is no image that can be read ({_FORMATS})"
            raise ValueError(msg) from error
