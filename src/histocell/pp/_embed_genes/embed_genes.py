"""Embeddings of the expression of cells or spots into ``obsm``."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from histocell._core import keys
from histocell._core.arguments import check_count
from histocell._core.errors import import_optional, warn
from histocell._core.rng import as_rng, draw_seed
from histocell._core.settings import progress_bar
from histocell.pp._embed_genes.counts import expression, known_genes
from histocell.pp._embed_genes.pca import TOTAL, Axes, apply_axes, fit_axes, write_axes
from histocell.tables.access import get_table

if TYPE_CHECKING:
    from os import PathLike

    import dask.array as da
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix
    from spatialdata import SpatialData

    from histocell._core.rng import RNGLike, SeedLike

    type Features = NDArray[np.float32] | da.Array

_KEYS = {"scgpt": "X_scgpt", "pca": "X_pca_genes", "scvi": "X_scvi"}
# What becomes of values that are no counts
_NORMALIZED = {
    "scgpt": "Values are ranked within each cell, so a normalised cell is embedded nearly like its counts, but not one that was corrected",
    "pca": "They are scaled to one sum for each cell and their logarithm is taken as if they were, a second time if you did it before",
    "scvi": "scVI describes counts, and means little for others",
}
_SHORTEST = 2  # <cls> and a gene
_FEW_KNOWN = 0.5


def embed_genes(
    data: AnnData | SpatialData,
    model: Literal["pca", "scgpt", "scvi"] = "pca",
    *,
    checkpoint: str | PathLike[str] | None = None,
    max_length: int = 1200,
    n_dims: int = 50,
    reference: AnnData | SpatialData | None = None,
    layer: str | None = None,
    gene_key: str | None = None,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    device: str | None = None,
    store: str | PathLike[str] | None = None,
    lazy: bool = False,
    rng: SeedLike | RNGLike | None = 0,
    key_added: str | None = None,
    table_key: str | None = None,
    inplace: bool = True,
) -> Features | None:
    """Embed the expression of each cell or spot.

    Parameters
    ----------
    data
        Reads raw counts, ``X`` or a layer, which are not changed.
    model
        ``"pca"``: scanpy's normalisation to the median total, log1p and principal components of all rows. ``"scgpt"``: the
        frozen network of a checkpoint; each cell by itself. ``"scvi"``: the latent means of scvi-tools' SCVI, trained on all
        rows (``pip install "histocell[scvi]"``). ``"pca"`` and ``"scvi"`` see the expression of all rows, those to be tested
        on, too, but no label.
    checkpoint
        Of scGPT: a folder with ``args.json``, ``vocab.json`` and ``best_model.pt``, such as whole-human. No code in it is run.
    max_length
        Most tokens of a cell of scGPT, ``<cls>`` among them; of more genes a random subset is taken.
    n_dims
        Number of dimensions of ``"pca"`` and ``"scvi"``.
    reference
        Of ``"pca"``: data that were embedded before, whose components are taken. A model that was fitted on them can then
        predict on these rows; components of their own mean something else, and it refuses them.
    layer
        Layer with raw counts; ``X`` by default.
    gene_key
        Column of ``var`` with the symbols that scGPT knows genes by; by default ``var_names``, or where these are Ensembl
        identifiers a column such as ``feature_name`` or ``gene_symbols``.
    precision
        Of scGPT: ``"fp32"``, ``"bf16"``, ``"fp16"``, or ``"auto"``: a half precision where the device has instructions for it.
    device
        Torch device; by default the best there is.
    store
        Of scGPT: a folder that keeps what is done, so that a run that was killed goes on from there with the same result.
    lazy
        With `store`: keep the embedding as a dask array over it.
    rng
        Seed of what is random: how equal counts of a cell are spread over bins and which genes of long cells are taken (each
        cell by its name, so that the order and the number of cells do not matter), or the training of ``"scvi"``.
    key_added
        Key of ``obsm``; by default ``X_scgpt``, ``X_pca_genes`` or ``X_scvi``.
    table_key
        The table, where there are several.
    inplace
        Whether to write the result; else it is returned.

    Returns
    -------
    `None`, or with ``inplace=False`` the embeddings. Writes:

    ``obsm["X_<model>"]`` : float32, shape ``(n_obs, dim)``
        Those of scGPT have length 1. NaN for cells without counts of any gene that is used, which are counted in a warning.
    ``varm["X_pca_genes"]``, ``var["X_pca_genes_mean"]``
        Of ``"pca"`` without `reference`: the components, shape ``(n_vars, n_dims)``, and the means that they start from.
    ``uns["histocell"]["X_<model>"]`` : str
        Model, checkpoint, number of genes and of those that are known, settings, as JSON.

    Raises
    ------
    FileNotFoundError
        When the checkpoint or a file of it is not there.
    ValueError
        When the checkpoint does not fit its settings, next to no gene is known, values are negative, or `store` holds
        embeddings of other cells or settings.

    References
    ----------
    Cui et al. (2024), scGPT, Nature Methods, doi:10.1038/s41592-024-02201-0. Without training on your data its embeddings may
    separate cell types worse than principal components do: compare them.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600)
    >>> hc.pp.embed_genes(sdata, "pca", n_dims=10, table_key="cell_table")
    >>> sdata["cell_table"].obsm["X_pca_genes"].shape[1]
    10
    """
    if model not in _KEYS:
        msg = f"model must be one of {', '.join(map(repr, _KEYS))}, not {model!r}; any obsm of your own can be used as it is"
        raise ValueError(msg)
    if model != "scgpt" and (checkpoint is not None or store is not None):
        msg = f"checkpoint= and store= are those of model='scgpt', not of {model!r}"
        raise ValueError(msg)
    if lazy and store is None:
        msg = "lazy=True keeps the embedding on disk and needs a folder for it: store="
        raise ValueError(msg)
    if reference is not None and model != "pca":
        msg = f"reference= is that of model='pca', not of {model!r}"
        raise ValueError(msg)
    table, key = get_table(data, table_key), key_added or _KEYS[model]
    values, seed = expression(table, layer, normalized=_NORMALIZED[model]), draw_seed(as_rng(rng))
    facts: dict[str, object] = {"model": model, "layer": layer, "n_genes": table.n_vars}
    axes: Axes | None = None
    if model == "scgpt":
        folder = None if store is None else Path(store)
        embedding, own = _scgpt(table, values, checkpoint, gene_key, max_length, precision, device, folder, seed)
        embedding = embedding if lazy else np.asarray(embedding)
    else:
        n_dims = check_count(n_dims, "n_dims", least=1)
        if model == "pca":
            other = None if reference is None else get_table(reference, table_key)
            embedding, own, axes = _pca(table, values, n_dims, seed, other, key)
        else:
            embedding, own = _scvi(table, values, n_dims, seed)
    if not inplace:
        return embedding
    table.obsm[key] = embedding
    write_axes(table, key, axes)
    keys.write_provenance(table, key, **facts, **own, dim=embedding.shape[1])
    return None


def _scgpt(
    table: AnnData,
    values: csr_matrix,
    checkpoint: str | PathLike[str] | None,
    gene_key: str | None,
    max_length: int,
    precision: str,
    device: str | None,
    store: Path | None,
    seed: int,
) -> tuple[Features, dict[str, object]]:
    from histocell._core.device import pick_device
    from histocell.encoders.genes.embed import Cells, Inference, embed_cells
    from histocell.encoders.genes.scgpt import read_checkpoint
    from histocell.encoders.genes.tokens import cell_keys
    from histocell.encoders.inference.preprocessing import DTYPES, pick_precision

    if checkpoint is None:
        msg = (
            "scGPT needs the folder of a checkpoint: checkpoint= (args.json, vocab.json, best_model.pt; whole-human is linked in "
            "the README of bowang-lab/scGPT)"
        )
        raise ValueError(msg)
    max_length = check_count(max_length, "max_length", least=_SHORTEST)
    if not table.obs_names.is_unique:
        msg = "obs_names are not unique, and random numbers of a cell follow from its name: run adata.obs_names_make_unique()"
        raise ValueError(msg)
    read = read_checkpoint(checkpoint)
    known = known_genes(table, read.vocabulary, gene_key)
    counts = values[:, known.columns].tocsr()
    used = np.diff(counts.indptr)
    if len(known.columns) < _FEW_KNOWN * table.n_vars:
        warn(
            f"{len(known.columns)} of {table.n_vars} genes in {known.source} are known to {read.version}; the others are not used"
        )
    if (n_empty := int((used == 0).sum())) == len(used):
        msg = f"none of the {len(used)} cells has counts of a gene that {read.version} knows"
        raise ValueError(msg)
    if n_empty:
        warn(f"{n_empty} of {len(used)} cells have no counts of any known gene; their embedding is NaN")
    chosen = pick_device(device)
    precision = pick_precision(precision, "bf16", chosen)
    inference = Inference(read.network.to(chosen), read.vocabulary, max_length, seed, DTYPES[precision])
    facts: dict[str, object] = {
        "checkpoint": read.version,
        "axes": f"scGPT {read.version.rpartition('-')[2]}",  # the weights, whatever their folder is called
        "n_genes_known": len(known.columns),
        "genes_from": known.source,
        "max_length": max_length,
        "n_sampled": int((used >= max_length).sum()),
        "precision": precision,
        "seed": seed,
        "ignored_tensors": len(read.ignored),
    }
    cells = Cells(counts, known.ids, cell_keys(table.obs_names))
    manifest = {**facts, "cells": _checksum(cells.counts.data, counts.indices, counts.indptr, known.ids, cells.keys)}
    with progress_bar(total=table.n_obs, desc="embedding genes with scGPT", unit="cell") as bar:
        return embed_cells(inference, cells, store=store, manifest=manifest, progress=bar), facts


def _pca(
    table: AnnData, values: csr_matrix, n_dims: int, seed: int, reference: AnnData | None, key: str
) -> tuple[NDArray[np.float32], dict[str, object], Axes | None]:
    facts: dict[str, object] = {"normalized": "scanpy.pp.normalize_total, scanpy.pp.log1p"}
    if reference is not None:
        embedding = apply_axes(values, table, reference, key)
        kept = keys.read_provenance(reference, key)
        return embedding, facts | {name: kept.get(name) for name in ("n_dims", "seed", TOTAL, "axes")}, None
    embedding, axes = fit_axes(values, n_dims, seed)
    fitted = f"principal components {_fitted_on(table, values, n_dims, seed)}"
    return embedding, facts | {"n_dims": n_dims, "seed": seed, TOTAL: axes.total, "axes": fitted}, axes


def _scvi(table: AnnData, values: csr_matrix, n_dims: int, seed: int) -> tuple[NDArray[np.float32], dict[str, object]]:
    from anndata import AnnData

    scvi = import_optional("scvi", "scvi")

    empty = np.diff(values.indptr) == 0
    if empty.any():
        warn(f"{empty.sum()} of {len(empty)} rows have no counts; their embedding is NaN")
    counts = AnnData(values[~empty], obs=table.obs[[]][~empty])
    previous, scvi.settings.seed = scvi.settings.seed, seed
    try:
        scvi.model.SCVI.setup_anndata(counts)
        trained = scvi.model.SCVI(counts, n_latent=n_dims)
        trained.train(enable_progress_bar=False, logger=None)
        latent = trained.get_latent_representation()
    finally:
        scvi.settings.seed = previous
    out = np.full((len(empty), n_dims), np.nan, dtype=np.float32)
    out[~empty] = latent
    facts = {"n_dims": n_dims, "scvi": scvi.__version__, "seed": seed}
    return out, facts | {"axes": f"scVI {_fitted_on(table, values, n_dims, seed)}"}


def _fitted_on(table: AnnData, values: csr_matrix, n_dims: int, seed: int) -> str:
    """What tells apart the axes that were fitted on the rows of a table, on any machine."""
    names = np.frombuffer("\n".join(map(str, table.var_names)).encode(), dtype=np.uint8)
    return _checksum(values.data, values.indices, values.indptr, names, np.array([n_dims, seed]))


def _checksum(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()[:16]
