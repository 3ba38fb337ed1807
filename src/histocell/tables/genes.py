"""Expression of genes: scanpy's normalisation of counts, on a copy."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.sparse import issparse

from histocell._core.errors import MissingKeyError, listing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

ENSEMBL = r"^ENS[A-Z]*G\d{6,}(\.\d+)?$"


def normalized_genes(table: AnnData, genes: Sequence[str]) -> tuple[NDArray[np.floating], str]:
    """Expression of `genes`, shape ``(n, genes)``, and what was done to ``X``, which is not changed.

    Counts go through ``scanpy.pp.normalize_total`` over all genes and ``scanpy.pp.log1p``; values that are not counts
    (negative or fractional) are taken as they are.
    """
    import scanpy as sc
    from anndata import AnnData

    if absent := [gene for gene in genes if gene not in table.var_names]:
        msg = f"genes {listing(absent)} not found in var_names; available: {listing(table.var_names)}"
        raise MissingKeyError(msg)
    x: Any = table.X  # dense, sparse, or a file's
    stored = np.asarray(x.data if issparse(x) else x)
    if (stored < 0).any() or (stored != np.rint(stored)).any():
        return table[:, list(genes)].to_df().to_numpy(), "none: X does not hold counts"
    counts = AnnData(x.astype(np.float32), var=pd.DataFrame(index=table.var_names))  # a copy
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Some cells have zero counts")  # they stay at zero
        sc.pp.normalize_total(counts)
    sc.pp.log1p(counts)
    return counts[:, list(genes)].to_df().to_numpy(), "scanpy.pp.normalize_total, scanpy.pp.log1p"
