"""The image under each row of a table: rows by image, opened, with its resolution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard, cast

import numpy as np

from histocell._core import keys
from histocell._core.errors import MissingKeyError, listing, missing_key
from histocell.images.slide_image import open_image
from histocell.images.transformations import matrix_to_image, transform_points
from histocell.tables.access import coordinates, resolutions
from histocell.tables.slides import check_size, is_thumbnail, no_slide, region_image, region_thumbnail

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from histocell.images.slide_image import ImageSource, SlideImage


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
    thumbnail
        Whether the image is a downscaled copy; coordinates and `mpp` are of its own px then.
    """

    name: str
    section: str
    rows: NDArray[np.intp]
    centers: NDArray[np.float64]
    image: SlideImage | None
    mpp: float | None
    key: str | None = None
    thumbnail: bool = False


@dataclass(frozen=True)
class Located:
    """Rows of a region and the source of their image, not yet opened."""

    name: str
    rows: NDArray[np.intp]
    centers: NDArray[np.float64]
    source: ImageSource | None
    key: str | None = None
    thumbnail: bool = False


def open_regions(table: AnnData, located: list[Located], mpp: float | Mapping[str, float] | None) -> list[Region]:
    """Open the images, each with the mpp of the argument, else of ``obs["mpp"]``, else what the image says.

    A thumbnail has a resolution of its own.
    """
    sections = _section_labels(table, located)
    regions = []
    for region, section in zip(located, sections, strict=True):
        given = entry_of(mpp, region.name, "mpp")
        if given is None and not region.thumbnail:  # what is recorded is of the px of the slide
            given = recorded_mpp(table, region.rows)
        image = None if region.source is None else open_image(region.source, mpp=given)
        resolution = given if image is None else image.mpp
        facts = (region.name, section, region.rows, region.centers, image, resolution, region.key, region.thumbnail)
        regions.append(Region(*facts))
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


def image_elements(
    sdata: SpatialData,
    table: AnnData,
    image_key: str | Mapping[str, str] | None,
    *,
    need_image: bool,
    thumbnails: bool = False,
) -> list[Located]:
    """The regions that a table of a SpatialData annotates, with their image elements.

    With `thumbnails` also one of these, where a slide is not there: to look at.
    """
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
        key = entry_of(image_key, name, "image_key")
        if key is None and (key := region_image(sdata, name)) is not None:
            check_size(sdata, name, key)
        if key is None and need_image:
            raise ValueError(no_slide(sdata, name))
        if key is None and thumbnails:
            key = region_thumbnail(sdata, name)
        if key is not None and key not in sdata.images:
            msg = f"image {key!r} not found; available: {listing(sdata.images)}"
            raise MissingKeyError(msg)
        on_image = key is not None and name in sdata.shapes
        centers = _centroids(sdata, name, str(key), instances[rows]) if on_image else coordinates(table)[rows]
        source = None if key is None else sdata.images[key]
        coarse = key is not None and is_thumbnail(sdata, key, sdata.shapes.get(name))
        located.append(Located(name, rows, centers, source, key, coarse))
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
