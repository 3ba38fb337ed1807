"""Embeddings of a table as one matrix, and what is known of where they come from."""

from __future__ import annotations

import math
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from histocell._core import keys
from histocell._core.arguments import as_names
from histocell._core.errors import listing, missing_key, warn
from histocell._core.settings import logger
from histocell.models.fingerprint import hash_arrays
from histocell.models.problem import Joined
from histocell.tables.access import get_obsm
from histocell.tables.windows import warn_of_other_patches

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from histocell._core.types import Ints
    from histocell.models.files import JSON

_DESCRIPTION = ("library", "license", "version", "base", "adapter")
_COMPONENTS = "principal components"
_CHUNK = 16_384
_PREFIX = "X_"
_OF_GENES = ("X_scgpt", "X_pca_genes", "X_scvi")
_NOT_IMAGE = ("X_pca", "X_umap", "X_tsne", "X_diffmap", "X_draw_graph")


def embedding_keys(table: AnnData, features: str | Sequence[str] | None) -> list[str]:
    """The embeddings asked for, or the only one there is.

    Raises
    ------
    KeyError
        When one is not in ``obsm``.
    ValueError
        When none is named and there is not exactly one.
    """
    if features is not None:
        names = as_names(features)
        if not names:
            msg = "features is empty; name at least one embedding in obsm"
            raise ValueError(msg)
        for name in names:
            get_obsm(table, name, _hint(name))
        warn_of_other_patches(table, names)
        return names
    present = [key for key in table.obsm if key.startswith(_PREFIX)]
    known = [key for key in present if keys.read_provenance(table, key)]
    choices = known or [key for key in present if not key.startswith(_NOT_IMAGE)]
    if len(choices) == 1:
        warn_of_other_patches(table, choices)
        return choices
    if not choices:
        raise missing_key("obsm", "X_<encoder>", table.obsm.keys(), 'Run hc.pp.embed_image(data, "morphology") first.')
    msg = f'several embeddings: {listing(choices)}; say which with features="{choices[0]}" or a list of them'
    raise ValueError(msg)


def column_names(table: AnnData, name: str) -> list[str] | None:
    """Names of the features of an embedding: columns of a data frame, or what its encoder called them."""
    value = table.obsm[name]
    if not isinstance(value, pd.DataFrame):
        known = keys.read_provenance(table, name).get("feature_names")
        return known if known and len(known) == np.shape(value)[1] else None
    columns = [str(column) for column in value.columns]
    if repeated := sorted({column for column in columns if columns.count(column) > 1}):
        msg = f'obsm["{name}"] has several columns of one name: {listing(repeated)}; features are told apart by name'
        raise ValueError(msg)
    return columns


def describe(table: AnnData, names: Sequence[str]) -> list[JSON]:
    """For each embedding its key, dimension, the names of its columns and what its provenance says."""
    out = []
    for name in names:
        provenance = keys.read_provenance(table, name) or _of_scanpy(table, name)
        known = {
            field: provenance[field] for field in (*keys.IDENTITY, *_DESCRIPTION) if provenance.get(field) is not None
        }
        columns = column_names(table, name)
        named = {} if columns is None else {"columns": columns}
        out.append({"key": name, **known, "dim": int(np.shape(table.obsm[name])[1]), **named})
    return out


def _of_scanpy(table: AnnData, name: str) -> JSON:
    """What tells principal components of scanpy from others: the loadings of the genes that have any."""
    if name != "X_pca" or "PCs" not in table.varm:
        return {}
    loadings = np.asarray(table.varm["PCs"])
    return {"axes": f"{_COMPONENTS} {hash_arrays(loadings[loadings.any(axis=1)])}"}


def genes_first(table: AnnData, names: Sequence[str]) -> tuple[list[str], int]:
    """Embeddings with those of the expression before those of the image, and how many are of the expression.

    Raises
    ------
    ValueError
        When there are several and nothing says what one of them is of.
    """
    known = {name: keys.read_provenance(table, name) for name in names}
    of_genes = [name for name in names if name in _OF_GENES or "n_genes" in known[name]]
    unknown = [name for name in names if name not in of_genes and "encoder" not in known[name]]
    if unknown and len(names) > 1:
        msg = (
            f"nothing is recorded of {listing(unknown)}: are they of the genes or of the image? hc.pp.embed_genes and hc.pp.embed_image "
            "record it; else give models that know, such as hc.models.CellTransformer(gene_columns=...), genes first"
        )
        raise ValueError(msg)
    return [*of_genes, *(name for name in names if name not in of_genes)], len(of_genes)


