"""Counts of cells and the symbols of their genes, as encoders of expression want them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, issparse

from histocell._core.errors import listing, missing_key, warn
from histocell.tables.genes.normalized import ENSEMBL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData

    from histocell._core.types import Ints

# Columns of var in which readers and data portals keep symbols
_SYMBOLS = ("feature_name", "gene_symbol", "gene_symbols", "gene_name", "gene_names", "symbol", "Symbol", "SYMBOL")
_LEAST_SHARE = 0.05  # of the genes that a vocabulary must know


class Known(NamedTuple):
    """Genes that a vocabulary knows: their columns, their ids, and where their symbols were found."""

    columns: Ints
    ids: Ints
    source: str


def expression(table: AnnData, layer: str | None, *, normalized: str) -> csr_matrix:
    """Values of ``X`` or a layer, sparse, float32, without stored zeros; warns where they are no counts.

    `normalized` says what becomes of values that are no counts.

    Raises
    ------
    KeyError
        When there is no such layer.
    ValueError
        When they are negative or not finite, or there are none.
    """
    layers = [str(name) for name in table.layers.keys() if name is not None]
    if layer is not None and layer not in layers:
        raise missing_key("layers", layer, layers, "layer= names the layer with raw counts.")
    stored: Any = table.X if layer is None else table.layers[layer]
    where = "X" if layer is None else f'layers["{layer}"]'
    if stored is None:
        msg = f"{where} is empty, so there is no expression to embed; layer= names the layer with counts: {listing(layers)}"
        raise ValueError(msg)
    if not issparse(stored) and not isinstance(stored, np.ndarray):
        stored = stored.to_memory() if hasattr(stored, "to_memory") else np.asarray(stored[:])
    values = csr_matrix(stored, dtype=np.float32, copy=True)  # what follows would change the user's arrays
    values.sum_duplicates()
    values.eliminate_zeros()
    wrong = ~np.isfinite(values.data) | (values.data < 0)
    if wrong.any():
        msg = (
            f"{where} holds {wrong.sum()} values below 0 or not finite (the first is {values.data[wrong][0]:.4g}): it was scaled, "
            "or is damaged; layer= names the layer with raw counts"
        )
        raise ValueError(msg)
    fractions = values.data != np.rint(values.data)
    if fractions.any():
        warn(
            f"{where} does not hold raw counts: {fractions.mean():.0%} of its values are fractions. {normalized}; layer= names "
            "another layer"
        )
    return values


def known_genes(table: AnnData, vocabulary: Mapping[str, int], column: str | None) -> Known:
    """The genes that a vocabulary knows by their symbols, matched exactly.

    Symbols are ``var[column]``, else the names of the variables, else, where the vocabulary knows next to none of these, as
    of Ensembl identifiers, a column of ``var`` under a name that is usual for symbols.

    Raises
    ------
    KeyError
        When there is no such column.
    ValueError
        When next to no gene is known.
    """
    if column is not None and column not in table.var:
        raise missing_key("var", column, table.var.columns, "gene_key= names the column with gene symbols.")
    places = [column] if column is not None else [None, *(name for name in _SYMBOLS if name in table.var)]
    found = [_found(table, vocabulary, place) for place in places]
    enough = max(1, _LEAST_SHARE * table.n_vars)
    known = next((each for each in found if len(each.columns) >= enough), None)
    if known is None:
        raise ValueError(_unknown(_symbols(table, column), vocabulary, found[0].source, len(found[0].columns)))
    if n_twice := len(known.ids) - len(np.unique(known.ids)):
        warn(f"{n_twice} genes in {known.source} have the symbol of another one; each is a token of its own")
    return known


def _found(table: AnnData, vocabulary: Mapping[str, int], column: str | None) -> Known:
    ids = _symbols(table, column).map(vocabulary)
    columns = np.flatnonzero(ids.notna())
    source = "var_names" if column is None else f'var["{column}"]'
    return Known(columns, ids.to_numpy()[columns].astype(np.int64), source)


def _symbols(table: AnnData, column: str | None) -> pd.Index:
    return pd.Index((table.var_names if column is None else table.var[column]).astype(str))


def _unknown(symbols: pd.Index, vocabulary: Mapping[str, int], source: str, n_known: int) -> str:
    """Why symbols are not known, and what to do about it."""
    said = f"{n_known} of {len(symbols)} genes in {source} are known to the model ({listing(symbols, 3)} are not)"
    if symbols.str.match(ENSEMBL).mean() > 0.5:
        return f"{said}: they are Ensembl identifiers; gene_key= names a column of var with symbols"
    upper = int(np.sum(symbols.str.upper().map(vocabulary).notna()))
    if upper > 2 * n_known:
        return (
            f"{said}; in capitals {upper} would be: of a mouse? Map them to human orthologs, or, knowing that they are other genes, "
            'var["upper"] = var_names.str.upper() and gene_key="upper"'
        )
    return f"{said}: other names, or another species? gene_key= names a column of var with symbols"
