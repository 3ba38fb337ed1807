"""Numbers that users give: lengths, counts and shares, each an error that names it where it is none."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Literal

import numpy as np

_RANGES = {"[]": "from 0 to 1", "[)": "from 0 to below 1", "()": "between 0 and 1"}


def check_positive(value: object, name: str) -> float:
    """A length or a scale as a float, if it is one: a finite number above 0, not its text."""
    if not isinstance(value, Real) or isinstance(value, bool):
        msg = f"{name} must be a positive number, not {value!r}"
        raise TypeError(msg)
    length = float(value)
    if not 0 < length < np.inf:
        msg = f"{name} must be a positive number, not {value}"
        raise ValueError(msg)
    return length


def check_count(value: object, name: str, *, least: int = 0) -> int:
    """A whole number of at least `least`."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        msg = f"{name} must be a whole number, not {value!r}"
        raise TypeError(msg)
    if value < least:
        msg = f"{name} must be at least {least}, not {value}"
        raise ValueError(msg)
    return int(value)


def check_share(value: object, name: str, *, ends: Literal["[]", "[)", "()"] = "[]") -> float:
    """A number from 0 to 1; `ends` says which of the two it may be."""
    if not isinstance(value, Real) or isinstance(value, bool):
        msg = f"{name} must be a number {_RANGES[ends]}, not {value!r}"
        raise TypeError(msg)
    share = float(value)
    if not 0 <= share <= 1 or (share == 0 and ends == "()") or (share == 1 and ends != "[]"):
        msg = f"{name} must be a number {_RANGES[ends]}, not {value}"
        raise ValueError(msg)
    return share
