"""Niches of cells: clusters of any embedding, how they lie in the tissue, and which cell types they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from histocell._core import keys
from histocell._core.arguments import check_amount, check_count, check_positive
from histocell._core.errors import listing, missing_key, warn
from histocell._core.rng import as_rng
from histocell.kernels.tissue.discs import disc_means
from histocell.tables.access import get_obsm
from histocell.tables.sections import Sections
from histocell.tl._niches.clusters import METHODS, Clustering, pick_gpu, reduce
from histocell.tl._niches.tissue import coherence, enrichment, typical_count
from histocell.tl.engine.features import dense

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from histocell._core.rng import RNGLike, SeedLike
    from histocell._core.types import JSON, Floats, Ints
    from histocell.tables.access import Data
    from histocell.tl._niches.clusters import Clusters

_FEW = 20  # cells of a niche of which little can be said


def niches(
    data: Data,
    key: str,
    *,
    method: Literal["leiden", "kmeans"] = "leiden",
    resolution: float = 0.5,
    n_niches: int = 10,
    smooth_um: float = 0.0,
    n_neighbors: int = 15,
    n_components: int = 50,
    cell_type_key: str | None = None,
    library_key: str | None = None,
    max_cells: int = 50_000,
    n_seeds: int = 5,
    n_permutations: int = 999,
    key_added: str = keys.NICHE,
    rng: SeedLike | RNGLike | None = 0,
    device: str | None = None,
    table_key: str | None = None,
    inplace: bool = True,
) -> JSON | None:
    """Cluster cells by an embedding, and say how the clusters lie in the tissue and which cell types they hold.

    With ``smooth_um=0`` a niche is a state of cells; with more, the embedding of a cell becomes the mean over the cells
    within that radius in its section, and a niche is a kind of surroundings. Of more than `max_cells` rows a random
    sample is clustered, and each other row goes with most of its 15 nearest rows of the sample. So it is with Leiden and
    ``smooth_um``: the sample is one row for each disc, since a graph of rows that share cells links what lies side by side.

    Parameters
    ----------
    data
        AnnData, or SpatialData with a table. Reads ``obsm[key]``, coordinates and ``obs["mpp"]``.
    key
        The embedding, ``(n, n_features)``: of genes, of the image, or aligned (``"X_aligned_image"``). Rows that are
        not finite get no niche, with a warning.
    method
        ``"leiden"``: Leiden on scanpy's graph of neighbours (``pip install "histocell[niches]"``), or on that of
        rapids-singlecell, see `device`; ``"kmeans"``.
    resolution
        Of ``"leiden"``: more gives more niches.
    n_niches
        Of ``"kmeans"``.
    smooth_um
        Radius of the surroundings, in um.
    n_neighbors
        Of ``"leiden"``: neighbours in the graph.
    n_components
        Wider embeddings are reduced to so many principal components.
    cell_type_key
        Column of ``obs`` with the types of the cells; `None`: no enrichment is computed. Rows without a type are left out of it.
    library_key
        Column of ``obs`` with the sections or slides, by default ``section``.
    max_cells
        Most rows that are clustered themselves.
    n_seeds
        How often the clustering is repeated, the first time included, to know how stable it is.
    n_permutations
        Shifts of the niches over the tissue, for p.
    key_added
        Column of ``obs``; of ``uns`` it is ``"<key_added>s"``.
    rng
        Seed or generator; `None` for others each time.
    device
        Of ``"leiden"``: ``"cuda"`` or ``"cuda:1"`` clusters with rapids-singlecell, ``"cpu"`` with scanpy; `None` with
        rapids-singlecell where it and a GPU are there. Both search for the exact nearest neighbours, but do not expect the
        same clusters of them; the provenance says which one ran (``package``).
    table_key
        Table of a SpatialData, where it holds several.
    inplace
        Whether to write into `data`.

    Returns
    -------
    `None`, or with ``inplace=False`` what would have been written: ``obs["niche"]``, a category of ``"0"``, the largest, and
    so on; and ``uns["niches"]``:

    ``niches``
        Data frame by niche: ``n_cells``; ``silhouette`` in the space that was clustered; ``coherence``: share of the six
        nearest cells in space that are of the same niche, and ``coherence_chance``, if niches were spread at random.
    ``enrichment``
        Data frame by niche and cell type: ``observed`` and ``expected`` (under independence within each section) number of
        cells; ``log2_enrichment`` of both plus one half; ``z`` in standard deviations of independent cells; ``p``,
        two-sided, and ``q`` (Benjamini and Hochberg). p compares with niches that are shifted and mirrored as a
        whole over the tissue: neighbouring cells are alike, so a test that permutes single cells finds everything
        significant. NaN where sections are too small to be shifted, with a warning.
    ``summary``
        ``silhouette``, ``coherence``, ``coherence_chance``, ``stability`` and ``least_stability`` (mean and least adjusted
        Rand index with the other seeds, on the sample), ``n_niches``, ``n_cells``, ``n_clustered``.

    Raises
    ------
    ImportError
        When ``"leiden"`` finds no igraph, or a GPU is asked for and rapids-singlecell is not installed.
    KeyError
        When the embedding or the column of cell types is missing.
    ValueError
        When no two rows are finite, the embedding is constant, or coordinates or resolution are unknown.

    References
    ----------
    Traag, Waltman and van Eck, Scientific Reports 9 (2019): Leiden. Lotwick and Silverman, JRSS B 44 (1982): toroidal shifts.

    Examples
    --------
    >>> import histocell as hc
    >>> cells = hc.datasets.synthetic_tissue(size_px=800, rng=0)["cell_table"]
    >>> hc.pp.embed_genes(cells, "pca", n_dims=20)
    >>> hc.tl.niches(cells, "X_pca_genes", method="kmeans", n_niches=4, cell_type_key="cell_type", n_permutations=99)
    >>> cells.obs["niche"].cat.categories.to_list()
    ['0', '1', '2', '3']
    >>> enriched = cells.uns["niches"]["enrichment"]
    >>> enriched.loc[enriched["log2_enrichment"].idxmax(), "observed"] > 0
    np.True_
    """
    if method not in METHODS:
        msg = f"method must be one of {', '.join(METHODS)}, not {method!r}"
        raise ValueError(msg)
    clustering = Clustering(
        method,
        check_positive(resolution, "resolution"),
        check_count(n_neighbors, "n_neighbors", least=2),
        check_count(n_niches, "n_niches", least=1),
        check_count(n_seeds, "n_seeds", least=1),
        check_count(max_cells, "max_cells", least=10),
        pick_gpu(device) if method == "leiden" else None,
    )
    n_components = check_count(n_components, "n_components", least=1)
    n_permutations = check_count(n_permutations, "n_permutations", least=1)
    sections, generator = Sections(data, table_key=table_key, library_key=library_key), as_rng(rng)
    table = sections.table
    types = None if cell_type_key is None else _types(table, cell_type_key)
    values, rows = _finite(table, key)
    xy = sections.coordinates_um()
    where = [np.flatnonzero(sections.labels[rows] == name) for name in sections.names]
    where = [each for each in where if len(each)]
    shared = 1.0
    if check_amount(smooth_um, "smooth_um") > 0:
        values = _smooth(values, xy[rows], where, float(smooth_um))
        shared = typical_count(xy[rows], where, float(smooth_um), generator)
    values = reduce(values, n_components, generator, max_cells)
    found = clustering.run(values, generator, shared=shared)
    _warn_of_few(np.bincount(found.labels), found.n)
    result = _describe(found, xy[rows], where)
    if types is not None:
        result["enrichment"] = enrichment(xy[rows], found.labels, types.iloc[rows], where, n_permutations, generator)
    column = _column(table, rows, found).rename(key_added)
    if not inplace:
        return {key_added: column, f"{key_added}s": result}
    table.obs[key_added], table.uns[f"{key_added}s"] = column, result
    used = {"embedding": key, "smooth_um": float(smooth_um), "cell_type_key": cell_type_key}
    keys.write_provenance(table, key_added, **used, **clustering.facts, n_permutations=n_permutations)
    return None


def _types(table: AnnData, key: str) -> pd.Series:
    if key not in table.obs:
        raise missing_key("obs", key, table.obs.columns, "cell_type_key= names the column with the types of the cells.")
    column = table.obs[key].astype("category").cat.remove_unused_categories()
    if column.isna().all():
        msg = f'obs["{key}"] is missing in all {len(column)} rows'
        raise ValueError(msg)
    return column


def _finite(table: AnnData, key: str) -> tuple[NDArray[np.float32], Ints]:
    """The embedding where it is finite, and these rows."""
    values = dense(
        get_obsm(table, key, "Embeddings are written by hc.pp.embed_genes, hc.pp.embed_image and hc.tl.align."), key
    )
    finite = np.isfinite(values).all(axis=1)
    rows = np.flatnonzero(finite)
    if len(rows) < 2:
        msg = f'obsm["{key}"] is finite in {len(rows)} of {len(values)} rows; niches need two'
        raise ValueError(msg)
    if len(rows) < len(values):
        warn(f'{len(values) - len(rows)} of {len(values)} rows of obsm["{key}"] are not finite; they get no niche')
    values = values[rows].astype(np.float32)
    if np.ptp(values, axis=0).max() == 0:
        msg = f'obsm["{key}"] is the same in all {len(rows)} rows; it divides nothing'
        raise ValueError(msg)
    return values, rows


def _smooth(values: NDArray[np.float32], xy: Floats, where: list[Ints], radius_um: float) -> NDArray[np.float32]:
    out = np.empty_like(values)
    for rows in where:
        out[rows] = disc_means(xy[rows], values[rows], radius_um)
    return out


def _column(table: AnnData, rows: Ints, found: Clusters) -> pd.Series:
    """The niche of each row, missing where there is none."""
    codes = np.full(table.n_obs, -1)
    codes[rows] = found.labels
    names = pd.Index([str(number) for number in range(found.n)])
    return pd.Series(pd.Categorical.from_codes(codes, names), index=table.obs_names)


def _describe(found: Clusters, xy: Floats, where: list[Ints]) -> JSON:
    """What can be said of niches without cell types."""
    share, chance = coherence(xy, found.labels, where)
    size = np.bincount(found.labels)
    by_niche = {"n_cells": size, "silhouette": found.silhouette, "coherence": share, "coherence_chance": chance}
    frame = pd.DataFrame(by_niche, index=pd.Index([str(number) for number in range(found.n)], name="niche"))
    summary = {name: _mean(frame[name], size) for name in ("silhouette", "coherence", "coherence_chance")}
    stability = found.stability
    summary["stability"] = float(stability.mean()) if len(stability) else float("nan")
    summary["least_stability"] = float(stability.min()) if len(stability) else float("nan")
    counts = {"n_niches": found.n, "n_cells": len(found.labels), "n_clustered": found.n_sampled}
    return {"niches": frame, "summary": summary | counts}


def _mean(values: pd.Series, size: Ints) -> float:
    """Mean over cells."""
    known = values.notna().to_numpy()
    return float(np.average(values[known], weights=size[known])) if known.any() else float("nan")


def _warn_of_few(size: Ints, n: int) -> None:
    if n == 1:
        warn("all cells are one niche: nothing is enriched; choose a higher resolution or n_niches")
    elif few := [f"{number} ({count})" for number, count in enumerate(size) if count < _FEW]:
        warn(f"{len(few)} of {n} niches have fewer than {_FEW} cells, of which little can be said: {listing(few)}")
