"""Scores of the rows that a search found: enrichment of genes, recall of partners, precision of labels, beside chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histocell._core.errors import warn
from histocell.models.alignment.ranks import partner_ranks
from histocell.models.alignment.search import unit
from histocell.tables.genes import normalized_genes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from histocell._core.types import Bools, Floats, Ints
    from histocell.tl._retrieve.queries import Queries

ALL_QUERIES = "all"


def enrichment(
    table: AnnData,
    wanted: Mapping[str, Sequence[str]],
    found: Ints,
    allowed: Bools,
    n_random: int,
    rng: np.random.Generator,
) -> tuple[Floats, pd.DataFrame]:
    """Expression of the rows found as fold of that of all that could be, ``(n_queries, k)``, and the table of its means."""
    levels = _levels(table, wanted)
    fold = np.full(found.shape, np.nan)
    candidates, rows = np.flatnonzero(allowed), []
    draws = (
        rng.choice(candidates, size=(n_random, found.shape[1])) if len(candidates) else np.empty((0, 0), dtype=np.intp)
    )
    for query, name in enumerate(wanted):
        hits, level = found[query][found[query] >= 0], levels[:, query]
        mean = level[candidates].mean() if len(candidates) else np.nan
        if not mean > 0 or not len(hits):
            rows.append((name, "enrichment", len(hits), np.nan, 1.0, np.nan, np.nan, len(candidates)))
            continue
        fold[query, : len(hits)] = level[hits] / mean
        low, high = np.quantile(level[draws].mean(axis=1) / mean, [0.025, 0.975])
        value = float(level[hits].mean() / mean)
        rows.append((name, "enrichment", len(hits), value, 1.0, float(low), float(high), len(candidates)))
    return fold, _frame(rows)


def partner_scores(queries: Queries, gallery: NDArray[np.floating], allowed: Bools, k: int) -> pd.DataFrame:
    """Recall at k and mean reciprocal rank of the own row of each query, over all queries."""
    vectors, rows = unit(gallery), queries.rows
    usable = np.isfinite(vectors).all(axis=1) & allowed
    kept = usable[rows] & np.isfinite(unit(queries.vectors)).all(axis=1)
    if not kept.any():
        return _frame(
            [
                (ALL_QUERIES, name, depth, *[np.nan] * 4, int(usable.sum()))
                for name, depth in (("recall", k), ("mrr", 0))
            ]
        )
    place = np.cumsum(usable) - 1
    ranks = partner_ranks(
        unit(queries.vectors[kept]),
        vectors[usable],
        place[rows[kept]],
        groups=np.zeros(int(usable.sum()), dtype=np.intp),
        scopes=("all",),
    )["all"]
    values = {
        "recall": (k, ranks.recall(k), ranks.chance_recall(k)),
        "mrr": (0, 1 / ranks.rank, ranks.chance_reciprocal()),
    }
    return _frame(
        [
            (ALL_QUERIES, name, depth, float(value.mean()), float(chance.mean()), np.nan, np.nan, int(usable.sum()))
            for name, (depth, value, chance) in values.items()
        ]
    )


def label_precision(
    labels: NDArray[np.object_], queries: Queries, found: Ints, allowed: Bools, own: tuple[Ints, Ints] | None, k: int
) -> pd.DataFrame:
    """Share of the rows found that have the label of the query, over all queries with one."""
    if not len(queries.rows):
        msg = "label_key= is of queries that are rows: others have no label"
        raise ValueError(msg)
    known = pd.notna(labels)
    shares, chances = [], []
    for query, row in enumerate(queries.rows):
        hits = found[query][found[query] >= 0]
        hits = hits[known[hits]]
        if not known[row] or not len(hits):
            continue
        may = allowed & known if own is None else allowed & known & (own[1] != own[0][query])
        shares.append((labels[hits] == labels[row]).mean())
        chances.append((labels[may] == labels[row]).mean())
    value, chance = (float(np.mean(each)) if each else np.nan for each in (shares, chances))
    return _frame([(ALL_QUERIES, "precision", k, value, chance, np.nan, np.nan, int((allowed & known).sum()))])


def _levels(table: AnnData, wanted: Mapping[str, Sequence[str]]) -> Floats:
    """Mean over the genes of each signature of their normalised expression, not its logarithm; values that are no counts as they are."""
    genes = list(dict.fromkeys(gene for some in wanted.values() for gene in some))
    values, how = normalized_genes(table, genes)
    if how.startswith("none"):
        warn("X does not hold counts: enrichment is that of the values as they are")
        if (values < 0).any():
            msg = "X holds negative values, of which there is no enrichment; give counts"
            raise ValueError(msg)
    else:
        values = np.expm1(values)
    place = {gene: index for index, gene in enumerate(genes)}
    return np.stack(
        [values[:, [place[gene] for gene in some]].mean(axis=1) for some in wanted.values()], axis=1, dtype=np.float64
    )


def _frame(rows: Sequence[tuple[object, ...]]) -> pd.DataFrame:
    names = ["query", "metric", "k", "value", "chance", "chance_low", "chance_high", "n_candidates"]
    return pd.DataFrame(rows, columns=names)
