"""Variables, coordinates and weights that co-localization reads from a table."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from histocell._core import keys
from histocell._core.arguments import as_names, check_positive
from histocell._core.errors import listing, missing_key, warn
from histocell._core.settings import logger
from histocell.kernels.neighbors import typical_spacing
from histocell.tables.genes.normalized import normalized_genes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import ArrayLike, NDArray
    from scipy.sparse import csr_matrix

    from histocell.tables.sections import Sections

    type Weights = str | ArrayLike | csr_array | csr_matrix

PITCHES = 2.2  # default length scale: Hist2Cell's on Visium (221 um), where a point has about 55 neighbours
MANY_POINTS = 20_000  # of which a sample says how many have no neighbour
GRAPHS = {name: f"squidpy.gr.spatial_neighbors_{name}" for name in ("grid", "knn", "delaunay")}


@dataclass(frozen=True)
class Inputs:
    """What is co-localized, and where.

    Attributes
    ----------
    key
        The slot, or the genes.
    names
        Of the variables.
    values
        Shape ``(n, k)``; `None` for labels.
    labels
        Category of each row, -1 where there is none; `None` for values.
    normalization
        What was done to the counts of genes.
    xy
        Coordinates in um, shape ``(n, 2)``; in px where nothing needs um and the resolution is unknown.
    weights
        Given weights, shape ``(n, n)``, or a graph of squidpy by its name; `None` for RBF weights.
    weights_name
        Where the weights come from.
    """

    key: str | list[str]
    names: list[str]
    values: NDArray[np.floating] | None = None
    labels: NDArray[np.int64] | None = None
    normalization: str | None = None
    xy: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 2)))
    weights: csr_array | str | None = None
    weights_name: str = "rbf"

    def known_rows(self, sections: Sections) -> list[NDArray[np.intp]]:
        """Rows of each section that have values; warns of those that are left out."""
        known = np.isfinite(self.values).all(axis=1) if self.labels is None else self.labels >= 0  # type: ignore[arg-type]
        if not known.any():
            msg = f"{self.key!r} has no row without missing values"
            raise ValueError(msg)
        if not known.all():
            warn(f"{int((~known).sum())} of {len(known)} rows are left out: {self.key!r} is missing there")
        return [rows[known[rows]] for rows in sections.rows]

    def take(self, rows: NDArray[np.intp]) -> Inputs:
        """The same of some rows: of one section."""
        weights = self.weights
        if weights is not None:
            weights = _graph(self.xy[rows], weights) if isinstance(weights, str) else weights[rows][:, rows]
        return replace(
            self,
            values=None if self.values is None else self.values[rows],
            labels=None if self.labels is None else self.labels[rows],
            xy=self.xy[rows],
            weights=weights,
        )


def read_inputs(
    sections: Sections, key: str | Sequence[str] | None, *, weights: Weights | None, need_um: bool
) -> Inputs:
    """Variables, coordinates and weights; parameters as those of ``hc.tl.colocalization``."""
    table = sections.table
    inputs = _read_variables(table, key)
    given, name = _read_weights(table, weights)
    mpp = sections.mpp(required=given is None or need_um)
    xy = sections.coordinates_px() * (mpp[:, None] if np.isfinite(mpp).all() else 1)
    return replace(inputs, xy=xy, weights=given, weights_name=name)


def _read_variables(table: AnnData, key: str | Sequence[str] | None) -> Inputs:
    """The columns of ``obsm[key]``, the categories of ``obs[key]``, or genes."""
    if key is None:
        key = next((name for name in (keys.ABUNDANCE, keys.PREDICTED) if name in table.obsm), keys.ABUNDANCE)
    if not isinstance(key, str):
        genes = _unique(as_names(key), "the genes")
        values, done = normalized_genes(table, genes)
        logger.info("normalisation of X: %s", done)
        return Inputs(genes, genes, values, normalization=done)
    if key in table.obsm:
        frame = table.obsm[key]
        values = frame.to_numpy() if isinstance(frame, pd.DataFrame) else np.asarray(frame)
        if values.ndim != 2 or values.dtype.kind not in "fiub":
            msg = f'obsm["{key}"] must be numbers of shape (n, variables), not {values.dtype} of shape {values.shape}'
            raise ValueError(msg)
        columns = frame.columns if isinstance(frame, pd.DataFrame) else range(values.shape[1])
        names = _unique([str(name) for name in columns], f'the columns of obsm["{key}"]')
        return Inputs(key, names, values if values.dtype == np.float32 else values.astype(np.float64))
    if key not in table.obs:
        categorical = (name for name in table.obs if isinstance(table.obs[name].dtype, pd.CategoricalDtype))
        hint = "Give the key of abundances in obsm or of cell types in obs."
        raise missing_key("obsm or obs", key, [*table.obsm, *categorical], hint)
    column = cast("pd.Series", table.obs[key])
    category: pd.Series
    if isinstance(column.dtype, pd.CategoricalDtype):
        category = column.cat.remove_unused_categories()
    elif column.dtype.kind in "OTSUb" or isinstance(column.dtype, pd.StringDtype):
        category = column.astype("category")
    else:
        msg = f'obs["{key}"] holds {column.dtype}; co-localization of a column takes categories, such as cell types'
        raise TypeError(msg)
    names = [str(name) for name in category.cat.categories]
    return Inputs(key, names, labels=category.cat.codes.to_numpy().astype(np.int64))


def _unique(names: list[str], what: str) -> list[str]:
    if len(set(names)) < len(names):
        msg = f"{what} are not unique: {listing(sorted(names))}"
        raise ValueError(msg)
    return names


def _read_weights(table: AnnData, weights: Weights | None) -> tuple[csr_array | str | None, str]:
    """A key of ``obsp``, a graph of squidpy or a matrix; and where they come from."""
    if weights is None:
        return None, "rbf"
    name = weights if isinstance(weights, str) else "matrix"
    if isinstance(weights, str):
        if weights in GRAPHS and weights not in table.obsp:
            return weights, GRAPHS[weights]
        if weights not in table.obsp:
            hint = f"Squidpy's graphs are {', '.join(GRAPHS)}; sq.gr.spatial_neighbors writes spatial_connectivities."
            raise missing_key("obsp", weights, table.obsp.keys(), hint)
        weights = table.obsp[weights]
    try:
        matrix = csr_array(weights, dtype=np.float64)
    except (TypeError, ValueError) as error:
        msg = f"weights must be a matrix of numbers, a key of obsp or one of {', '.join(GRAPHS)}, not {weights!r:.80}"
        raise TypeError(msg) from error
    if matrix.shape != (table.n_obs, table.n_obs):
        msg = f"weights must have shape {(table.n_obs, table.n_obs)}, not {matrix.shape}"
        raise ValueError(msg)
    if not np.isfinite(matrix.data).all() or (matrix.data < 0).any():
        msg = "weights must be finite and not negative"
        raise ValueError(msg)
    return matrix, name


def _graph(xy: NDArray[np.float64], name: str) -> csr_array:
    """Squidpy's graph of the points of one section."""
    from squidpy.gr import neighbors

    if len(xy) < 4:  # no graph, and too few points for R
        return csr_array((len(xy), len(xy)))
    n_neighbors = min(6, len(xy) - 1)  # squidpy's default
    if name == "delaunay":
        builder = neighbors.DelaunayBuilder()
    else:
        builder = (neighbors.KNNBuilder if name == "knn" else neighbors.GridBuilder)(n_neighbors)
    return csr_array(builder.build(xy)[0], dtype=np.float64)


