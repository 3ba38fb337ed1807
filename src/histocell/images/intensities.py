"""Values of black and white in images of more than 8 bit."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from histocell._core.errors import warn
from histocell._core.settings import logger

if TYPE_CHECKING:
    from collections.abc import Callable

    type Range = tuple[float, float]


def needs_range(dtype: np.dtype) -> bool:
    """Whether values of `dtype` have to be looked at before they can become 8 bit."""
    return dtype != np.uint8 and dtype != np.bool_


def extremes(pixels: np.ndarray, axis: int | None) -> Range:
    """Smallest and largest value of the colours, NaN where any value is; `axis` is that of the channels."""
    colours = pixels if axis is None else pixels[:3] if axis == 0 else pixels[..., :3]
    return float(colours.min()), float(colours.max())


def range_of(low: float, high: float, dtype: np.dtype) -> Range:
    """The values that are black and white in an image, from the smallest and largest of a sample of it.

    Floats up to 1 are fractions of white. Integers wider than 8 bit are read with the smallest of 8, 10, 12, 14, 16
    bits that holds the sample: brightfield background is close to white, so the sample shows the range.
    """
    give = "give intensity_range=(low, high), the values of black and white"
    if not (low >= 0 and np.isfinite(high)):
        msg = f"pixel values between {low:g} and {high:g} (or missing) are no brightfield image; expected 0-255 or 0-1, else {give}"
        raise ValueError(msg)
    if np.issubdtype(dtype, np.floating):
        if high <= 1 + 1e-6:
            return 0.0, 1.0
        if 16 <= high <= 255:
            return 0.0, 255.0
        msg = f"float pixels reach {high:g}; expected fractions (0-1) or 8-bit values (0-255), else {give}"
        raise ValueError(msg)
    for bits in (8, 10, 12, 14, 16):
        if high < 2**bits:
            return 0.0, float(2**bits - 1)
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
        self, given: Range | None, measure: Callable[[], Range], *, dtype: np.dtype, name: str = "the image"
    ) -> None:
        self._known = None if given is None else check_range(given)
        self._may_exceed = given is None  # and has not been said to be exceeded
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
                    *self._known,
                )
            return self._known

    def check(self, pixels: np.ndarray, axis: int | None) -> Range:
        """The range, once `pixels` were looked at for values that it does not hold."""
        bounds = self.bounds
        if not self._may_exceed and pixels.dtype.kind != "f":
            return bounds
        highest = extremes(pixels, axis)[1]
        if np.isnan(highest):
            msg = f"{self._name}: pixels are missing (NaN); fill them, for example with the background"
            raise ValueError(msg)
        if highest > bounds[1] and self._may_exceed:
            self._may_exceed = False  # said once
            warn(
                f"{self._name}: values reach {highest:g}, but a sample of the image showed a range of {bounds[0]:g} to "
                f"{bounds[1]:g}; what is above is read as white. Give intensity_range=(low, high)."
            )
        return bounds


def check_range(given: Range) -> Range:
    """The values of black and white as floats, if they can be that."""
    try:
        values = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape != (2,) or not np.isfinite(values).all() or not values[0] < values[1]:
        msg = f"intensity_range must be two numbers, the values of black and of white, not {given!r}"
        raise ValueError(msg)
    low, high = values.tolist()
    return low, high
