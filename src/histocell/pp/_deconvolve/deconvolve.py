"""Deconvolution: cell types in spots from their counts and a single-cell reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histocell._core import keys
from histocell._core.errors import listing, missing_key, warn
from histocell._core.rng import as_rng, draw_seed
from histocell._core.settings import logger
from histocell.pp._deconvolve import inputs, methods
from histocell.tables.sections import Sections

if TYPE_CHECKING:
    from anndata import AnnData

    from histocell._core.rng import RNGLike, SeedLike
    from histocell._core.types import JSON
    from histocell.tables.access import Data


def deconvolve(
    data: Data,
    reference: AnnData | pd.DataFrame,
    *,
    labels_key: str | None = None,
    method: str = methods.NNLS,
    counts_layer: str | None = None,
    reference_layer: str | None = None,
    reference_batch_key: str | None = None,
    n_cells_per_spot: float | str | None = None,
    detection_alpha: float | None = None,
    epochs: int | None = None,
    reference_epochs: int | None = None,
    batch_size: int | None = None,
    library_key: str | None = None,
    key_added: str = keys.ABUNDANCE,
    rng: SeedLike | RNGLike | None = 0,
    device: str | None = None,
    table_key: str | None = None,
    inplace: bool = True,
) -> dict[str, pd.DataFrame] | None:
    r"""Estimate how much of each cell type is in each spot, from its counts and a single-cell reference.

    ``"nnls"`` takes seconds and needs nothing installed: the mean counts of each type are fitted to each spot by
    quasi-likelihood with coefficients from 0 up, section by section, with a factor for each gene that is more or less
    often seen in spots than in single cells. ``"cell2location"`` runs the package of that name
    (``pip install "histocell[deconvolution]"``) on all sections together, each a batch of its model: minutes on a GPU, hours
    on a CPU, numbers of cells with a posterior.

    Parameters
    ----------
    data
        AnnData, or SpatialData with a table: spots by genes, raw counts.
    reference
        AnnData of single cells with raw counts, or signatures, a data frame of mean counts, genes by cell types, such as
        ``varm["cell_abundance_signatures"]`` of an earlier run: then nothing is fitted to single cells.
    labels_key
        Column of ``reference.obs`` with the cell types. Cells without one are left out, with a warning.
    method
        ``"nnls"`` or ``"cell2location"``.
    counts_layer, reference_layer
        Layers with the raw counts of `data` and of `reference`; ``X`` by default.
    reference_batch_key
        cell2location: column of ``reference.obs`` with the experiment that a cell is of.
    n_cells_per_spot
        Mean number of cells of a spot, from the image: a number, or a column of ``obs`` such as ``"n_nuclei"`` of
        :func:`histocell.pp.aggregate_nuclei`, of which the mean over all spots is taken, one number for all sections.
        cell2location: its prior ``N_cells_per_location``, 30 by default. nnls: the scale of the result; without it the
        result is proportions.
    detection_alpha
        cell2location: 20 (the default) where sensitivity differs much within a section, 200 where it does not.
    epochs, reference_epochs
        cell2location: of the spots (30,000 by default, as its authors have it) and of the reference (250).
    batch_size
        cell2location: spots of a step; all by default, which must fit in memory.
    library_key
        Column of ``obs`` with the sections; ``section`` by default.
    key_added
        Slot of ``obsm``.
    rng
        Seed or generator, of cell2location; nnls draws nothing.
    device
        cell2location: torch device; `None` means the best there is.
    table_key
        Table of a SpatialData, where it holds several.
    inplace
        Whether to write into `data`.

    Returns
    -------
    `None`, or with ``inplace=False`` the data frames that would have been written, by key. Writes:

    ``obsm[key_added]`` : DataFrame (spots, types)
        Proportions, or cells per spot; of cell2location the 5 % quantile of the posterior. Spots without counts on the
        genes that are used are NaN.
    ``obsm[key_added + "_noise"]`` : DataFrame (spots, types)
        Its uncertainty in the same unit: of cell2location the 95 % minus the 5 % quantile, of nnls the standard error
        by which noise of counts and misfit of genes move it. Errors of the reference, common to all spots, are in neither.
    ``varm[key_added + "_signatures"]`` : DataFrame (genes, types)
        Mean counts of a cell of each type; NaN for genes that were not used.
    ``uns["histocell"][key_added]`` : str
        As JSON the unit, method, settings, numbers of genes, spots and reference cells, what ``_noise`` holds.

    Raises
    ------
    ImportError
        When cell2location is not installed.
    KeyError
        When there is no such column or layer.
    TypeError
        When the reference is neither, or a setting is given that the method does not have.
    ValueError
        When either side does not hold raw counts, too few genes are shared (the message shows names of both sides), or the
        reference holds fewer than two types.

    Notes
    -----
    Warns of types of fewer than 10 cells, of types of nearly one signature, where fewer than half of the genes are shared,
    of spots without counts, and where cell2location has not converged: more than 1 % of the fall of its loss
    happened in the last tenth of the epochs.

    References
    ----------
    V. Kleshchevnikov et al., Cell2location maps fine-grained cell types in spatial transcriptomics, Nature Biotechnology 40,
    661 (2022), doi:10.1038/s41587-021-01139-4. Platform effects: D. M. Cable et al., Robust decomposition of cell type
    mixtures in spatial transcriptomics, Nature Biotechnology 40, 517 (2022), doi:10.1038/s41587-021-00830-w.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=1000)
    >>> cells = sdata["cell_table"]  # or any AnnData of single cells with raw counts
    >>> hc.pp.deconvolve(sdata, cells, labels_key="cell_type", key_added="estimated")
    >>> hc.get.abundance(sdata, "estimated").columns.tolist()
    ['endothelial', 'fibroblast', 'lymphocyte', 'myeloid', 'plasma', 'tumour']
    >>> hc.get.provenance(sdata, "estimated")["unit"]
    'proportion'
    """
    sections = Sections(data, table_key=table_key, library_key=library_key)
    table = sections.table
    n_cells = inputs.mean_cells(table, n_cells_per_spot) if isinstance(n_cells_per_spot, str) else n_cells_per_spot
    settings = methods.Settings(
        method, n_cells, detection_alpha, epochs, reference_epochs, batch_size, reference_batch_key
    )
    settings.check()
    seed = draw_seed(as_rng(rng))
    counts = inputs.read_counts(table, counts_layer, "data", "counts_layer")
    signatures, facts = _signatures(reference, table, labels_key, reference_layer, settings, seed=seed, device=device)
    genes = inputs.shared_genes(table.var_names, signatures.index, signatures.shape[1], quiet="labels_key" in facts)
    signatures = signatures.loc[genes]
    methods.check_types(signatures)
    counts = counts[:, table.var_names.get_indexer(genes)]
    known = np.asarray(counts.sum(axis=1)).ravel() > 0
    _report(known, table.obs_names, len(genes))
    labels = sections.labels[known].astype(str)
    if method == methods.NNLS:
        result = methods.nnls(counts[known], signatures, labels, settings)
    else:
        result = methods.run_cell2location(counts[known], signatures, labels, settings, seed=seed, device=device)
    slots = {
        key_added: _frame(table, signatures.columns, known, result.abundance),
        key_added + keys.NOISE: _frame(table, signatures.columns, known, result.noise),
    }
    kept = signatures.reindex(table.var_names)
    if not inplace:
        return slots | {key_added + keys.SIGNATURES: kept}
    table.obsm.update(slots)
    table.varm[key_added + keys.SIGNATURES] = kept
    if isinstance(n_cells_per_spot, str):
        facts |= {"n_cells_per_spot": n_cells, "n_cells_column": n_cells_per_spot}
    facts |= {"method": method, "genes": len(genes), "spots": int(known.sum()), "noise": result.noise_is}
    keys.write_provenance(table, key_added, unit=result.unit, **(facts | result.facts))
    return None


def _signatures(
    reference: AnnData | pd.DataFrame,
    table: AnnData,
    labels_key: str | None,
    layer: str | None,
    settings: methods.Settings,
    *,
    seed: int,
    device: str | None,
) -> tuple[pd.DataFrame, JSON]:
    """Signatures as they are given, or those of the cells of the reference; facts about them."""
    from anndata import AnnData

    batch_key = settings.reference_batch_key
    if isinstance(reference, pd.DataFrame):
        if labels_key or layer or batch_key or settings.reference_epochs:
            msg = "labels_key, reference_layer, reference_batch_key and reference_epochs are of a single-cell reference; this one is a data frame of signatures"
            raise TypeError(msg)
        return inputs.read_signatures(reference, table.var_names), {"reference": "signatures"}
    if not isinstance(reference, AnnData):
        msg = f"reference must be an AnnData of single cells or a data frame of signatures (genes by cell types), not {type(reference).__name__}"
        raise TypeError(msg)
    if labels_key is None:
        msg = f"labels_key= must name the column of reference.obs with the cell types; there are: {listing(reference.obs.columns)}"
        raise ValueError(msg)
    cells = inputs.read_cells(reference, labels_key, layer)
    inputs.shared_genes(table.var_names, cells.genes, cells.labels.nunique())  # before anything is fitted
    batches = None
    if batch_key is not None:
        if batch_key not in reference.obs:
            raise missing_key("obs", batch_key, reference.obs.columns, "reference_batch_key= names the experiments.")
        batches = reference.obs[batch_key].loc[cells.labels.index].astype(str)
    frame, facts = methods.signatures_of(cells, settings, batches, seed=seed, device=device)
    return frame, {"reference": f"{len(cells.labels)} cells", "labels_key": labels_key, **facts}


def _report(known: np.ndarray, names: pd.Index, n_genes: int) -> None:
    if not known.any():
        msg = f"no spot has counts on the {n_genes} genes that are used"
        raise ValueError(msg)
    logger.info("deconvolving %d spots by %d genes", known.sum(), n_genes)
    if not known.all():
        warn(
            f"{(~known).sum()} of {len(known)} spots ({listing(names[~known], 3)}) have no counts on the {n_genes} genes "
            "that are used; they are NaN and left out of fits"
        )


def _frame(table: AnnData, types: pd.Index, known: np.ndarray, values: np.ndarray) -> pd.DataFrame:
    full = np.full((table.n_obs, len(types)), np.nan)
    full[known] = values
    return pd.DataFrame(full, index=table.obs_names, columns=types)
