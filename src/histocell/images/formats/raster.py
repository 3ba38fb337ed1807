"""JPEG, PNG and other formats that Pillow decodes whole."""

from __future__ import annotations

import struct
import threading
import weakref
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from histocell._core.errors import damaged
from histocell.images.formats.colours import cmyk_to_rgb
from histocell.images.formats.damage import check_claim, check_size, decoding
from histocell.images.formats.orientation import Turn, turn_of
from histocell.images.levels import FileLevel, ImageFile, share_range

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile as PillowFile

    type Stamp = tuple[int, int]

_PNG = b"\x89PNG\r\n\x1a\n"
_ORIENTATION = 0x0112
_DTYPES = {"1": np.bool_, "I;16": np.uint16, "I;16B": np.uint16, "I": np.int32, "F": np.float32}  # others are 8 bit

# Decoded files that are in use somewhere, and the one that was asked for last.
_decoded: weakref.WeakValueDictionary[tuple[Path, Stamp], NDArray[np.generic]] = weakref.WeakValueDictionary()
_last_decoded: list[NDArray[np.generic]] = []
_decoding = threading.Lock()


def open_raster(path: Path, stamp: Stamp, intensity_range: Sequence[float] | None = None) -> ImageFile:
    """Open a file with Pillow; `stamp` tells versions of a file apart.

    Raises
    ------
    PIL.UnidentifiedImageError
        If Pillow does not know the format.
    """
    from PIL import UnidentifiedImageError

    with decoding(path, passing=(UnidentifiedImageError,)), _open(path) as image:
        size, mode, n_bands, turn = image.size, image.mode, len(image.getbands()), _turn(path, image)
    height, width = turn.shape((size[1], size[0]))
    check_size(path, (height, width), whole=True)
    check_claim(path, height * width * n_bands, stamp[1])
    levels = [FileLevel((height, width), np.dtype(_DTYPES.get(mode, np.uint8)), partial(decode, path, stamp, turn))]
    values = share_range(levels, intensity_range, name=path.name)
    return ImageFile(levels, lambda: (None, "unknown"), values)


def decode(path: Path, stamp: Stamp, turn: Turn) -> NDArray[np.generic]:
    """All pixels of a file, upright, decoded once for all who hold it."""
    with _decoding:
        pixels = _decoded.get((path, stamp))
        if pixels is None:
            pixels = _decoded[path, stamp] = turn.apply(_decode(path))
        _last_decoded[:] = [pixels]
    return pixels


def _decode(path: Path) -> NDArray[np.generic]:
    with decoding(path), _open(path) as image:
        stated = image.size
        image.load()
        if image.size != stated:
            raise damaged(path, "its size is not the stated one")
        return _pixels(image)


def _pixels(image: Image) -> NDArray[np.generic]:
    """Pixels as grey, RGB or RGBA."""
    if image.mode in {"P", "LA", "PA", "La", "RGBa"}:
        return np.array(image.convert("RGBA"))
    if image.mode == "CMYK":
        return cmyk_to_rgb(np.array(image), image.info.get("icc_profile"))
    if image.mode in {"L", "RGB", "RGBA", *_DTYPES}:
        return np.array(image)
    return np.array(image.convert("RGB"))


def _turn(path: Path, image: PillowFile) -> Turn:
    """The turn that EXIF asks for."""
    from PIL.Image import Image

    if image.format == "PNG" and "exif" not in image.info and (exif := _late_exif(path)) is not None:
        image.info["exif"] = exif
    # of a PNG, `image.getexif` would decode all pixels to look for EXIF behind them
    return turn_of(Image.getexif(image).get(_ORIENTATION))


def _late_exif(path: Path) -> bytes | None:
    """EXIF of a PNG that comes after the pixels."""
    with path.open("rb") as file:
        file.seek(len(_PNG))
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"eXIf":
                return b"Exif\0\0" + file.read(length)
            file.seek(length + 4, 1)
    return None


def _open(path: Path) -> PillowFile:
    """Open without Pillow's limit on the size: slides are large on purpose."""
    from PIL import Image, JpegImagePlugin, PngImagePlugin

    with path.open("rb") as file:
        magic = file.read(8)
    # the plugins themselves have no limit; Image.open has, for images from strangers
    if magic.startswith(b"\xff\xd8\xff"):
        return JpegImagePlugin.JpegImageFile(path)
    if magic == _PNG:
        return PngImagePlugin.PngImageFile(path)
    return Image.open(path)
