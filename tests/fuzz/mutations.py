"""Damage to files and folders: each function changes one file in place and says what it did."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_HDF5, _JSON, _TEXT = {".h5", ".h5ad"}, {".json", ".geojson", ".xenium"}, {".csv", ".tsv"}
_STRANGE = [-1, 0, 1, 0.5, 10**12, 2**31, float("nan"), float("inf"), "", "x", None, [], {}, True]


def damage(path: Path, rng: np.random.Generator) -> str:
    """Damage a file, or a file of a folder, in one of many ways; the way it was done."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        described = [file for file in files if file.suffix in _JSON | _TEXT | _HDF5]
        file = pick(described if described and rng.random() < 0.5 else files, rng)
        if rng.random() < 0.15:
            file.unlink()
            return f"{file.relative_to(path)}: deleted"
        return f"{file.relative_to(path)}: {damage(file, rng)}"
    special: dict[bool, Callable[[Path, np.random.Generator], str]] = {
        path.suffix in _JSON: change_json,
        path.suffix in _TEXT: change_text,
        path.suffix in _HDF5: change_hdf5,
    }
    if True in special and rng.random() < 0.6:
        return special[True](path, rng)
    return change_bytes(path, rng)


def pick[T](values: list[T], rng: np.random.Generator) -> T:
    return values[int(rng.integers(len(values)))]


def change_bytes(path: Path, rng: np.random.Generator) -> str:
    """Cut, flip, blank, exchange or overwrite bytes."""
    data = bytearray(path.read_bytes())
    size = len(data)
    if size < 16:
        path.write_bytes(b"")
        return "emptied"
    way = pick(["cut", "flip", "blank", "swap", "number"], rng)
    if way == "cut":
        keep = int(rng.integers(size)) if rng.random() < 0.8 else int(rng.integers(64))
        data = data[:keep]
        did = f"cut to {keep} of {size} bytes"
    elif way == "flip":
        places = offset(size, rng) + rng.integers(min(size, 256), size=int(rng.integers(1, 17)))
        for place in places % size:
            data[place] ^= 1 << int(rng.integers(8))
        did = f"bits flipped at {sorted(int(place) for place in places)[:4]}"
    elif way == "blank":
        start, length = offset(size, rng), int(rng.integers(1, max(2, size // 8)))
        data[start : start + length] = bytes(len(data[start : start + length]))
        did = f"{length} bytes zeroed at {start}"
    elif way == "swap":
        length = int(rng.integers(1, max(2, size // 8)))
        a, b = sorted(int(place) for place in rng.integers(size - length, size=2))
        length = min(length, max(1, b - a))
        data[a : a + length], data[b : b + length] = data[b : b + length], data[a : a + length]
        did = f"{length} bytes at {a} and {b} exchanged"
    else:
        width, place = pick([1, 2, 4, 8], rng), offset(size, rng) // 2 * 2
        value = pick([0, 1, 2 ** (8 * width - 1), 2 ** (8 * width) - 1, int(rng.integers(2 ** (4 * width)))], rng)
        data[place : place + width] = value.to_bytes(width, "little")
        did = f"{value} written at {place}"
    path.write_bytes(bytes(data))
    return did


def offset(size: int, rng: np.random.Generator) -> int:
    """A place in a file: mostly near its start or end, where headers are."""
    reach = min(size, 2048)
    return int(pick([rng.integers(reach), size - 1 - rng.integers(reach), rng.integers(size)], rng))


def change_json(path: Path, rng: np.random.Generator) -> str:
    """Delete an entry, or give it another value or type."""
    document = json.loads(path.read_bytes())
    places = list(entries(document))
    if not places:
        return change_bytes(path, rng)
    holder, key = pick(places, rng)
    if rng.random() < 0.3:
        did = f"entry {key!r} deleted"
        del holder[key]
    else:
        value = pick(_STRANGE, rng)
        did = f"entry {key!r} is {value!r}, not {str(holder[key])[:60]}"
        holder[key] = value
    path.write_text(json.dumps(document), encoding="utf-8")
    return did


def entries(node: Any) -> Any:
    """All entries of a document, as the list or mapping that holds it and its place in there."""
    pairs = list(node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ())
    for key, value in pairs:
        yield node, key
        yield from entries(value)


def change_text(path: Path, rng: np.random.Generator) -> str:
    """Put something else in place of a number, or delete a line."""
    text = path.read_text(encoding="utf-8")
    numbers = list(re.finditer(r"-?\d+(\.\d+)?", text))
    if not numbers or rng.random() < 0.2:
        lines = text.splitlines(keepends=True)
        number = int(rng.integers(len(lines)))
        path.write_text("".join(lines[:number] + lines[number + 1 :]), encoding="utf-8")
        return f"line {number} deleted"
    found = pick(numbers, rng)
    value = pick(["-1", "0", "1e12", "nan", "inf", "x", "", "1e400", "0.5"], rng)
    path.write_text(text[: found.start()] + value + text[found.end() :], encoding="utf-8")
    return f"{found[0]} at {found.start()} is {value!r}"


def change_hdf5(path: Path, rng: np.random.Generator) -> str:
    """Delete a group, a dataset or an attribute, or give a dataset other values or another shape."""
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        if not names:
            return "has no entries"
        name = pick(names, rng)
        node = file[name]
        attributes = list(node.attrs)
        if attributes and rng.random() < 0.3:
            attribute = pick(attributes, rng)
            del node.attrs[attribute]
            return f"attribute {attribute} of {name} deleted"
        if isinstance(node, h5py.Group) or rng.random() < 0.3:
            del file[name]
            return f"{name} deleted"
        kept, shape = dict(node.attrs), node.shape
        values = pick([np.zeros(3), np.full(shape, -1), np.full(shape, np.nan), np.array("x", dtype="S1")], rng)
        del file[name]
        file[name] = values
        file[name].attrs.update(kept)
        return f"{name} of shape {shape} is {values.dtype} of shape {values.shape}"
