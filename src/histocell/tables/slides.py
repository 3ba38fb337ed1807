"""The images of a SpatialData: which are slides, which are copies of one, and what lies beside each."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, get_args

import numpy as np

from histocell._core import keys
from histocell._core.errors import MissingKeyError, listing
from histocell.images.slide_image import open_image
from histocell.images.stain.target import TYPICAL, Method, StainTarget
from histocell.images.transformations import (
    is_downscaled,
    is_pixels,
    matrix_to_image,
    transform_points,
    transformations,
)
from histocell.tables.access import is_spatialdata

if TYPE_CHECKING:
    import geopandas as gpd
    from numpy.typing import NDArray
    from spatialdata import SpatialData
    from xarray import DataArray, DataTree

    from histocell.images.slide_image import SlideImage
    from histocell.tables.access import Data

_THUMBNAIL = re.compile(r"(^|_)thumbnail(-|$)")  # of files whose transformations do not say it: ours once, wsidata's
_SAME_SIZE = 0.02  # thumbnails of other tools are rounded
_NORMALIZED = re.compile(rf"(.+?)_({'|'.join(get_args(Method))})(-.*)?")


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


def is_thumbnail(sdata: SpatialData, key: str, shapes: gpd.GeoDataFrame | None = None) -> bool:
    """Whether an image is a downscaled copy of a slide: to look at, not to measure on.

    Its transformations say so; names count for files whose transformations do not.

    Parameters
    ----------
    shapes
        Shapes in full-resolution px that lie on it; else the coordinate system of px counts.
    """
    return is_downscaled(sdata.images[key], shapes) or _THUMBNAIL.search(key) is not None


def source_key(sdata: SpatialData, key: str) -> str:
    """The image that `key` is a normalised copy of, else `key` itself."""
    source = sdata.attrs.get(keys.PROVENANCE, {}).get(keys.SOURCES, {}).get(key)
    if source is None and (named := _NORMALIZED.fullmatch(key)):
        source = f"{named[1]}{named[3] or ''}"  # he_macenko-C2: he-C2
    return source_key(sdata, source) if source in sdata.images and source != key else key


def stain_of(sdata: SpatialData, key: str | None) -> dict[str, object] | None:
    """Method and target that an image was normalised with, as of a `StainNormalizer`; `None` of a slide as scanned."""
    facts = sdata.attrs.get(keys.PROVENANCE, {}).get(key, {})
    if "method" in facts:
        target = StainTarget.from_json(json.dumps(facts["target"]))
        return {"method": facts["method"], "target": None if target == TYPICAL[facts["method"]] else asdict(target)}
    if key is not None and source_key(sdata, key) != key and (named := _NORMALIZED.fullmatch(key)):
        return {"method": named[2], "target": None}  # what a concatenation keeps of it
    return None


def slide_keys(sdata: SpatialData, shapes: gpd.GeoDataFrame | None = None) -> list[str]:
    """The images that are slides: no thumbnails, no normalised copies; in the coordinate systems of `shapes`."""
    found = _images_under(sdata, shapes)
    return [key for key in found if not is_thumbnail(sdata, key, shapes) and source_key(sdata, key) == key]


def _images_under(sdata: SpatialData, shapes: gpd.GeoDataFrame | None) -> list[str]:
    """The images that share a coordinate system with `shapes`; all where there are none."""
    systems = None if shapes is None else set(transformations(shapes))
    return [key for key, each in sdata.images.items() if systems is None or systems & set(transformations(each))]


def region_image(sdata: SpatialData, region: str) -> str | None:
    """The slide under a region, `None` where there is none or several.

    The one that shares a coordinate system with it, then the one whose name ends alike, then ``he``.
    """
    found = slide_keys(sdata, sdata.shapes.get(region))
    ending = region.partition("-")[2]
    alike = [key for key in found if ending and (key == ending or key.endswith(f"-{ending}"))]
    full = [key for key in found if key == keys.IMAGE or key.endswith("_full_image")]
    return next((group[0] for group in (found, alike, full) if len(group) == 1), None)


def region_thumbnail(sdata: SpatialData, region: str) -> str | None:
    """The one thumbnail under a region, `None` where there is none or several."""
    shapes = sdata.shapes.get(region)
    found = [key for key in _images_under(sdata, shapes) if is_thumbnail(sdata, key, shapes)]
    alike = [key for key in found if key.endswith(f"-{region.partition('-')[2]}")]
    return next((group[0] for group in (found, alike) if len(group) == 1), None)


def check_size(sdata: SpatialData, region: str, key: str) -> None:
    """Refuse a slide of another size than the thumbnail of its region: a wrong one was brought back."""
    thumbnail = region_thumbnail(sdata, region)
    if thumbnail is None:
        return
    matrix = matrix_to_image(sdata.images[thumbnail], sdata.images[key])
    if matrix is None or np.abs(matrix[[0, 1], [1, 0]]).max() > 0:  # turned: aligned with another image
        return
    (h, w), size = (open_image(sdata.images[each]).shape for each in (thumbnail, key))
    wanted = tuple(np.rint([abs(matrix[1, 1]) * h, abs(matrix[0, 0]) * w]).astype(int).tolist())
    if not np.allclose(wanted, size, rtol=_SAME_SIZE):
        msg = (
            f"image {key!r} has {size[0]} x {size[1]} px, and that of {thumbnail!r} of region {region!r} had {wanted[0]} x "
            f"{wanted[1]}: it is another slide. Bring the right one back, or name this one with image_key="
        )
        raise ValueError(msg)


def no_slide(sdata: SpatialData, region: str) -> str:
    """What is wrong, and what to do, where `region_image` finds none."""
    thumbnail, slides = region_thumbnail(sdata, region), slide_keys(sdata, sdata.shapes.get(region))
    if slides or thumbnail is None:
        problem = "several images lie" if slides else "no image lies"
        return (
            f"{problem} under region {region!r}; images: {listing(sdata.images)}. Choose with "
            f"image_key={{{region!r}: ...}}"
        )
    return f"image {thumbnail!r} is a thumbnail, too coarse to compute on. {_bring_back(sdata, thumbnail)}"


def _bring_back(sdata: SpatialData, thumbnail: str) -> str:
    """How to bring back the slide of a thumbnail."""
    system = next(filter(is_pixels, transformations(sdata.images[thumbnail])), keys.PIXELS)
    name, section = (keys.IMAGE + each[each.find("-") :] if "-" in each else keys.IMAGE for each in (thumbnail, system))
    option = "" if section == keys.IMAGE else f', section="{section.partition("-")[2]}"'
    return f'Bring the slide back: sdata.images["{name}"] = hc.io.slide(path{option})["{section}"]'


def open_slide(data: object, verb: str, image_key: str | None, mpp: float | None) -> Slide:
    """The one slide of a SpatialData, or the image that was named, with its resolution known.

    Parameters
    ----------
    data
        Anything; what is no SpatialData is refused in the name of `verb`.
    """
    if not is_spatialdata(data):
        msg = f"hc.pp.{verb} takes a SpatialData; hc.io.slide(path) makes one from a slide"
        raise TypeError(msg)
    images = data.images
    key = _only_slide(data) if image_key is None else image_key
    if key not in images:
        msg = f"image {key!r} not found; available: {listing(images)}"
        raise MissingKeyError(msg)
    image = open_image(images[key], mpp=mpp)
    if image.mpp is None:
        msg = f"the resolution of image {key!r} is unknown; give mpp= (um per full-resolution px)"
        raise ValueError(msg)
    return Slide(key, images[key], image, image.mpp, _section(data, key))


def _only_slide(sdata: SpatialData) -> str:
    found = slide_keys(sdata)
    if len(found) == 1:
        return found[0]
    if found or not sdata.images:
        msg = f"choose the image with image_key=; this SpatialData has: {listing(found)}"
        raise ValueError(msg)
    thumbnail = next(iter(sdata.images))
    msg = (
        f"{listing(map(repr, sdata.images))} is a thumbnail, too coarse to compute on. {_bring_back(sdata, thumbnail)}, "
        f"or choose it all the same with image_key={thumbnail!r}"
    )
    raise ValueError(msg)


def _section(sdata: SpatialData, key: str) -> str:
    """Label of a slide: as `histocell.io.slide` recorded it, else by the name of the image (he-C2: C2)."""
    source = source_key(sdata, key)
    recorded = sdata.attrs.get(keys.PROVENANCE, {}).get("sections", {})
    if source not in recorded and len(recorded) == 1 and is_thumbnail(sdata, key):
        return str(next(iter(recorded.values())))  # of a slide that is not there, as in the results of a cohort
    return str(recorded.get(source, source.removeprefix(f"{keys.IMAGE}-")))


def tissue_outlines(data: Data, image_key: str | None, *, shapes_key: str | None = None) -> NDArray[np.object_] | None:
    """Polygons of ``shapes["tissue"]``, or of others, in px of an image, `None` where there are none that lie on it."""
    import shapely

    if image_key is None or not is_spatialdata(data):
        return None
    name = beside_image(data, keys.TISSUE, image_key) if shapes_key is None else shapes_key
    shapes = data.shapes.get(name)
    matrix = None if shapes is None else matrix_to_image(shapes, data.images[image_key])
    if shapes is None or matrix is None:  # outlines without a shared coordinate system are those of another slide
        return None
    polygons = shapes.geometry.to_numpy()
    if (shapely.get_dimensions(polygons) < 2).any():
        msg = f"the shapes {name!r} must be polygons; hc.pp.tissue_mask(data) finds those of the tissue"
        raise ValueError(msg)
    return shapely.transform(polygons, lambda xy: transform_points(xy, matrix))


def beside_image(sdata: SpatialData, name: str, image_key: str) -> str:
    """Name of an element that belongs to an image: ``tissue`` beside ``he-C2`` is ``tissue-C2``.

    That of a normalised image is that of its source. Beside one of several slides of other names it is
    ``tissue-<image>``.
    """
    source = source_key(sdata, image_key)
    if source.startswith(f"{keys.IMAGE}-"):
        return name + source.removeprefix(keys.IMAGE)
    several = source != keys.IMAGE and len(slide_keys(sdata)) > 1
    return f"{name}-{keys.safe_key(source)}" if several else name
