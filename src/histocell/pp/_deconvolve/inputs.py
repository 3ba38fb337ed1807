"""Counts of spots and of reference cells: checked, and joined by their genes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, issparse

from histocell._core import keys
from histocell._core.errors import listing, missing_key, warn
from histocell._core.settings import logger
from histocell.tables.genes.normalized import ENSEMBL

if TYPE_CHECKING:
    from anndata import AnnData

    from histocell._core.types import Bools

_FEW_CELLS = 10
_FEW_GENES = 50


class Filter(NamedTuple):
    """Genes to use: those that over `share` of the cells have, or over `cells`, if these have over `mean` each."""

    share: float
    cells: int
    mean: float = 1.12


# The limits of cell2location's filter_genes, and those that its authors' tutorial gives it, which let more genes through
STRICT, WIDE = Filter(0.05, 15), Filter(0.03, 5)


class Cells(NamedTuple):
    """A single-cell reference: counts (cells, genes), the type of each cell, the names of the genes."""

    counts: csr_matrix
    labels: pd.Series
    genes: pd.Index


def read_counts(adata: AnnData, layer: str | None, owner: str, argument: str) -> csr_matrix:
    """Raw counts of ``X`` or a layer, sparse; an error for anything else."""
    layers = [str(name) for name in adata.layers.keys() if name is not None]
    if layer is not None and layer not in layers:
        raise missing_key("layers", layer, layers, f"{argument}= names the layer with the counts of {owner}.")
    stored: Any = adata.X if layer is None else adata.layers[layer]
    where = f"X of {owner}" if layer is None else f'layers["{layer}"] of {owner}'
    if stored is None:
        msg = f"{where} is empty; {argument}= names the layer with counts: {listing(layers)}"
        raise ValueError(msg)
    matrix = csr_matrix(stored if issparse(stored) else np.asarray(stored[:]))
    values = matrix.data
    problem = next(
        (
            word
            for word, wrong in (
                ("is not finite", ~np.isfinite(values)),
                ("is below 0", values < 0),
                ("is not a whole number", values != np.rint(values)),
            )
            if wrong.any()
        ),
        None,
    )
    if problem:
        wrong = values[~np.isfinite(values) | (values < 0) | (values != np.rint(values))]
        msg = (
            f"{where} does not hold raw counts: {wrong[0]:.4g} {problem}, and so on for {len(wrong)} of {len(values)} values. "
            f"Deconvolution needs counts before normalisation; {argument}= names the layer with them: "
            f"{listing(layers)}{'; adata.raw is there, too' if adata.raw is not None else ''}"
        )
        raise ValueError(msg)
    return matrix.astype(np.float32)


def read_cells(reference: AnnData, labels_key: str, layer: str | None) -> Cells:
    """The cells of a reference that have a label; warns of cells without one and of types of few cells."""
    if labels_key not in reference.obs:
        raise missing_key(
            "obs", labels_key, reference.obs.columns, "labels_key= names the cell types of the reference."
        )
    column = reference.obs[labels_key]
    known = column.notna().to_numpy()
    counts = read_counts(reference, layer, "the reference", "reference_layer")
    empty = np.asarray(counts.sum(axis=1)).ravel() == 0
    if not known.all():
        warn(f'{(~known).sum()} of {len(known)} reference cells have no obs["{labels_key}"]; left out')
    if (empty & known).any():
        warn(f"{(empty & known).sum()} of {len(known)} reference cells have no counts; left out")
    keep = known & ~empty
    names, _ = keys.safe_names(column[keep].astype(str).unique())
    renamed = dict(zip(column[keep].astype(str).unique(), names, strict=True))
    labels = column[keep].astype(str).map(renamed)
    sizes = labels.value_counts()
    if len(sizes) < 2:
        msg = f'obs["{labels_key}"] of the reference holds {len(sizes)} cell types ({listing(sizes.index)}); deconvolution needs two'
        raise ValueError(msg)
    if len(few := sizes[sizes < _FEW_CELLS]):
        said = ", ".join(f"{name} ({n})" for name, n in few.items())
        warn(f"cell types of fewer than {_FEW_CELLS} reference cells, whose signatures are uncertain: {said}")
    return Cells(counts[keep], labels, _names(reference.var_names, "the reference"))


def expressed(counts: csr_matrix, limits: Filter) -> Bools:
    """Genes that enough cells have, by the rule of cell2location's authors."""
    n_cells = np.asarray((counts > 0).sum(axis=0)).ravel()
    mean = np.asarray(counts.sum(axis=0)).ravel() / np.maximum(n_cells, 1)
    return (n_cells > limits.share * counts.shape[0]) | ((n_cells > limits.cells) & (mean > limits.mean))


