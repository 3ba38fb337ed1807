"""Arguments that users give: lengths, counts, shares and switches, each an error that names it; names and pairs as lists."""

from __future__ import annotations

from collections.abc import Iterable
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


def check_amount(value: object, name: str) -> float:
    """A finite number of at least 0, as a float."""
    if not isinstance(value, Real) or isinstance(value, bool):
        msg = f"{name} must be a number of at least 0, not {value!r}"
        raise TypeError(msg)
    if not 0 <= (amount := float(value)) < np.inf:
        msg = f"{name} must be a number of at least 0, not {value}"
        raise ValueError(msg)
    return amount


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


def check_switch(value: object, name: str) -> bool:
    """`True` or `False`, not a word for it: ``"no"`` would count as `True`."""
    if not isinstance(value, bool | np.bool_):
        msg = f"{name} must be True or False, not {value!r}"
        raise TypeError(msg)
    return bool(value)


def as_names(value: object) -> list[str]:
    """One name or several as a list; a text is one name, not its letters."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        return [str(value)]
    return [str(name) for name in value]


def as_pairs(value: object, name: str) -> list[tuple[str, str]]:
    """One pair of names or several as a list; two texts are one pair, not the letters of two."""
    items = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    if len(items) == 2 and all(isinstance(item, str) for item in items):
        items = [items]
    pairs = [() if isinstance(item, str) else tuple(as_names(item)) for item in items]
    if any(len(pair) != 2 for pair in pairs):
        msg = f"{name} must be a pair of names, (x, y), or several, [(x, y), ...], not {value!r}"
        raise TypeError(msg)
    return [(pair[0], pair[1]) for pair in pairs]