def check_same(table: AnnData, expected: Sequence[JSON]) -> None:
    """Refuse features that are not those a model was fitted on; warn where nothing says what they are.

    Raises
    ------
    KeyError
        When an embedding is missing.
    ValueError
        When an embedding differs in something that is known of both; the message says in what.
    """
    for feature in expected:
        get_obsm(table, feature["key"], _hint(feature["key"]))
    warn_of_other_patches(table, [feature["key"] for feature in expected])
    actual = describe(table, [feature["key"] for feature in expected])
    wrong = [
        f'obsm["{want["key"]}"]: {field} is {have[field]}, the model was fitted with {want[field]}'
        for want, have in zip(expected, actual, strict=True)
        for field in differing(want, have)
    ]
    wrong += [
        f'obsm["{want["key"]}"]: {text}'
        for want, have in zip(expected, actual, strict=True)
        if "columns" in want and "columns" in have
        for text in _different_columns(want["columns"], have["columns"])
    ]
    if wrong:
        msg = (
            f"these are not the features of the model. {'; '.join(wrong)}. Embed again as for the model, or fit another"
        )
        if any(f": axes is {_COMPONENTS}" in text for text in wrong):
            msg += '; hc.pp.embed_genes(data, "pca", reference=...) takes the components of the data of the fit'
            msg += ", as scanpy.tl.ingest does for X_pca" if any('obsm["X_pca"]' in text for text in wrong) else ""
        raise ValueError(msg)
    known = [
        (want["key"], all(field in have for field in ("encoder", "axes") if field in want))
        for want, have in zip(expected, actual, strict=True)
        if "encoder" in want or "axes" in want
    ]
    if unknown := [f'obsm["{key}"]' for key, is_known in known if not is_known]:
        warn(
            f"nothing is recorded of {listing(unknown)}, as after a concatenation of what was embedded apart: whether encoder, "
            "patches, resolution or axes are those of the model is not checked. Predict first, or embed after the concatenation"
        )


def feature_matrix(table: AnnData, features: Sequence[JSON]) -> NDArray[np.floating]:
    """Embeddings side by side, ``(n, n_features)``.

    The columns come in the order of the descriptions, where both they and the table have names.
    """
    return np.asarray(_joined(table, features, dense))


def joined_features(table: AnnData, features: Sequence[JSON]) -> Joined:
    """The same, joined for the rows that are looked at only; what does not lie in memory goes to a temporary file."""
    return _joined(table, features, by_rows)


def _joined(table: AnnData, features: Sequence[JSON], read: Callable[[object, str], NDArray[np.floating]]) -> Joined:
    parts: list[np.ndarray] = []
    orders: list[Ints | None] = []
    for feature in features:
        order = None
        if feature["key"] not in table.obsm:  # of a model that can do without
            part = np.broadcast_to(np.float32(np.nan), (table.n_obs, feature["dim"]))
        else:
            part, columns = read(table.obsm[feature["key"]], feature["key"]), column_names(table, feature["key"])
            if columns is not None and feature.get("columns", columns) != columns:
                place = {column: index for index, column in enumerate(columns)}
                order = np.array([place[column] for column in feature["columns"]])
        parts.append(part)
        orders.append(order)
    return Joined(parts, orders)


def by_rows(value: object, name: str) -> NDArray[np.floating]:
    """An embedding of which some rows are looked at at a time.

    Arrays of zarr, HDF5 or dask are copied, some rows at a time, to a temporary file that goes with the last use of it:
    a training draws its rows at random, and each would unpack a whole chunk.
    """
    if isinstance(value, np.ndarray | pd.DataFrame) or sparse.issparse(value) or not hasattr(value, "dtype"):
        return dense(value, name)
    shape = tuple(getattr(value, "shape", ()))
    kind = np.dtype(value.dtype)
    if len(shape) != 2 or kind.kind not in "fiub":
        msg = f'obsm["{name}"] must be a numeric matrix; it has shape {shape} and type {kind}'
        raise ValueError(msg)
    with TemporaryFile() as file:
        out = np.memmap(file, kind if kind.kind == "f" else np.float32, "w+", shape=shape)
        logger.info('obsm["%s"] (%s) goes to a temporary file of %.1f GB', name, type(value).__name__, out.nbytes / 1e9)
        for start in range(0, shape[0], _CHUNK):
            out[start : start + _CHUNK] = np.asarray(value[start : start + _CHUNK])  # type: ignore[index]
    return out


def dense(value: object, name: str) -> NDArray[np.floating]:
    """An embedding as a matrix of floating-point numbers."""
    array = value.toarray() if hasattr(value, "toarray") else np.asarray(value)
    if array.ndim != 2 or array.dtype.kind not in "fiub":
        msg = f'obsm["{name}"] must be a numeric matrix; it has shape {array.shape} and type {array.dtype}'
        raise ValueError(msg)
    return array if array.dtype.kind == "f" else array.astype(np.float32)


def _different_columns(wanted: Sequence[str], there: Sequence[str]) -> list[str]:
    """What columns are missing, and which ones a model does not know, as texts."""
    absent, extra = (
        [name for name in one if name not in set(other)] for one, other in ((wanted, there), (there, wanted))
    )
    texts = {"it lacks columns of the model": absent, "the model does not know its columns": extra}
    return [f"{text} ({listing(names, 5)})" for text, names in texts.items() if names]


def differing(one: JSON, other: JSON) -> list[str]:
    """What two embeddings, as `describe` has them, must agree on and do not, of what is known of both."""
    known = [field for field in keys.IDENTITY if field in one and field in other]
    return [field for field in known if not _equal(one[field], other[field])]


def _equal(a: object, b: object) -> bool:
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-3)
    return a == b


def _hint(name: str) -> str:
    encoder = name.removeprefix(_PREFIX)
    if name in _OF_GENES:
        return f'Run hc.pp.embed_genes(data, "{encoder.removesuffix("_genes")}") first.'
    return f'Run hc.pp.embed_image(data, "{encoder}") first.' if name.startswith(_PREFIX) else ""
