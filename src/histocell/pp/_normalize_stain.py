"""A slide in the colours of another, as a lazy image."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from histocell._core import keys
from histocell.images.pixels import channel_axis, needs_scale, to_rgb, value_scale
from histocell.images.slide_image import open_image
from histocell.images.stain.normalize import StainNormalizer, StainTarget
from histocell.tables.access import is_spatialdata
from histocell.tables.regions import open_slide

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from spatialdata import SpatialData
    from xarray import DataArray, DataTree

    from histocell.images.stain.normalize import StainTransform


def normalize_stain(
    data: SpatialData,
    *,
    method: Literal["macenko", "reinhard", "vahadane"] = "macenko",
    target: Any = None,
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
        As in `histocell.images.stain.normalize.StainNormalizer`, which says how slides are measured, what is done
        to faint ones and what stays as it is.
    target
        What the slide is to look like: another slide (a SpatialData with one image, an image element or a path, whose
        resolution is known), or a `StainTarget`. By default the colours of a public Aperio slide.
    image_key
        The image, where there are several.
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
        The measured colours of the slide and of the target.

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
    key, picture = slide.key, slide.image
    normalizer = StainNormalizer(method, _target(target, method))
    transform = normalizer.fit(picture, mpp=slide.mpp)
    element = _normalized(data.images[key], transform)
    if not inplace:
        return element
    name = key_added or f"{key}_{method}"
    data.images[name] = element
    data.attrs[keys.PROVENANCE] = {**data.attrs.get(keys.PROVENANCE, {}), name: transform.describe()}
    return None


def _target(target: Any, method: Any) -> StainTarget | None:
    if target is None or isinstance(target, StainTarget):
        return target
    picture = open_slide(target, "normalize_stain", None, None).image if is_spatialdata(target) else open_image(target)
    if picture.mpp is None:
        msg = f"the resolution of the target {picture!r} is unknown; give hc.io.slide(path, mpp=...) as target"
        raise ValueError(msg)
    return StainTarget.from_image(picture, mpp=picture.mpp, method=method)


def _normalized(element: Any, transform: StainTransform) -> DataArray | DataTree:
    """An image element like another, its pixels normalised when they are asked for."""
    from spatialdata.models import Image2DModel
    from xarray import Dataset, DataTree

    if not hasattr(element, "children"):
        out: DataArray | DataTree = _normalized_scale(element, transform)
    else:
        scales = {name: next(iter(element[name].data_vars.values())) for name in element.children}
        out = DataTree.from_dict(
            {name: Dataset({"image": _normalized_scale(scale, transform)}) for name, scale in scales.items()}
        )
    Image2DModel.validate(out)
    return out


def _normalized_scale(scale: DataArray, transform: StainTransform) -> DataArray:
    """One scale; coordinates and transformations as they are, channels r, g, b."""
    import dask.array as da
    from xarray import DataArray

    pixels = da.asarray(scale.data).rechunk({0: -1})
    factor = None
    if needs_scale(pixels.dtype):
        # as where windows are read: the block in the middle shows the range
        factor = value_scale(pixels.blocks[0, pixels.numblocks[1] // 2, pixels.numblocks[2] // 2].compute())
    blocks = da.map_blocks(
        _normalized_block,
        pixels,
        transform=transform,
        factor=factor,
        chunks=((3,), *pixels.chunks[1:]),
        dtype=np.uint8,
        meta=np.empty((0, 0, 0), np.uint8),
    )
    kept = {axis: scale.coords[axis] for axis in ("y", "x") if axis in scale.coords}
    return DataArray(
        blocks, dims=scale.dims, coords={"c": ["r", "g", "b"], **kept}, name=scale.name, attrs=deepcopy(scale.attrs)
    )


def _normalized_block(block: NDArray[Any], transform: StainTransform, factor: float | None) -> NDArray[np.uint8]:
    rgb = to_rgb(block, channel_axis(block.shape, ("c", "y", "x")), factor)
    return np.moveaxis(transform.apply(rgb), -1, 0)
