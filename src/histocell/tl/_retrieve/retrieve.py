"""Search among the images of a table by gene, signature, row or vector, and say how good what is found is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from histocell._core import keys
from histocell._core.arguments import check_count
from histocell._core.errors import listing, missing_key, warn
from histocell._core.rng import as_rng
from histocell.models.alignment.search import Nearest, nearest, unit
from histocell.tables.access import get_obsm, get_table, split_parts
from histocell.tables.sections import Sections
from histocell.tl._retrieve.queries import Queries, gene_queries, row_queries, signatures
from histocell.tl._retrieve.scores import enrichment, label_precision, partner_scores
from histocell.tl.engine.features import dense, describe, differing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import ArrayLike, NDArray

    from histocell._core.rng import RNGLike, SeedLike
    from histocell._core.types import JSON, Bools, Ints
    from histocell.tables.access import Data
    from histocell.tl._retrieve.queries import Genes

_HINT = "Embeddings are written by hc.pp.embed_image, hc.pp.embed_genes and hc.tl.align."


def retrieve(
    data: Data,
    key: str,
    *,
    genes: Genes | None = None,
    rows: str | Sequence[str] | None = None,
    vectors: ArrayLike | None = None,
    query_key: str | None = None,
    reference: Data | None = None,
    k: int = 10,
    gallery: str | None = None,
    other_sections: bool = False,
    n_reference: int = 50,
    label_key: str | None = None,
    method: Literal["exact", "faiss"] = "exact",
    split_key: str = keys.SPLIT,
    library_key: str | None = None,
    n_random: int = 1000,
    key_added: str = keys.RETRIEVAL,
    rng: SeedLike | RNGLike | None = 0,
    table_key: str | None = None,
    inplace: bool = True,
) -> JSON | None:
    """Find the rows whose embedding is most similar, by cosine, to a gene, a signature, a row or a vector.

    A gene has no embedding of its own. Its query is the mean ``obsm[query_key]`` of the `n_reference` rows of the
    reference that express it most, less the mean of all of these, each row at length 1: what is more like the gene than
    like the average. A signature takes the mean of its standardised genes.

    Parameters
    ----------
    data
        AnnData, or SpatialData with a table, that is searched.
    key
        Embedding of ``obsm`` that is searched, ``(n, d)``, such as ``"X_aligned_image"`` or ``"X_morphology"``. Rows that
        are not finite are never found.
    genes
        A gene or several, each a query; or a mapping from the name of a signature to its genes.
    rows
        Names of rows that are queries; a row does not find itself, unless `query_key` is another embedding.
    vectors
        Queries as vectors, ``(n_queries, d)``.
    query_key
        Embedding of the queries, such as ``"X_aligned_genes"``; by default `key`. Both must have the same columns.
    reference
        Data whose rows make the query of a gene, for slides without counts; by default `data`, rows with
        ``obs[split_key] == "train"`` where there are any.
    k
        How many rows are found for each query.
    gallery
        Part of ``obs[split_key]`` that is searched, or ``"all"``. By default ``"test"`` where a query of genes made of
        training rows has test rows to search, and else all rows.
    other_sections
        Whether a query of `rows` finds rows of other sections only: those of its own are alike in stain.
    n_reference
        Rows that a gene is looked up in.
    label_key
        Column of ``obs``: how many of the rows found have the label of the query.
    method
        ``"exact"``, in blocks; or ``"faiss"``, an index in memory (``pip install "histocell[search]"``), from 50,000 rows on
        approximate.
    split_key
        Column of ``obs`` with ``train``, ``val``, ``test``.
    library_key
        Column of ``obs`` with the sections or slides, by default ``section``.
    n_random
        Random draws of `k` rows that enrichment is compared with.
    key_added
        Slot of ``uns``.
    rng
        Seed or generator of these draws; `None` for others each time.
    table_key
        Table of a SpatialData, where it holds several.
    inplace
        Whether to write into `data`.

    Returns
    -------
    `None`, or with ``inplace=False`` what would have been written to ``uns["retrieval"]``:

    ``hits``
        Data frame, one row for each query and place: ``query``, ``rank`` from 1, ``row`` (its name), ``section``,
        ``similarity``; for queries of genes that the gallery has, too, ``expression``: normalised, as fold of the mean of
        the gallery.
    ``scores``
        Data frame with ``query``, ``metric``, ``k``, ``value``, ``chance``, ``chance_low``, ``chance_high`` and ``n_candidates``.
        ``enrichment``: mean expression of the rows found, as fold of that of the gallery; chance is 1, with the middle 95 % of random
        draws. ``recall`` and ``mrr`` (mean reciprocal rank) over queries of rows that look for their own row in another
        embedding. ``precision``: share of rows found with the label of the query, and that of the gallery.

    Raises
    ------
    KeyError
        When an embedding, a gene, a row or a column is missing.
    ValueError
        When not exactly one of `genes`, `rows` and `vectors` is given, or embeddings differ in their columns, their
        encoder, or the model that aligned them.

    References
    ----------
    Recall at k and mean reciprocal rank: Manning, Raghavan and Schuetze, Introduction to Information Retrieval (2008).

    Examples
    --------
    >>> import histocell as hc
    >>> cells = hc.datasets.synthetic_tissue(2, size_px=800, rng=0)["cell_table"]
    >>> hc.pp.embed_genes(cells, "pca", n_dims=20)
    >>> hc.pp.split(cells, by="section", test="P2S1")
    >>> hc.tl.retrieve(cells, "X_pca_genes", genes=["EPCAM"], k=20)  # looked up in P1S1, found in P2S1
    >>> bool(cells.uns["retrieval"]["scores"]["value"].item() > 1.5)
    True
    """
    _check(k=k, n_reference=n_reference, n_random=n_random)
    _check_one(genes=genes, rows=rows, vectors=vectors)
    sections = Sections(data, table_key=table_key, library_key=library_key)
    table = sections.table
    searched = _embedding(table, key)
    wanted = None if genes is None else signatures(genes)
    source = table if genes is None or reference is None else get_table(reference)
    learnt = np.zeros(table.n_obs, dtype=bool)
    if wanted is not None:
        known = _reference_rows(source, split_key)
        learnt[known if source is table else []] = True
        queries = gene_queries(source, _matrix(source, query_key or key), wanted, known, n_reference)
    elif rows is not None:
        queries = row_queries(table, _matrix(table, query_key or key), rows)
    else:
        queries = _vectors(vectors)
    _check_space(queries, searched, (table, key), None if vectors is not None else (source, query_key or key))
    allowed = _gallery(table, gallery, split_key, learnt)
    own = _own(sections, queries, other_sections=other_sections, same=query_key in (None, key))
    found = nearest(queries.vectors, searched, k, allowed=allowed, own=own, method=method)
    hits, scores = _hits(sections, queries, found), []
    if wanted is not None and set().union(*wanted.values()) <= set(table.var_names):
        folds, more = enrichment(table, wanted, found.rows, allowed, n_random, as_rng(rng))
        hits["expression"] = folds.ravel()
        scores.append(more)
    if len(queries.rows) and query_key not in (None, key):
        scores.append(partner_scores(queries, dense(searched, key), allowed, k))
    if label_key is not None:
        scores.append(label_precision(_labels(table, label_key), queries, found.rows, allowed, own, k))
    result = {"hits": hits[hits["row"] != ""].reset_index(drop=True), "scores": _joined(scores)}
    if inplace:
        table.uns[key_added] = result
        keys.write_provenance(
            table, key_added, key=key, query_key=query_key or key, k=k, n_candidates=int(allowed.sum())
        )
    return None if inplace else result


def _check(**counts: int) -> None:
    for name, count in counts.items():
        check_count(count, name, least=1)


def _check_one(**queries: object) -> None:
    if sum(each is not None for each in queries.values()) != 1:
        msg = f"give one of {listing(f'{name}=' for name in queries)}: what is looked for"
        raise ValueError(msg)


def _check_space(
    queries: Queries, searched: NDArray[np.floating], place: tuple[AnnData, str], origin: tuple[AnnData, str] | None
) -> None:
    """Refuse queries from another space than the one that is searched, by their width and what is recorded of both."""
    key = place[1]
    if queries.vectors.shape[1] != searched.shape[1]:
        widths = f'{queries.vectors.shape[1]} columns, obsm["{key}"] has {searched.shape[1]}'
        msg = f"queries have {widths}: they lie in no space together"
        raise ValueError(msg)
    if origin is None:
        return
    (one,), (other,) = describe(place[0], [key]), describe(origin[0], [origin[1]])
    fields = [field for field in differing(one, other) if field == "axes" or key == origin[1]]
    if wrong := [f"{field} is {other[field]} of the queries and {one[field]} of what is searched" for field in fields]:
        both = f'obsm["{origin[1]}"] and obsm["{key}"]'
        msg = f"{both} cannot be compared: {'; '.join(wrong)}. Embed both alike, or align both by one model"
        raise ValueError(msg)


def _embedding(table: AnnData, key: str) -> NDArray[np.floating]:
    """An embedding as it lies there, which may be in a file."""
    value = get_obsm(table, key, _HINT)
    return dense(value, key) if isinstance(value, np.ndarray | pd.DataFrame) or hasattr(value, "toarray") else value


def _matrix(table: AnnData, key: str) -> NDArray[np.floating]:
    return dense(_embedding(table, key), key)


def _reference_rows(table: AnnData, split_key: str) -> Ints:
    """Training rows, all where there is no split."""
    parts = split_parts(table, split_key)
    return (
        np.arange(table.n_obs)
        if parts is None or not (parts == keys.TRAIN).any()
        else np.flatnonzero(parts == keys.TRAIN)
    )


def _gallery(table: AnnData, part: str | None, split_key: str, learnt: Bools) -> Bools:
    """Rows that may be found; says so where the queries were made of them."""
    parts = split_parts(table, split_key)
    if part in (None, "all"):
        allowed = np.ones(table.n_obs, dtype=bool)
        if part is None and learnt.any() and parts is not None and (parts == keys.TEST).any():
            allowed = parts == keys.TEST
    else:
        if parts is None:
            raise missing_key("obs", split_key, table.obs.columns, "gallery= names a part of a split; see hc.pp.split.")
        allowed = parts == part
        if not allowed.any():
            msg = f'no row of obs["{split_key}"] is {part!r}: nothing can be found'
            raise ValueError(msg)
    if shared := int((allowed & learnt).sum()):
        warn(
            f"genes are looked up in {shared} of the {int(allowed.sum())} rows that are searched: their enrichment says little"
        )
    return allowed


def _own(sections: Sections, queries: Queries, *, other_sections: bool, same: bool) -> tuple[Ints, Ints] | None:
    """What a query must not find: its own section, or itself."""
    if not len(queries.rows):
        if other_sections:
            msg = "other_sections= is of queries that are rows"
            raise ValueError(msg)
        return None
    if other_sections:
        if len(sections) < 2:
            msg = "other_sections=True, but all rows lie in one section"
            raise ValueError(msg)
        number = np.unique(sections.labels.astype(str), return_inverse=True)[1]
        return number[queries.rows], number
    return (queries.rows, np.arange(sections.table.n_obs)) if same else None


def _vectors(vectors: ArrayLike | None) -> Queries:
    array = np.atleast_2d(np.asarray(vectors, dtype=np.float32))
    if array.ndim != 2 or not np.isfinite(unit(array)).all():
        msg = f"vectors must have shape (n_queries, d), be finite and none of them zero; shape {array.shape}"
        raise ValueError(msg)
    return Queries([str(number) for number in range(len(array))], array, np.empty(0, dtype=np.intp))


def _labels(table: AnnData, key: str) -> NDArray[np.object_]:
    if key not in table.obs:
        raise missing_key("obs", key, table.obs.columns, "label_key= names a column.")
    return table.obs[key].astype(object).to_numpy()


def _hits(sections: Sections, queries: Queries, found: Nearest) -> pd.DataFrame:
    n, k = found.rows.shape
    rows, names = found.rows.ravel(), sections.table.obs_names.to_numpy(dtype=object)
    empty = rows < 0
    if short := int(empty.reshape(n, k).any(axis=1).sum()):
        warn(f"{short} of {n} queries find fewer than k={k} rows")
    return pd.DataFrame(
        {
            "query": np.repeat(np.asarray(queries.names, dtype=object), k),
            "rank": np.tile(np.arange(1, k + 1), n),
            "row": np.where(empty, "", names[rows]),
            "section": np.where(empty, "", sections.labels[rows]),
            "similarity": found.similarity.ravel(),
        }
    )


def _joined(scores: list[pd.DataFrame]) -> pd.DataFrame:
    columns = ["query", "metric", "k", "value", "chance", "chance_low", "chance_high", "n_candidates"]
    return pd.concat(scores, ignore_index=True)[columns] if scores else pd.DataFrame(columns=columns)
