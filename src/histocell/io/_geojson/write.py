"""Writer of GeoJSON that QuPath opens."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import shapely

from histocell._core.arguments import as_names
from histocell._core.errors import MissingKeyError, listing, missing_key
from histocell._core.outputs import make_folder, partial_folder
from histocell.images.transformations import matrix_to_image, transform_points
from histocell.io._geojson.classes import class_colours
from histocell.tables.access import get_table, is_spatialdata
from histocell.tables.slides import region_image

if TYPE_CHECKING:
    from os import PathLike

    import geopandas as gpd
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData

_DIGITS = 3  # of coordinates in px
_POLYGONS = (3, 6)
_CHUNK = 20_000
_NAMESPACE = uuid.UUID("b8a4f6de-6f0c-4a86-9f0a-1a6c0f3f6a55")  # of the ids: the same shapes get the same ones


def write_geojson(
    data: SpatialData,
    path: str | PathLike[str],
    *,
    shapes_key: str = "nuclei",
    label_key: str | None = None,
    table_key: str | None = None,
    image_key: str | None = None,
    object_type: Literal["detection", "annotation", "cell"] = "detection",
    overwrite: bool = False,
) -> None:
    """Write polygons as GeoJSON for QuPath: File, Import objects from file, or drag the file onto the image.

    Parameters
    ----------
    data
        SpatialData with the shapes.
    path
        File to write.
    shapes_key
        The polygons.
    label_key
        Column of the shapes, or else of ``obs`` of the table that annotates them, that names the class of each polygon.
        Without it, or where it is missing, a polygon has no class. Classes have the colours of ``uns[<label_key>_colors]``
        where scanpy chose some.
    table_key
        The table with `label_key`.
    image_key
        Image in whose full-resolution px the polygons are written; by default the one that they lie on.
    object_type
        What QuPath makes of them. Hundreds of thousands of objects should be detections.
    overwrite
        Whether to replace a file that is there.

    Raises
    ------
    FileExistsError
        If the file is there and `overwrite` is not set.
    KeyError
        If there are no such shapes or no such labels.
    ValueError
        If the shapes are no polygons.

    Notes
    -----
    Coordinates are px of the image, rounded to a thousandth. The name of an object is the index of the shape, so that it can be joined when it comes back.

    References
    ----------
    P. Bankhead et al., QuPath, Scientific Reports 7, 16878 (2017); GeoJSON: RFC 7946.

    Examples
    --------
    >>> import histocell as hc
    >>> import tempfile
    >>> from pathlib import Path
    >>> folder = Path(tempfile.mkdtemp())
    >>> sdata = hc.io.xenium(hc.datasets.synthetic_xenium(folder / "xenium", size_px=400))
    >>> hc.io.write_geojson(sdata, folder / "nuclei.geojson")
    >>> len(hc.io.geojson(folder / "nuclei.geojson")) == len(sdata["nuclei"])
    True
    """
    if not is_spatialdata(data):
        msg = f"hc.io.write_geojson takes a SpatialData, not {type(data).__name__}"
        raise TypeError(msg)
    if shapes_key not in data.shapes:
        raise missing_key("shapes", shapes_key, data.shapes, "hc.pp.segment_nuclei(data) makes nuclei.")
    if object_type not in {"detection", "annotation", "cell"}:
        msg = f'object_type must be "detection", "annotation" or "cell", not {object_type!r}'
        raise ValueError(msg)
    file = Path(path).expanduser()
    if file.is_dir() or (file.exists() and not overwrite):
        msg = f"{file} exists; give overwrite=True to replace it, or another name"
        raise FileExistsError(msg)
    shapes = data.shapes[shapes_key]
    polygons = _in_px(data, shapes_key, shapes, image_key)
    labels, colours = _labels(data, shapes_key, shapes, label_key, table_key)
    make_folder(file.parent)
    with partial_folder(file.parent) as folder:
        _write(folder / file.name, polygons, shapes.index, labels, colours, object_type)
        (folder / file.name).replace(file)


def _in_px(data: SpatialData, name: str, shapes: gpd.GeoDataFrame, image_key: str | None) -> NDArray[np.object_]:
    """The polygons in px of their image; as they are where there is none."""
    polygons = shapes.geometry.to_numpy()
    wrong = ~np.isin(shapely.get_type_id(polygons), _POLYGONS) | shapely.is_empty(polygons)
    if wrong.any():
        msg = f"{wrong.sum()} of {len(polygons)} shapes of {name!r} are no polygons (points, circles or empty), which QuPath needs"
        raise ValueError(msg)
    key = region_image(data, name) if image_key is None else image_key
    if key is None:
        if data.images:
            msg = f"several images or none lie under {name!r}; choose with image_key=: {listing(data.images)}"
            raise ValueError(msg)
        return polygons
    if key not in data.images:
        msg = f"image {key!r} not found; available: {listing(data.images)}"
        raise MissingKeyError(msg)
    matrix = matrix_to_image(shapes, data.images[key])
    if matrix is None:
        msg = f"shapes {name!r} and image {key!r} share no coordinate system"
        raise ValueError(msg)
    return shapely.transform(polygons, lambda xy: transform_points(xy, matrix))


def _labels(
    data: SpatialData, name: str, shapes: gpd.GeoDataFrame, label_key: str | None, table_key: str | None
) -> tuple[pd.Series | None, dict[str, list[int]]]:
    """Class of each polygon, and the colour of each class."""
    if label_key is None:
        return None, {}
    given = None
    if table_key is None and label_key in shapes:
        labels = shapes[label_key]
    else:
        table = _table_of(data, name, table_key)
        if label_key not in table.obs:
            raise missing_key(
                "obs", label_key, table.obs.columns, f"Columns of shapes {name!r}: {listing(shapes.columns)}."
            )
        attrs = table.uns.get("spatialdata_attrs", {})
        rows = table.obs
        region_key = attrs.get("region_key")
        if region_key in rows and (rows[region_key].astype(str) == name).any():
            rows = rows[rows[region_key].astype(str) == name]
        labels = rows[label_key].set_axis(rows[attrs["instance_key"]].to_numpy()) if attrs else rows[label_key]
        if not labels.index.isin(shapes.index).any():
            msg = f"no row of the table has the name of a shape of {name!r}; choose the table with table_key="
            raise ValueError(msg)
        labels = labels.reindex(shapes.index)
        given = table.uns.get(f"{label_key}_colors")
    labels = labels.astype("category").cat.rename_categories(str)
    return labels, class_colours(list(labels.cat.categories), None if given is None else [str(each) for each in given])


def _table_of(data: SpatialData, name: str, table_key: str | None) -> AnnData:
    """The table that was named, else the one that annotates the shapes, else the only one."""
    if table_key is None:
        of = [key for key, each in data.tables.items() if name in _regions(each)]
        table_key = of[0] if len(of) == 1 else None
    return get_table(data, table_key)


def _regions(table: AnnData) -> list[str]:
    """The shapes that a table annotates."""
    return as_names(table.uns.get("spatialdata_attrs", {}).get("region", []))


def _write(
    file: Path,
    polygons: NDArray[np.object_],
    names: pd.Index,
    labels: pd.Series | None,
    colours: dict[str, list[int]],
    object_type: str,
) -> None:
    """Write features in chunks, so that their text never lies in memory as a whole."""
    classes = {name: json.dumps({"name": name, "color": colour}) for name, colour in colours.items()}
    rounded = shapely.transform(polygons, lambda xy: np.round(xy, _DIGITS))
    with file.open("w", encoding="utf-8") as out:
        out.write('{"type": "FeatureCollection", "features": [\n')
        for start in range(0, len(polygons), _CHUNK):
            stop = min(start + _CHUNK, len(polygons))
            geometries = shapely.to_geojson(rounded[start:stop])
            lines = []
            for number, geometry in zip(range(start, stop), geometries, strict=True):
                name = str(names[number])
                properties = f'"objectType": "{object_type}", "name": {json.dumps(name)}'
                if labels is not None and labels.iloc[number] in classes:
                    properties += f', "classification": {classes[labels.iloc[number]]}'
                identity = uuid.uuid5(_NAMESPACE, f"{number} {name}")
                lines.append(
                    f'{{"type": "Feature", "id": "{identity}", "geometry": {geometry}, '
                    f'"properties": {{{properties}, "isLocked": false}}}}'
                )
            out.write((",\n" if start else "") + ",\n".join(lines))
        out.write("\n]}\n")
