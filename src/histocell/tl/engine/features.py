"""Embeddings of a table as one matrix, and what is known of where they come from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histocell._core import keys
from histocell._core.arguments import as_names
from histocell._core.errors import listing, missing_key, warn
from histocell.tables.access import get_obsm
from histocell.tables.windows import warn_of_other_patches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from histocell.models.files import JSON

# What two embeddings must agree on to be the same kind of number, where it is known of both.
IDENTITY = ("dim", "encoder", "revision", "pool", "size_um", "mpp", "stain")
_DESCRIPTION = ("library", "license", "version", "base", "adapter")
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
        provenance = keys.read_provenance(table, name)
        known = {field: provenance[field] for field in (*IDENTITY, *_DESCRIPTION) if provenance.get(field) is not None}
        columns = column_names(table, name)
        named = {} if columns is None else {"columns": columns}
        out.append({"key": name, **known, "dim": int(np.shape(table.obsm[name])[1]), **named})
    return out


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
        for field in IDENTITY
        if field in want and field in have and not _equal(want[field], have[field])
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
        raise ValueError(msg)
    known = [(want["key"], "encoder" in have) for want, have in zip(expected, actual, strict=True) if "encoder" in want]
    if unknown := [f'obsm["{key}"]' for key, is_known in known if not is_known]:
        warn(
            f"nothing is recorded of {listing(unknown)}, as after a concatenation of what was embedded apart: whether encoder, "
            "patches and resolution are those of the model is not checked. Predict first, or embed after the concatenation"
        )


def feature_matrix(table: AnnData, features: Sequence[JSON]) -> NDArray[np.floating]:
    """Embeddings side by side, ``(n, n_features)``.

    The columns come in the order of the descriptions, where both they and the table have names.
    """
    parts = []
    for feature in features:
        if feature["key"] not in table.obsm:  # of a model that can do without
            parts.append(np.full((table.n_obs, feature["dim"]), np.nan, dtype=np.float32))
            continue
        part, columns = dense(table.obsm[feature["key"]], feature["key"]), column_names(table, feature["key"])
        if columns is not None and feature.get("columns", columns) != columns:
            place = {column: index for index, column in enumerate(columns)}
            part = part[:, np.array([place[column] for column in feature["columns"]])]
        parts.append(part)
    return parts[0] if len(parts) == 1 else np.hstack(parts)


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


def _equal(a: object, b: object) -> bool:
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-3)
    return a == b


def _hint(name: str) -> str:
    encoder = name.removeprefix(_PREFIX)
    if name in _OF_GENES:
        return f'Run hc.pp.embed_genes(data, "{encoder.removesuffix("_genes")}") first.'
    return f'Run hc.pp.embed_image(data, "{encoder}") first.' if name.startswith(_PREFIX) else ""
