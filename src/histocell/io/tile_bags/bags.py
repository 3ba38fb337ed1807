"""Tiles of slides wherever they lie: in a table, in results of `embed_cohort`, or in arrays of the user."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histocell._core import keys
from histocell._core.errors import listing, missing_key, reading
from histocell.models.slides.bags import Bag, check_dims
from histocell.tables.access import get_table, is_spatialdata, row_labels

if TYPE_CHECKING:
    from anndata import AnnData

    from histocell._core.types import JSON
    from histocell.models.slides.bags import Rows
    from histocell.tables.access import Data

    type Source = Data | str | Path | Mapping[str, str | Path | Rows]

_PREFIX = "X_"


@dataclass(frozen=True)
class Bags:
    """The tiles of several slides.

    Attributes
    ----------
    of
        Bag of each slide, by its name.
    key
        Name of the embedding.
    facts
        What is recorded of the embedding, the same for all slides.
    table
        The table of the tiles, where they lie in one.
    """

    of: dict[str, Bag]
    key: str
    facts: JSON
    table: AnnData | None = None

    @classmethod
    def open(
        cls, source: Source, features: str | None, *, slide_key: str | None = None, table_key: str | None = None
    ) -> Bags:
        """The tiles of a table, a folder, or a mapping from names to folders or arrays; nothing of them is read yet.

        Raises
        ------
        KeyError
            When the embedding or the column of the slides is not there.
        ValueError
            When there is no slide, or slides were embedded by several encoders.
        """
        if is_spatialdata(source) or hasattr(source, "obsm"):
            return _of_table(get_table(source, table_key), features, slide_key)
        if isinstance(source, str | Path):
            source = _results(Path(source))
        if not isinstance(source, Mapping) or not source:
            msg = (
                f"tiles must be a table, a folder or a mapping from slides, not {type(source).__name__}, and not empty"
            )
            raise (TypeError if not isinstance(source, Mapping) else ValueError)(msg)
        bags, facts, found = {}, {}, features
        for name, each in source.items():
            if isinstance(each, str | Path):
                array, found, facts[str(name)] = _stored(Path(each), found)
            else:
                array, facts[str(name)] = each, {}
            bags[str(name)] = Bag(array)
        check_dims(bags)
        return cls(bags, found or "X_tiles", _common(facts))

    def select(self, names: list[str]) -> list[Bag]:
        """The bags of slides, in their order.

        Raises
        ------
        KeyError
            When a slide has none.
        """
        if absent := [name for name in names if name not in self.of]:
            raise missing_key("tiles", absent[0], self.of, f"{len(absent)} slides of the table have no tiles there.")
        return [self.of[name] for name in names]


def _of_table(table: AnnData, features: str | None, slide_key: str | None) -> Bags:
    key = _choose(list(table.obsm), features, 'Run hc.pp.embed_image(data, "morphology") first.')
    labels = row_labels(table, slide_key or keys.SECTION, "slide_key= names the column of the slides.")
    array = table.obsm[key]
    array = array.to_numpy() if hasattr(array, "to_numpy") else array
    bags = {str(name): Bag(array, np.flatnonzero(labels == name)) for name in dict.fromkeys(labels)}
    if not bags:
        msg = "the table of tiles has no rows, so there is no slide"
        raise ValueError(msg)
    return Bags(bags, key, keys.read_provenance(table, key), table)


def _results(folder: Path) -> dict[str, Path]:
    """Results of slides in a folder, or the one that it is itself."""
    if folder.suffix == ".zarr":
        return {folder.stem: folder}
    found = {path.stem: path for path in sorted(folder.glob("*.zarr"))} if folder.is_dir() else {}
    if not found:
        what = listing(sorted(path.name for path in folder.iterdir())) if folder.is_dir() else "no such folder"
        msg = f"no slide (<name>.zarr of hc.pp.embed_cohort) in {folder}: {what}"
        raise FileNotFoundError(msg)
    return found


def _stored(path: Path, features: str | None) -> tuple[Rows, str, JSON]:
    """The features of a slide on disk, their name, and what is recorded of them."""
    import zarr

    if not path.exists():
        msg = f"no such slide: {path}"
        raise FileNotFoundError(msg)
    with reading(path, "the embedded slide"):
        found: Any = zarr.open(path, mode="r")
    if isinstance(found, zarr.Array):
        return found, features or "X_tiles", {}
    place = f"tables/{keys.TILE_TABLE}"
    if place not in found:
        msg = f"{path} has no table {keys.TILE_TABLE!r}; hc.pp.embed_cohort(paths, out=...) writes it"
        raise ValueError(msg)
    table = found[place]
    obsm = table["obsm"]
    key = _choose(list(obsm.keys()), features, f"That is what {path} holds.")
    if not isinstance(obsm[key], zarr.Array):
        msg = f'obsm["{key}"] of {path} is no plain array'
        raise TypeError(msg)
    recorded = f"uns/{keys.PROVENANCE}/{key}"
    return obsm[key], key, json.loads(str(table[recorded][()])) if recorded in table else {}


def _choose(there: list[str], features: str | None, hint: str) -> str:
    """The embedding asked for, or the only one."""
    if features is not None:
        if features not in there:
            raise missing_key("obsm", features, there, hint)
        return features
    choices = [key for key in there if key.startswith(_PREFIX)]
    if not choices:
        raise missing_key("obsm", "X_<encoder>", there, hint)
    if len(choices) > 1:
        msg = f'several embeddings: {listing(choices)}; say which with features="{choices[0]}"'
        raise ValueError(msg)
    return choices[0]


def _common(facts: Mapping[str, JSON]) -> JSON:
    """What is recorded of all slides.

    Raises
    ------
    ValueError
        When slides were embedded differently.
    """
    known = {name: each for name, each in facts.items() if each}
    first = next(iter(known.values()), {})
    for field in keys.IDENTITY:
        others = [name for name, each in known.items() if not _same(each.get(field), first.get(field))]
        if others:
            msg = (
                f"the slides were not embedded alike: {field} is {known[others[0]].get(field)} of {listing(others, 3)} and "
                f"{first.get(field)} of {next(iter(known))}. Embed all with one encoder and one size of tiles"
            )
            raise ValueError(msg)
    return dict(first) if len(known) == len(facts) else {}


def _same(one: object, other: object) -> bool:
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-3)
    return one == other
