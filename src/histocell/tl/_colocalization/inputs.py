"""What co-localization reads: variables, places in micrometres, sections and patients, weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histocell._core import keys
from histocell._core.errors import listing, missing_key, warn
from histocell.kernels.neighbors import grid_pitch, typical_spacing
from histocell.tables.access import coordinates, is_spatialdata, row_labels
from histocell.tables.sections import Sections

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_array

    from histocell.tables.access import Data

PITCHES = 2.2  # default length scale: Hist2Cell's on Visium (221 um), where a point has about 55 neighbours


@dataclass(frozen=True)
class Variables:
    """What is co-localized.

    Attributes
    ----------
    key
        The slot.
    names
        Of the variables.
    values
        Shape ``(n, k)``; `None` for labels.
    labels
        Category of each row, -1 where there is none; `None` for values.
    """

    key: str
    names: list[str]
    values: NDArray[np.floating] | None
    labels: NDArray[np.int64] | None

    @property
    def known(self) -> NDArray[np.bool_]:
        """Rows without missing values."""
        if self.labels is not None:
            return self.labels >= 0
        return np.isfinite(np.asarray(self.values)).all(axis=1)


def read_variables(table: AnnData, key: str | None) -> Variables:
    """The columns of ``obsm[key]``, or the categories of ``obs[key]``."""
    if key is None:
        key = next((name for name in (keys.ABUNDANCE, keys.PREDICTED) if name in table.obsm), keys.ABUNDANCE)
    if key in table.obsm:
        frame = table.obsm[key]
        values = frame.to_numpy() if isinstance(frame, pd.DataFrame) else np.asarray(frame)
        if values.ndim != 2 or values.dtype.kind not in "fiub":
            msg = f'obsm["{key}"] must be numbers of shape (n, variables), not {values.dtype} of shape {values.shape}'
            raise ValueError(msg)
        columns = frame.columns if isinstance(frame, pd.DataFrame) else range(values.shape[1])
        names = [str(name) for name in columns]
        if len(set(names)) < len(names):
            msg = f'the columns of obsm["{key}"] are not unique: {listing(sorted(names))}'
            raise ValueError(msg)
        return Variables(key, names, values if values.dtype == np.float32 else values.astype(np.float64), None)
    if key in table.obs:
        column: Any = table.obs[key]
        if isinstance(column.dtype, pd.CategoricalDtype):
            category = column.cat.remove_unused_categories()
        elif column.dtype.kind in "OTSUb" or isinstance(column.dtype, pd.StringDtype):
            category = column.astype("category")
        else:
            msg = f'obs["{key}"] holds {column.dtype}; co-localization of a column takes categories, such as cell types'
            raise TypeError(msg)
        names = [str(name) for name in category.cat.categories]
        return Variables(key, names, None, category.cat.codes.to_numpy().astype(np.int64))
    available = [*table.obsm, *(name for name in table.obs if isinstance(table.obs[name].dtype, pd.CategoricalDtype))]
    raise missing_key("obsm or obs", key, available, "Give the key of abundances in obsm or of cell types in obs.")


@dataclass(frozen=True)
class SectionRows:
    """Rows of each section.

    Attributes
    ----------
    names
        Of the sections.
    patients
        Of each section.
    rows
        Positions in the table.
    key
        Column of obs that holds the names; `None` where all rows are one section.
    """

    names: list[str]
    patients: list[str]
    rows: list[NDArray[np.intp]]
    key: str | None


def read_sections(
    data: Data, table: AnnData, known: NDArray[np.bool_], *, library_key: str | None, patient_key: str | None
) -> SectionRows:
    """Rows by ``obs[library_key]``, by default the section, else the region of a SpatialData, else one for all."""
    if library_key is None:
        region = table.uns.get("spatialdata_attrs", {}).get("region_key") if is_spatialdata(data) else None
        library_key = next((key for key in (keys.SECTION, region) if key is not None and key in table.obs), None)
    labels = np.full(table.n_obs, "all") if library_key is None else row_labels(table, library_key)
    if patient_key is None and keys.PATIENT in table.obs and library_key is not None:
        patient_key = keys.PATIENT
    patient = labels if patient_key is None else row_labels(table, patient_key)
    names = list(dict.fromkeys(labels))
    patients, rows = [], []
    for name in names:
        own = labels == name
        found = np.unique(patient[own])
        if len(found) > 1:
            msg = f'{name!r} of obs["{library_key}"] holds several patients ({listing(found)}); a section has one'
            raise ValueError(msg)
        patients.append(str(found[0]))
        rows.append(np.flatnonzero(own & known))
    return SectionRows([str(name) for name in names], patients, rows, library_key)


def read_places(
    data: Data, table: AnnData, *, mpp: float | None, table_key: str | None, need_um: bool
) -> NDArray[np.float64]:
    """Coordinates in um, shape ``(n, 2)``; in px where nothing needs um and the resolution is unknown."""
    found = None
    if keys.SPATIAL in table.obsm:
        xy = coordinates(table).copy()
    else:
        found = Sections(data, table_key=table_key).regions(need_image=False)
        xy = np.full((table.n_obs, 2), np.nan)
        for region in found:
            xy[region.rows] = region.centers
    if mpp is not None:
        if not (np.isfinite(mpp) and mpp > 0):
            msg = f"mpp must be a positive number of um per px, not {mpp}"
            raise ValueError(msg)
        return xy * mpp
    if keys.MPP in table.obs:
        per_row = np.asarray(table.obs[keys.MPP], dtype=np.float64)
        if np.isfinite(per_row).all():
            return xy * per_row[:, None]
    if is_spatialdata(data):
        found = found or Sections(data, table_key=table_key).regions(need_image=False)
        if all(region.mpp is not None for region in found):
            for region in found:
                xy[region.rows] *= float(region.mpp or np.nan)
            return xy
    if need_um:
        msg = (
            'the resolution is unknown: obs["mpp"] is not there. Give mpp= (um per px of obsm["spatial"]; 1 if it is in um '
            "already), or build the data with a reader of hc.io"
        )
        raise ValueError(msg)
    return xy


def default_length_scale(xy: NDArray[np.float64], sections: SectionRows, *, cells: bool) -> tuple[float, str]:
    """2.2 pitches: of the spots, or of the hexagonal grid that is as dense as the cells. With what was done, in words."""
    rng = np.random.default_rng(0)  # a sample of distances, the same each time
    measure = typical_spacing if cells else grid_pitch
    pitches = [measure(xy[rows], rng=rng) for rows in sections.rows if len(rows) > 1]
    pitches = [pitch for pitch in pitches if pitch > 0]
    if not pitches:
        msg = "no section has points at different places, so there is no length scale to choose; give length_scale_um="
        raise ValueError(msg)
    pitch = float(np.median(pitches))
    source = "cell density" if cells else "spot pitch"
    return PITCHES * pitch, f"{PITCHES} x {pitch:.4g} um, from the {source}"


def read_weights(table: AnnData, weights: Any) -> csr_array | None:
    """Given weights: a key of ``obsp`` or a matrix."""
    from scipy.sparse import csr_array

    if weights is None:
        return None
    if isinstance(weights, str):
        if weights not in table.obsp:
            hint = "squidpy's sq.gr.spatial_neighbors_knn(adata) writes spatial_connectivities."
            raise missing_key("obsp", weights, table.obsp.keys(), hint)
        weights = table.obsp[weights]
    matrix = csr_array(weights, dtype=np.float64)
    if matrix.shape != (table.n_obs, table.n_obs):
        msg = f"weights must have shape {(table.n_obs, table.n_obs)}, not {matrix.shape}"
        raise ValueError(msg)
    if not np.isfinite(matrix.data).all() or (matrix.data < 0).any():
        msg = "weights must be finite and not negative"
        raise ValueError(msg)
    return matrix


def drop_unknown(variables: Variables) -> NDArray[np.bool_]:
    """Rows to use; warns of those that are left out."""
    known = variables.known
    if not known.any():
        msg = f"{variables.key!r} has no row without missing values"
        raise ValueError(msg)
    if not known.all():
        warn(f"{int((~known).sum())} of {len(known)} rows are left out: {variables.key!r} is missing there")
    return known
