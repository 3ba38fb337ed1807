"""Image elements of a SpatialData: lazy over files, with the mpp in their transformations."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

import numpy as np
from spatialdata.models import Image2DModel
from spatialdata.transformations import Identity, Scale, set_transformation
from xarray import DataArray, Dataset, DataTree

from histocell._core import keys
from histocell.images.dask_arrays import file_arrays
from histocell.images.files import check_path
from histocell.images.pixels import channel_axis

if TYPE_CHECKING:
    from collections.abc import Sequence

    import dask.array as da
    from numpy.typing import NDArray
    from spatialdata.transformations import BaseTransformation

    from histocell.images.slide_image import ImageSource

    type Pixels = NDArray[np.generic] | da.Array


def coordinate_systems(mpp: float | None, suffix: str = "") -> dict[str, BaseTransformation]:
    """Identity to the px system and, where the mpp is known, a scale to the micrometre system."""
    systems: dict[str, BaseTransformation] = {keys.PIXELS + suffix: Identity()}
    if mpp is not None:
        systems[keys.MICRONS + suffix] = Scale([mpp, mpp], axes=("x", "y"))
    return systems


def image_element(
    source: ImageSource, *, mpp: float | None, suffix: str = "", intensity_range: Sequence[float] | None = None
) -> DataArray | DataTree:
    """An image element from a path, an array or an element; its own px are the px system.

    Parameters
    ----------
    source
        What `histocell.images.slide_image.open_image` opens. Files stay on disk until pixels are asked for; a pyramid
        becomes a multiscale element.
    mpp
        Micrometres per px of the finest level.
    suffix
        End of the names of the coordinate systems, for one of several images.
    intensity_range
        The values of black and white in a file of more than 8 bit; by default found in a sample of the image.
    """
    scales: Sequence[Pixels]
    if isinstance(source, str | os.PathLike):
        scales = file_arrays(check_path(source), intensity_range)
    elif isinstance(source, DataTree):
        scales = [_channels_first(next(iter(source[name].data_vars.values()))) for name in source.children]
    else:
        scales = [_channels_first(cast("Pixels | DataArray", source))]
    systems = coordinate_systems(mpp, suffix)
    if len(scales) == 1:
        return Image2DModel.parse(scales[0], dims=("c", "y", "x"), c_coords=_names(scales[0]), transformations=systems)
    return _multiscale(scales, systems)


def _channels_first(source: Pixels | DataArray) -> Pixels:
    """The pixels of an array or DataArray as (c, y, x), nothing copied."""
    dims = getattr(source, "dims", None)
    array = source.data if isinstance(source, DataArray) else source
    axis = channel_axis(array.shape, dims)
    if axis is None:
        return array[None]
    return array if axis == 0 else array.transpose(2, 0, 1)


def _names(array: Pixels) -> list[str] | None:
    return {3: ["r", "g", "b"], 4: ["r", "g", "b", "a"]}.get(array.shape[0])


def _multiscale(scales: Sequence[Pixels], systems: dict[str, BaseTransformation]) -> DataTree:
    """A multiscale element over given levels, finest first."""
    height, width = scales[0].shape[1:]
    nodes = {}
    for number, scale in enumerate(scales):
        level = Image2DModel.parse(scale, dims=("c", "y", "x"), c_coords=_names(scale))
        level.attrs.pop("transform")
        centres = {
            axis: (np.arange(length) + 0.5) * (full / length)
            for axis, length, full in (("y", scale.shape[1], height), ("x", scale.shape[2], width))
        }
        nodes[f"scale{number}"] = Dataset({"image": level.assign_coords(centres)})
    tree = DataTree.from_dict(nodes)
    set_transformation(tree, systems, set_all=True)
    Image2DModel.validate(tree)
    return tree
