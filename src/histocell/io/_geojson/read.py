"""Reader of GeoJSON: outlines of QuPath and of cell segmenters, and the labels that they give to cells."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import shapely
from spatialdata.models import ShapesModel

from histocell._core import keys
from histocell._core.errors import listing, warn
from histocell._core.geometry import check_inside, check_mpp
from histocell.images.transformations import transformations
from histocell.io._cells.polygons import single_polygons
from histocell.io._geojson.classes import class_name
from histocell.io._geojson.features import Features, read_features
from histocell.io._geojson.labels import write_labels
from histocell.io._geojson.nuclei import add_nucleus_table
from histocell.io.elements import coordinate_systems
from histocell.tables.access import is_spatialdata
from histocell.tables.slides import beside_image, open_slide

if TYPE_CHECKING:
    from os import PathLike

    import geopandas as gpd
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from histocell.tables.slides import Slide

type Units = Literal["px", "um"]
_DETECTIONS = {"detection", "cell", "nucleus"}
_FEW = 20  # outlines, below which their size says nothing
_LEAST_UM2, _SMALL_UM2, _LARGE_UM2 = 8.0, 15.0, 500.0  # median area: of no nuclei, of few, of no nuclei again
_PLAUSIBLE = (15.0, 400.0)


def geojson(
    path: str | PathLike[str],
    data: SpatialData | None = None,
    *,
    key_added: str = "nuclei",
    label_key: str | None = None,
    table_key: str | None = None,
    image_key: str | None = None,
    units: Units = "px",
    mpp: float | None = None,
    property_key: str = "classification",
    measurements: bool = False,
    overwrite: bool = False,
) -> gpd.GeoDataFrame:
    """Read polygons of QuPath, CellViT or another tool from GeoJSON, and label cells by those that they lie in.

    Parameters
    ----------
    path
        The file, plain, gzipped or zipped: a FeatureCollection or a list of features.
    data
        SpatialData to add the polygons to.
    key_added
        Name of the shapes in `data`; beside an image ``he-C2`` it ends in ``-C2``. Those that are called ``nuclei`` get a
        table, too.
    label_key
        Column of ``obs`` to write: the class of the polygon that each row of the table lies in. See Notes.
    table_key
        The table that is labelled.
    image_key
        Image that the polygons were drawn on.
    units
        Unit of the coordinates: ``"px"`` of the full-resolution image, as QuPath and CellViT write them, or ``"um"``.
    mpp
        um per full-resolution px, where `data` does not say it.
    property_key
        Property of a feature that names its class.
    measurements
        Whether to keep the numbers that QuPath measured as columns.
    overwrite
        Whether to replace shapes, or labels, that are there already.

    Returns
    -------
    The polygons in px: single and valid, one for each part of a multipolygon, with the columns ``classification``, ``name``,
    ``object_type`` and, of multipolygons, ``feature``, the position of its feature in the file. With `data` the same are
    ``shapes[key_added]``, and for nuclei there is a table ``nucleus_table``: ``obs["section"]``, ``obs["mpp"]``,
    ``obs["classification"]``, ``obsm["spatial"]`` (x, y of the centroid, px).

    Raises
    ------
    OSError
        If the file is missing or damaged.
    ValueError
        If it is no GeoJSON, holds no polygon, or polygons lie outside of the image or have a size that no nucleus has, as
        where px are read as um.
    TypeError
        If `data` is no SpatialData.

    Warns
    -----
    UserWarning
        Of polygons that cross themselves (they are repaired), have no area (dropped), or lie outside; of features that are
        no polygons; of rows that lie in several polygons of different classes, or in none.

    Notes
    -----
    A row is labelled by the polygon that its centre lies in, the smallest where polygons are nested; else by the polygon
    whose own centroid lies in the outline of the row, the one nearest to its centre. So annotations of regions label spots and cells, and nuclei that were found and
    classified in the H&E image label the cells around them. Other rows are missing values.

    References
    ----------
    GeoJSON: RFC 7946. P. Bankhead et al., QuPath, Scientific Reports 7, 16878 (2017).

    Examples
    --------
    >>> import histocell as hc
    >>> import json, tempfile
    >>> from pathlib import Path
    >>> square = [[[0, 0], [600, 0], [600, 600], [0, 600], [0, 0]]]
    >>> tumour = {"objectType": "annotation", "classification": {"name": "Tumor"}}
    >>> feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": square}, "properties": tumour}
    >>> file = Path(tempfile.mkdtemp()) / "regions.geojson"
    >>> _ = file.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600)
    >>> regions = hc.io.geojson(file, sdata, key_added="regions", label_key="region_class")
    >>> sdata["table"].obs["region_class"].unique().tolist()
    ['Tumor']
    """
    if units not in {"px", "um"}:
        msg = f'units must be "px" or "um", not {units!r}'
        raise ValueError(msg)
    if data is not None and not is_spatialdata(data):
        msg = (
            f"hc.io.geojson adds to a SpatialData, not to {type(data).__name__}; hc.io.slide(path) makes one of a slide"
        )
        raise TypeError(msg)
    if data is None and (label_key or table_key or image_key):
        msg = "label_key=, table_key= and image_key= need data="
        raise ValueError(msg)
    slide = None if data is None else open_slide(data, "geojson", image_key, mpp)
    name = key_added if data is None or slide is None else beside_image(data, key_added, slide.key)
    if data is not None and name in data and not (overwrite and name in data.shapes):
        msg = f"{name!r} exists already; choose another name with key_added=, or give overwrite=True"
        raise ValueError(msg)
    resolution = slide.mpp if slide is not None else None if mpp is None else check_mpp(mpp)
    file = Path(path).expanduser()
    shapes = _shapes(file, read_features(file), units, resolution, property_key, measurements=measurements)
    nuclei = key_added == keys.NUCLEI
    _check_size(shapes, units, resolution, slide, file, nuclei=nuclei)
    if slide is not None:
        _check_place(shapes, units, slide, file)
    if nuclei:
        shapes.index = pd.Index(np.arange(len(shapes), dtype=np.int64), name=keys.NUCLEUS_ID)
    systems = coordinate_systems(resolution) if slide is None else dict(transformations(slide.element))
    shapes = ShapesModel.parse(shapes, transformations=systems)
    if data is not None and slide is not None:
        if label_key is not None:  # first: where it fails nothing has changed
            write_labels(data, shapes, slide, label_key, table_key, file.name, overwrite=overwrite)
        data.shapes[name] = shapes
        if nuclei:
            add_nucleus_table(data, name, slide, str(file), overwrite=overwrite)
    return shapes


def _shapes(
    file: Path, features: Features, units: Units, mpp: float | None, property_key: str, *, measurements: bool
) -> gpd.GeoDataFrame:
    """Valid, single polygons in px, with what the file says of them."""
    import geopandas as gpd

    if features.skipped:
        counted = listing(f"{n} {kind}" for kind, n in features.skipped.items())
        warn(f"{file.name}: left out what is no polygon: {counted}")
    polygons, repaired = single_polygons(features.polygons)
    kept = ~shapely.is_missing(polygons)
    if not kept.any():
        msg = f"{file} holds no polygon with an area; features: {len(features.objects)}"
        raise ValueError(msg)
    if repaired.any() or not kept.all():
        warn(
            f"{file.name}: {repaired.sum()} of {len(polygons)} polygons cross themselves and were repaired (the largest part "
            f"stays), {(~kept).sum()} have no area and were dropped"
        )
    polygons, feature = polygons[kept], features.feature[kept]
    if units == "um":
        if mpp is None:
            msg = 'units="um" needs the resolution of the image: give mpp= (um per full-resolution px), or data='
            raise ValueError(msg)
        polygons = shapely.transform(polygons, lambda xy: xy / mpp)
    properties = features.properties
    classes = [class_name(each, property_key) for each in properties]
    columns = {
        "classification": pd.Categorical(classes),
        "name": [each.get("name") for each in properties],
        "object_type": pd.Categorical([each.get("objectType") for each in properties]),
    }
    facts = pd.DataFrame(columns).iloc[feature].reset_index(drop=True)
    facts["name"] = facts["name"].where(facts["name"].notna(), "").astype(str)
    if len(feature) and np.bincount(feature).max() > 1:
        facts["feature"] = feature
    if measurements:
        measured = pd.DataFrame([each.get("measurements") or {} for each in properties])
        names, _ = keys.safe_names(measured.columns)
        facts = facts.join(measured.set_axis(names, axis="columns").iloc[feature].reset_index(drop=True))
    return gpd.GeoDataFrame(facts, geometry=polygons)


def _check_size(
    shapes: gpd.GeoDataFrame, units: Units, mpp: float | None, slide: Slide | None, file: Path, *, nuclei: bool
) -> None:
    """An error where outlines of nuclei have a size that only the other unit explains."""
    kinds = Counter(shapes["object_type"].dropna())
    detections = nuclei or kinds.total() and sum(kinds[each] for each in _DETECTIONS) > 0.5 * len(shapes)
    if mpp is None or len(shapes) < _FEW or not detections:
        return
    px2 = float(np.median(shapely.area(shapes.geometry.to_numpy())))
    area = px2 * mpp**2
    other: Units = "um" if units == "px" else "px"
    if_other = px2 if units == "px" else area * mpp**2
    low, high = _PLAUSIBLE
    corner = False
    if units == "px" and slide is not None and mpp < 0.9:  # um fill only a corner of the px
        height, width = slide.image.shape
        x1, y1 = shapely.total_bounds(shapes.geometry.to_numpy())[2:]
        corner = x1 <= width * mpp * 1.02 and y1 <= height * mpp * 1.02
    sizes = f"the median outline of {file.name} is {area:.3g} um2 with units={units!r} ({mpp:.4g} um per px)"
    if low <= if_other <= high and (area < _LEAST_UM2 or area > _LARGE_UM2 or (area < _SMALL_UM2 and corner)):
        msg = f"{sizes}, which is no nucleus or cell, and {if_other:.3g} um2 with units={other!r}: give that, or the right mpp="
        raise ValueError(msg)
    if not _SMALL_UM2 <= area <= _LARGE_UM2:
        warn(f"{sizes}: unlike nuclei and cells, which have 15 to 500. Are units= and mpp= right?")


def _check_place(shapes: gpd.GeoDataFrame, units: Units, slide: Slide, file: Path) -> None:
    """An error where polygons lie outside of the image, with the unit that would bring them into it."""
    xy = _centers(shapes)
    limit = np.array([slide.image.shape[1], slide.image.shape[0]])
    factor = 1 / slide.mpp if units == "px" else slide.mpp
    inside, if_other = (((each >= 0) & (each < limit)).all(axis=1).mean() for each in (xy, xy * factor))
    if inside < 0.5 and if_other > 0.9 and slide.mpp != 1:
        other = "um" if units == "px" else "px"
        msg = (
            f"{inside:.0%} of the polygons of {file.name} lie in the image {slide.key!r} with units={units!r}, {if_other:.0%} with "
            f"units={other!r}: give that"
        )
        raise ValueError(msg)
    within = check_inside(xy, slide.image.shape, f"{file.name} on {slide.key!r}")
    if not within.all():
        warn(
            f"{(~within).sum()} of {len(xy)} polygons of {file.name} lie outside of the image {slide.key!r}; they are kept"
        )


def _centers(shapes: gpd.GeoDataFrame) -> NDArray[np.float64]:
    return shapely.get_coordinates(shapely.centroid(shapes.geometry.to_numpy()))
