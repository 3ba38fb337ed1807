"""AnnData joined with images into SpatialData, and back."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from histocell._core import keys
from histocell._core.arguments import check_count
from histocell._core.errors import listing, warn
from histocell._core.geometry import check_mpp, mpp_from_pitch
from histocell.io.build import Placed, build, place, set_label, warn_of_hires
from histocell.tables.access import coordinates, get_table
from histocell.tables.files import WHOLE_TABLE, check_images
from histocell.tables.regions import by_name, entry_of, recorded_mpp
from histocell.tables.sections import Sections

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from histocell.images.slide_image import ImageSource, SlideImage
    from histocell.tables.regions import Region


def from_anndata(
    adata: AnnData,
    *,
    image: ImageSource | Mapping[str, ImageSource] | None = None,
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
        Column of ``obs`` that names the library (section, slide) of each row; ``section`` by default where
        ``uns["spatial"]`` holds these sections. Elements of several libraries are called
        ``he-<library>`` and ``spots-<library>``, with what cannot stand in such a name replaced by ``_``.
    section
        Label for ``obs["section"]``. By default the column stays as it is, else it is the library (`library_key`, the key
        of ``uns["spatial"]``), else the name of the image file, else ``"section"``. Name sections whose tables will be
        concatenated: rows with one label count as one section, and are standardised together.

    Returns
    -------
    SpatialData with images ``he``, shapes ``spots`` and a copy of `adata` as ``table``: ``obsm["spatial"]`` (px of
    ``he``), ``obs["mpp"]``, ``obs["section"]``, provenance in ``uns["histocell"]["mpp"]``.

    Raises
    ------
    KeyError
        If ``obsm["spatial"]``, `library_key` or the image of a library is missing.
    TypeError
        If a length is not a number.
    ValueError
        If there are no spots, two of one library have one name, the mpp is not known or not one for each image, or spots
        do not lie in the image (x and y swapped, coordinates of another image).

    Examples
    --------
    >>> import histocell as hc
    >>> import numpy as np
    >>> from anndata import AnnData
    >>> adata = AnnData(np.ones((2, 3), dtype="float32"), obsm={"spatial": np.array([[60.0, 60.0], [260.0, 60.0]])})
    >>> image = np.full((120, 320, 3), 240, dtype="uint8")
    >>> sdata = hc.io.from_anndata(adata, image=image, spot_pitch_um=100, section="S1")
    >>> sdata["table"].obs["mpp"].tolist()
    [0.5, 0.5]
    """
    if adata.n_obs == 0:
        msg = "adata has no rows, so there are no spots to join with an image"
        raise ValueError(msg)
    xy = coordinates(adata)
    spatial = adata.uns.get("spatial", {})
    groups = _libraries(adata, library_key, image, spatial)
    check_images(image, groups, adata)
    table = adata.to_memory() if adata.isbacked else adata.copy()
    table.uns["spatial"] = {name: dict(entry) for name, entry in spatial.items()}
    sections: list[Placed] = []
    suffixes = [f"-{key}" for key in keys.safe_keys(groups)] if len(groups) > 1 else [""]
    for (name, rows), suffix in zip(groups.items(), suffixes, strict=True):
        entry = spatial.get(name, {})
        given = None if image is None else cast("ImageSource", entry_of(image, name, "image"))
        source, scale = _image_of(name, entry) if given is None else (given, 1.0)
        resolution = recorded_mpp(adata, rows) if mpp is None else entry_of(mpp, name, "mpp")
        diameter_px = entry.get("scalefactors", {}).get("spot_diameter_fullres")
        if scale != 1:
            table.uns["spatial"][name] = _rescaled(entry, scale)
        centers = xy[rows] * scale
        placed = place(
            centers,
            name=name,
            rows=rows,
            image=source,
            mpp=None if resolution is None else check_mpp(resolution, source=f"mpp of {name}") / scale,
            pitch_mpp=None if spot_pitch_um is None else mpp_from_pitch(centers, spot_pitch_um),
            diameter_um=spot_diameter_um,
            diameter_px=None if diameter_px is None else float(diameter_px) * scale,
            suffix=suffix,
        )
        sections.append(placed)
    if not table.uns["spatial"]:
        del table.uns["spatial"]
    if section is not None or (keys.SECTION not in table.obs and library_key is None):
        file_name = keys.slide_name(image) if isinstance(image, str | PathLike) else keys.SECTION
        set_label(table, keys.SECTION, section or next(iter(spatial), file_name))
    elif keys.SECTION not in table.obs:
        table.obs[keys.SECTION] = pd.Categorical(table.obs[library_key].astype(str).to_numpy())
    return build(table, sections)


