"""Reader of cell abundances that other tools estimated: data frames, text files, cell2location's AnnData."""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

from histocell._core.errors import listing, missing_key, reading

if TYPE_CHECKING:
    type AbundanceSource = pd.DataFrame | AnnData | str | PathLike[str]

# cell2location's slots and the beginnings of its columns, as q05cell_abundance_w_sf_B cells
_CELL2LOCATION = ("q05_cell_abundance_w_sf", "means_cell_abundance_w_sf", "q50_cell_abundance_w_sf")
_PREFIX = re.compile(r"^(q\d\d|means?)_?(cell_abundance_w_sf|spot_factors|per_cluster_mu_fg|w_sf)_?")
_QUANTILES = ("q05_cell_abundance_w_sf", "q95_cell_abundance_w_sf")
# Columns that tools write beside the cell types, which are none: SPOTlight's sum of squared residuals
_BESIDE = {"res_ss": "SPOTlight"}
_TEXT = {".csv", ".tsv", ".txt"}
# Columns of numbers that stand beside abundances: places, counts of genes, quality
_NO_TYPE = re.compile(
    r"((image|array|pixel)?_?(row|col|x|y)|in_tissue|n_?(count|feature|genes)s?(_.*)?|(total|pct)_counts.*|percent\.mt)",
    re.IGNORECASE,
)


class AbundanceTable(NamedTuple):
    """Abundances of named spots, one column per cell type."""

    frame: pd.DataFrame
    name: str  # of the source
    labels: list[str] | None = None  # section of each row
    method: str | None = None
    noise: pd.DataFrame | None = None  # q95 - q05 of cell2location, rows and columns as in `frame`


def read_abundances(
    source: AbundanceSource, source_key: str | None = None, library_key: str | None = None
) -> AbundanceTable:
    """Read a data frame, a file of one, or an AnnData with the abundances in ``obsm``.

    Parameters
    ----------
    source
        The data frame, spots by cell types; a path of a CSV or TSV of it, or of an h5ad; an AnnData.
    source_key
        Slot of ``obsm`` of an AnnData, by default cell2location's.
    library_key
        Column of ``obs`` of an AnnData with the section of each row, where there is one.

    Raises
    ------
    FileNotFoundError, OSError
        When the file does not exist or is damaged.
    KeyError
        When an AnnData has no such slot.
    TypeError
        When the source is something else.
    ValueError
        When columns hold anything but numbers from 0 up, or a spot is named twice.
    """
    name = "the data frame" if isinstance(source, pd.DataFrame) else "the AnnData"
    if isinstance(source, str | PathLike):
        path = Path(source).expanduser()
        name, source = path.name, _read_file(path)
    labels, method, noise = None, None, None
    if isinstance(source, AnnData):
        frame, slot = _from_anndata(source, source_key)
        if slot in _CELL2LOCATION:
            method, noise = "cell2location", _spread(source)
        if library_key is not None and library_key in source.obs:
            labels = source.obs[library_key].astype(str).tolist()
    elif isinstance(source, pd.DataFrame):
        frame = source
    else:
        msg = f"abundances come from a data frame, an AnnData or a file of either, not {type(source).__name__}; give one section after the other, with section="
        raise TypeError(msg)
    frame, tool = _without_prefix(frame)
    for column in frame.columns.intersection(list(_BESIDE)):
        frame, tool = frame.drop(columns=column), _BESIDE[column]
    _check(frame, name, labels)
    if noise is not None:
        noise = noise.reindex(columns=frame.columns).astype("float64").set_axis(frame.index.astype(str))
    return AbundanceTable(
        frame.astype("float64").set_axis(frame.index.astype(str)), name, labels, method or tool, noise
    )


def _read_file(path: Path) -> pd.DataFrame | AnnData:
    if not path.is_file():
        msg = f"{path} does not exist" if not path.is_dir() else f"{path} is a folder, not a table of abundances"
        raise FileNotFoundError(msg)
    if path.suffix == ".h5ad":
        return _read_h5ad(path)
    if not _TEXT & set(path.suffixes):
        msg = f"{path} is none of {listing(sorted(_TEXT))}, plain or gzipped, and .h5ad; give what another reader makes of it"
        raise ValueError(msg)
    with reading(path):
        head = str(pd.read_csv(path, sep="\0", nrows=1, header=None, dtype=str).iat[0, 0])
        separator = next((each for each in "\t;," if each in head), " ")
        return pd.read_csv(path, sep=separator, index_col=0, decimal="," if separator == ";" else ".")


def _read_h5ad(path: Path) -> AnnData:
    """Rows and abundances of an h5ad, without its counts and the samples of a model."""
    import h5py
    from anndata.io import read_elem

    with reading(path), h5py.File(path) as file:
        uns = file.get("uns/mod")
        mod = {"factor_names": read_elem(uns["factor_names"])} if uns is not None and "factor_names" in uns else {}
        obs: Any = read_elem(file["obs"])
        obsm: Any = read_elem(file["obsm"])
        return AnnData(obs=obs, obsm=obsm, uns={"mod": mod})


