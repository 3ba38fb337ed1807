"""Classes of objects as QuPath names and colours them."""

from __future__ import annotations

import colorsys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_GOLDEN = 0.618  # of a turn: hues of neighbours in a list lie far apart


def class_name(properties: Mapping[str, object], key: str) -> str | None:
    """Class of an object: ``{"name": "Tumor"}``, ``{"names": ["Tumor", "Positive"]}`` or a word; `None` without one."""
    value = properties.get(key)
    if isinstance(value, dict):
        names = value.get("names")
        value = ": ".join(map(str, names)) if isinstance(names, list) else value.get("name")
    if value is None or isinstance(value, list | dict) or value != value:
        return None
    return str(value)


def class_colours(names: Sequence[str], given: Sequence[str] | None = None) -> dict[str, list[int]]:
    """A colour (red, green, blue; 0 to 255) for each class: those that are `given` as hexadecimal text, else different hues."""
    if given is not None and len(given) == len(names) and all(_is_hex(each) for each in given):
        return {name: [int(each[i : i + 2], 16) for i in (1, 3, 5)] for name, each in zip(names, given, strict=True)}
    return {
        name: [round(255 * part) for part in colorsys.hsv_to_rgb(number * _GOLDEN % 1, 0.75, 0.85)]
        for number, name in enumerate(names)
    }


def _is_hex(colour: object) -> bool:
    text = str(colour)
    return len(text) in {7, 9} and text[0] == "#" and all(each in "0123456789abcdefABCDEF" for each in text[1:])
