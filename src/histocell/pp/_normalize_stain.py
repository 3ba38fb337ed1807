"""Stain normalisation of a whole slide, as a lazy image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from histocell._core import keys
from histocell.images.dask_arrays import changed_element
from histocell.images.slide_image import open_image
from histocell.images.stain.normalize import StainNormalizer, StainTarget
from histocell.tables.access import is_spatialdata
from histocell.tables.slides import open_slide, source_key

if TYPE_CHECKING:
    from spatialdata import SpatialData
    from xarray import DataArray, DataTree

    from histocell.images.slide_image import ImageSource
    from histocell.images.stain.normalize import Method


def normalize_stain(
    data: SpatialData,
    *,
    method: Literal["macenko", "reinhard", "vahadane"] = "macenko",
    target: ImageSource | SpatialData | StainTarget | None = None,
    image_key: str | None = None,
    mpp: float | None = None,
    key_added: str | None = None,
    inplace: bool = True,
) -> DataArray | DataTree | None:
    """Show a slide in the colours of another: to look at, and for other tools.

    Embeddings need no such image: ``hc.pp.embed_image(data, stain=method)`` normalises patches on the device.

    Parameters
    ----------
    data
        SpatialData with an image.
    method
        As in `histocell.encoders.StainNormalizer`, which says how slides are measured, what is done
        to faint ones and what stays as it is.
    target
        What the slide is to look like: another slide (a SpatialData with one image, an image element or a path, whose
        resolution is known), or a `StainTarget`. By default the colours of a public Aperio slide.
    image_key
        The image, where there are several slides.
    mpp
        Micrometres per full-resolution px, where the image does not say it.
    key_added
        Name of the new image; ``<image>_<method>`` by default.
    inplace
        Whether to write the result; else it is returned.

    Returns
    -------
    `None`, or with ``inplace=False`` the image element. Writes:

    ``images["he_<method>"]`` : uint8, (c, y, x)
        With the scales, chunks and transformations of the source. Lazy: pixels are computed when they are asked for.
    ``attrs["histocell"]["he_<method>"]`` : dict
        The measured colours of the slide and of the target; ``attrs["histocell"]["sources"]`` says which image is
        normalised. Steps that look for the slide take that one, unless ``image_key=`` names the new one.

    Raises
    ------
    ValueError
        When a resolution is unknown, or the target holds no H&E tissue.

    Warns
    -----
    UserWarning
        When the stains of the slide cannot be found: its colours then stay as they are.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600)
    >>> hc.pp.normalize_stain(sdata)
    >>> sorted(sdata.images)
    ['he', 'he_macenko']
    """
    slide = open_slide(data, "normalize_stain", image_key, mpp)
    transform = StainNormalizer(method, _target(target, method)).fit(slide.image, mpp=slide.mpp)
    element = changed_element(
        data.images[slide.key],
        lambda image, _: transform.apply(image),
        mpp=slide.mpp,
        intensity_range=slide.image.intensity_range,
    )
    if not inplace:
        return element
    name = key_added or f"{slide.key}_{method}"
    data.images[name] = element
    facts = data.attrs.get(keys.PROVENANCE, {})
    source = source_key(data, slide.key)
    sources = {**facts.get(keys.SOURCES, {}), name: source}
    if name == source:  # in place of the slide, of which this is all there is now
        del sources[name]
    data.attrs[keys.PROVENANCE] = {**facts, name: transform.describe(), keys.SOURCES: sources}
    return None


def _target(target: ImageSource | SpatialData | StainTarget | None, method: Method) -> StainTarget | None:
    if target is None or isinstance(target, StainTarget):
        return target
    image = open_slide(target, "normalize_stain", None, None).image if is_spatialdata(target) else open_image(target)
    if image.mpp is None:
        msg = f"the resolution of the target {image!r} is unknown; give hc.io.slide(path, mpp=...) as target"
        raise ValueError(msg)
    return StainTarget.from_image(image, method=method)
