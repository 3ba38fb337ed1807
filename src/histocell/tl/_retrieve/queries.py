"""Queries of a search: rows, vectors, and genes, which become the mean of the rows that express them most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from histocell._core.arguments import as_names
from histocell._core.errors import MissingKeyError, listing, warn
from histocell.models.alignment.search import unit
from histocell.tables.genes import normalized_genes

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from histocell._core.types import Floats, Ints

type Genes = str | Sequence[str] | Mapping[str, Sequence[str]]


class Queries(NamedTuple):
    """What is looked for.

    Attributes
    ----------
    names
        Of the queries.
    vectors
        Shape ``(n_queries, d)``.
    rows
        Position in the table that is searched of queries that are rows of it, else empty.
    """

    names: list[str]
    vectors: NDArray[np.float32]
    rows: Ints


def signatures(genes: Genes) -> dict[str, list[str]]:
    """Genes of each query: a gene is a query of its own, a mapping names signatures of several."""
    if isinstance(genes, Mapping):
        out = {str(name): as_names(some) for name, some in genes.items()}
    else:
        out = {name: [name] for name in as_names(genes)}
    if not out or not all(out.values()):
        msg = "genes= names no gene"
        raise ValueError(msg)
    return out


def expression(table: AnnData, wanted: Mapping[str, Sequence[str]]) -> Floats:
    """Mean over the genes of each signature of their standardised log expression, ``(n, n_signatures)``; NaN for constant ones."""
    genes = list(dict.fromkeys(gene for some in wanted.values() for gene in some))
    values = normalized_genes(table, genes)[0].astype(np.float64)
    spread = values.std(axis=0)
    if flat := [gene for gene, each in zip(genes, spread, strict=True) if not each > 0]:
        warn(
            f"{listing(flat)} {'does' if len(flat) == 1 else 'do'} not vary among the {table.n_obs} rows of the reference"
        )
    scaled = np.divide(values - values.mean(axis=0), spread, out=np.full(values.shape, np.nan), where=spread > 0)
    place = {gene: index for index, gene in enumerate(genes)}
    out = np.full((table.n_obs, len(wanted)), np.nan)
    for column, some in enumerate(wanted.values()):
        known = [place[gene] for gene in some if spread[place[gene]] > 0]
        if known:
            out[:, column] = scaled[:, known].mean(axis=1)
    return out


def gene_queries(
    table: AnnData, vectors: NDArray[np.floating], wanted: Mapping[str, Sequence[str]], rows: Ints, n_reference: int
) -> Queries:
    """For each signature the mean embedding of the rows with the most of it, less that of all rows of the reference.

    Only `rows` are looked at. Of constant signatures the query is NaN and finds nothing.
    """
    lengths = unit(vectors[rows])
    usable = np.isfinite(lengths).all(axis=1)
    rows, lengths = rows[usable], lengths[usable]
    if len(rows) <= n_reference:
        msg = f"the reference has {len(rows)} rows with an embedding, and n_reference={n_reference} asks for more"
        raise ValueError(msg)
    levels, middle = expression(table[rows], wanted), lengths.mean(axis=0)
    out = np.full((len(wanted), vectors.shape[1]), np.nan, dtype=np.float32)
    for column in range(len(wanted)):
        if np.isfinite(levels[:, column]).all():
            most = np.argsort(-levels[:, column], kind="stable")[:n_reference]
            out[column] = lengths[most].mean(axis=0) - middle
    return Queries(list(wanted), out, np.empty(0, dtype=np.intp))


def row_queries(table: AnnData, vectors: NDArray[np.floating], names: str | Sequence[str]) -> Queries:
    """Rows by name."""
    wanted = as_names(names)
    rows = table.obs_names.get_indexer(pd.Index(wanted))
    if (rows < 0).any():
        absent = [name for name, row in zip(wanted, rows, strict=True) if row < 0]
        msg = f"rows {listing(absent)} not found in obs_names; there are {listing(table.obs_names, 4)}"
        raise MissingKeyError(msg)
    if lacking := int((~np.isfinite(vectors[rows]).all(axis=1)).sum()):
        warn(f"{lacking} of {len(rows)} queries have no embedding and find nothing")
    return Queries(wanted, vectors[rows].astype(np.float32), rows.astype(np.intp))
