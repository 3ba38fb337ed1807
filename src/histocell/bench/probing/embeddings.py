"""Embeddings to be compared: keys of a table, folders of files, or encoders that embed patches."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from histocell._core.errors import listing
from histocell.encoders.adapters.files import is_adapter
from histocell.encoders.loading import load, resolve_encoder
from histocell.pp._embed_image import embed_image
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


def cohort_embeddings(
    data: Data, table: AnnData, encoders: Encoders | None, *, device: str | None, table_key: str | None
) -> dict[str, np.ndarray]:
    """Embeddings of all rows of a table, by name; those that are not in ``obsm`` are computed, and not written."""
    if encoders is None:
        found = [key for key in table.obsm if key.startswith("X_")]
        if not found:
            msg = f"no embedding X_* in obsm ({listing(table.obsm)}); run hc.pp.embed_image(data, encoder) first, or give encoders="
            raise ValueError(msg)
        encoders = found
    out: dict[str, np.ndarray] = {}
    for name, encoder in _named(encoders).items():
        key = next((key for key in (encoder, f"X_{encoder}") if isinstance(encoder, str) and key in table.obsm), None)
        if isinstance(encoder, str) and key is None and encoder.startswith("X_"):
            get_obsm(table, encoder, "Run hc.pp.embed_image(data, encoder) first.")
        if key is None:
            loaded = resolve_encoder(str(encoder) if isinstance(encoder, Path) else encoder, device=device)
            values = embed_image(data, loaded, table_key=table_key, inplace=False)
        else:
            values = table.obsm[key]
        array = np.asarray(values)
        if array.ndim != 2 or array.dtype.kind not in "fiu":
            msg = f"the embedding {name!r} must be numbers of shape (n, d), not {array.dtype} of shape {array.shape}"
            raise ValueError(msg)
        out[name] = array
    return out


def _named(encoders: Encoders) -> dict[str, OneEncoder]:
    """Encoders by the name that the table gives them."""
    if isinstance(encoders, Mapping):
        return dict(encoders)
    several = [encoders] if isinstance(encoders, str | Path) or hasattr(encoders, "embed_chunks") else list(encoders)
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
