"""Genes of a cell as tokens of scGPT: which of them, in what order, and their values in bins."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scipy.sparse import csr_matrix

    from histocell._core.types import Floats, Ints

N_EDGES = 50  # of the bins of the values of a cell; bin 0 is left to zeros


class Tokens(NamedTuple):
    """A cell: ids of its genes and the bins of their values, both of one length."""

    ids: Ints
    values: np.ndarray


def bin_values(values: np.ndarray, draws: Floats) -> Ints:
    """Bins from 1 to 50 of the values of a cell, none of them 0.

    The edges are quantiles of the values. A value on which several edges fall may get any of the bins between them: equal
    counts are spread over bins, which one is drawn.

    Parameters
    ----------
    values
        Shape ``(n,)``.
    draws
        Uniform from 0 to below 1, shape ``(n,)``.

    References
    ----------
    Cui et al. (2024), scGPT, Nature Methods, doi:10.1038/s41592-024-02201-0: value binning.
    """
    edges = np.quantile(values, np.linspace(0, 1, N_EDGES))
    low, high = np.searchsorted(edges, values, side="left"), np.searchsorted(edges, values, side="right")
    return np.ceil(draws * (low - high) + high).astype(np.int64)


def uniform(seed: int, cell: int, genes: Ints) -> Floats:
    """A uniform number from 0 to below 1 for each gene of a cell; it depends on these three alone.

    So a cell gets the same tokens in any batch, order and subset. The finalizer of splitmix64.
    """
    with np.errstate(over="ignore"):
        start = np.uint64(seed % 2**64) * np.uint64(0xD1342543DE82EF95) + np.uint64(cell)
        state = _mixed(_mixed(start) ^ (genes.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)))
    return np.asarray((state >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def cell_keys(names: Iterable[str]) -> np.ndarray:
    """A number for each cell by its name, uint64."""
    return pd.util.hash_array(np.array(list(names), dtype=object))


def tokens_of(
    counts: csr_matrix, row: int, ids: Ints, *, cell: int, seed: int, max_length: int, cls: tuple[int, float]
) -> Tokens | None:
    """The tokens of a cell, ``<cls>`` first; `None` where it expresses no gene that the model knows.

    Parameters
    ----------
    counts
        Cells by genes that the vocabulary knows, without stored zeros.
    row
        The cell.
    ids
        Id of each gene.
    cell, seed
        What its random numbers follow from.
    max_length
        Most tokens, ``<cls>`` among them. Of more genes a random subset is taken.
    cls
        Id and value of ``<cls>``.
    """
    part = slice(counts.indptr[row], counts.indptr[row + 1])
    values, genes = counts.data[part], ids[counts.indices[part]]
    if not len(values):
        return None
    bins = bin_values(values, uniform(seed, cell, genes))
    if len(genes) >= max_length:
        drawn = uniform(seed + 1, cell, genes)
        kept = np.sort(np.argpartition(drawn, max_length - 2)[: max_length - 1])
        genes, bins = genes[kept], bins[kept]
    return Tokens(np.append(cls[0], genes), np.append(cls[1], bins).astype(np.float32))


def _mixed(state: np.ndarray | np.uint64) -> np.ndarray:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(state ^ (state >> np.uint64(31)))