def _libraries(
    adata: AnnData, library_key: str | None, image: object, spatial: Mapping[str, object]
) -> dict[str, NDArray[np.intp]]:
    """Positions of the rows of each library."""
    if library_key is None and not (by_name(image) and keys.SECTION in adata.obs):
        if len(spatial) > 1 and keys.SECTION in adata.obs and set(spatial) >= set(adata.obs[keys.SECTION].astype(str)):
            library_key = keys.SECTION
        elif len(spatial) > 1:
            msg = f'uns["spatial"] holds {len(spatial)} libraries ({listing(spatial)}); say which rows lie on which with library_key='
            raise ValueError(msg)
        else:
            return {next(iter(spatial), WHOLE_TABLE): np.arange(adata.n_obs)}
    sections = Sections(adata, library_key=library_key)
    return dict(zip(sections.names, sections.rows, strict=True))


def _image_of(name: str, entry: Mapping[str, Any]) -> tuple[Path | NDArray[np.generic] | None, float]:
    """The image that ``uns["spatial"]`` knows for a library, and the size of a full-resolution px in its px."""
    path = entry.get("metadata", {}).get("source_image_path")
    if path is not None and Path(str(path)).is_file():
        return Path(str(path)), 1.0
    hires = entry.get("images", {}).get("hires")
    scale = entry.get("scalefactors", {}).get("tissue_hires_scalef")
    if hires is None or scale is None:
        warn(f"no image for {name}: give image= (a path or an array); going on without")
        return None, 1.0
    if scale != 1:  # a small image may be kept as it is
        warn_of_hires(float(scale), f" for {name}")
    return np.asarray(hires), float(scale)


def _rescaled(entry: Mapping[str, Any], scale: float) -> dict[str, Any]:
    """An entry of ``uns["spatial"]`` for coordinates in px of the hires image."""
    factors = dict(entry["scalefactors"])
    for key, value in factors.items():
        if key.endswith(("_scalef", "_fullres")):
            factors[key] = float(value) * scale if key.endswith("_fullres") else float(value) / scale
    return {**entry, "scalefactors": factors}


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
    A copy of the table with ``obsm["spatial"]`` (x, y in full-resolution px), ``obs["mpp"]`` and, for each section,
    ``uns["spatial"][section]``: images ``hires``, scalefactors ``tissue_hires_scalef`` and ``spot_diameter_fullres``, and in
    its ``metadata`` the file of the image where it is one, which :func:`histocell.pp.patches` and `from_anndata` go on with.
    Sections are called as in ``obs["section"]``, where it tells the regions apart: ``anndata.concat(...,
    uns_merge="unique")`` keeps them, and ``squidpy.pl.spatial_scatter(adata, library_key="section")`` draws them.

    Examples
    --------
    >>> import histocell as hc
    >>> adata = hc.io.to_anndata(hc.datasets.synthetic_tissue(size_px=600))
    >>> adata.uns["spatial"]["P1S1"]["images"]["hires"].shape
    (600, 600, 3)
    """
    table = get_table(sdata, table_key).copy()
    xy, mpp = np.full((table.n_obs, 2), np.nan), np.full(table.n_obs, np.nan)
    libraries = {}
    for region in Sections(sdata, table_key=table_key).regions(need_image=False, thumbnails=True):
        slide_mpp = recorded_mpp(table, region.rows) if region.thumbnail else region.mpp
        scale = slide_mpp / region.mpp if slide_mpp and region.mpp else 1.0  # px of the image per full-resolution px
        is_known = scale != 1 and keys.SPATIAL in table.obsm
        xy[region.rows] = coordinates(table)[region.rows] if is_known else region.centers / scale
        if region.image is None:
            continue
        mpp[region.rows] = np.nan if region.mpp is None else region.mpp * scale
        name = region.name if "/" in region.section else region.section  # which no file can hold
        libraries[name] = _library(sdata, table, region, scale, max_px)
    table.obsm[keys.SPATIAL] = xy
    if keys.MPP not in table.obs:
        table.obs[keys.MPP] = mpp
    if libraries:
        table.uns["spatial"] = libraries
    return table


def _library(sdata: SpatialData, table: AnnData, region: Region, scale: float, max_px: int) -> dict[str, Any]:
    """The entry of ``uns["spatial"]`` of a region; its image has `scale` px per full-resolution px."""
    entry: dict[str, Any] = {"images": {}, "scalefactors": {}, "metadata": {}}
    image = cast("SlideImage", region.image)
    if image.path is not None and image.intensity_range is None and scale == 1:  # what opens as the same image
        entry["metadata"]["source_image_path"] = str(image.path.resolve())
    if check_count(max_px, "max_px"):
        thumbnail = image.thumbnail(max_px)
        entry["images"]["hires"] = thumbnail
        entry["scalefactors"]["tissue_hires_scalef"] = thumbnail.shape[1] / image.shape[1] * scale
    shapes = sdata.shapes.get(region.name)
    if shapes is not None and "radius" in shapes:
        entry["scalefactors"]["spot_diameter_fullres"] = 2 * float(shapes["radius"].median())
    elif keys.PATCHES in table.obsm:  # tiles
        y0, _, y1, _ = table.obsm[keys.PATCHES][region.rows[0]]
        entry["scalefactors"]["spot_diameter_fullres"] = float(y1 - y0)
    return entry
