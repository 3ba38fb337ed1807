"""Settings of models: dataclasses whose fields know their type and their limits."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, cast

from histocell._core.errors import listing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


_KINDS = {"bool": bool, "int": Integral, "float": Real, "str": str}
_WORDS = {"bool": "True or False", "int": "a whole number", "float": "a number", "str": "a string"}


@dataclass(frozen=True)
class Config:
    """Settings that all models know: none."""


def limited[T](
    default: T,
    *,
    least: float = -math.inf,
    most: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    choices: Iterable[str] | None = None,
) -> T:
    """A field of a `Config` with limits: `least` and `most` may be reached, `above` and `below` may not."""
    limits = {"least": least, "most": most, "above": above, "below": below}
    metadata = {"limits": limits, "choices": None if choices is None else tuple(choices)}
    return dataclasses.field(default=default, metadata=metadata)


def make_config[C: Config](cls: type[C], values: Mapping[str, object], owner: str) -> C:
    """A config from settings, each of the type and within the limits of its field.

    Raises
    ------
    TypeError
        For a setting that is unknown or of another type.
    ValueError
        For a value beyond the limits.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    if unknown := [key for key in values if key not in fields]:
        msg = f"{owner} has no setting {listing(unknown)}; it has: {', '.join(fields)}"
        raise TypeError(msg)
    # JSON knows no tuples.
    config = cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
    for name, field in fields.items():
        _check(field, getattr(config, name), f"{owner}: {name}")
    return config


def _check(field: dataclasses.Field[object], value: object, name: str) -> None:
    """Refuse a value of another type, or beyond the limits."""
    kind = str(field.type).removesuffix(" | None")
    if value is None and kind != field.type:
        return
    many = kind.startswith("tuple[")
    kind = kind.removeprefix("tuple[").removesuffix(", ...]")
    if kind not in _KINDS:  # of a config elsewhere; its model has to check it
        return
    values = value if many and isinstance(value, tuple) else (value,)
    if (many and not isinstance(value, tuple)) or not all(_is_a(kind, each) for each in values):
        msg = f"{name} must be {f'a tuple, each {_WORDS[kind]}' if many else _WORDS[kind]}, not {value!r}"
        raise TypeError(msg)
    if (choices := field.metadata.get("choices")) and value not in choices:
        msg = f"{name} must be one of {', '.join(choices)}, not {value!r}"
        raise ValueError(msg)
    limits = field.metadata.get("limits", {})
    if kind in {"int", "float"} and not all(_within(cast("float", each), **limits) for each in values):
        words = {"least": "at least", "most": "at most", "above": "above", "below": "below"}
        what = [f"{words[key]} {limit:g}" for key, limit in limits.items() if math.isfinite(limit)]
        msg = f"{name} must be {' and '.join(what) or 'finite'}, not {value!r}"
        raise ValueError(msg)


def _is_a(kind: str, value: object) -> bool:
    return isinstance(value, _KINDS[kind]) and (kind == "bool" or not isinstance(value, bool))


def _within(
    value: float,
    *,
    least: float = -math.inf,
    most: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
) -> bool:
    return math.isfinite(value) and least <= value <= most and above < value < below
