"""Principal components of expression: fitted on the rows of a table, or those of another table applied to new rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from histocell._core import keys
from histocell._core.errors import listing, missing_key, warn

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

_MEAN = "_mean"  # ending of the column of var
TOTAL = "target_sum"  # in the provenance


class Axes(NamedTuple):
    """What turns counts into principal components.

    Attributes
    ----------
    loadings
        Shape ``(n_genes, n_dims)``.
    mean
        Of the logarithm of each gene, shape ``(n_genes,)``.
    total
        What the counts of a row are scaled to.
    """

    loadings: NDArray[np.float32]
    mean: NDArray[np.float64]
    total: float


def fit_axes(values: csr_matrix, n_dims: int, seed: int) -> tuple[NDArray[np.float32], Axes]:
    """Principal components of all rows, ``(n, n_dims)``, NaN for rows without counts, and what gave them.

    Raises
    ------
    ValueError
        When there are not more rows with counts and genes than components.
    """
    import scanpy as sc
    from anndata import AnnData

    empty = _without_counts(values)
    counts: Any = AnnData(values[~empty])
    most = min(counts.shape) - 1
    if n_dims > most:
        msg = f"n_dims={n_dims} principal components need more than {counts.n_obs} cells with counts and {counts.n_vars} genes; at most {most}"
        raise ValueError(msg)
    total = float(np.median(np.asarray(counts.X.sum(axis=1), dtype=np.float64)))
    sc.pp.normalize_total(counts, target_sum=total)
    sc.pp.log1p(counts)
    sc.pp.pca(counts, n_comps=n_dims, random_state=seed)
    mean = np.asarray(counts.X.mean(axis=0, dtype=np.float64)).ravel()
    return _filled(counts.obsm["X_pca"], empty), Axes(counts.varm["PCs"].astype(np.float32), mean, total)


def apply_axes(values: csr_matrix, table: AnnData, reference: AnnData, key: str) -> NDArray[np.float32]:
    """Rows of a table on the components that were fitted on another one.

    A gene that the table lacks counts as its mean; genes that the other table did not have are left out.

    Raises
    ------
    KeyError
        When the other table holds no components.
    ValueError
        When names of genes are not unique, or the tables share none.
    """
    import scanpy as sc
    from anndata import AnnData

    total = keys.read_provenance(reference, key).get(TOTAL)
    if key not in reference.varm or key + _MEAN not in reference.var or total is None:
        hint = (
            'hc.pp.embed_genes(reference, "pca") writes it; reference= is the table that the components were fitted on.'
        )
        raise missing_key("varm", key, reference.varm.keys(), hint)
    for what, each in (("data", table), ("reference", reference)):
        if not each.var_names.is_unique:
            msg = f"names of genes of {what} are not unique: run adata.var_names_make_unique()"
            raise ValueError(msg)
    at = reference.var_names.get_indexer(table.var_names)
    shared = at >= 0
    if not shared.any():
        msg = f"no gene of reference is among the genes ({listing(table.var_names, 5)})"
        raise ValueError(msg)
    if (n := int(shared.sum())) < reference.n_vars:
        warn(
            f"{reference.n_vars - n} of the {reference.n_vars} genes of reference are not here and count as their mean"
        )
    loadings = np.asarray(reference.varm[key])[at[shared]]
    mean = np.asarray(reference.var[key + _MEAN], dtype=np.float64)[at[shared]]
    own = values[:, np.flatnonzero(shared)]
    empty = _without_counts(own)
    counts: Any = AnnData(own[~empty])
    sc.pp.normalize_total(counts, target_sum=float(total))
    sc.pp.log1p(counts)
    return _filled(counts.X @ loadings - mean @ loadings, empty)


def write_axes(table: AnnData, key: str, axes: Axes | None) -> None:
    """Keep the components in ``varm[key]`` and the means in ``var``, for other tables; `None` takes away those of before."""
    if axes is None:
        table.varm.pop(key, None)
        var: Any = table.var
        table.var = var.drop(columns=key + _MEAN, errors="ignore")
    else:
        table.varm[key] = axes.loadings
        table.var[key + _MEAN] = axes.mean


def _without_counts(values: csr_matrix) -> NDArray[np.bool_]:
    empty = np.diff(values.indptr) == 0
    if empty.all():
        msg = "no row has counts of any gene that is used, so there is nothing to embed"
        raise ValueError(msg)
    if empty.any():
        warn(f"{empty.sum()} of {len(empty)} rows have no counts; their embedding is NaN")
    return empty


def _filled(scores: NDArray[np.floating], empty: NDArray[np.bool_]) -> NDArray[np.float32]:
    out = np.full((len(empty), scores.shape[1]), np.nan, dtype=np.float32)
    out[~empty] = scores
    return out
