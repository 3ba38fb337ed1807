"""Micrometres per pixel, as files and SpatialData elements state it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from histocell._core.geometry import check_mpp
from histocell.images.transformations import affine_matrix, is_microns, transformations

if TYPE_CHECKING:
    import tifffile
    from xarray import DataArray, DataTree

_UM_PER_UNIT = {"nm": 1e-3, "um": 1.0, "µm": 1.0, "μm": 1.0, "micron": 1.0, "mm": 1e3, "cm": 1e4, "in": 25400.0}
_TIFF_UNIT = {2: 25400.0, 3: 1e4}  # um per inch, per cm
# Scanners and print software fill the resolution tags with defaults of screens and printers; beyond 10 um per px
# (2540 dots per inch) a tag is one of these, not a measurement.
_COARSEST_TAG = 10.0


def isotropic_mpp(x: float, y: float, source: str) -> float:
    """One mpp from that of the two axes; an error where they differ by more than one percent."""
    if abs(x - y) > 0.01 * max(abs(x), abs(y)):
        msg = f"{source} states {x:g} um per px along x and {y:g} along y; give mpp= or resample the image to square px"
        raise ValueError(msg)
    return check_mpp((x + y) / 2, source=source)


def element_mpp(element: DataArray | DataTree) -> float | None:
    """The mpp of a SpatialData image: its scale to the coordinate system ``um`` (or ``um-<section>``)."""
    for name in sorted(filter(is_microns, transformations(element))):
        x, y = np.linalg.norm(affine_matrix(element, name)[:2, :2], axis=0)
        return isotropic_mpp(float(x), float(y), f"the transformation to {name!r}")
    return None


def tiff_mpp(tiff: tifffile.TiffFile, index: int, *, exchanged: bool = False) -> tuple[float | None, str]:
    """The mpp of the series `index` of a TIFF and which part of the file states it.

    `exchanged` where the rows of the file are the columns of the upright image.
    """
    page = tiff.series[index].keyframe
    if tiff.is_ome and tiff.ome_metadata and (mpp := _ome_mpp(tiff.ome_metadata, index, exchanged=exchanged)):
        return mpp, "ome"
    if tiff.is_svs and (match := re.search(r"MPP\s*=\s*([0-9.]+)", page.description or "")):
        return check_mpp(_number(match[1], "the Aperio header"), source="the Aperio header"), "tiff"
    x, y = (page.tags.valueof(name) for name in ("XResolution", "YResolution"))
    if not x or not y or not x[0] or not y[0] or not x[1] or not y[1]:
        return None, "unknown"
    unit = _TIFF_UNIT.get(int(page.tags.valueof("ResolutionUnit") or 2))
    if tiff.is_imagej:
        unit = _UM_PER_UNIT.get(str((tiff.imagej_metadata or {}).get("unit", "")).replace("\\u00B5", "u"))
    if unit is None:
        return None, "unknown"
    per_px = [unit * value[1] / value[0] for value in (x, y)]
    if not 0.05 <= per_px[0] <= _COARSEST_TAG:
        return None, "unknown"
    x, y = per_px[::-1] if exchanged else per_px
    return isotropic_mpp(x, y, "the TIFF resolution"), "tiff"


def _number(text: str, source: str) -> float:
    """A number in a header."""
    try:
        return float(text)
    except ValueError as error:
        msg = f"{source} states {text!r} um per px, which is no number; give mpp="
        raise ValueError(msg) from error


def _ome_mpp(xml: str, index: int, *, exchanged: bool) -> float | None:
    """PhysicalSizeX and PhysicalSizeY of the image of this index, micrometres unless a unit is given."""
    from xml.etree import ElementTree

    images = [node for node in ElementTree.fromstring(xml).iter() if node.tag.rpartition("}")[2] == "Pixels"]
    if not images:
        return None
    pixels = images[min(index, len(images) - 1)].attrib
    sizes = []
    for axis in "XY":
        size = pixels.get(f"PhysicalSize{axis}")
        unit = _UM_PER_UNIT.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        if size is None or unit is None:
            return None
        sizes.append(_number(size, "the OME metadata") * unit)
    x, y = sizes[::-1] if exchanged else sizes
    return isotropic_mpp(x, y, "the OME metadata")
