"""The image under each row of a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from histocell._core import keys
from histocell._core.errors import listing, missing_key
from histocell.images.slide_image import open_image
from histocell.images.transformations import matrix_to_image, transform_points, transformations
from histocell.tables.access import coordinates, is_spatialdata

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from histocell.images.slide_image import ImageSource, SlideImage
    from histocell.tables.access import Data


@dataclass(frozen=True)
class Region:
    """The rows of a table that lie on one image.

    Attributes
    ----------
    name
        Region of the SpatialData, library or section.
    rows
        Positions of the rows in the table.
    centers
        Their coordinates in full-resolution px of the image, shape ``(k, 2)``: x, y.
    image
        The image, `None` where none was asked for or found.
    """

    name: str
    rows: NDArray[np.intp]
    centers: NDArray[np.float64]
    image: SlideImage | None

    @property
    def mpp(self) -> float | None:
        """Micrometres per full-resolution px."""
        return None if self.image is None else self.image.mpp


def find_regions(
    data: Data,
    table: AnnData,
    *,
    image: ImageSource | Mapping[str, ImageSource] | None,
    image_key: str | Mapping[str, str] | None,
    library_key: str | None,
    mpp: float | Mapping[str, float] | None,
    need_image: bool,
) -> list[Region]:
    """Rows by the image that they lie on; the parameters are those of `Sections` and of its ``regions``."""
    if not is_spatialdata(data):
        return _anndata_regions(table, image, library_key, mpp, need_image=need_image)
    if image is not None:
        msg = "image= is for AnnData; a SpatialData holds its images, choose one with image_key="
        raise ValueError(msg)
    return _spatialdata_regions(data, table, image_key, mpp, need_image=need_image)


def _per_region(value: Any, name: str, what: str) -> Any:
    """`value` itself, or its entry for the region."""
    if not hasattr(value, "keys") or hasattr(value, "dtype") or hasattr(value, "children"):
        return value
    if name not in value:
        msg = f"{what} has no entry for {name!r}; it has: {listing(value)}"
        raise KeyError(msg)
    return value[name]


def _anndata_regions(
    table: AnnData, image: Any, library_key: str | None, mpp: Any, *, need_image: bool
) -> list[Region]:
    xy = coordinates(table)
    if library_key is None and keys.SECTION in table.obs and (image is None or hasattr(image, "keys")):
        library_key = keys.SECTION
    if library_key is None:
        groups = {_name_of_all(table): np.arange(table.n_obs)}
    elif library_key not in table.obs:
        raise missing_key(
            "obs", library_key, table.obs.columns, "library_key= names the column that tells images apart."
        )
    else:
        labels = table.obs[library_key].astype(str).to_numpy()
        groups = {name: np.flatnonzero(labels == name) for name in dict.fromkeys(labels)}
    if image is not None and not hasattr(image, "keys") and len(groups) > 1:
        msg = f"one image for {len(groups)} libraries ({listing(groups)}); give a mapping from library to image"
        raise ValueError(msg)
    out = []
    for name, rows in groups.items():
        source = _per_region(image, name, "image") if image is not None else _known_image(table, name)
        if source is None and need_image:
            msg = (
                f'no image for {name}: give image= (a path or an array), or set uns["spatial"][library]["metadata"]'
                '["source_image_path"], or build a SpatialData with hc.io.from_anndata(adata, image=..., mpp=...)'
            )
            raise ValueError(msg)
        opened = None if source is None else open_image(source, mpp=_resolution(table, name, rows, mpp))
        out.append(Region(name, rows, xy[rows], opened))
    return out


def _name_of_all(table: AnnData) -> str:
    """What the rows of a table are called that all lie on one image: their section where they have one."""
    sections = set(table.obs[keys.SECTION].astype(str)) if keys.SECTION in table.obs else set()
    return str(sections.pop()) if len(sections) == 1 else "the table"


def _resolution(table: AnnData, name: str, rows: NDArray[np.intp], mpp: Any) -> float | None:
    """The mpp to open an image with: the argument, then what was recorded for the rows, then whatever the image says."""
    given = _per_region(mpp, name, "mpp")
    return one_mpp(table, rows) if given is None else given


def one_mpp(table: AnnData, rows: NDArray[np.intp]) -> float | None:
    """``obs["mpp"]`` of rows where it is there and one value, else `None`."""
    if keys.MPP not in table.obs:
        return None
    values = np.unique(np.asarray(table.obs[keys.MPP], dtype=np.float64)[rows])
    return float(values[0]) if len(values) == 1 and np.isfinite(values[0]) else None


def _known_image(table: AnnData, name: str) -> str | None:
    """The image file that was used before, or that ``uns["spatial"]`` (Space Ranger, scanpy) points to."""
    from pathlib import Path

    if (path := keys.read_provenance(table, "images").get(name)) and Path(path).exists():
        return path
    libraries = table.uns.get("spatial", {})
    entry = libraries.get(name) or (next(iter(libraries.values())) if len(libraries) == 1 else None)
    path = (entry or {}).get("metadata", {}).get("source_image_path")
    return str(path) if path and Path(str(path)).exists() else None


def _spatialdata_regions(sdata: Any, table: AnnData, image_key: Any, mpp: Any, *, need_image: bool) -> list[Region]:
    attrs = table.uns.get("spatialdata_attrs")
    if attrs is None:
        msg = "the table annotates no region of the SpatialData; build it with spatialdata.models.TableModel.parse"
        raise ValueError(msg)
    labels = table.obs[attrs["region_key"]].astype(str).to_numpy()
    instances = table.obs[attrs["instance_key"]].to_numpy()
    out = []
    for name in dict.fromkeys(labels):
        rows = np.flatnonzero(labels == name)
        key = _per_region(image_key, name, "image_key") or _find_image(sdata, name, need_image=need_image)
        if key is not None and key not in sdata.images:
            msg = f"image {key!r} not found; available: {listing(sdata.images)}"
            raise KeyError(msg)
        resolution = _resolution(table, name, rows, mpp)
        opened = None if key is None else open_image(sdata.images[key], mpp=resolution)
        out.append(Region(name, rows, _centers(sdata, table, name, key, rows, instances[rows]), opened))
    return out


def _centers(
    sdata: Any, table: AnnData, region: str, image_key: str | None, rows: NDArray[np.intp], instances: NDArray[Any]
) -> NDArray[np.float64]:
    """Centres of the instances in px of the image, by the transformations that the two share."""
    if region not in sdata.shapes or image_key is None:
        return coordinates(table)[rows]
    shapes, image = sdata.shapes[region], sdata.images[image_key]
    place = shapes.index.get_indexer(instances)
    if (place < 0).any():
        absent = instances[place < 0]
        msg = f"{len(absent)} rows of the table have no shape in {region!r}: {listing(absent, 5)}"
        raise ValueError(msg)
    matrix = matrix_to_image(shapes, image)
    if matrix is None:
        msg = f"shapes {region!r} and image {image_key!r} share no coordinate system, so spots cannot be placed on it"
        raise ValueError(msg)
    centroids = shapes.geometry.centroid
    return transform_points(np.column_stack([centroids.x, centroids.y])[place], matrix)


def _find_image(sdata: Any, region: str, *, need_image: bool) -> str | None:
    """The image of a region: the one that shares a coordinate system with it, then the one whose name ends alike."""
    images = [key for key in sdata.images if not key.endswith("thumbnail")]  # ours and wsidata's: nothing to measure on
    if region in sdata.shapes:
        systems = set(transformations(sdata.shapes[region]))
        images = [key for key in images if systems & set(transformations(sdata.images[key]))]
    if len(images) > 1:
        full = [key for key in images if key == keys.IMAGE or key.endswith("_full_image")]
        suffix = region.partition("-")[2]
        alike = [key for key in images if suffix and key.endswith(f"-{suffix}")]
        images = alike if len(alike) == 1 else full if len(full) == 1 else images
    if len(images) == 1:
        return images[0]
    if not need_image:
        return None
    problem = "several images lie" if images else "no image lies"
    msg = (
        f"{problem} under region {region!r}; images: {listing(sdata.images)}. Choose with image_key={{{region!r}: ...}}"
    )
    raise ValueError(msg)


def record_mpp(table: AnnData, found: list[Region]) -> NDArray[np.float64]:
    """Micrometres per px of each row, or the error that asks for it."""
    out = np.full(table.n_obs, np.nan)
    for region in found:
        if region.mpp is None:
            msg = (
                f"the resolution of the image of {region.name} is unknown: neither the file nor the element says it. Give "
                "mpp= (um per px), or build the data with a reader that finds it from the spot pitch "
                "(hc.io.st, hc.io.visium, hc.io.from_anndata(..., spot_pitch_um=))"
            )
            raise ValueError(msg)
        out[region.rows] = region.mpp
    return out


def slide_image(sdata: SpatialData, image_key: str | None, mpp: float | None) -> tuple[str, Any]:
    """The one image of a slide, opened, with its resolution known."""
    images = list(sdata.images)
    if image_key is None and len(images) != 1:
        msg = f"choose the image with image_key=; this SpatialData has: {listing(images)}"
        raise ValueError(msg)
    key = images[0] if image_key is None else image_key
    if key not in images:
        msg = f"image {key!r} not found; available: {listing(images)}"
        raise KeyError(msg)
    opened = open_image(sdata.images[key], mpp=mpp)
    if opened.mpp is None:
        msg = f"the resolution of image {key!r} is unknown; give mpp= (um per full-resolution px)"
        raise ValueError(msg)
    return key, opened
