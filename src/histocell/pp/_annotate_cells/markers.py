"""Scores of cell types from their marker genes, against genes that are expressed as much."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histocell._core.arguments import as_names
from histocell._core.errors import listing, warn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scipy.sparse import csr_matrix

    from histocell._core.types import Floats, Ints

_N_BINS = 25  # of the mean expression
_N_CONTROLS = 50  # for each marker
_CLIP = 10.0  # standard deviations


def score_markers(
    values: csr_matrix, genes: pd.Index, markers: Mapping[str, str | Sequence[str]], rng: np.random.Generator
) -> pd.DataFrame:
    """Mean z-score of the markers of each type, less that of control genes, one row per cell.

    Controls are drawn from the genes with a mean as that of a marker, without the markers of the type.

    Parameters
    ----------
    values
        Log-normalised expression, ``(n, n_genes)``.
    genes
        Names of the genes.
    markers
        Genes of each type.
    rng
        Draws the controls.

    Raises
    ------
    ValueError
        When no marker of a type is there.
    """
    found = {name: _columns(name, as_names(wanted), genes) for name, wanted in markers.items()}
    if len(found) < 2:
        msg = f"markers must name the genes of two types or more, not {len(found)}"
        raise ValueError(msg)
    absent = {name: lost for name, (_, lost) in found.items() if lost}
    if absent:
        text = "; ".join(f"{name}: {listing(lost, 5)}" for name, lost in absent.items())
        warn(f"markers that are not among the {len(genes)} genes count for nothing ({text})")
    values = values.tocsc()
    mean = np.asarray(values.mean(axis=0)).ravel()
    order = np.argsort(np.argsort(mean, kind="stable"), kind="stable")
    bins = order * min(_N_BINS, max(1, len(genes) // 4)) // len(genes)
    scores = {}
    for name, (columns, _) in found.items():
        controls = _controls(bins, columns, rng)
        score = _mean_z(values, columns)
        scores[name] = score - _mean_z(values, controls) if len(controls) else score
    return pd.DataFrame(scores)


def _columns(name: str, wanted: list[str], genes: pd.Index) -> tuple[Ints, list[str]]:
    """Columns of the markers of a type, and those that are not there."""
    place = {str(gene): column for column, gene in enumerate(genes)}
    columns = np.array(sorted({place[gene] for gene in wanted if gene in place}), dtype=np.intp)
    if not len(columns):
        msg = f"none of the markers of {name!r} ({listing(wanted, 5)}) is among the genes ({listing(genes, 5)})"
        raise ValueError(msg)
    return columns, [gene for gene in wanted if gene not in place]


def _controls(bins: Ints, columns: Ints, rng: np.random.Generator) -> Ints:
    """Genes from the bins of the markers."""
    drawn: set[int] = set()
    for each in np.unique(bins[columns]):
        pool = np.setdiff1d(np.flatnonzero(bins == each), columns)
        drawn |= set(rng.permutation(pool)[:_N_CONTROLS].tolist())
    return np.array(sorted(drawn), dtype=np.intp)


def _mean_z(values: csr_matrix, columns: Ints) -> Floats:
    """Mean over some genes of how many standard deviations a cell lies above the mean."""
    total = np.zeros(values.shape[0])
    for column in columns:
        gene = values[:, [column]].toarray().ravel().astype(np.float64)
        spread = gene.std()
        if spread > 0:
            total += np.clip((gene - gene.mean()) / spread, -_CLIP, _CLIP)
    return total / max(len(columns), 1)
