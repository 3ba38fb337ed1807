"""Slides without spots."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from spatialdata import SpatialData

from histocell._core import keys
from histocell.images.slide_image import open_image
from histocell.io.elements import image_element

if TYPE_CHECKING:
    from os import PathLike


def slide(path: str | PathLike[str], *, mpp: float | None = None, section: str | None = None) -> SpatialData:
    """Open a slide: JPEG, PNG, TIFF, OME-TIFF, Aperio and, with the extra ``wsi``, what OpenSlide reads.

    Parameters
    ----------
    path
        The file. It stays where it is; pixels are read when they are asked for.
    mpp
        Micrometres per full-resolution px; wins over what the file says.
    section
        Name of the section: the image is called ``he-<section>`` instead of ``he``, so that several slides fit into
        one SpatialData.

    Returns
    -------
    SpatialData with the image ``he``, of several scales where the file is a pyramid, and no table:
    `histocell.pp.tiles` makes one.

    Raises
    ------
    OSError
        If the file is missing or truncated.
    ValueError
        If it cannot be read, or neither it nor `mpp` says its resolution.
    """
    opened = open_image(path, mpp=mpp)
    if opened.mpp is None:
        msg = f"{Path(path).name} does not say its resolution; give mpp= (um per full-resolution px)"
        raise ValueError(msg)
    suffix = "" if section is None else f"-{keys.safe_key(section)}"
    element = image_element(path, mpp=opened.mpp, suffix=suffix)
    sdata = SpatialData(images={keys.IMAGE + suffix: element})
    sdata.attrs[keys.PROVENANCE] = {"mpp_source": opened.mpp_source}
    return sdata
