"""JPEG, PNG and other formats that Pillow decodes whole."""

from __future__ import annotations

import threading
import weakref
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from histocell.images.levels import FileLevel, ImageFile

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL.ImageFile import ImageFile as PillowFile

    type Stamp = tuple[int, int]

# Decoded files that are in use somewhere, and the one that was asked for last.
_decoded: weakref.WeakValueDictionary[tuple[Path, Stamp], NDArray[np.generic]] = weakref.WeakValueDictionary()
_last_decoded: list[NDArray[np.generic]] = []
_decoding = threading.Lock()


def open_raster(path: Path, stamp: Stamp) -> ImageFile:
    """Open a file with Pillow, which raises where it does not know the format; `stamp` tells versions of a file apart."""
    with _open(path) as image:
        width, height = image.size
    return ImageFile([FileLevel((height, width), partial(decode, path, stamp))], lambda: (None, "unknown"))


def decode(path: Path, stamp: Stamp) -> NDArray[np.generic]:
    """All pixels of a file, decoded once for all who hold it."""
    with _decoding:
        pixels = _decoded.get((path, stamp))
        if pixels is None:
            pixels = _decoded[path, stamp] = _decode(path)
        _last_decoded[:] = [pixels]
    return pixels


def _decode(path: Path) -> NDArray[np.generic]:
    try:
        with _open(path) as image:
            if image.mode in {"P", "LA", "PA"}:
                return np.array(image.convert("RGBA"))
            if image.mode not in {"1", "L", "RGB", "RGBA", "I;16", "I", "F"}:
                return np.array(image.convert("RGB"))
            return np.array(image)
    except (OSError, SyntaxError) as error:
        msg = f"{path} cannot be decoded, it is truncated or damaged ({error}); copy or download it again"
        raise OSError(msg) from error


def _open(path: Path) -> PillowFile:
    """Open without Pillow's limit on the size: slides are large on purpose."""
    from PIL import Image, JpegImagePlugin, PngImagePlugin

    with path.open("rb") as file:
        magic = file.read(8)
    # the plugins themselves have no limit; Image.open has, for images from strangers
    if magic.startswith(b"\xff\xd8\xff"):
        return JpegImagePlugin.JpegImageFile(path)
    if magic == b"\x89PNG\r\n\x1a\n":
        return PngImagePlugin.PngImageFile(path)
    return Image.open(path)
