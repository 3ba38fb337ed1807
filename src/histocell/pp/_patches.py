"""Square patches in micrometres around spots or cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histocell._core import geometry, keys
from histocell._core.arguments import check_positive
from histocell._core.errors import warn
from histocell.tables.files import remember_files
from histocell.tables.regions import record_mpp
from histocell.tables.sections import Sections

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from spatialdata import SpatialData

    from histocell.images.slide_image import ImageSource


def patches(
    data: AnnData | SpatialData,
    *,
    size_um: float = 112.0,
    mpp: float | Mapping[str, float] | None = None,
    image: ImageSource | Mapping[str, ImageSource] | None = None,
    image_key: str | Mapping[str, str] | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    inplace: bool = True,
) -> AnnData | None:
    """Square patches of the image around each row.

    Parameters
    ----------
    data
        Reads ``obsm["spatial"]`` (x, y in full-resolution px), or the centres of the annotated shapes where `data` is a
        SpatialData.
    size_um
        Edge of the patch in um. 112 um at 0.5 um per px are the 224 px that most pathology encoders were trained on.
    mpp
        Micrometres per full-resolution px, one value or one for each region. By default what the reader or the file says.
    image
        For AnnData: path or array of the full-resolution image, or a mapping from library to either. A path is remembered.
    image_key
        For SpatialData with several images under a region: the image to use, or a mapping from region to image.
    library_key
        For AnnData of several sections: the column of ``obs`` that names them; ``section`` by default.
    table_key
        The table, where a SpatialData has several.
    inplace
        Whether to write the result; else it is returned.

    Returns
    -------
    `None`, or with ``inplace=False`` an AnnData of the same rows that holds nothing but the new slots. Writes:

    ``obsm["patches"]`` : int32, shape ``(n_obs, 4)``
        y0, x0, y1, x1 in full-resolution px; may reach over the border of the image.
    ``obs["patch_inside"]`` : bool
        Whether the whole patch lies in the image; the rest is padded with the slide's background colour when read.
    ``obs["mpp"]`` : float64
        Micrometres per full-resolution px.
    ``uns["histocell"]["patches"]`` : str
        The size, as JSON; ``uns["histocell"]["images"]`` the paths of images that were given as files.

    Raises
    ------
    ValueError
        When the image is a thumbnail, when the resolution is unknown, when x and y look swapped, when no row lies in the image, when a row has no region,
        or when patches are below one px or larger than the image.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600)
    >>> hc.pp.patches(sdata, size_um=112)
    >>> sdata["table"].obsm["patches"].shape[1]
    4
    """
    import pandas as pd
    from anndata import AnnData

    size_um = check_positive(size_um, "size_um")
    sections = Sections(data, table_key=table_key, library_key=library_key, mpp=mpp)
    table, regions = sections.table, sections.regions(image=image, image_key=image_key)
    if coarse := [region.key for region in regions if region.thumbnail]:
        msg = f"image {coarse[0]!r} is a thumbnail, too coarse for patches; choose the slide with image_key="
        raise ValueError(msg)
    resolution = record_mpp(table, regions)
    windows = np.zeros((table.n_obs, 4), dtype=np.int32)
    inside = np.zeros(table.n_obs, dtype=bool)
    outside: list[str] = []
    for region in regions:
        shape = region.image.shape  # type: ignore[union-attr]
        geometry.check_patch_size(size_um, mpp=resolution[region.rows[0]], shape=shape, name=region.name)
        centre_inside = geometry.check_inside(region.centers, shape, region.name)
        outside += list(table.obs_names[region.rows[~centre_inside]])
        windows[region.rows] = geometry.square_windows(region.centers, size_um / resolution[region.rows])
        inside[region.rows] = geometry.windows_inside(windows[region.rows], shape)
    if outside:
        warn(f"{len(outside)} of {table.n_obs} rows lie outside of their image and get no embedding: {outside[:5]}")
    out = table if inplace else AnnData(obs=pd.DataFrame(index=table.obs_names))
    out.obsm[keys.PATCHES] = windows
    out.obs[keys.INSIDE] = inside
    out.obs[keys.MPP] = resolution
    named = {"library_key": library_key} if library_key else {}  # so that later steps know the sections
    keys.write_provenance(out, keys.PATCHES, size_um=size_um, **named)
    if image is not None:
        remember_files(out, image, regions, sections.names)
    return None if inplace else out
