"""Values of black and white in images of more than 8 bit."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from histocell._core.errors import warn
from histocell._core.settings import logger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Range(NamedTuple):
    """The values of black and white; `is_sampled` where they come from a sample of the image, which may miss some."""

    low: float
    high: float
    is_sampled: bool = False


def needs_range(dtype: np.dtype) -> bool:
    """Whether values of `dtype` have to be looked at before they can become 8 bit."""
    return dtype != np.uint8 and dtype != np.bool_


def extremes(pixels: np.ndarray, axis: int | None) -> tuple[float, float]:
    """Smallest and largest value of the colours, NaN where any value is; `axis` is that of the channels."""
    colours = pixels if axis is None else pixels[:3] if axis == 0 else pixels[..., :3]
    return float(colours.min()), float(colours.max())


def range_of(low: float, high: float, dtype: np.dtype) -> Range:
    """The values that are black and white in an image, from the smallest and largest of a sample of it.

    Floats up to 1 are fractions of white. Integers wider than 8 bit are read with the smallest of 8, 10, 12, 14, 16
    bits that holds the sample: brightfield background is close to white, so the sample shows the range.
    """
    give = "give intensity_range=(low, high), the values of black and white"
    if np.isnan(low):
        msg = "pixels are missing (NaN); fill them, for example with the background"
        raise ValueError(msg)
    if not (low >= 0 and np.isfinite(high)):
        msg = f"pixel values between {low:g} and {high:g} are no brightfield image; expected 0-255 or 0-1, else {give}"
        raise ValueError(msg)
    if np.issubdtype(dtype, np.floating):
        if high <= 1 + 1e-6:
            return Range(0.0, 1.0, is_sampled=True)
        if 16 <= high <= 255:
            return Range(0.0, 255.0, is_sampled=True)
        msg = f"float pixels reach {high:g}; expected fractions (0-1) or 8-bit values (0-255), else {give}"
        raise ValueError(msg)
    for bits in (8, 10, 12, 14, 16):
        if high < 2**bits:
            return Range(0.0, float(2**bits - 1), is_sampled=True)
    msg = f"integer pixels reach {high:g}; expected at most 16 bits, else {give}"
    raise ValueError(msg)


class IntensityRange:
    """The values that become black and white, the same at all levels of an image.

    Parameters
    ----------
    given
        The two values; by default they are found by `range_of` when the first pixels are read.
    measure
        Finds the smallest and the largest value in a sample from all over the image.
    dtype
        Of the pixels.
    name
        Of the image, for messages.
    """

    def __init__(
        self,
        given: Sequence[float] | None,
        measure: Callable[[], tuple[float, float]],
        *,
        dtype: np.dtype,
        name: str = "the image",
    ) -> None:
        self._known = None if given is None else check_range(given)
        self._is_said = False
        self._measure = measure
        self._dtype = dtype
        self._name = name
        self._lock = threading.Lock()

    @property
    def bounds(self) -> Range:
        """The values of black and of white."""
        with self._lock:
            if self._known is None:
                try:
                    self._known = range_of(*self._measure(), self._dtype)
                except ValueError as error:
                    msg = f"{self._name}: {error}"
                    raise ValueError(msg) from error
                logger.info(
                    "%s: values from %g to %g are read as black to white, by a sample of the image; intensity_range= "
                    "gives others",
                    self._name,
                    *self._known[:2],
                )
            return self._known

    def check(self, pixels: np.ndarray, axis: int | None) -> Range:
        """The range, once `pixels` were looked at for values that it does not hold."""
        bounds = self.bounds
        may_exceed = bounds.is_sampled and not self._is_said
        if not may_exceed and pixels.dtype.kind != "f":
            return bounds
        highest = extremes(pixels, axis)[1]
        if np.isnan(highest):
            msg = f"{self._name}: pixels are missing (NaN); fill them, for example with the background"
            raise ValueError(msg)
        if may_exceed and highest > bounds.high:
            self._is_said = True
            warn(
                f"{self._name}: values reach {highest:g}, but a sample of the image showed a range of {bounds.low:g} to "
                f"{bounds.high:g}; what is above is read as white. Give intensity_range=(low, high)."
            )
        return bounds


def check_range(given: Sequence[float]) -> Range:
    """The values of black and white, if they can be that."""
    if isinstance(given, Range):
        return given
    try:
        values = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape != (2,) or not np.isfinite(values).all() or not values[0] < values[1]:
        msg = f"intensity_range must be two numbers, the values of black and of white, not {given!r}"
        raise ValueError(msg)
    low, high = values.tolist()
    return Range(low, high)
