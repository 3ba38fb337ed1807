"""One lazy reader over everything that can hold an H&E image."""

from __future__ import annotations

import os
import threading
import zlib
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from histocell._core.geometry import check_mpp
from histocell.images.levels import ArrayLevel, BlockCache, dask_level
from histocell.images.pixels import background_colour
from histocell.images.resample import cover, resample

if TYPE_CHECKING:
    from collections.abc import Sequence

    import dask.array as da
    from numpy.typing import NDArray
    from xarray import DataArray, DataTree

    from histocell.images.levels import Level

type ImageSource = str | os.PathLike[str] | NDArray[Any] | da.Array | DataArray | DataTree | SlideImage

_BAND_PIXELS = 2**24  # a larger window is read band by band, so that a whole slide never lies in memory


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
    """

    def __init__(self, levels: Sequence[Level], *, mpp: float | None, mpp_source: str, name: str = "array") -> None:
        self.shape: tuple[int, int] = max((level.shape for level in levels), key=lambda shape: shape[0] * shape[1])
        self.mpp = mpp
        self.mpp_source = mpp_source if mpp is not None else "unknown"
        self._name = name
        self._levels = sorted(
            ((*_factors(self.shape, level.shape), level) for level in levels), key=lambda item: item[0]
        )
        self.levels = [max(y, x) for y, x, _ in self._levels]
        self._background: tuple[int, int, int] | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        height, width = self.shape
        resolution = "mpp unknown" if self.mpp is None else f"{self.mpp:.4g} um/px ({self.mpp_source})"
        levels = ", ".join(f"{factor:g}" for factor in self.levels)
        return f"SlideImage({self._name}: {width} x {height} px (w x h), {resolution}, levels {levels})"

    @property
    def background(self) -> tuple[int, int, int]:
        """Colour of the empty glass: the mode of bright pixels of low saturation, white where there are none."""
        if self._background is None:
            with self._lock:
                if self._background is None:
                    self._background = background_colour(self._sample())
        return self._background

    def _sample(self, grid: int = 12, edge: int = 32) -> NDArray[np.uint8]:
        """Pixels (n, 3) of a grid of small windows over the coarsest level, or all of a small one."""
        level = self._levels[-1][2]
        height, width = level.shape
        if height * width <= 2**20:
            return level.window(0, 0, height, width).reshape(-1, 3)
        tops = np.unique(np.linspace(0, max(0, height - edge), grid).astype(int)).tolist()
        lefts = np.unique(np.linspace(0, max(0, width - edge), grid).astype(int)).tolist()
        # copies: a view would keep the whole block that it was cut from
        windows = [
            np.array(level.window(y, x, min(height, y + edge), min(width, x + edge))) for y in tops for x in lefts
        ]
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
        if out_shape is None:
            scale = 1.0 if mpp is None else self._known_mpp() / mpp
            out_shape = (max(1, round(height * scale)), max(1, round(width * scale)))
        elif mpp is not None:
            msg = "give out_shape= or mpp=, not both"
            raise ValueError(msg)
        rows, columns = out_shape
        if rows == height and columns == width and y0 % 1 == 0 and x0 % 1 == 0:
            return self.padded(self._levels[0][2], (int(y0), int(x0), int(y1), int(x1)), fill)
        y_factor, x_factor, level = self.level_for(min(height / rows, width / columns))
        if rows > 1 and height * width > _BAND_PIXELS * y_factor * x_factor:
            n_bands = min(rows, int(np.ceil(height * width / (_BAND_PIXELS * y_factor * x_factor))))
            cuts = np.linspace(0, rows, n_bands + 1).astype(int).tolist()
            step = height / rows
            return np.concatenate(
                [
                    self._resampled(
                        level, (y0 + a * step, x0, y0 + b * step, x1), (b - a, columns), fill, (y_factor, x_factor)
                    )
                    for a, b in pairwise(cuts)
                ]
            )
        return self._resampled(level, (y0, x0, y1, x1), (rows, columns), fill, (y_factor, x_factor))

    def level_for(self, shrink: float) -> tuple[float, float, Level]:
        """Downsample factors (y, x) and pixels of the coarsest level that need not be enlarged.

        Parameters
        ----------
        shrink
            Level-0 px per px that is wanted.
        """
        return next(item for item in reversed(self._levels) if max(item[:2]) <= max(1.0, shrink * 1.001))

    def fingerprint(self) -> str:
        """A short sum over the size and a sample of the pixels, to tell whether this is the same image as before."""
        return f"{self.shape[0]}x{self.shape[1]}-{zlib.crc32(self._sample().tobytes()):08x}"

    def _known_mpp(self) -> float:
        if self.mpp is None:
            msg = f"{self!r} has no resolution to resample from; open it with mpp= (um per px)"
            raise ValueError(msg)
        return self.mpp

    def _resampled(
        self,
        level: Level,
        window: tuple[float, float, float, float],
        out_shape: tuple[int, int],
        fill: Sequence[int] | None,
        factors: tuple[float, float],
    ) -> NDArray[np.uint8]:
        """A window of a level, resampled to `out_shape`."""
        (y_factor, x_factor), (height, width) = factors, level.shape
        y0, x0, y1, x1 = window[0] / y_factor, window[1] / x_factor, window[2] / y_factor, window[3] / x_factor
        top, bottom = cover(y0, y1, out_shape[0], height)
        left, right = cover(x0, x1, out_shape[1], width)
        pixels = self.padded(level, (top, left, bottom, right), fill)
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


def open_image(source: Any, *, mpp: float | None = None) -> SlideImage:
    """Open anything that holds an H&E image; pixels are read when windows ask for them.

    Parameters
    ----------
    source
        A path to a JPEG, PNG, TIFF, OME-TIFF, Aperio or OpenSlide file; a numpy, dask or xarray array, ``(y, x)``,
        ``(y, x, channel)`` or ``(channel, y, x)``; an image element of a SpatialData, of one or several scales; a
        `SlideImage`.
    mpp
        Micrometres per full-resolution px; wins over what the source says.

    Raises
    ------
    OSError
        If the file is missing, a folder, truncated or damaged.
    ValueError
        If the source is no brightfield image, or states a resolution that no microscope has.
    TypeError
        If it is nothing that can hold an image.
    """
    given = None if mpp is None else check_mpp(mpp)
    if isinstance(source, SlideImage):
        if given is None or given == source.mpp:
            return source
        return SlideImage([item[2] for item in source._levels], mpp=given, mpp_source="argument", name=source._name)
    if isinstance(source, str | os.PathLike):
        return _open_path(os.fspath(source), given)
    if hasattr(source, "children") and hasattr(source, "subtree"):
        scales = [next(iter(source[key].data_vars.values())) for key in source.children]
        return _open_element(source, scales, given, "multiscale element")
    if hasattr(source, "dims") and hasattr(source, "data"):
        return _open_element(source, [source], given, "element")
    if hasattr(source, "__dask_graph__"):
        levels: list[Level] = [dask_level(source, None, BlockCache())]
        return SlideImage(levels, mpp=given, mpp_source="argument", name="dask array")
    if isinstance(source, np.ndarray):
        return SlideImage([ArrayLevel(source)], mpp=given, mpp_source="argument")
    hint = '; give one image of it, sdata["he"]' if hasattr(source, "images") else ""
    msg = f"no image in an object of type {type(source).__name__}: expected a path, an array or an image element{hint}"
    raise TypeError(msg)


def _open_path(path: str, mpp: float | None) -> SlideImage:
    from histocell.images.files import open_file

    file = open_file(path, mpp=mpp)
    return SlideImage(file.levels, mpp=file.mpp, mpp_source=file.mpp_source, name=os.path.basename(path))  # noqa: PTH119


def _open_element(element: Any, scales: Sequence[Any], mpp: float | None, name: str) -> SlideImage:
    """An xarray image; what SpatialData calls an image element."""
    from histocell.images.files import levels_behind
    from histocell.images.resolution import element_mpp

    levels = levels_behind([getattr(scale.data, "name", "") for scale in scales])
    if levels is None:
        cache = BlockCache()
        levels = [
            dask_level(scale.data, scale.dims, cache)
            if hasattr(scale.data, "__dask_graph__")
            else ArrayLevel(scale.data, scale.dims)
            for scale in scales
        ]
    if mpp is not None:
        return SlideImage(levels, mpp=mpp, mpp_source="argument", name=name)
    return SlideImage(levels, mpp=element_mpp(element), mpp_source="transformation", name=name)