def check_length_scale(length_scale_um: float, inputs: Inputs, sections: list[NDArray[np.intp]]) -> float:
    """A length scale as a float, if it is not longer than the largest section: beyond, every point neighbours every other."""
    length_scale_um = check_positive(length_scale_um, "the length scale")
    extent = max(float(np.linalg.norm(np.ptp(inputs.xy[rows], axis=0))) for rows in sections if len(rows))
    if length_scale_um > extent > 0:
        msg = f"length_scale_um={length_scale_um:g} is longer than the largest section, {extent:.4g} um across"
        raise ValueError(msg)
    return length_scale_um


def isolated_share(inputs: Inputs, sections: list[NDArray[np.intp]], reach_um: float) -> float:
    """Share of the points, or of a sample of them, that have no other point within the reach of the weights."""
    rng, alone = np.random.default_rng(0), []
    for rows in sections:
        xy = inputs.xy[rows]
        asked = xy if len(xy) <= MANY_POINTS else rng.choice(xy, MANY_POINTS, replace=False)
        if len(xy) > 1:
            alone.append(cKDTree(xy).query(asked, k=2, distance_upper_bound=reach_um)[0][:, 1] == np.inf)
    return float(np.concatenate(alone).mean()) if alone else 1.0


def default_length_scale(inputs: Inputs, sections: list[NDArray[np.intp]]) -> tuple[float, str]:
    """2.2 pitches: of the spots or tiles, or of the hexagonal grid that is as dense as the cells; and that in words."""
    cells = inputs.labels is not None
    rng = np.random.default_rng(0)  # a sample of distances, the same each time
    pitches = [typical_spacing(inputs.xy[rows], irregular=cells, rng=rng) for rows in sections if len(rows) > 1]
    pitches = [pitch for pitch in pitches if pitch > 0]
    if not pitches:
        msg = "no section has points at different places, so there is no length scale to choose; give length_scale_um="
        raise ValueError(msg)
    pitch = float(np.median(pitches))
    source = f"{PITCHES} x {pitch:.4g} um, from the {'cell density' if cells else 'spot pitch'}"
    logger.info("length_scale_um=%.4g: %s", PITCHES * pitch, source)
    return PITCHES * pitch, source
