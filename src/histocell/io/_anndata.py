"""From AnnData to SpatialData and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histocell._core import keys
from histocell._core.errors import listing, missing_key, warn
from histocell._core.geometry import mpp_from_pitch
from histocell.io.build import Placed, build, place, set_label
from histocell.tables.access import coordinates, get_table

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData


def from_anndata(
    adata: AnnData,
    *,
    image: Any = None,
    mpp: float | Mapping[str, float] | None = None,
    spot_pitch_um: float | None = None,
    spot_diameter_um: float | None = None,
    library_key: str | None = None,
    section: str | None = None,
) -> SpatialData:
    """Join an AnnData with the H&E image of its spots.

    Parameters
    ----------
    adata
        Spots with ``obsm["spatial"]``: (x, y) in full-resolution px of the image. It is not changed.
    image
        A path, an array or an image element; with `library_key` a mapping from library to one of these. Without it the
        file that ``uns["spatial"][library]["metadata"]["source_image_path"]`` names is used, then the downscaled
        ``hires`` image, with a warning.
    mpp
        Micrometres per full-resolution px, one for all or by library; else ``obs["mpp"]``, else the metadata of the image.
    spot_pitch_um
        Distance between neighbouring spots, 200 for legacy ST, 100 for Visium; gives the mpp where nothing else does.
    spot_diameter_um
        Diameter of a spot; from ``uns["spatial"]``, else half the distance between spots.
    library_key
        Column of ``obs`` that names the library (section, slide) of each row. Elements of several libraries are called
        ``he-<library>`` and ``spots-<library>``.
    section
        Label for ``obs["section"]``, by default the library.

    Returns
    -------
    SpatialData with images ``he``, shapes ``spots`` and a copy of `adata` as ``table``: ``obsm["spatial"]`` (px of
    ``he``), ``obs["mpp"]``, ``obs["section"]`` where known, provenance in ``uns["histocell"]["mpp"]``.

    Raises
    ------
    KeyError
        If ``obsm["spatial"]``, `library_key` or the image of a library is missing.
    ValueError
        If the mpp is not known, or spots do not lie in the image (x and y swapped, coordinates of another image).
    """
    xy = coordinates(adata)
    if library_key is None and keys.SECTION in adata.obs and _is_mapping(image):
        library_key = keys.SECTION
    spatial = adata.uns.get("spatial", {})
    groups = _libraries(adata, library_key, spatial)
    if image is not None and not _is_mapping(image) and len(groups) > 1:
        msg = f"one image for {len(groups)} libraries ({listing(groups)}); give a mapping from library to image"
        raise ValueError(msg)
    table = adata.copy() if not adata.isbacked else adata.to_memory()
    table.uns["spatial"] = {name: dict(entry) for name, entry in spatial.items()}
    sections: list[Placed] = []
    for name, rows in groups.items():
        suffix = f"-{keys.safe_key(name)}" if len(groups) > 1 else ""
        factors = _entry(spatial, name).get("scalefactors", {})
        source, scale = _image_of(image, name, _entry(spatial, name))
        resolution = _of(mpp, name, "mpp") if mpp is not None else _recorded_mpp(adata, rows)
        diameter_px = factors.get("spot_diameter_fullres")
        if scale != 1:
            table.uns["spatial"] = _rescaled(table.uns["spatial"], name, scale)
        placed = place(
            xy[rows] * scale,
            name=name,
            rows=rows,
            image=source,
            mpp=None if resolution is None else resolution / scale,
            pitch_mpp=None if spot_pitch_um is None else mpp_from_pitch(xy[rows] * scale, spot_pitch_um),
            diameter_um=spot_diameter_um,
            diameter_px=None if diameter_px is None else float(diameter_px) * scale,
            suffix=suffix,
        )
        sections.append(placed)
    if not table.uns["spatial"]:
        del table.uns["spatial"]
    if section is not None:
        set_label(table, keys.SECTION, section)
    elif keys.SECTION not in table.obs and library_key is not None:
        table.obs[keys.SECTION] = pd.Categorical(table.obs[library_key].astype(str).to_numpy())
    return build(table, sections)


def _libraries(adata: AnnData, library_key: str | None, spatial: Mapping[str, Any]) -> dict[str, Any]:
    """Positions of the rows of each library."""
    if library_key is None:
        if len(spatial) > 1:
            msg = f'uns["spatial"] holds {len(spatial)} libraries ({listing(spatial)}); say which rows lie on which with library_key='
            raise ValueError(msg)
        return {next(iter(spatial), "the table"): np.arange(adata.n_obs)}
    if library_key not in adata.obs:
        raise missing_key("obs", library_key, adata.obs.columns, "library_key= names the column of libraries.")
    if adata.obs[library_key].isna().any():
        msg = f'obs["{library_key}"] is missing in {int(adata.obs[library_key].isna().sum())} rows'
        raise ValueError(msg)
    labels = adata.obs[library_key].astype(str).to_numpy()
    return {name: np.flatnonzero(labels == name) for name in dict.fromkeys(labels.tolist())}


def _entry(spatial: Mapping[str, Any], name: str) -> dict[str, Any]:
    return dict(spatial.get(name, {}))


def _is_mapping(image: Any) -> bool:
    """Whether `image` maps libraries to images; a multiscale element is a mapping, too, but an image."""
    return isinstance(image, Mapping) and not hasattr(image, "subtree")


def _recorded_mpp(adata: AnnData, rows: NDArray[np.intp]) -> float | None:
    """``obs["mpp"]`` of the rows, where a reader wrote it and they agree."""
    if keys.MPP not in adata.obs:
        return None
    values = np.unique(np.asarray(adata.obs[keys.MPP], dtype=np.float64)[rows])
    return float(values[0]) if len(values) == 1 and np.isfinite(values[0]) else None


def _of(value: Any, name: str, what: str) -> Any:
    """`value`, or its entry for the library."""
    if not isinstance(value, Mapping):
        return value
    if name not in value:
        msg = f"{what} has no entry for library {name!r}; it has: {listing(value)}"
        raise KeyError(msg)
    return value[name]


def _image_of(image: Any, name: str, entry: Mapping[str, Any]) -> tuple[Any, float]:
    """The image of a library and the size of a full-resolution px in its px."""
    from pathlib import Path

    if image is not None:
        return (_of(image, name, "image") if _is_mapping(image) else image), 1.0
    path = entry.get("metadata", {}).get("source_image_path")
    if path is not None and Path(str(path)).is_file():
        return Path(str(path)), 1.0
    hires = entry.get("images", {}).get("hires")
    scale = entry.get("scalefactors", {}).get("tissue_hires_scalef")
    if hires is None or scale is None:
        warn(f"no image for {name}: give image= (a path or an array); going on without")
        return None, 1.0
    warn(
        f"no full-resolution image for {name}: using the downscaled hires image of {hires.shape[1]} x {hires.shape[0]} px, "
        f"one of its px is {1 / float(scale):.3g} full-resolution px, too coarse to see nuclei. Coordinates are in its px. "
        "Give image= for the full-resolution one."
    )
    return np.asarray(hires), float(scale)


def _rescaled(spatial: dict[str, Any], name: str, scale: float) -> dict[str, Any]:
    """``uns["spatial"]`` for coordinates in px of the hires image."""
    factors = dict(spatial[name]["scalefactors"])
    for key, value in factors.items():
        if key.endswith("_scalef"):
            factors[key] = float(value) / scale
        elif key.endswith("_fullres"):
            factors[key] = float(value) * scale
    return {**spatial, name: {**spatial[name], "scalefactors": factors}}


def to_anndata(sdata: SpatialData, *, table_key: str | None = None, max_px: int = 1000) -> AnnData:
    """The table of a SpatialData as an AnnData that scanpy and squidpy can plot.

    Parameters
    ----------
    sdata
        SpatialData with one table, or several and `table_key`.
    table_key
        Name of the table.
    max_px
        Longer edge of the image put into ``uns["spatial"]``; 0 for none.

    Returns
    -------
    A copy of the table with ``obsm["spatial"]`` (x, y in full-resolution px), ``obs["mpp"]`` and, for each region,
    ``uns["spatial"][region]``: images ``hires``, scalefactors ``tissue_hires_scalef`` and ``spot_diameter_fullres``.
    """
    from histocell.tables.sections import Sections

    table = get_table(sdata, table_key).copy()
    found = Sections(sdata, table_key=table_key).regions(need_image=False)
    xy, mpp = np.full((table.n_obs, 2), np.nan), np.full(table.n_obs, np.nan)
    libraries = {}
    for region in found:
        xy[region.rows] = region.centers
        if region.image is None:
            continue
        mpp[region.rows] = np.nan if region.mpp is None else region.mpp
        entry: dict[str, Any] = {"images": {}, "scalefactors": {}, "metadata": {}}
        if max_px:
            thumbnail = region.image.thumbnail(max_px)
            entry["images"]["hires"] = thumbnail
            entry["scalefactors"]["tissue_hires_scalef"] = thumbnail.shape[1] / region.image.shape[1]
        shapes = sdata.shapes.get(region.name)
        if shapes is not None and "radius" in shapes:
            entry["scalefactors"]["spot_diameter_fullres"] = 2 * float(shapes["radius"].median())
        libraries[region.name] = entry
    table.obsm[keys.SPATIAL] = xy
    if keys.MPP not in table.obs:
        table.obs[keys.MPP] = mpp
    if libraries:
        table.uns["spatial"] = libraries
    return table