def read_signatures(frame: pd.DataFrame, genes: pd.Index) -> pd.DataFrame:
    """Signatures, genes by types: numbers from 0 up; rows of NaN are genes that were not used."""
    if frame.columns.isin(genes).sum() > frame.index.isin(genes).sum():
        msg = "the reference has genes as columns; signatures are genes by cell types: reference.T"
        raise ValueError(msg)
    if text := [column for column, dtype in frame.dtypes.items() if dtype.kind not in "fiu"]:
        msg = f"the reference has columns of text ({listing(text, 5)}); signatures are genes by cell types, the genes as index"
        raise ValueError(msg)
    frame = frame.dropna(how="all").astype(np.float64)
    values = frame.to_numpy()
    if frame.shape[1] < 2 or not frame.columns.is_unique:
        msg = f"signatures need two cell types or more, each once; the reference has columns {listing(frame.columns)}"
        raise ValueError(msg)
    if not np.isfinite(values).all() or (values < 0).any():
        msg = f"signatures are mean counts of genes, numbers from 0 up; {(~np.isfinite(values) | (values < 0)).sum()} values of the reference are not (logarithms or scores?)"
        raise ValueError(msg)
    names, _ = keys.safe_names(frame.columns)
    return frame.set_axis(_names(frame.index, "the reference"), axis="index").set_axis(names, axis="columns")


def mean_cells(table: AnnData, column: str) -> float:
    """Mean of ``obs[column]``, numbers of cells, over the spots where it is known."""
    if column not in table.obs:
        raise missing_key("obs", column, table.obs.columns, "hc.pp.aggregate_nuclei(data) writes n_nuclei.")
    if not pd.api.types.is_numeric_dtype(table.obs[column].dtype):
        msg = f'obs["{column}"] holds no numbers of cells, but {listing(table.obs[column].unique(), 3)}'
        raise TypeError(msg)
    values = pd.to_numeric(pd.Series(table.obs[column])).to_numpy(dtype=np.float64, na_value=np.nan)
    known = np.isfinite(values)
    mean = float(values[known].mean()) if known.any() else 0.0
    if mean <= 0 or values[known].min() < 0:
        msg = f'obs["{column}"] must hold numbers of cells, from 0 up and not all 0; {known.sum()} of {len(values)} are known, their mean is {mean:g}'
        raise ValueError(msg)
    if not known.all():
        warn(
            f'obs["{column}"] is unknown in {(~known).sum()} of {len(values)} spots; the mean of the others, {mean:.3g}, is taken'
        )
    logger.info("%.3g cells per spot, the mean of obs[%r]", mean, column)
    return mean


def shared_genes(spots: pd.Index, reference: pd.Index, n_types: int, *, quiet: bool = False) -> pd.Index:
    """Names of genes on both sides; an error where they are few, a warning, unless `quiet`, where they are under half."""
    spots, reference = _names(spots, "data"), _names(reference, "the reference")
    shared = spots[spots.isin(reference)]
    smaller = min(len(spots), len(reference))
    counts = f"{len(shared)} of {len(spots)} genes of data are among the {len(reference)} of the reference"
    if len(shared) < 2 * n_types or (len(shared) < _FEW_GENES and len(shared) < smaller / 2):
        msg = (
            f"{counts}: too few for {n_types} cell types. data: {listing(spots, 3)}; reference: {listing(reference, 3)}."
            f"{_naming(spots, reference, len(shared))}"
        )
        raise ValueError(msg)
    if len(shared) < smaller / 2 and not quiet:
        warn(f"{counts}; the others are not used.{_naming(spots, reference, len(shared))}")
    return shared


def _names(names: pd.Index, owner: str) -> pd.Index:
    names = pd.Index(names.astype(str))
    if not names.is_unique:
        twice = names[names.duplicated()].unique()
        msg = f"{owner} names genes twice: {listing(twice, 3)}; run adata.var_names_make_unique(), or sum them"
        raise ValueError(msg)
    return names


def _naming(spots: pd.Index, reference: pd.Index, n_shared: int) -> str:
    """How the names of both sides differ, and what to do about it."""
    ensembl = [bool(names.str.match(ENSEMBL).mean() > 0.5) for names in (spots, reference)]
    if ensembl[0] != ensembl[1]:
        which = "data" if ensembl[0] else "the reference"
        return f' Genes of {which} have Ensembl identifiers, the others symbols: adata.var_names = adata.var["gene_symbol"] or the like'
    if all(ensembl):
        plain = [names.str.replace(r"\.\d+$", "", regex=True) for names in (spots, reference)]
        n_plain = len(set(plain[0]) & set(plain[1]))
        if n_plain > 2 * n_shared:
            return f" Without their versions {n_plain} Ensembl identifiers would match: adata.var_names = adata.var_names.str.split('.').str[0]"
    n_upper = len(set(spots.str.upper()) & set(reference.str.upper()))
    if n_upper > 2 * n_shared:
        return f" But for capitals {n_upper} would match: of two species? Of one, adata.var_names = adata.var_names.str.upper()"
    return ""
