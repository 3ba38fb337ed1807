"""The image under each row of a table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from histocell._core import keys
from histocell._core.access import coordinates, get_table, is_spatialdata
from histocell._core.errors import listing, missing_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from numpy.typing import NDArray

    from histocell._core.access import Data
    from histocell._core.images import SlideImage


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


def regions(
    data: Data,
    *,
    table_key: str | None = None,
    image: Any = None,
    image_key: str | Mapping[str, str] | None = None,
    library_key: str | None = None,
    mpp: float | Mapping[str, float] | None = None,
    need_image: bool = True,
) -> list[Region]:
    """Rows by the image they lie on.

    Parameters
    ----------
    data
        AnnData or SpatialData.
    image
        For AnnData: a path, an array, or a mapping from library to either.
    image_key
        For SpatialData: name of the image element, or a mapping from region to it; found by itself where one image
        shares a coordinate system with the region.
    library_key
        For AnnData: column of ``obs`` that tells the images apart; ``section`` where `image` is a mapping.
    mpp
        Micrometres per full-resolution px, for all or by region; wins over what the image says.
    need_image
        Whether a missing image is an error.
    """
    table = get_table(data, table_key)
    if is_spatialdata(data):
        if image is not None:
            msg = "image= is for AnnData; a SpatialData holds its images, choose one with image_key="
            raise ValueError(msg)
        found = _spatialdata_regions(data, table, image_key, mpp, need_image=need_image)
    else:
        found = _anndata_regions(table, image, library_key, mpp, need_image=need_image)
    return found


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
    from histocell._core.images import open_image

    xy = coordinates(table)
    if library_key is None and keys.SECTION in table.obs and (image is None or hasattr(image, "keys")):
        library_key = keys.SECTION
    if library_key is None:
        groups = {"the table": np.arange(table.n_obs)}
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


def _resolution(table: AnnData, name: str, rows: NDArray[np.intp], mpp: Any) -> float | None:
    """The mpp to open an image with: the argument, then what was recorded for the rows, then whatever the image says."""
    given = _per_region(mpp, name, "mpp")
    if given is not None or keys.MPP not in table.obs:
        return given
    values = np.unique(np.asarray(table.obs[keys.MPP], dtype=float)[rows])
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
    from histocell._core.images import open_image

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
    from spatialdata.transformations import get_transformation

    shapes, picture = sdata.shapes[region], sdata.images[image_key]
    place = shapes.index.get_indexer(instances)
    if (place < 0).any():
        absent = instances[place < 0]
        msg = f"{len(absent)} rows of the table have no shape in {region!r}: {listing(absent, 5)}"
        raise ValueError(msg)
    shared = sorted(set(get_transformation(shapes, get_all=True)) & set(get_transformation(picture, get_all=True)))
    if not shared:
        msg = f"shapes {region!r} and image {image_key!r} share no coordinate system, so spots cannot be placed on it"
        raise ValueError(msg)
    system = next((name for name in shared if not _is_microns(name)), shared[0])
    centroids = shapes.geometry.centroid
    points = _apply(shapes, system, np.column_stack([centroids.x, centroids.y])[place], inverse=False)
    return _apply(picture, system, points, inverse=True)


def _apply(element: Any, system: str, points: NDArray[np.float64], *, inverse: bool) -> NDArray[np.float64]:
    """Points (x, y) of an element in a coordinate system, or back."""
    from spatialdata.transformations import get_transformation

    matrix = get_transformation(element, to_coordinate_system=system).to_affine_matrix(("x", "y"), ("x", "y"))
    if np.array_equal(matrix, np.eye(3)):
        return points
    matrix = np.linalg.inv(matrix) if inverse else matrix
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def _is_microns(system: str) -> bool:
    return re.fullmatch(rf"{keys.MICRONS}(-.*)?", system) is not None


def _find_image(sdata: Any, region: str, *, need_image: bool) -> str | None:
    """The image of a region: the one that shares a coordinate system with it, then the one whose name ends alike."""
    from spatialdata.transformations import get_transformation

    images = [key for key in sdata.images if not key.endswith("thumbnail")]  # ours and wsidata's: nothing to measure on
    if region in sdata.shapes:
        systems = set(get_transformation(sdata.shapes[region], get_all=True))
        images = [key for key in images if systems & set(get_transformation(sdata.images[key], get_all=True))]
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
