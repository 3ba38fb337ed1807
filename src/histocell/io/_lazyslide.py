"""Stores of LazySlide, that is of wsidata: a slide with tiles and features."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from spatialdata import SpatialData, read_zarr
from spatialdata.models import TableModel
from spatialdata.transformations import set_transformation

from histocell._core import keys
from histocell._core.errors import listing, missing_key, warn
from histocell._core.geometry import check_mpp
from histocell.images.slide_image import open_image
from histocell.io.elements import coordinate_systems, image_element
from histocell.io.tile_table import TILE_ID, tile_table, tile_windows

if TYPE_CHECKING:
    from os import PathLike

    from anndata import AnnData

    from histocell.images.slide_image import ImageSource

_PROPERTIES = "slide_properties"
_TILE_SPEC = "tile_spec"
_SLIDES = ".svs .tif .tiff .ndpi .scn .bif .mrxs .svslide .vms .vmu .dcm .jpg .png".split()


def lazyslide(
    store: str | PathLike[str] | SpatialData,
    *,
    image: ImageSource | None = None,
    mpp: float | None = None,
    tiles: str = keys.TILES,
) -> SpatialData:
    """Go on from tiles and features of LazySlide, that is, of a store that wsidata wrote.

    Parameters
    ----------
    store
        The ``.zarr`` folder, or the ``WSIData`` itself. It is not changed.
    image
        The slide: a path, an array or an image element. By default the one in the store, the file that the ``WSIData`` has
        open, or the slide of the same name beside the store, where wsidata puts its stores.
    mpp
        Micrometres per full-resolution px; else as the store says, else as the slide says.
    tiles
        Name of the shapes that are the tiles.

    Returns
    -------
    SpatialData with the image ``he``, all shapes and attributes of the store, and ``tile_table``: the columns of the
    tiles, ``obsm["patches"]``, ``obsm["spatial"]`` (centres, px), ``obs["mpp"]``, ``obs["section"]``
    (the name of the store) and, for each table ``<model>_<tiles>`` of
    features, ``obsm["X_<model>"]`` (float32), joined by ``tile_id``; NaN where a tile has no features. Other tables go along.

    Raises
    ------
    FileNotFoundError
        If there is no such store.
    KeyError
        If it has no such tiles.
    ValueError
        If it is no store of a slide, belongs to a slide of another size, or the resolution is unknown.

    Notes
    -----
    The way back: ``wsidata.open_wsi(sdata, image_key="he")`` opens what histocell made, and LazySlide finds its tiles.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.io.lazyslide("slide.zarr")  # doctest: +SKIP
    >>> hc.tl.predict_abundance(sdata, model="abundance-model")  # doctest: +SKIP
    """
    read = store if isinstance(store, SpatialData) else _read(Path(store).expanduser())
    properties = read.attrs.get(_PROPERTIES)
    if not properties:
        msg = (
            "this SpatialData was not made by wsidata: its attributes hold no slide_properties. For the tiles of any "
            "SpatialData run hc.pp.tiles_from_shapes(data, shapes)"
        )
        raise ValueError(msg)
    if tiles not in read.shapes:
        raise missing_key(
            "shapes", tiles, read.shapes, "Run lazyslide.pp.tile_tissues first, or name them with tiles=."
        )
    shape = (int(properties["shape"][0]), int(properties["shape"][1]))
    source = _find_slide(read, shape) if image is None else image
    resolution = _resolution(mpp, properties, source, shape)
    images = {} if source is None else {keys.IMAGE: image_element(source, mpp=resolution)}
    shapes = {name: element.copy() for name, element in read.shapes.items()}
    for element in shapes.values():
        set_transformation(element, coordinate_systems(resolution), set_all=True)
    windows = tile_windows(shapes[tiles], tiles, shape)
    section = keys.IMAGE if read.path is None else read.path.stem  # wsidata names stores after their slides
    table = tile_table(shapes[tiles], tiles, windows, shape=shape, mpp=resolution, section=section)
    tables = dict(read.tables)
    tile_mpp = read.attrs.get(_TILE_SPEC, {}).get(tiles, {}).get("mpp")
    for name in [name for name, entry in tables.items() if _is_features(entry, tiles)]:
        _add_features(table, tables.pop(name), name.removesuffix(f"_{tiles}"), mpp=tile_mpp)
    return SpatialData(images=images, shapes=shapes, tables={**tables, keys.TILE_TABLE: table}, attrs={**read.attrs})


def _read(path: Path) -> SpatialData:
    if not path.is_dir():
        msg = f"{path} is no folder; hc.io.lazyslide reads the .zarr store that wsi.write() made"
        raise FileNotFoundError(msg)
    try:
        return read_zarr(path)
    except Exception as error:
        msg = f"{path} is no SpatialData store that can be read ({error}); it may be half written, write it again"
        raise ValueError(msg) from error


def _find_slide(read: SpatialData, shape: tuple[int, int]) -> ImageSource | None:
    """The slide: the image in the store, the file that a WSIData has open, or the one beside the store."""
    for element in read.images.values():
        if open_image(element).shape == shape:
            return element
    opened = getattr(getattr(read, "reader", None), "file", None)
    if opened is not None and Path(opened).is_file():
        return Path(opened)
    beside = [] if read.path is None else [read.path.with_suffix(end) for end in _SLIDES]
    found = [file for file in beside if file.is_file()]
    if len(found) == 1:
        return found[0]
    where = "there is none beside it" if not found else f"there are several beside it: {listing(found)}"
    warn(f"the slide of the store is not known, {where}; give image= to look at its tissue")
    return None


def _resolution(
    mpp: float | None, properties: dict[str, Any], source: ImageSource | None, shape: tuple[int, int]
) -> float:
    """Micrometres per px, after a look at whether the slide is that of the store."""
    opened = None if source is None else open_image(source)
    if opened is not None and opened.shape != shape:
        msg = (
            f"the image is {opened.shape[1]} x {opened.shape[0]} px, the slide of the store {shape[1]} x {shape[0]} px "
            "(w x h); give the full-resolution slide that it was made from with image="
        )
        raise ValueError(msg)
    stated = properties.get("mpp")
    if mpp is not None:
        return check_mpp(mpp)
    if stated is not None:
        return check_mpp(float(stated), source="the store")
    if opened is not None and opened.mpp is not None:
        return opened.mpp
    msg = "neither the store nor the slide says its resolution; give mpp= (um per full-resolution px)"
    raise ValueError(msg)


def _is_features(table: AnnData, tiles: str) -> bool:
    """Whether a table annotates the tiles and holds values."""
    region = table.uns.get(TableModel.ATTRS_KEY, {}).get("region")
    return region in (tiles, [tiles]) and table.n_vars > 0 and table.X is not None


def _add_features(table: AnnData, features: AnnData, model: str, *, mpp: float | None) -> None:
    """Write the features of a model into ``obsm``, joined by tile."""
    instances = features.obs[features.uns[TableModel.ATTRS_KEY]["instance_key"]]
    of_tile = features.to_df().set_axis(pd.Index(instances.to_numpy()))
    absent = ~table.obs[TILE_ID].isin(of_tile.index)
    if absent.any():
        warn(f"{absent.sum()} of {len(absent)} tiles have no features of {model!r}; their rows are NaN")
    key = f"X_{keys.safe_key(model)}"
    table.obsm[key] = of_tile.reindex(table.obs[TILE_ID].to_numpy()).to_numpy(dtype=np.float32)
    size_um = round(keys.read_provenance(table, keys.PATCHES)["size_um"], 3)
    facts = {"encoder": model, "library": "lazyslide", "size_um": size_um, "mpp": mpp}
    keys.write_provenance(table, key, **facts, stain="none", dim=features.n_vars)
