"""Labels of rows of a table by the polygons that they lie in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import shapely

from histocell._core import keys
from histocell._core.errors import warn
from histocell.images.transformations import matrix_to_image, transform_points
from histocell.tables.access import get_table
from histocell.tables.sections import Sections

if TYPE_CHECKING:
    import geopandas as gpd
    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from histocell.tables.regions import Region
    from histocell.tables.slides import Slide

_POLYGONAL = 2


def write_labels(
    data: SpatialData,
    shapes: gpd.GeoDataFrame,
    slide: Slide,
    label_key: str,
    table_key: str | None,
    source: str,
    *,
    overwrite: bool,
) -> None:
    """Write the class of the polygon that each row of the image lies in into ``obs[label_key]``."""
    table = get_table(data, table_key)
    if label_key in table.obs and not overwrite:
        msg = f'obs["{label_key}"] exists already; choose another label_key=, or give overwrite=True'
        raise ValueError(msg)
    labelled = shapes[shapes["classification"].notna()]
    if labelled.empty:
        msg = f"no polygon of {source} has a class, so there is nothing to label rows with; say with property_key= what names it"
        raise ValueError(msg)
    regions = [each for each in Sections(data, table_key=table_key).regions() if each.key == slide.key]
    if not regions:
        msg = f"no row of the table lies on image {slide.key!r}; choose the table with table_key=, the image with image_key="
        raise ValueError(msg)
    categories = labelled["classification"].cat.remove_unused_categories()
    codes = np.full(table.n_obs, -1, dtype=np.int64)
    for region in regions:
        outlines = _outlines(data, table, region.name, region.rows, slide)
        codes[region.rows] = containing(
            region.centers, outlines, labelled.geometry.to_numpy(), categories.cat.codes.to_numpy(), source
        )
    rows = np.concatenate([region.rows for region in regions])
    if label_key in table.obs and len(rows) < table.n_obs:  # rows of other images keep their labels
        names = table.obs[label_key].astype(object).to_numpy()
        names[rows] = pd.Categorical.from_codes(codes[rows], dtype=categories.dtype).astype(object)
        table.obs[label_key] = pd.Categorical(names)
    else:
        table.obs[label_key] = pd.Categorical.from_codes(codes, dtype=categories.dtype)
    missing = int((codes[rows] < 0).sum())
    if missing == len(rows):
        warn(
            f"none of the {missing} rows on {slide.key!r} lies in a polygon of {source}, which span "
            f"{_span(labelled.total_bounds)}; the rows span {_span(_bounds(regions))}"
        )
    elif missing:
        warn(f'{missing} of {len(rows)} rows lie in no polygon of {source}; obs["{label_key}"] is missing there')
    keys.write_provenance(table, label_key, source=source, n_polygons=len(labelled))


def containing(
    centers: NDArray[np.float64],
    outlines: NDArray[np.object_] | None,
    polygons: NDArray[np.object_],
    codes: NDArray[np.integer],
    source: str,
) -> NDArray[np.int64]:
    """Class of the polygon around each centre, the smallest of several; else of the polygon centred in the outline.

    Parameters
    ----------
    centers, outlines
        Of the rows: (n, 2), and polygons (n,) where they have some.
    polygons, codes
        Labelled polygons and the class of each.
    source
        What they are called in messages.

    Returns
    -------
    Classes (n,), -1 where there is none.
    """
    out = np.full(len(centers), -1, dtype=np.int64)
    row, polygon = shapely.STRtree(polygons).query(shapely.points(centers), predicate="intersects")
    order = np.lexsort((shapely.area(polygons)[polygon], row))
    row, polygon = row[order], polygon[order]
    first = np.diff(row, prepend=-1) > 0
    out[row[first]] = codes[polygon[first]]
    differ = np.unique(row[codes[polygon] != out[row]])
    if len(differ):
        warn(
            f"{len(differ)} of {len(out)} rows lie in several polygons of {source} with different classes; the smallest counts"
        )
    left = np.flatnonzero(out < 0)
    if outlines is None or len(left) == 0:
        return out
    points = shapely.centroid(polygons)
    row, polygon = shapely.STRtree(points).query(outlines[left], predicate="intersects")
    row = left[row]
    distance = np.linalg.norm(shapely.get_coordinates(points)[polygon] - centers[row], axis=1)
    order = np.lexsort((distance, row))
    row, polygon = row[order], polygon[order]
    first = np.diff(row, prepend=-1) > 0
    out[row[first]] = codes[polygon[first]]
    return out


def _outlines(
    data: SpatialData, table: AnnData, region: str, rows: NDArray[np.intp], slide: Slide
) -> NDArray[np.object_] | None:
    """Outlines of rows in px of the image, `None` where they have none with an area of their own."""
    shapes = data.shapes.get(region)
    if shapes is None or (shapely.get_dimensions(shapes.geometry.to_numpy()) != _POLYGONAL).any():
        return None
    attrs = table.uns["spatialdata_attrs"]
    instances = table.obs[attrs["instance_key"]].to_numpy()[rows]
    matrix = matrix_to_image(shapes, slide.element)
    polygons = shapes.geometry.to_numpy()[shapes.index.get_indexer(instances)]
    return polygons if matrix is None else shapely.transform(polygons, lambda xy: transform_points(xy, matrix))


def _bounds(regions: list[Region]) -> NDArray[np.float64]:
    xy = np.concatenate([region.centers for region in regions])
    return np.concatenate([xy.min(axis=0), xy.max(axis=0)])


def _span(bounds: NDArray[np.float64]) -> str:
    x0, y0, x1, y1 = bounds
    return f"x {x0:.0f} to {x1:.0f}, y {y0:.0f} to {y1:.0f} px"
