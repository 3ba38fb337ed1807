"""Slides as lazy images: windows of 8-bit RGB at any resolution, over files, arrays and image elements."""

from __future__ import annotations

import math
import os
import zlib
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from histocell._core.geometry import check_mpp
from histocell.images.dask_arrays import array_levels, file_behind, is_dask
from histocell.images.files import open_file
from histocell.images.formats.damage import MOST_PIXELS
from histocell.images.pixels import background_colour
from histocell.images.resample import cover, resample
from histocell.images.resolution import element_mpp
from histocell.images.transformations import element_scales, is_image_element

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    import dask.array as da
    from numpy.typing import NDArray
    from xarray import DataArray, DataTree

    from histocell.images.intensities import IntensityRange
    from histocell.images.levels import Level

type ImageSource = str | os.PathLike[str] | NDArray[np.generic] | da.Array | DataArray | DataTree | SlideImage

_BAND_PIXELS = 2**24  # a larger window is read band by band, so that a whole slide never lies in memory


class ScaledLevel(NamedTuple):
    """A level and its downsample factors."""

    y: float
    x: float
    level: Level


class SlideImage:
    """Windows of an image, in 8-bit RGB, at any resolution. Made by `open_image`.

    Attributes
    ----------
    shape
        Height and width in full-resolution (level-0) px.
    mpp
        Micrometres per level-0 px, `None` where nothing says it.
    mpp_source
        What says it: ``"argument"``, ``"ome"``, ``"tiff"``, ``"openslide"``, ``"transformation"`` or ``"unknown"``.
    levels
        Downsample factors that the source holds, 1.0 first.
    path
        The file that all levels are read from, where they are.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        *,
        mpp: float | None,
        mpp_source: str,
        name: str = "array",
        values: IntensityRange | None = None,
    ) -> None:
        self.shape: tuple[int, int] = max((level.shape for level in levels), key=math.prod)
        if min(min(level.shape) for level in levels) < 1 or math.prod(self.shape) > MOST_PIXELS:
            msg = f"{name} of {self.shape[1]} x {self.shape[0]} px is no slide: it has no pixels, or more than any scanner makes"
            raise ValueError(msg)
        self.mpp = mpp
        self.mpp_source = mpp_source if mpp is not None else "unknown"
        self._name = name
        self._values = values
        scaled = [ScaledLevel(*_factors(self.shape, level.shape), level) for level in levels]
        self._levels = sorted(scaled, key=lambda item: item.y)
        self.levels = [max(item.y, item.x) for item in self._levels]
        self._measured: dict[Hashable, object] = {}
        self.path: Path | None = None

    def __repr__(self) -> str:
        height, width = self.shape
        resolution = "mpp unknown" if self.mpp is None else f"{self.mpp:.4g} um/px ({self.mpp_source})"
        levels = ", ".join(f"{factor:g}" for factor in self.levels)
        return f"SlideImage({self._name}: {width} x {height} px (w x h), {resolution}, levels {levels})"

    @property
    def background(self) -> tuple[int, int, int]:
        """Colour of the empty slide: the mode of bright pixels of low saturation, white where there are none."""
        return self.measured("background", lambda: background_colour(self._sample()))

    @property
    def intensity_range(self) -> tuple[float, float] | None:
        """The values that are read as black and white, `None` where pixels have 8 bit."""
        return None if self._values is None else self._values.bounds[:2]

    def measured[T](self, key: Hashable, measure: Callable[[], T]) -> T:
        """What `measure` returns; it is called once for each key as long as the slide is open."""
        if key not in self._measured:
            self._measured[key] = measure()
        return cast("T", self._measured[key])

    def _sample(self, grid: int = 12, edge: int = 32) -> NDArray[np.uint8]:
        """Pixels (n, 3) of a grid of small windows over the coarsest level, or all of a small one."""
        level = self._levels[-1].level
        height, width = level.shape
        if height * width <= 2**20:
            return level.window(0, 0, height, width).reshape(-1, 3)
        tops, lefts = (
            np.unique(np.linspace(0, max(0, length - edge), grid).astype(int)).tolist() for length in (height, width)
        )
        # copies: a view would keep the whole block that it was cut from
        windows = (
            np.array(level.window(y, x, min(height, y + edge), min(width, x + edge))) for y in tops for x in lefts
        )
        return np.concatenate([window.reshape(-1, 3) for window in windows])

    def thumbnail(self, max_px: int = 1024) -> NDArray[np.uint8]:
        """The whole image, its longer edge `max_px` or as long as it is."""
        height, width = self.shape
        scale = min(1.0, max_px / max(height, width))
        out_shape = (max(1, round(height * scale)), max(1, round(width * scale)))
        return self.read(0, 0, height, width, out_shape=out_shape)

    def read(
        self,
        y0: float,
        x0: float,
        y1: float,
        x1: float,
        *,
        out_shape: tuple[int, int] | None = None,
        mpp: float | None = None,
        fill: Sequence[int] | None = None,
    ) -> NDArray[np.uint8]:
        """Pixels of a window.

        Parameters
        ----------
        y0, x0, y1, x1
            The window in level-0 px, with fractions; pixel k covers the interval from k to k + 1. It may leave the image.
        out_shape
            Height and width to resample to: area average when shrinking, linear when enlarging, from the nearest
            finer level. Without it and without `mpp` the window comes as it is.
        mpp
            Micrometres per px to resample to.
        fill
            Colour of what lies outside of the image, by default the `background` of the slide.

        Returns
        -------
        Array (h, w, 3), uint8, RGB; a copy that may be changed.
        """
        height, width = y1 - y0, x1 - x0
        if not (height > 0 and width > 0):
            msg = f"the window y {y0:g} to {y1:g}, x {x0:g} to {x1:g} is empty"
            raise ValueError(msg)
        if out_shape is not None and mpp is not None:
            msg = "give out_shape= or mpp=, not both"
            raise ValueError(msg)
        if mpp is not None and self.mpp is None:
            msg = f"{self!r} has no resolution to resample from; open it with mpp= (um per px)"
            raise ValueError(msg)
        scale = 1.0 if mpp is None or self.mpp is None else self.mpp / mpp
        out_shape = out_shape or (max(1, round(height * scale)), max(1, round(width * scale)))
        rows, columns = out_shape
        if rows == height and columns == width and y0 % 1 == 0 and x0 % 1 == 0:
            return self.padded(self._levels[0].level, (int(y0), int(x0), int(y1), int(x1)), fill)
        scaled = self.level_for(min(height / rows, width / columns))
        n_bands = min(rows, math.ceil(height * width / (_BAND_PIXELS * scaled.y * scaled.x)))
        if n_bands == 1:
            return self._resampled(scaled, (y0, x0, y1, x1), out_shape, fill)
        cuts = np.linspace(0, rows, n_bands + 1).astype(int).tolist()
        step = height / rows
        return np.concatenate(
            [
                self._resampled(scaled, (y0 + a * step, x0, y0 + b * step, x1), (b - a, columns), fill)
                for a, b in pairwise(cuts)
            ]
        )

    def level_for(self, shrink: float) -> ScaledLevel:
        """The coarsest level that need not be enlarged.

        Parameters
        ----------
        shrink
            Level-0 px per px that is wanted.
        """
        return next(item for item in reversed(self._levels) if max(item.y, item.x) <= max(1.0, shrink * 1.001))

    def fingerprint(self) -> str:
        """A short sum over the size and a sample of the pixels; two images may share it, see `identity.image_checksum`."""
        return f"{self.shape[0]}x{self.shape[1]}-{zlib.crc32(self._sample().tobytes()):08x}"

    def _resampled(
        self,
        scaled: ScaledLevel,
        window: tuple[float, float, float, float],
        out_shape: tuple[int, int],
        fill: Sequence[int] | None,
    ) -> NDArray[np.uint8]:
        """A window in level-0 px, resampled from a level to `out_shape`."""
        y0, x0, y1, x1 = window[0] / scaled.y, window[1] / scaled.x, window[2] / scaled.y, window[3] / scaled.x
        top, bottom = cover(y0, y1, out_shape[0], scaled.level.shape[0])
        left, right = cover(x0, x1, out_shape[1], scaled.level.shape[1])
        pixels = self.padded(scaled.level, (top, left, bottom, right), fill)
        return resample(pixels, (y0 - top, y1 - top), (x0 - left, x1 - left), out_shape=out_shape)

    def padded(
        self,
        level: Level,
        window: tuple[int, int, int, int],
        fill: Sequence[int] | None = None,
        *,
        out: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """An integer window of a level, what lies outside of the image filled; written to `out` where it is given."""
        y0, x0, y1, x1 = window
        height, width = level.shape
        inside = y0 >= 0 and x0 >= 0 and y1 <= height and x1 <= width
        if out is None:
            if inside:
                return np.array(level.window(y0, x0, y1, x1), order="C")
            out = np.empty((y1 - y0, x1 - x0, 3), dtype=np.uint8)
        if not inside:
            out[:] = self.background if fill is None else np.asarray(fill, dtype=np.uint8)
        top, left, bottom, right = max(y0, 0), max(x0, 0), min(y1, height), min(x1, width)
        if top < bottom and left < right:
            out[top - y0 : bottom - y0, left - x0 : right - x0] = level.window(top, left, bottom, right)
        return out


def _factors(full: tuple[int, int], shape: tuple[int, int]) -> tuple[float, float]:
    """Downsample factors of a level; whole ones where the shape is a full shape divided and rounded.

    A pyramid that halves 2967 rows to 1483 has the factor 2, not 2.0007.
    """
    factors = []
    for length, short in zip(full, shape, strict=True):
        ratio = length / short
        whole = round(ratio)
        factors.append(float(whole) if abs(length / whole - short) < 1 else ratio)
    return factors[0], factors[1]


def open_image(
    source: ImageSource, *, mpp: float | None = None, intensity_range: Sequence[float] | None = None
) -> SlideImage:
    """Open anything that holds an H&E image; pixels are read when windows ask for them.

    Parameters
    ----------
    source
        A path to a JPEG, PNG, TIFF, OME-TIFF, Aperio or OpenSlide file; a numpy, dask or xarray array, ``(y, x)``,
        ``(y, x, channel)`` or ``(channel, y, x)``; an image element of a SpatialData, of one or several scales; a
        `SlideImage`.
    mpp
        Micrometres per full-resolution px; wins over what the source says.
    intensity_range
        The values of black and white where pixels have more than 8 bit; by default found in a sample of the image.

    Raises
    ------
    OSError
        If the file is missing, a folder, damaged or truncated.
    ValueError
        If the source is no brightfield image, states a resolution that no microscope has, or has 8 bit where
        `intensity_range` is given.
    TypeError
        If it is nothing that can hold an image.
    """
    if mpp is not None:
        mpp = check_mpp(mpp)
    if isinstance(source, SlideImage):
        if intensity_range is not None:
            msg = "the image is open already; give intensity_range= where it is opened"
            raise ValueError(msg)
        if mpp is None or mpp == source.mpp:
            return source
        levels = [item.level for item in source._levels]
        other = SlideImage(levels, mpp=mpp, mpp_source="argument", name=source._name, values=source._values)
        other.path = source.path
        return other
    if isinstance(source, str | os.PathLike):
        return _open_path(Path(source), mpp, intensity_range)
    if is_image_element(source):
        return _open_element(source, mpp, intensity_range)
    if isinstance(source, np.ndarray) or is_dask(source):
        name = "array" if isinstance(source, np.ndarray) else "dask array"
        arrays, values = array_levels([source], None, intensity_range)
        image = SlideImage(arrays, mpp=mpp, mpp_source="argument", name=name, values=values)
        image.path = file_behind([source])
        return image
    hint = '; give one image of it, sdata["he"]' if hasattr(source, "images") else ""
    msg = f"no image in an object of type {type(source).__name__}: expected a path, an array or an image element{hint}"
    raise TypeError(msg)


def _open_path(path: Path, mpp: float | None, intensity_range: Sequence[float] | None) -> SlideImage:
    file = open_file(path, intensity_range=intensity_range)
    try:
        mpp, mpp_source = file.resolution() if mpp is None else (mpp, "argument")
    except ValueError as error:
        msg = f"{path}: {error}"
        raise ValueError(msg) from error
    image = SlideImage(file.levels, mpp=mpp, mpp_source=mpp_source, name=path.name, values=file.values)
    image.path = path.expanduser()
    return image


def _open_element(
    element: DataArray | DataTree, mpp: float | None, intensity_range: Sequence[float] | None
) -> SlideImage:
    scales = element_scales(element)
    name = "element" if scales[0] is element else "multiscale element"
    levels, values = array_levels(
        [scale.data for scale in scales], [str(axis) for axis in scales[0].dims], intensity_range
    )
    mpp_source = "transformation" if mpp is None else "argument"
    mpp = element_mpp(element) if mpp is None else mpp
    image = SlideImage(levels, mpp=mpp, mpp_source=mpp_source, name=name, values=values)
    image.path = file_behind([scale.data for scale in scales])
    return image
