"""Counts of genes in the HDF5 format of 10x."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix

from histocell._core.errors import reading
from histocell.io._counts import check_counts_h5

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData


def read_counts_h5(file: Path) -> AnnData:
    """Counts (CSR, float32) of genes, without controls and proteins; names of genes made unique."""
    import scanpy as sc

    check_counts_h5(file)
    with reading(file), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Variable names are not unique")  # they are made so
        table = sc.read_10x_h5(file, gex_only=True)
        table.var_names_make_unique()
        table.X = csr_matrix(table.X, dtype=np.float32)
    if table.n_obs == 0 or table.n_vars == 0:
        msg = f"{file} holds {table.n_obs} rows and {table.n_vars} genes, so there is nothing to read"
        raise ValueError(msg)
    table.obs_names = table.obs_names.astype(str)
    return table
