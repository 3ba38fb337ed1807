"""Embeddings to be compared: keys of a table, folders of files, or encoders that embed patches."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from histocell._core import keys
from histocell._core.errors import listing
from histocell.encoders.adapters.files import is_adapter
from histocell.encoders.loading import load, resolve_encoder
from histocell.encoders.registry import get_spec, list_encoders
from histocell.pp import embed_image
from histocell.tables.access import get_obsm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from histocell.bench.probing.hest_folder import Source
    from histocell.encoders.spec import Encoder
    from histocell.tables.access import Data

    type OneEncoder = str | Path | Encoder
    type Encoders = OneEncoder | Sequence[OneEncoder] | Mapping[str, OneEncoder]


def folder_sources(encoders: Encoders | None, *, device: str | None) -> dict[str, Source]:
    """Where the embeddings of a folder of patches come from, by name."""
    if encoders is None:
        msg = "encoders= names what is probed: encoders, or folders with embeddings"
        raise ValueError(msg)
    sources: dict[str, Source] = {}
    for name, encoder in _named(encoders).items():
        is_path = isinstance(encoder, str | Path) and Path(encoder).expanduser().is_dir() and not is_adapter(encoder)
        if is_path:
            sources[name] = Path(cast("str", encoder)).expanduser()
        else:
            sources[name] = load(str(encoder), device=device) if isinstance(encoder, str | Path) else encoder
    return sources


def cohort_keys(
    data: Data, table: AnnData, encoders: Encoders | None, *, device: str | None, table_key: str | None
) -> dict[str, str]:
    """Keys of ``obsm`` by name of the encoder; what is not there is embedded and written."""
    if encoders is None:
        found = [key for key in table.obsm if key.startswith("X_")]
        if not found:
            msg = f"no embedding X_* in obsm ({listing(table.obsm)}); run hc.pp.embed_image(data, encoder) first, or give encoders="
            raise ValueError(msg)
        encoders = found
    out: dict[str, str] = {}
    for name, encoder in _named(encoders).items():
        key = _key_there(table, encoder)
        if key is None:
            loaded = load(str(encoder), device=device) if isinstance(encoder, str | Path) else resolve_encoder(encoder)
            key = f"X_{keys.safe_key(name)}"
            if key in table.obsm:
                msg = f'obsm["{key}"] is there already, of another encoder; give {loaded.name!r} another name'
                raise ValueError(msg)
            embed_image(data, loaded, key_added=key, table_key=table_key)
        out[name] = key
    return out


def _key_there(table: AnnData, encoder: OneEncoder) -> str | None:
    """The key of ``obsm`` that holds the embeddings of an encoder, if there is one.

    Raises
    ------
    KeyError
        When a key is named that is not there.
    ValueError
        When the embeddings are those of another adapter than the encoder has now.
    """
    if not isinstance(encoder, str):
        return None
    if encoder in table.obsm:
        return encoder
    key = f"X_{encoder}"
    if key not in table.obsm:
        if encoder.startswith("X_"):
            get_obsm(table, encoder, "Run hc.pp.embed_image(data, encoder) first.")
        return None
    if encoder in list_encoders().index and (adapter := get_spec(encoder).adapter) is not None:
        stored = keys.read_provenance(table, key).get("adapter")
        if stored != adapter.digest:
            msg = (
                f'obsm["{key}"] comes from another adapter ({stored}) than {encoder!r} has now ({adapter.digest}); run '
                f"hc.pp.embed_image(data, {encoder!r}) again"
            )
            raise ValueError(msg)
    return key


def matrix(table: AnnData, key: str) -> np.ndarray:
    """An embedding as numbers, ``(n, d)``."""
    array = np.asarray(table.obsm[key])
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        msg = f'obsm["{key}"] must be numbers of shape (n, d), not {array.dtype} of shape {array.shape}'
        raise ValueError(msg)
    return array


def seen_groups(table: AnnData, embeddings: Mapping[str, str], groups: Sequence[str]) -> dict[str, list[str]]:
    """Groups whose expression was seen when an encoder was tuned, by name of the encoder."""
    seen = {}
    for name, key in embeddings.items():
        trained_on = keys.read_provenance(table, key).get("trained_on") or []
        if both := [group for group in dict.fromkeys(groups) if group in trained_on]:
            seen[name] = both
    return seen


def trained_on(source: Source) -> set[str]:
    """Samples or patients whose expression was seen when an encoder was tuned."""
    adapter = None if isinstance(source, Path) else source.spec.adapter
    return set() if adapter is None else set(adapter.groups)


def _named(encoders: Encoders) -> dict[str, OneEncoder]:
    """Encoders by the name that the table gives them."""
    if isinstance(encoders, Mapping):
        return dict(encoders)
    is_one = isinstance(encoders, str | Path) or hasattr(encoders, "embed_chunks")
    several = [cast("OneEncoder", encoders)] if is_one else list(cast("Sequence[OneEncoder]", encoders))
    if not several:
        msg = "encoders= is empty"
        raise ValueError(msg)
    named: dict[str, OneEncoder] = {}
    for each in several:
        name = Path(each).name if isinstance(each, str | Path) else each.name
        if name in named:
            msg = f"two encoders are called {name!r}; give a mapping from names of yours"
            raise ValueError(msg)
        named[name] = each
    return named
