"""Clusters of rows of an embedding: Leiden on a graph of neighbours, or k-means; of many rows by a sample of them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, silhouette_samples
from sklearn.neighbors import KNeighborsClassifier

from histocell._core.device import pick_device
from histocell._core.errors import import_optional
from histocell._core.rng import draw_seed
from histocell._core.settings import progress_bar

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from histocell._core.types import JSON, Floats, Ints

METHODS = ("leiden", "kmeans")
RAPIDS = "rapids_singlecell"
_VOTERS = 15  # rows of the sample that say in which cluster another row is
_CHUNK = 20_000
_LEAST_ROWS = 500
_SILHOUETTE_ROWS = 5000
_STARTS = 10  # of k-means


@dataclass(frozen=True)
class Clusters:
    """Clusters of all rows, the largest first.

    Attributes
    ----------
    labels
        Cluster of each row, shape ``(n,)``.
    silhouette
        Mean silhouette of each cluster over a sample of its rows, NaN where there is one cluster or none of its rows drawn.
    stability
        Adjusted Rand index of the clusters with those of each other seed.
    n_sampled
        Number of rows that were clustered; the others follow their neighbours among these.
    """

    labels: Ints
    silhouette: Floats
    stability: Floats
    n_sampled: int

    @property
    def n(self) -> int:
        """Number of clusters."""
        return len(self.silhouette)


@dataclass(frozen=True)
class Clustering:
    """How rows are clustered.

    Attributes
    ----------
    method
        ``"leiden"`` or ``"kmeans"``.
    resolution, n_neighbors
        Of Leiden and its graph.
    n_niches
        Of k-means.
    n_seeds
        How often the clustering is repeated to know how stable it is, the first time included.
    max_cells
        Most rows that are clustered themselves.
    gpu
        Number of the GPU that Leiden and its graph run on, see `pick_gpu`; `None` for the processor.
    """

    method: str
    resolution: float
    n_neighbors: int
    n_niches: int
    n_seeds: int
    max_cells: int
    gpu: int | None = None

    @property
    def facts(self) -> JSON:
        """For the provenance: what clusters, and how."""
        shared: JSON = {"method": self.method, "max_cells": self.max_cells}
        if self.method == "kmeans":
            return shared | {"package": "scikit-learn", "n_niches": self.n_niches}
        return shared | {"package": "scanpy" if self.gpu is None else RAPIDS, "resolution": self.resolution}

    def run(self, values: NDArray[np.float32], rng: np.random.Generator, *, shared: float = 1.0) -> Clusters:
        """Cluster the rows of `values`, all of them finite.

        `shared` is the number of cells that a row is the mean of. A graph of rows that share their cells would link those that
        lie side by side, not those that are alike, so Leiden gets one of `shared` rows.
        """
        n, most = len(values), self.max_cells
        if self.method == "leiden" and shared > 1:
            most = min(most, max(_LEAST_ROWS, round(n / shared)))
        chosen = np.arange(n) if n <= most else np.sort(rng.choice(n, most, replace=False))
        sample = values[chosen]
        seeds = [draw_seed(rng) for _ in range(self.n_seeds)]
        graph = self._graph(sample, draw_seed(rng)) if self.method == "leiden" else None
        with progress_bar(total=self.n_seeds, desc="Clustering", unit="seed") as bar:
            runs = []
            for seed in seeds:
                runs.append(self._leiden(graph, seed) if graph is not None else self._kmeans(sample, seed))
                bar.update()
        labels = _by_size(runs[0])
        stability = np.array([adjusted_rand_score(labels, other) for other in runs[1:]])
        everywhere = labels if len(chosen) == n else _spread(labels, sample, values, chosen)
        return Clusters(_by_size(everywhere), _silhouette(values, _by_size(everywhere), rng), stability, len(chosen))

    def _graph(self, sample: NDArray[np.float32], seed: int) -> csr_matrix:
        """The graph of neighbours, weighted as by UMAP."""
        from anndata import AnnData

        holder, n_neighbors = AnnData(sample), min(self.n_neighbors, len(sample) - 1)
        # exact: the sample is small enough, and an approximation would be another one on each machine
        if self.gpu is not None:
            rapids, device = _rapids(self.gpu)
            with device:
                rapids.pp.neighbors(holder, n_neighbors, use_rep="X", algorithm="brute", random_state=seed)
        else:
            import scanpy as sc

            import_optional("igraph", "niches")
            sc.pp.neighbors(holder, n_neighbors, use_rep="X", transformer="sklearn", random_state=seed)
        return holder.obsp["connectivities"]

    def _leiden(self, graph: csr_matrix, seed: int) -> Ints:
        from anndata import AnnData

        holder = AnnData(shape=(graph.shape[0], 0))
        settings: dict[str, Any] = {"resolution": self.resolution, "adjacency": graph, "random_state": seed}
        if self.gpu is not None:
            rapids, device = _rapids(self.gpu)
            with device:
                rapids.tl.leiden(holder, **settings)
        else:
            import scanpy as sc

            sc.tl.leiden(holder, **settings, flavor="igraph", n_iterations=2, directed=False)
        return holder.obs["leiden"].cat.codes.to_numpy().astype(np.intp)

    def _kmeans(self, sample: NDArray[np.float32], seed: int) -> Ints:
        return KMeans(self.n_niches, n_init=_STARTS, random_state=seed).fit_predict(sample).astype(np.intp)


def pick_gpu(device: str | None) -> int | None:
    """Number of the GPU that rapids-singlecell is to use: where there are both, unless `device` says otherwise.

    Raises
    ------
    ImportError
        When `device` asks for a GPU, and rapids-singlecell is not installed.
    ValueError
        When `device` is not there.
    """
    installed = find_spec(RAPIDS) is not None
    if device is None and not installed:
        return None
    chosen = pick_device(device)
    if chosen.type != "cuda":
        return None
    if not installed:
        msg = f'device {device!r} clusters with {RAPIDS}, which is not installed; its documentation says how, and device="cpu" clusters with scanpy'
        raise ImportError(msg)
    return chosen.index or 0


def _rapids(gpu: int) -> tuple[Any, AbstractContextManager[object]]:
    """rapids-singlecell, and the context of the GPU that it is to run on."""
    return import_module(RAPIDS), import_module("cupy").cuda.Device(gpu)


def reduce(values: NDArray[np.float32], n_components: int, rng: np.random.Generator, max_rows: int) -> np.ndarray:
    """Principal components of rows that are wider than these, by at most `max_rows` of them."""
    if values.shape[1] <= n_components or len(values) <= n_components:
        return values
    some = values if len(values) <= max_rows else values[rng.choice(len(values), max_rows, replace=False)]
    pca = PCA(n_components, svd_solver="covariance_eigh").fit(some.astype(np.float64))
    parts = [pca.transform(values[start : start + _CHUNK]) for start in range(0, len(values), _CHUNK)]
    return np.concatenate(parts).astype(np.float32)


def _by_size(labels: Ints) -> Ints:
    """Labels numbered from the largest cluster."""
    names, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    place = np.empty(len(names), dtype=np.intp)
    place[np.argsort(-counts, kind="stable")] = np.arange(len(names))
    return place[inverse]


def _spread(labels: Ints, sample: NDArray[np.float32], values: NDArray[np.float32], chosen: Ints) -> Ints:
    """Labels of all rows: that of most of the nearest rows of the sample."""
    voters = KNeighborsClassifier(min(_VOTERS, len(sample)), algorithm="brute").fit(sample, labels)
    out = np.empty(len(values), dtype=np.intp)
    out[chosen] = labels
    others = np.setdiff1d(np.arange(len(values)), chosen)
    for start in range(0, len(others), _CHUNK):
        rows = others[start : start + _CHUNK]
        out[rows] = voters.predict(values[rows])
    return out


def _silhouette(values: NDArray[np.float32], labels: Ints, rng: np.random.Generator) -> Floats:
    """Mean silhouette of the rows of each cluster, over a sample."""
    n = int(labels.max()) + 1
    some = np.arange(len(values))
    if len(values) > _SILHOUETTE_ROWS:
        some = rng.choice(len(values), _SILHOUETTE_ROWS, replace=False)
    drawn = np.unique(labels[some])
    if not 1 < len(drawn) < len(some):
        return np.full(n, np.nan)
    each = silhouette_samples(values[some], labels[some])
    total, count = (np.bincount(labels[some], weights=w, minlength=n) for w in (each, np.ones(len(some))))
    return np.divide(total, count, out=np.full(n, np.nan), where=count > 0)
