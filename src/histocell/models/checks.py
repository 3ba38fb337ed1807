"""Checks of a model that was read: its config and weights must be such as `Model.save` writes."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from histocell._core.errors import listing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from histocell._core.types import JSON, Arrays

FORMAT, READABLE = (
    3,
    (1, 2, 3),
)  # 2 has the rows of the fit, 3 features that are cut off, novelty and the root of targets
_TEXT, _NUMBER, _NONE = (str,), (int, float), (type(None),)
_KEYS: dict[str, tuple[type, ...]] = {
    "model": _TEXT,
    "config": (dict,),
    "features": (list,),
    "targets": (list,),
    "facts": (dict,),
    "baselines": (dict,),
}
_MORE_KEYS: dict[str, tuple[type, ...]] = {"format": (int,), "histocell": _TEXT, "arrays": (dict,), "files": (dict,)}
_FACTS: dict[str, tuple[type, ...]] = {  # others are kept as they are
    "task": _TEXT,
    "target": _TEXT,
    "standardize_by": (*_TEXT, *_NONE),
    "beside_raw": (bool,),
    "group_key": (*_TEXT, *_NONE),
    "original_names": (dict, *_NONE),
    "groups": (list,),
}
_NUMERIC = "biuf"


def parse(text: str | bytes, name: str) -> JSON:
    """The JSON object in a text."""
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except RecursionError as error:
        msg = f"{name} is nested without end"
        raise ValueError(msg) from error
    except ValueError as error:
        msg = f"{name} is no valid JSON ({error}); it is truncated or was changed"
        raise ValueError(msg) from error
    return _is(value, (dict,), name)


def check_config(config: JSON, *, name: str = "config") -> None:
    """Refuse a config with keys, types or names that none of ours has."""
    known = _KEYS | _MORE_KEYS
    if absent := [key for key in _KEYS if key not in config]:
        msg = f"{name} lacks {listing(absent)}"
        raise ValueError(msg)
    if unknown := [key for key in config if key not in known]:
        msg = f"{name} has unknown keys: {listing(unknown)}; known are {listing(known)}"
        raise ValueError(msg)
    for key, value in config.items():
        _is(value, known[key], f"{name}: {key}")
    for key, kinds in _FACTS.items():
        if key in config["facts"]:
            _is(config["facts"][key], kinds, f"{name}: {key} in facts")
    targets = [_is(target, _TEXT, f"{name}: each of the targets") for target in config["targets"]]
    if twice := [target for target, count in Counter(targets).items() if count > 1]:
        msg = f"{name} names targets more than once: {listing(twice)}"
        raise ValueError(msg)
    for feature in config["features"]:
        _is(feature, (dict,), f"{name}: each of the features")
        _is(feature.get("key"), _TEXT, f"{name}: the key of features")
        if _is(feature.get("dim"), (int,), f"{name}: the dim of features {feature['key']!r}") < 1:
            msg = f"{name}: the dim of features {feature['key']!r} is {feature['dim']}"
            raise ValueError(msg)
        columns = _is(feature.get("columns", []), (list,), f"{name}: the columns of features {feature['key']!r}")
        if "columns" in feature and (len(set(map(str, columns))) != len(columns) or len(columns) != feature["dim"]):
            msg = f"{name}: features {feature['key']!r} must have {feature['dim']} columns of different names"
            raise ValueError(msg)
    for each, baseline in config["baselines"].items():
        check_config(_is(baseline, (dict,), f"{name}: baseline {each!r}"), name=f"{name} of the baseline {each!r}")
        if baseline["baselines"]:
            msg = f"{name}: the baseline {each!r} has baselines itself"
            raise ValueError(msg)


def check_arrays(config: JSON, weights: Arrays) -> None:
    """Refuse weights that are not those that the config lists, by name, type and shape, or that are not finite."""
    if config.get("format") not in READABLE:
        msg = (
            f"it has format {config.get('format')!r}, this histocell reads formats {listing(READABLE)}; "
            "use the version of histocell that wrote it, or fit again"
        )
        raise ValueError(msg)
    listed, actual = _is(config.get("arrays"), (dict,), "config: arrays"), describe(weights)
    wrong = [
        f"{name}: {actual.get(name, 'missing')}, not {what}"
        for name, what in listed.items()
        if actual.get(name) != what
    ]
    wrong += [f"{name}: not in the config" for name in actual if name not in listed]
    if wrong:
        msg = f"the weights are not those of this model: {listing(wrong, 5)}"
        raise ValueError(msg)
    check_numbers(weights, "weights")
    if bad := [name for name, array in weights.items() if not np.isfinite(array).all()]:
        msg = f"the weights hold NaN or infinite values: {listing(bad, 5)}"
        raise ValueError(msg)


def check_numbers(arrays: Arrays, what: str) -> None:
    """Refuse arrays of anything but numbers."""
    if bad := [f"{name} ({array.dtype})" for name, array in arrays.items() if array.dtype.kind not in _NUMERIC]:
        msg = f"{what} must be numbers: {listing(bad, 5)}"
        raise ValueError(msg)


def check_shapes(weights: Arrays, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse weights that do not fit together."""
    wrong = [
        f"{name}: {list(weights[name].shape) if name in weights else 'missing'}, not {list(shape)}"
        for name, shape in expected.items()
        if name not in weights or weights[name].shape != shape
    ]
    if wrong:
        msg = f"the weights do not fit together, by their settings, features and targets: {listing(wrong, 5)}"
        raise ValueError(msg)


def describe(arrays: Arrays) -> dict[str, list[Any]]:
    """Type and shape of each array."""
    return {name: [array.dtype.name, *array.shape] for name, array in arrays.items()}


def _unique(pairs: Iterable[tuple[str, object]]) -> JSON:
    """A JSON object, if it names nothing twice."""
    pairs = list(pairs)
    if twice := [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]:
        msg = f"{listing(twice)} more than once"
        raise ValueError(msg)
    return dict(pairs)


def _is(value: Any, kinds: tuple[type, ...], what: str) -> Any:
    """A value, if it has one of the types that JSON gives it."""
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        words = {str: "a text", dict: "an object", list: "a list", int: "a whole number", type(None): "null"}
        msg = f"{what} must be {' or '.join(words[kind] for kind in kinds)}, not {str(value)[:60]!r}"
        raise ValueError(msg)
    return value
