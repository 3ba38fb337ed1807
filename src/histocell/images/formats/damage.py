"""Damaged image files: one error for whatever a library raises on them, and bounds on what a header may claim."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from histocell._core.errors import damaged, reading

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MOST_PIXELS = 2**38  # 520,000 px along each edge, several times the largest slide
_MOST_PIXELS_WHOLE = 2**32  # more than a JPEG can hold
_LEAST_SUSPECT = 2**28  # bytes; smaller claims cost nothing
_MOST_PER_BYTE = 4096  # bytes that one byte of a file becomes at most; deflate reaches 1032


@contextmanager
def decoding(path: Path | str, what: str = "the file", *, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """As `reading`; what does not fit into memory is an error that names the file, too."""
    try:
        with reading(path, what, passing=passing):
            yield
    except MemoryError as error:
        msg = (
            f"{path}: {what} does not fit into memory; convert the image to a tiled TIFF, which is read piece by piece"
        )
        raise MemoryError(msg) from error


def check_size(path: Path | str, shape: tuple[int, int], *, whole: bool = False) -> None:
    """An error where an image has no pixels, or more than a slide can have; `whole` where all are decoded at once."""
    height, width = shape
    if height < 1 or width < 1:
        raise damaged(path, f"it states a size of {width} x {height} px")
    if height * width > MOST_PIXELS:
        raise damaged(path, f"it states a size of {width} x {height} px, more than any slide has")
    if whole and height * width > _MOST_PIXELS_WHOLE:
        msg = f"{path} has {width} x {height} px, too many for a format that is decoded as a whole; convert it to a tiled TIFF"
        raise ValueError(msg)


def check_claim(path: Path | str, n_bytes: int, stored: int, what: str = "the file") -> None:
    """An error where `stored` bytes cannot become as many as a header claims, before memory is taken for them."""
    if n_bytes > max(_LEAST_SUSPECT, _MOST_PER_BYTE * stored):
        raise damaged(path, f"it claims {n_bytes} bytes of pixels in {stored} bytes", what)
