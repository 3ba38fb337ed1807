"""Slides without spots, from an image file."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from spatialdata import SpatialData

from histocell._core import keys
from histocell.images.slide_image import open_image
from histocell.io.elements import image_element


def slide(
    path: str | PathLike[str],
    *,
    mpp: float | None = None,
    section: str | None = None,
    intensity_range: tuple[float, float] | None = None,
) -> SpatialData:
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
        SpatialData: ``spatialdata.concatenate([slide_a, slide_b])``; their tiles share one table.
    intensity_range
        The values of black and of white where pixels have more than 8 bit. By default 0 and the largest value of 8, 10,
        12, 14 or 16 bits, whichever holds a sample from all over the slide; of floats 1 or 255.

    Returns
    -------
    SpatialData with the image ``he``, 8-bit RGB as every viewer shows it, of several scales where the file is a pyramid,
    and no table: `histocell.pp.tiles` makes one. ``attrs["histocell"]`` holds what says the resolution, the section, and
    ``intensity_range`` by image where pixels have more than 8 bit.

    Raises
    ------
    TypeError
        If `path` is no path.
    OSError
        If the file is missing, damaged or truncated.
    ValueError
        If it cannot be read, its colours cannot truthfully become RGB, or neither it nor `mpp` says its resolution.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.io.slide(hc.datasets.example_slide())  # doctest: +SKIP
    >>> hc.pp.tiles(sdata)  # doctest: +SKIP
    >>> sdata["tile_table"].obs["section"].iloc[0]  # doctest: +SKIP
    'CMU-1-Small-Region'
    """
    if not isinstance(path, str | PathLike):
        msg = (
            f"path must name the file of a slide, not {type(path).__name__}; an image in memory goes with its spots into "
            "hc.io.from_anndata(adata, image=array, mpp=...), or into a file first: tifffile.imwrite"
        )
        raise TypeError(msg)
    opened = open_image(path, mpp=mpp, intensity_range=intensity_range)
    if opened.mpp is None:
        msg = f"{Path(path).name} does not say its resolution; give mpp= (um per full-resolution px)"
        raise ValueError(msg)
    suffix = "" if section is None else f"-{keys.safe_key(section)}"
    element = image_element(path, mpp=opened.mpp, suffix=suffix, intensity_range=intensity_range)
    name = keys.IMAGE + suffix
    label = keys.slide_name(path) if section is None else section
    facts: dict[str, object] = {"mpp_source": opened.mpp_source, "sections": {name: label}}
    if values := open_image(element).intensity_range:
        facts[keys.INTENSITY_RANGE] = {name: list(values)}
    return SpatialData(images={name: element}, attrs={keys.PROVENANCE: facts})
