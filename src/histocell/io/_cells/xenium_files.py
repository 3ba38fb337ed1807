"""The files of a Xenium output folder, whatever version wrote them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import shapely

from histocell._core import keys
from histocell._core.errors import listing, reading, warn
from histocell.io._cells.counts import read_counts_h5
from histocell.io._cells.polygons import cell_polygons, largest_first, rings, single_polygons
from histocell.io._cells.registered import Cells
from histocell.io.positions import numbers

if TYPE_CHECKING:
    from pathlib import Path

    import geopandas as gpd
    from anndata import AnnData

_EXPERIMENT, _COUNTS = "experiment.xenium", "cell_feature_matrix.h5"
_TABLES = (".parquet", ".csv.gz", ".csv")
_CENTERS, _VERTICES = ["x_centroid", "y_centroid"], ["vertex_x", "vertex_y"]


def read_xenium(folder: Path) -> Cells:
    """Read an output folder; errors name the file that is missing, damaged or of another run."""
    if not folder.is_dir():
        msg = f"{folder} is not a folder; hc.io.xenium reads the output folder of Xenium"
        raise FileNotFoundError(msg)
    pixel_um = _pixel_size(folder)
    table = _counts(folder)
    file, cells = _read_table(folder, "cells", [keys.CELL_ID, *_CENTERS])
    cells = cells.set_index(_text(cells[keys.CELL_ID])).drop(columns=keys.CELL_ID)
    cells.index.name = None
    if not cells.index.is_unique:
        twice = cells.index[cells.index.duplicated()].unique()
        msg = f"{file}: cells are named more than once: {listing(twice, 4)}"
        raise ValueError(msg)
    absent = table.obs_names.difference(cells.index)
    if len(absent):
        msg = (
            f"{file.name} lacks {len(absent)} of {table.n_obs} cells of {_COUNTS} ({listing(absent, 3)}); the files of "
            f"{folder} are not of one run"
        )
        raise ValueError(msg)
    cells = cells.loc[table.obs_names]
    centers = numbers(cells, _CENTERS, file, "cell")
    table.obs = cells.drop(columns=_CENTERS)
    outlines = _outlines(folder, "cell", cells.index)
    polygons = cell_polygons(outlines, cells.index, cells.get("cell_area"), centers, folder)
    return Cells(pixel_um, _EXPERIMENT, table, centers, polygons, _nuclei(folder, cells.index))


def _pixel_size(folder: Path) -> float:
    file = folder / _EXPERIMENT
    if not file.is_file():
        there = listing(sorted(entry.name for entry in folder.iterdir()))
        msg = f"{folder} holds no {_EXPERIMENT}, so it is no output folder of Xenium; it holds: {there}"
        raise FileNotFoundError(msg)
    with reading(file):
        pixel_um = float(json.loads(file.read_text(encoding="utf-8"))["pixel_size"])
    if not 0.05 <= pixel_um <= 1:
        msg = f"{file}: pixel_size is {pixel_um:g} um; that of Xenium is 0.2125"
        raise ValueError(msg)
    return pixel_um


def _counts(folder: Path) -> AnnData:
    """Counts of genes, without controls."""
    file = folder / _COUNTS
    if not file.is_file():
        msg = f"{folder} holds no {_COUNTS}; unpack cell_feature_matrix of the bundle, or copy the file there"
        raise FileNotFoundError(msg)
    return read_counts_h5(file)


def _read_table(folder: Path, name: str, columns: list[str]) -> tuple[Path, pd.DataFrame]:
    """A table that is there as parquet or CSV, with the columns that it must have."""
    file = next((each for ending in _TABLES if (each := folder / f"{name}{ending}").is_file()), None)
    if file is None:
        msg = f"{folder} holds no {name}.parquet, nor {name}.csv.gz"
        raise FileNotFoundError(msg)
    with reading(file):
        table = pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_csv(file, dtype={keys.CELL_ID: str})
    missing = [column for column in columns if column not in table]
    if missing:
        msg = f"{file} lacks {listing(missing)}; columns: {listing(table.columns)}"
        raise ValueError(msg)
    return file, table


def _text(ids: pd.Series) -> pd.Index:
    """Names of cells as text: they are integers before Xenium 1.3, and bytes in some files."""
    if len(ids) and isinstance(ids.iloc[0], bytes):
        return pd.Index(ids.str.decode("utf-8"))
    return pd.Index(ids.astype(str))


def _outlines(folder: Path, name: str, cells: pd.Index) -> pd.DataFrame | None:
    """Valid polygons of cells that are in the table, and the cell of each; `None` where there is no file."""
    try:
        file, vertices = _read_table(folder, f"{name}_boundaries", [keys.CELL_ID, *_VERTICES])
    except FileNotFoundError as error:
        without = "cells are circles of their area" if name == "cell" else "nuclei are left out"
        warn(f"{error}; going on without, {without}")
        return None
    xy = vertices[_VERTICES].to_numpy(dtype=np.float64)
    lost = ~np.isfinite(xy).all(axis=1)
    if lost.any():
        msg = f"{file}: {lost.sum()} of {len(xy)} vertices are no numbers; the file may be damaged"
        raise ValueError(msg)
    first, polygons = rings(vertices["label_id" if "label_id" in vertices else keys.CELL_ID].to_numpy(), xy)
    owner = _text(vertices[keys.CELL_ID].iloc[first])
    polygons, repaired = single_polygons(polygons)
    gone = shapely.is_missing(polygons)
    if repaired.any() or gone.any():
        warn(
            f"{file.name}: {repaired.sum()} of {len(polygons)} outlines cross themselves and were repaired (the largest part "
            f"stays), {gone.sum()} have no area and were dropped"
        )
    known = owner.isin(cells)
    if not known.any() and len(owner):
        msg = (
            f"{file}: none of its cells ({listing(owner.unique(), 3)}) is in {_COUNTS} ({listing(cells, 3)}); the files are "
            "not of one run"
        )
        raise ValueError(msg)
    kept = known & ~gone
    return pd.DataFrame({keys.CELL_ID: owner[kept], "polygon": polygons[kept]})


def _nuclei(folder: Path, cells: pd.Index) -> gpd.GeoDataFrame | None:
    """Outlines of nuclei, in the order of their cells."""
    import geopandas as gpd

    outlines = _outlines(folder, "nucleus", cells)
    if outlines is None or outlines.empty:
        return None
    polygons = outlines["polygon"].to_numpy()
    names = largest_first(outlines[keys.CELL_ID], polygons)
    order = np.lexsort((names.str.len(), cells.get_indexer(pd.Index(outlines[keys.CELL_ID]))))
    frame = gpd.GeoDataFrame({keys.CELL_ID: outlines[keys.CELL_ID].to_numpy()}, geometry=polygons, index=names)
    return frame.iloc[order]
