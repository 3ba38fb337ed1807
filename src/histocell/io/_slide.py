"""Slides without spots, from an image file."""

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
        Label of the slide for ``obs["section"]`` of its tiles, by default the name of the file without its ending. Where
        it is given, the image is called ``he-<section>`` instead of ``he``, so that several slides fit into one
        SpatialData.

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

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.io.slide(hc.datasets.example_slide())  # doctest: +SKIP
    >>> hc.pp.tiles(sdata)  # doctest: +SKIP
    >>> sdata["tile_table"].obs["section"].iloc[0]  # doctest: +SKIP
    'CMU-1-Small-Region'
    """
    opened = open_image(path, mpp=mpp)
    if opened.mpp is None:
        msg = f"{Path(path).name} does not say its resolution; give mpp= (um per full-resolution px)"
        raise ValueError(msg)
    suffix = "" if section is None else f"-{keys.safe_key(section)}"
    element = image_element(path, mpp=opened.mpp, suffix=suffix)
    name = keys.IMAGE + suffix
    label = keys.slide_name(path) if section is None else section
    facts = {"mpp_source": opened.mpp_source, "sections": {name: label}}
    return SpatialData(images={name: element}, attrs={keys.PROVENANCE: facts})
