"""Access to the table of AnnData or SpatialData, its slots, coordinates and labels."""

from __future__ import annotations

import sys
from itertools import combinations
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from histocell._core import keys
from histocell._core.errors import MissingKeyError, listing, missing_key, warn
from histocell.images.transformations import transformations

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData
    from typing_extensions import TypeIs

    type Data = AnnData | SpatialData


def is_spatialdata(data: object) -> TypeIs[SpatialData]:
    """Whether `data` is a SpatialData; imports nothing, since only an imported class has instances."""
    module = sys.modules.get("spatialdata")
    return module is not None and isinstance(data, module.SpatialData)


def get_table(data: Data, table_key: str | None = None) -> AnnData:
    """The table: `data` itself, the table called `table_key`, the only one, or the one called ``table``."""
    module = sys.modules.get("anndata")
    if module is not None and isinstance(data, module.AnnData):
        if not isinstance(data.obs, pd.DataFrame):
            msg = (
                f"obs is a {type(data.obs).__name__} of anndata's read_lazy, and must be in memory: adata = adata.to_memory(), or "
                "adata = anndata.AnnData(obs=adata.obs.to_memory(), obsm=dict(adata.obsm)), whose embeddings stay where they are"
            )
            raise TypeError(msg)
        return data
    if not is_spatialdata(data):
        msg = f"data must be an AnnData or a SpatialData, not {type(data).__name__}"
        raise TypeError(msg)
    tables = data.tables
    if table_key is None:
        if len(tables) == 0:
            msg = "this SpatialData holds no table yet; hc.pp.tiles(data) makes one from the tissue"
            raise ValueError(msg)
        table_key = next(iter(tables)) if len(tables) == 1 else keys.TABLE
    if table_key not in tables:
        msg = f"table {table_key!r} not found; available: {listing(tables)}. Choose one with table_key="
        raise MissingKeyError(msg)
    _warn_of_namesakes(data, tables[table_key])
    return tables[table_key]


def _warn_of_namesakes(sdata: SpatialData, table: AnnData) -> None:
    """Warn of slides that share a name in ``obs["section"]``, as those of two files of one name do."""
    region_key = table.uns.get("spatialdata_attrs", {}).get("region_key")
    if not {keys.SECTION, region_key} <= set(table.obs):
        return
    columns = cast("pd.DataFrame", table.obs[[keys.SECTION, region_key]])
    pairs = columns.drop_duplicates().astype(str)
    for section, regions in pairs.groupby(keys.SECTION)[region_key]:
        systems = [set(transformations(sdata[name])) for name in regions if name in sdata]
        if any(one.isdisjoint(other) for one, other in combinations(systems, 2)):
            warn(
                f'obs["{keys.SECTION}"] says {section!r} in rows of different slides ({listing(regions, 4)}), which are taken '
                f'for one section; name them apart: table.obs["{keys.SECTION}"] = table.obs["{region_key}"]'
            )


def get_obsm(table: AnnData, key: str, hint: str = "") -> Any:
    """``table.obsm[key]``, or an error that lists what is there."""
    if key not in table.obsm:
        raise missing_key("obsm", key, table.obsm.keys(), hint)
    return table.obsm[key]


def coordinates(table: AnnData) -> NDArray[np.float64]:
    """``obsm["spatial"]``, shape ``(n, 2)``: x and y in full-resolution px."""
    xy = np.asarray(get_obsm(table, keys.SPATIAL, "Coordinates are (x, y) in full-resolution px."), dtype=np.float64)
    if xy.ndim != 2 or xy.shape[1] < 2:
        msg = f'obsm["{keys.SPATIAL}"] must have shape (n, 2), x and y; it has {xy.shape}'
        raise ValueError(msg)
    bad = ~np.isfinite(xy[:, :2]).all(axis=1)
    if bad.any():
        msg = f'obsm["{keys.SPATIAL}"] is not finite in {bad.sum()} rows: {listing(table.obs_names[bad], 5)}'
        raise ValueError(msg)
    return xy[:, :2]


def resolutions(table: AnnData) -> NDArray[np.float64]:
    """``obs["mpp"]``, micrometres per full-resolution px of each row; NaN where it is unknown."""
    if keys.MPP not in table.obs:
        return np.full(table.n_obs, np.nan)
    try:
        return np.array(table.obs[keys.MPP], dtype=np.float64)
    except (TypeError, ValueError) as error:
        msg = f'obs["{keys.MPP}"] must hold numbers, um per px; it holds {listing(table.obs[keys.MPP].unique(), 3)}'
        raise ValueError(msg) from error


def row_labels(table: AnnData, key: str, hint: str = "") -> NDArray[np.object_]:
    """``obs[key]`` as strings; missing values are an error."""
    if key not in table.obs:
        raise missing_key("obs", key, table.obs.columns, hint)
    column = table.obs[key]
    if column.isna().any():
        msg = f'obs["{key}"] is missing in {int(column.isna().sum())} rows'
        raise ValueError(msg)
    return np.asarray(column.astype(str), dtype=object)


def split_parts(table: AnnData, key: str) -> NDArray[np.object_] | None:
    """``obs[key]`` of a split, where each row is train, val, test or dropped; `None` where there is no such column.

    Raises
    ------
    ValueError
        When a value is none of these, or missing: it would silently be no part at all.
    """
    if key not in table.obs:
        return None
    parts = table.obs[key].astype(object).to_numpy()
    counts = table.obs[key].value_counts(dropna=False)
    unknown = {value: n for value, n in counts.items() if n and value not in keys.PARTS}
    if unknown:
        found = listing(f"{value!r} in {n}" for value, n in unknown.items())
        msg = (
            f'obs["{key}"] must say train, val, test or dropped (of rows that are not to be used) in each row; of '
            f"{table.n_obs} rows it says {found}. Use these words, or run hc.pp.split(data) again"
        )
        raise ValueError(msg)
    return parts
