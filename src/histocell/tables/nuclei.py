"""Nuclei of a SpatialData: their shapes, the image under them, and the rows of the table that describes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histocell._core import keys
from histocell._core.errors import MissingKeyError, listing, missing_key
from histocell.tables.access import is_spatialdata
from histocell.tables.regions import entry_of
from histocell.tables.slides import beside_image, check_size, no_slide, region_image

if TYPE_CHECKING:
    from collections.abc import Mapping

    import geopandas as gpd
    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from histocell._core.types import Bools, Ints

_ATTRS = "spatialdata_attrs"


def with_shapes(data: object, verb: str) -> SpatialData:
    """`data`, if it can hold shapes."""
    if not is_spatialdata(data):
        msg = f"{verb} takes a SpatialData, which holds the shapes of the nuclei, not {type(data).__name__}"
        raise TypeError(msg)
    return data


def nucleus_shapes(sdata: SpatialData, shapes_key: str, image_key: str | Mapping[str, str] | None = None) -> list[str]:
    """Names of shapes: `shapes_key` itself, those beside an image, or those of all slides, ``nuclei-<section>``."""
    if shapes_key in sdata.shapes:
        return [shapes_key]
    if isinstance(image_key, str) and image_key in sdata.images:
        name = beside_image(sdata, shapes_key, image_key)
        found = [name] if name in sdata.shapes else []
    else:
        found = [name for name in sdata.shapes if name.startswith(f"{shapes_key}-")]
    if not found:
        hint = (
            "Run hc.pp.segment_nuclei(data) first, or name other shapes with shapes_key=."
            if shapes_key == keys.NUCLEI
            else "Name others with shapes_key=."
        )
        raise missing_key("shapes", shapes_key, sdata.shapes, hint)
    return found


def image_under(sdata: SpatialData, name: str, image_key: str | Mapping[str, str] | None) -> str:
    """Name of the slide that shapes lie on: the one that was chosen, else the one that shares their coordinates."""
    key = entry_of(image_key, name, "image_key")
    if key is None:
        key = region_image(sdata, name)
        if key is None:
            raise ValueError(no_slide(sdata, name))
        check_size(sdata, name, key)
    if key not in sdata.images:
        msg = f"image {key!r} not found; available: {listing(sdata.images)}"
        raise MissingKeyError(msg)
    return key


def table_of_shapes(sdata: SpatialData, name: str, table_key: str | None = None) -> str | None:
    """Name of the table that annotates shapes, else of the one that names all of them; an error where several do.

    The ``nuclei`` of a Xenium have the names of its cells, which its table annotates. Numbers tell nothing: most shapes are
    numbered from 0. `None` where there is no such table.
    """
    if table_key is not None:
        if table_key not in sdata.tables:
            msg = f"table {table_key!r} not found; available: {listing(sdata.tables)}. Choose one with table_key="
            raise MissingKeyError(msg)
        return table_key
    found = [key for key, table in sdata.tables.items() if _of_region(table, name).any()]
    index = sdata.shapes[name].index
    if not found and not pd.api.types.is_numeric_dtype(index.dtype):
        found = [key for key, table in sdata.tables.items() if index.isin(_instances(table)).all()]
    if len(found) > 1:
        msg = f"several tables describe the shapes {name!r}: {listing(found)}. Choose one with table_key="
        raise ValueError(msg)
    return found[0] if found else None


def rows_of_shapes(table: AnnData, name: str, shapes: gpd.GeoDataFrame) -> tuple[Ints, Ints]:
    """Rows of a table and, for each, the position of its shape, -1 where there is none.

    The rows that annotate the shapes; where none do, as of the ``nuclei`` of a Xenium whose table is of its cells, all
    rows, by the same names.

    Raises
    ------
    ValueError
        When the table annotates no shapes, or none of these.
    """
    if _ATTRS not in table.uns:
        msg = f"the table annotates no shapes, so none of {name!r}; build it with spatialdata.models.TableModel.parse"
        raise ValueError(msg)
    instances = table.obs[table.uns[_ATTRS]["instance_key"]]
    own = _of_region(table, name)
    rows = np.flatnonzero(own) if own.any() else np.arange(table.n_obs)
    if not shapes.index.is_unique:
        twice = shapes.index[shapes.index.duplicated()]
        msg = f"the index of shapes {name!r} names {len(twice)} twice ({listing(twice, 3)}), so rows of a table cannot be told apart"
        raise ValueError(msg)
    places = shapes.index.get_indexer(instances.to_numpy()[rows])
    if (places < 0).all():
        msg = (
            f"no row of the table is of the shapes {name!r}: these are indexed {listing(shapes.index, 3)}, the rows are of "
            f"{listing(instances, 3)}; choose another table with table_key="
        )
        raise ValueError(msg)
    return rows, places


def _instances(table: AnnData) -> pd.Series | list[str]:
    key = table.uns.get(_ATTRS, {}).get("instance_key")
    return pd.Series(table.obs[key]) if key in table.obs else []


def _of_region(table: AnnData, name: str) -> Bools:
    region_key = table.uns.get(_ATTRS, {}).get("region_key")
    if region_key not in table.obs:
        return np.zeros(table.n_obs, dtype=bool)
    regions: NDArray[np.object_] = table.obs[region_key].astype(str).to_numpy()
    return np.asarray(regions == name)


def table_of_nuclei(sdata: SpatialData, table_key: str | None, key: str = keys.MEASUREMENTS) -> str:
    """Name of the table of nuclei: the one that was named, the only one with ``obsm[key]``, or ``nucleus_table``."""
    if table_key is None:
        found = [name for name, table in sdata.tables.items() if key in table.obsm]
        table_key = found[0] if len(found) == 1 else keys.NUCLEUS_TABLE
        if table_key not in sdata.tables:
            which = f'several tables hold obsm["{key}"]' if found else "there is no table of nuclei"
            msg = (
                f"{which}: {listing(found or sdata.tables)}. Name it, or run hc.pp.segment_nuclei(data) and "
                "hc.pp.measure_nuclei(data) first"
            )
            raise MissingKeyError(msg)
    if table_key not in sdata.tables:
        msg = f"table {table_key!r} not found; available: {listing(sdata.tables)}"
        raise MissingKeyError(msg)
    return table_key
