"""Labels from other packages: CellTypist's models, and SingleR with a reference of labelled cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histocell._core.errors import import_optional, listing
from histocell.tables.access import row_labels

if TYPE_CHECKING:
    from os import PathLike

    from anndata import AnnData
    from scipy.sparse import csr_matrix

_EXTRA = "annotation"


def run_celltypist(values: csr_matrix, genes: pd.Index, model: str | PathLike[str] | None) -> pd.DataFrame:
    """Probability of each type by a model of CellTypist, one row per cell.

    Raises
    ------
    ImportError
        When celltypist is not installed.
    ValueError
        When no model is named.
    """
    from anndata import AnnData

    celltypist = import_optional("celltypist", _EXTRA)
    if model is None:
        msg = 'method="celltypist" needs model=, the name of a model of CellTypist ("Immune_All_Low.pkl") or its file'
        raise ValueError(msg)
    cells = AnnData(values, var=pd.DataFrame(index=genes.astype(str)))
    found = celltypist.annotate(cells, model=model if not hasattr(model, "__fspath__") else str(model))
    return found.probability_matrix.reset_index(drop=True)


def run_singler(
    values: csr_matrix, genes: pd.Index, reference: AnnData | None, labels_key: str, reference_values: csr_matrix | None
) -> pd.DataFrame:
    """Scores of each type by SingleR with a reference, one row per cell.

    Raises
    ------
    ImportError
        When singler is not installed.
    ValueError
        When there is no reference, or it shares no gene.
    """
    singler = import_optional("singler", _EXTRA)
    if reference is None or reference_values is None:
        msg = 'method="singler" needs reference=, an AnnData of cells with counts and their types in obs[labels_key]'
        raise ValueError(msg)
    labels = row_labels(reference, labels_key, "labels_key= names the column of the types.")
    shared = [str(gene) for gene in genes if gene in set(reference.var_names)]
    if not shared:
        msg = f"the reference ({listing(reference.var_names, 3)}) shares no gene with the data ({listing(genes, 3)})"
        raise ValueError(msg)
    found = singler.annotate_single(
        np.asarray(values.toarray(), dtype=np.float64).T,
        np.asarray(reference_values.toarray(), dtype=np.float64).T,
        ref_labels=list(labels),
        test_features=list(genes.astype(str)),
        ref_features=list(reference.var_names.astype(str)),
        train_args={"marker_method": "auc"},  # the reference is of single cells
    )
    scores = found.column("scores")
    return pd.DataFrame({str(name): np.asarray(scores.column(name)) for name in scores.column_names})
