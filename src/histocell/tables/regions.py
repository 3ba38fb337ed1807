"""The image under each row of a table: rows by image, opened, with its resolution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, cast

import numpy as np

from histocell._core import keys
from histocell._core.errors import MissingKeyError, listing, missing_key
from histocell.images.slide_image import open_image
from histocell.images.transformations import matrix_to_image, transform_points, transformations
from histocell.tables.access import coordinates, is_spatialdata, resolutions

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData
    from xarray import DataArray, DataTree

    from histocell.images.slide_image import ImageSource, SlideImage
    from histocell.tables.access import Data


@dataclass(frozen=True)
class Region:
    """The rows of a table that lie on one image.

    Attributes
    ----------
    name
        Region of the SpatialData, library or section.
    section
        Label of the rows in ``obs["section"]`` where that tells the regions apart, else the name.
    rows
        Positions of the rows in the table.
    centers
        Their coordinates in full-resolution px of the image, shape ``(k, 2)``: x, y.
    image
        The image, `None` where none was asked for or found.
    mpp
        Micrometres per full-resolution px: of the image, else as ``obs["mpp"]`` records; `None` where it is unknown.
    key
        Name of the image in a SpatialData.
    """

    name: str
    section: str
    rows: NDArray[np.intp]
    centers: NDArray[np.float64]
    image: SlideImage | None
    mpp: float | None
    key: str | None = None


@dataclass(frozen=True)
class Located:
    """Rows of a region and the source of their image, not yet opened."""

    name: str
    rows: NDArray[np.intp]
    centers: NDArray[np.float64]
    source: ImageSource | None
    key: str | None = None


def open_regions(table: AnnData, located: list[Located], mpp: float | Mapping[str, float] | None) -> list[Region]:
    """Open the images, each with the mpp of the argument, else of ``obs["mpp"]``, else what the image says."""
    sections = _section_labels(table, located)
    regions = []
    for region, section in zip(located, sections, strict=True):
        given = entry_of(mpp, region.name, "mpp")
        recorded = recorded_mpp(table, region.rows) if given is None else given
        image = None if region.source is None else open_image(region.source, mpp=recorded)
        resolution = recorded if image is None else image.mpp
        regions.append(Region(region.name, section, region.rows, region.centers, image, resolution, region.key))
    return regions


def _section_labels(table: AnnData, located: list[Located]) -> list[str]:
    """``obs["section"]`` of each region where it tells them apart, else their names."""
    names = [region.name for region in located]
    if keys.SECTION not in table.obs:
        return names
    labels = table.obs[keys.SECTION].astype(str).to_numpy()
    levels = [set(labels[region.rows]) for region in located]
    distinct = all(len(each) == 1 for each in levels) and len(set().union(*levels)) == len(located)
    return [str(*each) for each in levels] if distinct else names


def by_name(value: object) -> TypeGuard[Mapping[str, Any]]:
    """Whether `value` maps names to values; a multiscale image element is a mapping, too, but an image."""
    return isinstance(value, Mapping) and not hasattr(value, "subtree")


def entry_of[T](value: T | Mapping[str, T], name: str, what: str) -> T:
    """`value` itself, or its entry for a region where it is a mapping."""
    if not by_name(value):
        return cast("T", value)
    if name not in value:
        msg = f"{what} has no entry for {name!r}; it has: {listing(value)}"
        raise MissingKeyError(msg)
    return value[name]


def recorded_mpp(table: AnnData, rows: NDArray[np.intp]) -> float | None:
    """``obs["mpp"]`` of the rows of one image, `None` where it is unknown; an error where it has several values."""
    values = np.unique(resolutions(table)[rows])
    if np.isfinite(values).sum() > 1:
        msg = (
            f'obs["{keys.MPP}"] has several values ({listing(values, 4)}) among rows of one image, which has one resolution: '
            "give mpp=, or tell the sections apart with library_key="
        )
        raise ValueError(msg)
    return float(values[0]) if len(values) == 1 and np.isfinite(values[0]) else None


def check_single_image(image: object, groups: Mapping[str, NDArray[np.intp]]) -> None:
    """Refuse one image for several libraries."""
    if image is not None and not by_name(image) and len(groups) > 1:
        msg = f"one image for {len(groups)} libraries ({listing(groups)}); give a mapping from library to image"
        raise ValueError(msg)


def image_files(
    table: AnnData,
    groups: Mapping[str, NDArray[np.intp]],
    image: ImageSource | Mapping[str, ImageSource] | None,
    *,
    need_image: bool,
) -> list[Located]:
    """The groups of rows of an AnnData with the images that were given or are known from files."""
    xy = coordinates(table)
    check_single_image(image, groups)
    located = []
    for name, rows in groups.items():
        source = _known_file(table, name) if image is None else cast("ImageSource", entry_of(image, name, "image"))
        if source is None and need_image:
            msg = (
                f'no image for {name}: give image= (a path or an array), or set uns["spatial"][library]["metadata"]'
                '["source_image_path"], or build a SpatialData with hc.io.from_anndata(adata, image=..., mpp=...)'
            )
            raise ValueError(msg)
        located.append(Located(name, rows, xy[rows], source))
    return located


def _known_file(table: AnnData, name: str) -> str | None:
    """The image file that was used before, or that ``uns["spatial"]`` (Space Ranger, scanpy) points to."""
    libraries = table.uns.get("spatial", {})
    entry = libraries.get(name) or (next(iter(libraries.values())) if len(libraries) == 1 else None) or {}
    used, source = keys.read_provenance(table, "images").get(name), entry.get("metadata", {}).get("source_image_path")
    return next((str(path) for path in (used, source) if path and Path(str(path)).exists()), None)


def image_elements(
    sdata: SpatialData, table: AnnData, image_key: str | Mapping[str, str] | None, *, need_image: bool
) -> list[Located]:
    """The regions that a table of a SpatialData annotates, with their image elements."""
    attrs = table.uns.get("spatialdata_attrs")
    if attrs is None:
        msg = "the table annotates no region of the SpatialData; build it with spatialdata.models.TableModel.parse"
        raise ValueError(msg)
    region_key, instance_key = attrs["region_key"], attrs["instance_key"]
    for key in (region_key, instance_key):
        if key not in table.obs:
            raise missing_key("obs", key, table.obs.columns, "The table of a SpatialData says there what its rows are.")
    absent = table.obs[region_key].isna().to_numpy()
    if absent.any():
        msg = (
            f'obs["{region_key}"] is missing in {absent.sum()} rows ({listing(table.obs_names[absent], 5)}), so their image is '
            "unknown; fill it or drop the rows"
        )
        raise ValueError(msg)
    labels = table.obs[region_key].astype(str).to_numpy()
    instances = table.obs[instance_key].to_numpy()
    located = []
    for name in dict.fromkeys(labels):
        rows = np.flatnonzero(labels == name)
        key = entry_of(image_key, name, "image_key") or _choose_image(sdata, name, need_image=need_image)
        if key is not None and key not in sdata.images:
            msg = f"image {key!r} not found; available: {listing(sdata.images)}"
            raise MissingKeyError(msg)
        on_image = key is not None and name in sdata.shapes
        centers = _centroids(sdata, name, str(key), instances[rows]) if on_image else coordinates(table)[rows]
        located.append(Located(name, rows, centers, None if key is None else sdata.images[key], key))
    return located


def _centroids(sdata: SpatialData, region: str, image_key: str, instances: NDArray[np.object_]) -> NDArray[np.float64]:
    """Centres of the instances in px of the image, by the coordinate system that shapes and image share."""
    shapes = sdata.shapes[region]
    index = shapes.index.get_indexer(instances)
    if (index < 0).any():
        absent = instances[index < 0]
        msg = f"{len(absent)} rows of the table have no shape in {region!r}: {listing(absent, 5)}"
        raise ValueError(msg)
    matrix = matrix_to_image(shapes, sdata.images[image_key])
    if matrix is None:
        msg = f"shapes {region!r} and image {image_key!r} share no coordinate system, so spots cannot be placed on it"
        raise ValueError(msg)
    centroids = shapes.geometry.centroid
    return transform_points(np.column_stack([centroids.x, centroids.y])[index], matrix)


def _choose_image(sdata: SpatialData, region: str, *, need_image: bool) -> str | None:
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


def record_mpp(table: AnnData, regions: list[Region]) -> NDArray[np.float64]:
    """Micrometres per px of each row, or the error that asks for it."""
    out = np.full(table.n_obs, np.nan)
    for region in regions:
        if region.mpp is None:
            msg = (
                f"the resolution of the image of {region.name} is unknown: neither the file nor the element says it. Give "
                "mpp= (um per px), or build the data with a reader that finds it from the spot pitch "
                "(hc.io.st, hc.io.visium, hc.io.from_anndata(..., spot_pitch_um=))"
            )
            raise ValueError(msg)
        out[region.rows] = region.mpp
    if np.isnan(out).any():
        msg = f"{np.isnan(out).sum()} rows lie on no image: {listing(table.obs_names[np.isnan(out)], 5)}"
        raise ValueError(msg)
    return out


@dataclass(frozen=True)
class Slide:
    """An image that is looked at as a whole, and its resolution, which is known.

    Attributes
    ----------
    key, element
        Name of the image in the SpatialData, and the element.
    image
        The image, opened.
    mpp
        Micrometres per full-resolution px.
    section
        Label of the slide for ``obs["section"]``.
    """

    key: str
    element: DataArray | DataTree
    image: SlideImage
    mpp: float
    section: str


def open_slide(data: object, verb: str, image_key: str | None, mpp: float | None) -> Slide:
    """The one image of a SpatialData, or the one that was named, with its resolution known.

    Parameters
    ----------
    data
        Anything; what is no SpatialData is refused in the name of `verb`.
    """
    if not is_spatialdata(data):
        msg = f"hc.pp.{verb} takes a SpatialData; hc.io.slide(path) makes one from a slide"
        raise TypeError(msg)
    images = data.images
    if image_key is None and len(images) != 1:
        msg = f"choose the image with image_key=; this SpatialData has: {listing(images)}"
        raise ValueError(msg)
    key = next(iter(images)) if image_key is None else image_key
    if key not in images:
        msg = f"image {key!r} not found; available: {listing(images)}"
        raise MissingKeyError(msg)
    # as hc.io.slide recorded it, else by the name of the image (he-C2: C2)
    recorded = data.attrs.get(keys.PROVENANCE, {}).get("sections", {})
    section = recorded.get(key, key.removeprefix(f"{keys.IMAGE}-"))
    if key not in recorded and section == key and len(recorded) == 1:
        section = next(iter(recorded.values()))  # another image of the one slide, such as a normalised one
    image = open_image(images[key], mpp=mpp)
    if image.mpp is None:
        msg = f"the resolution of image {key!r} is unknown; give mpp= (um per full-resolution px)"
        raise ValueError(msg)
    return Slide(key, images[key], image, image.mpp, section)


def tissue_outlines(data: Data, image_key: str | None) -> NDArray[np.object_] | None:
    """Polygons of ``shapes["tissue"]`` in px of an image, `None` where there are none that lie on it."""
    import shapely

    if image_key is None or not is_spatialdata(data):
        return None
    shapes = data.shapes.get(beside_image(keys.TISSUE, image_key))
    matrix = None if shapes is None else matrix_to_image(shapes, data.images[image_key])
    if shapes is None or matrix is None:  # outlines without a shared coordinate system are those of another slide
        return None
    polygons = shapes.geometry.to_numpy()
    if (shapely.get_dimensions(polygons) < 2).any():
        msg = "the shapes of the tissue must be polygons; hc.pp.tissue_mask(data) finds some"
        raise ValueError(msg)
    return shapely.transform(polygons, lambda xy: transform_points(xy, matrix))


def beside_image(name: str, image_key: str) -> str:
    """Name of an element that belongs to an image: ``tissue`` beside ``he-C2`` is ``tissue-C2``."""
    return name + image_key.removeprefix(keys.IMAGE) if image_key.startswith(f"{keys.IMAGE}-") else name