def _spread(adata: AnnData) -> pd.DataFrame | None:
    """The 95 % less the 5 % quantile of cell2location, `None` where either is not there."""
    low, high = (_quantile(adata, slot) for slot in _QUANTILES)
    if low is None or high is None or set(low) != set(high):
        return None
    spread = high[list(low)] - low
    if (spread.to_numpy() < 0).any():
        msg = f"the 95 % quantiles of cell2location in the source are below the 5 % ones for {(spread.to_numpy() < 0).sum()} values"
        raise ValueError(msg)
    return spread


def _quantile(adata: AnnData, slot: str) -> pd.DataFrame | None:
    try:
        return _without_prefix(_from_anndata(adata, slot)[0])[0]
    except KeyError:
        start = slot.replace("_", "", 1) + "_"
        columns = [column for column in adata.obs if str(column).startswith(start)]
        return _without_prefix(adata.obs[columns])[0] if columns else None  # type: ignore[arg-type]


def _from_anndata(adata: AnnData, key: str | None) -> tuple[pd.DataFrame, str | None]:
    """The abundances in ``obsm[key]``, or those of cell2location in ``obsm`` or ``obs``, and their slot."""
    if key is None:
        key = next((name for name in _CELL2LOCATION if name in adata.obsm), None)
    if key is None:
        for wanted in _CELL2LOCATION:  # where cell2location could not write a data frame
            start = wanted.replace("_", "", 1) + "_"
            columns = [column for column in adata.obs if str(column).startswith(start)]
            if columns:
                return adata.obs[columns], wanted  # type: ignore[return-value]
    if key is None or key not in adata.obsm:
        hint = "source_key= names the slot with the abundances."
        raise missing_key("obsm", key or _CELL2LOCATION[0], adata.obsm.keys(), hint)
    values = adata.obsm[key]
    if isinstance(values, pd.DataFrame):
        return values.set_axis(adata.obs_names), key
    array = np.asarray(values.toarray() if hasattr(values, "toarray") else values)
    names = list(adata.uns.get("mod", {}).get("factor_names", []))
    if array.ndim != 2 or array.shape[1] != len(names):
        msg = f'obsm["{key}"] of the source is an array of shape {array.shape} without names of cell types; give a data frame'
        raise ValueError(msg)
    return pd.DataFrame(array, index=adata.obs_names, columns=names), key


def _without_prefix(frame: pd.DataFrame) -> tuple[pd.DataFrame, str | None]:
    """Columns by their cell types alone, and the tool whose prefix they had."""
    names = [str(name).strip() for name in frame.columns]
    found = [_PREFIX.match(name) for name in names]
    if names and all(found) and len({match[0] for match in found if match}) == 1:
        return frame.set_axis([_PREFIX.sub("", name) for name in names], axis="columns"), "cell2location"
    return frame.set_axis(names, axis="columns"), None


def _check(frame: pd.DataFrame, name: str, labels: list[str] | None) -> None:
    """Refuse a table that does not hold an abundance of each cell type for each spot."""
    if frame.shape[1] == 0 or frame.shape[0] == 0:
        msg = f"{name} holds {frame.shape[0]} spots and {frame.shape[1]} cell types; it needs a row per spot, a column per cell type"
        raise ValueError(msg)
    text = [column for column, dtype in frame.dtypes.items() if dtype.kind not in "fiu"]
    if text:
        msg = (
            f"{name} has columns of text ({listing(text, 5)}) where it should have abundances; drop them, "
            "table.drop(columns=[...]), and make the one with the names of the spots the index, table.set_index(...)"
        )
        raise ValueError(msg)
    values = frame.to_numpy(dtype=np.float64)
    total = values.sum(axis=1)
    others = [
        column
        for column, each in zip(frame.columns, values.T, strict=True)
        if _NO_TYPE.fullmatch(str(column)) or (min(values.shape) > 2 and total.any() and np.allclose(2 * each, total))
    ]
    if others:
        msg = f"{name} has columns of places, counts or sums ({listing(others, 5)}), no cell types; drop them: table.drop(columns=[...])"
        raise ValueError(msg)
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()].unique()
        msg = f"{name} has cell types twice: {listing(twice, 5)}"
        raise ValueError(msg)
    spots = pd.Index(frame.index.astype(str)) if labels is None else pd.MultiIndex.from_arrays([labels, frame.index])
    if not spots.is_unique:
        twice = frame.index[spots.duplicated()].unique()
        msg = f"{name} names spots twice: {listing(twice, 3)}; give one section after the other, with section="
        raise ValueError(msg)
    wrong = np.argwhere((values < 0) | np.isinf(values))
    if len(wrong):
        row, column = wrong[0]
        msg = (
            f"{name}: {frame.columns[column]} of spot {frame.index[row]} is {values[row, column]:g}, no abundance, and so are "
            f"{len(wrong) - 1} more values; clip what is rounding: table.clip(lower=0)"
        )
        raise ValueError(msg)
