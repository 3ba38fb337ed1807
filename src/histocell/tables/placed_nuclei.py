"""Nuclei or cells with the image that they lie on: centres in px, size, outlines."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from histocell._core import keys
from histocell._core.arguments import check_positive
from histocell._core.errors import MissingKeyError, listing, missing_key
from histocell._core.geometry import is_grid
from histocell.images.transformations import matrix_to_image, transform_points
from histocell.tables.access import get_table, is_spatialdata
from histocell.tables.regions import entry_of
from histocell.tables.sections import Sections
from histocell.tables.slides import no_slide, open_slide, region_image

if TYPE_CHECKING:
    from collections.abc import Mapping

    import geopandas as gpd
    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from histocell._core.types import Floats, Ints
    from histocell.images.slide_image import ImageSource, SlideImage
    from histocell.tables.access import Data

NUCLEUS_RADIUS_UM = 4.0  # where nothing says it
RADIUS_RANGE_UM = (2.5, 6.0)  # outlines of cells are larger than their nuclei
_NAMES = ("nucle", "cell")
_CHECKED = 50_000  # points that may be spots of a grid
_FEWEST = 9
_MANY, _FEW_SPREAD = 100, 0.1  # fewer points can be as regular by chance
_FARTHEST_UM = 30.0  # between neighbouring nuclei that are as regular as a grid
_EXACT = 0.03  # spread of the distances to the nearest point, on a grid


@dataclass(frozen=True)
class PlacedNuclei:
    """The nuclei of one section on their image.

    Attributes
    ----------
    section
        Label of the section.
    shapes
        Name of their shapes in a SpatialData, `None` where they are points.
    rows
        Their rows in the table, `None` where there is no table.
    xy_px
        Centres, shape ``(n, 2)``: x, y in full-resolution px of the image.
    radius_um
        Radius of a nucleus: by the shapes, within what nuclei have, else 4 um.
    image
        The image.
    image_key
        Its name in a SpatialData.
    mpp
        um per full-resolution px.
    frame, matrix
        The shapes, and the matrix (3, 3) from their coordinates to px of the image.
    """

    section: str
    shapes: str | None
    rows: Ints | None
    xy_px: Floats
    radius_um: float
    image: SlideImage
    image_key: str | None
    mpp: float
    frame: gpd.GeoDataFrame | None = None
    matrix: Floats | None = None

    def moved(self, matrix: Floats) -> PlacedNuclei:
        """The nuclei moved by a matrix (3, 3) in px of their image."""
        on_image = None if self.matrix is None else matrix @ self.matrix
        return replace(self, xy_px=transform_points(self.xy_px, matrix), matrix=on_image)

    def outlines(self, low: Floats, high: Floats) -> NDArray[np.object_]:
        """Polygons in px of the nuclei whose centres lie between two corners (x, y); discs where there are only points."""
        import shapely

        chosen = ((self.xy_px >= low) & (self.xy_px <= high)).all(axis=1)
        if self.frame is None or self.matrix is None or "radius" in self.frame:
            radius = self.radius_um / self.mpp
            if self.frame is not None and self.matrix is not None:
                size = np.sqrt(abs(np.linalg.det(self.matrix[:2, :2])))
                radius = self.frame["radius"].to_numpy(dtype=np.float64)[chosen] * size
            return np.asarray(shapely.buffer(shapely.points(self.xy_px[chosen]), radius), dtype=object)
        matrix = self.matrix
        polygons = self.frame.geometry.to_numpy()[chosen]
        return np.asarray(shapely.transform(polygons, lambda xy: transform_points(xy, matrix)), dtype=object)


def place_nuclei(
    data: Data,
    verb: str,
    *,
    shapes_key: str | None = None,
    image: ImageSource | Mapping[str, ImageSource] | None = None,
    image_key: str | Mapping[str, str] | None = None,
    mpp: float | Mapping[str, float] | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
) -> tuple[AnnData | None, list[PlacedNuclei]]:
    """The nuclei of each section, and the table that annotates them.

    Parameters
    ----------
    data
        SpatialData with shapes of nuclei or cells, or with a table of them; AnnData with ``obsm["spatial"]`` in px.
    verb
        The function that asks, for messages.
    shapes_key
        Shapes of a SpatialData. By default those of the table.
    image, image_key, mpp, library_key, table_key
        As in `histocell.pp.patches`.

    Raises
    ------
    ValueError
        When coordinates are missing, resolution or image are unknown, an image is a thumbnail, or the rows are spots of a grid.
    """
    if is_spatialdata(data) and shapes_key is None and table_key is None:
        table_key, shapes_key = _find(data)
    if shapes_key is not None:
        if not is_spatialdata(data):
            msg = "shapes_key= is for a SpatialData; an AnnData has its centres in obsm['spatial']"
            raise TypeError(msg)
        table, placed = _of_shapes(data, verb, shapes_key, image_key, mpp)
        if table_key is not None:
            table = get_table(data, table_key)
        found = [placed]
    else:
        sections = Sections(data, table_key=table_key, library_key=library_key, mpp=mpp)
        table = sections.table
        found = _of_table(data, sections, image, image_key)
    for each in found:
        _check(each)
    return table, found


def _find(sdata: SpatialData) -> tuple[str | None, str | None]:
    """The table of nuclei or of cells, nuclei first; else shapes of such a name; else the table that there is."""
    tables = {name: regions_of(table) for name, table in sdata.tables.items()}
    for word in _NAMES:
        found = [name for name, regions in tables.items() if regions and all(each.startswith(word) for each in regions)]
        if len(found) == 1:
            return found[0], None
        shapes = [name for name in sdata.shapes if name.startswith(word)]
        if len(found) > 1 or len(shapes) > 1:
            msg = (
                f"there are several tables or shapes of nuclei ({listing(found + shapes)}): choose with table_key= or "
                "shapes_key="
            )
            raise ValueError(msg)
        if shapes:
            return None, shapes[0]
    return None, None


def regions_of(table: AnnData) -> list[str]:
    """Names of the elements that a table annotates."""
    region = table.uns.get("spatialdata_attrs", {}).get("region")
    return [] if region is None else [region] if isinstance(region, str) else [str(each) for each in region]


def _of_shapes(
    sdata: SpatialData,
    verb: str,
    key: str,
    image_key: str | Mapping[str, str] | None,
    mpp: float | Mapping[str, float] | None,
) -> tuple[AnnData | None, PlacedNuclei]:
    """All shapes of an element, and the one table that annotates it, else the only one there is, as that of the cells of a Xenium."""
    if key not in sdata.shapes:
        msg = f"shapes {key!r} not found; available: {listing(sdata.shapes)}"
        raise MissingKeyError(msg)
    on = entry_of(image_key, key, "image_key") or region_image(sdata, key)
    if on is None:
        raise ValueError(no_slide(sdata, key))
    slide = open_slide(sdata, verb, on, entry_of(mpp, key, "mpp"))
    frame = sdata.shapes[key]
    matrix = matrix_to_image(frame, slide.element)
    if matrix is None:
        msg = f"shapes {key!r} and image {on!r} share no coordinate system, so nobody says where the nuclei lie"
        raise ValueError(msg)
    centroids = frame.geometry.centroid
    xy = transform_points(np.column_stack([centroids.x, centroids.y]), matrix)
    radius = _radius(frame, matrix, slide.mpp)
    tables = [table for table in sdata.tables.values() if key in regions_of(table)] or list(sdata.tables.values())
    table = tables[0] if len(tables) == 1 else None
    names = [] if table is None or keys.SECTION not in table.obs else table.obs[keys.SECTION].astype(str).unique()
    section = str(names[0]) if len(names) == 1 else slide.section
    return table, PlacedNuclei(section, key, None, xy, radius, slide.image, on, slide.mpp, frame, matrix)


def _of_table(
    data: Data,
    sections: Sections,
    image: ImageSource | Mapping[str, ImageSource] | None,
    image_key: str | Mapping[str, str] | None,
) -> list[PlacedNuclei]:
    found = []
    for region in sections.regions(image=image, image_key=image_key):
        if region.image is None or region.mpp is None:
            msg = f"the resolution of the image of {region.name} is unknown; give mpp= (um per full-resolution px)"
            raise ValueError(msg)
        if region.thumbnail:
            msg = f"image {region.key!r} is a thumbnail, too coarse for nuclei; choose the slide with image_key="
            raise ValueError(msg)
        frame = matrix = shapes = None
        radius = NUCLEUS_RADIUS_UM
        if is_spatialdata(data) and region.name in data.shapes:
            shapes = region.name
            instances = sections.table.obs[sections.table.uns["spatialdata_attrs"]["instance_key"]]
            frame = data.shapes[shapes].loc[instances.to_numpy()[region.rows]]
            matrix = matrix_to_image(data.shapes[shapes], data.images[region.key])
            radius = NUCLEUS_RADIUS_UM if matrix is None else _radius(frame, matrix, region.mpp)
        found.append(
            PlacedNuclei(
                region.section,
                shapes,
                region.rows,
                region.centers,
                radius,
                region.image,
                region.key,
                region.mpp,
                frame,
                matrix,
            )
        )
    return found


def _radius(frame: gpd.GeoDataFrame, matrix: Floats, mpp: float) -> float:
    """Median radius in um of circles, or of discs of the area of polygons, within the range of nuclei."""
    size = np.sqrt(abs(np.linalg.det(matrix[:2, :2]))) * mpp
    radii = frame["radius"] if "radius" in frame else np.sqrt(frame.geometry.area / np.pi)
    radii = np.asarray(radii, dtype=np.float64) * size
    known = radii[np.isfinite(radii) & (radii > 0)]
    radius = float(np.median(known)) if len(known) else NUCLEUS_RADIUS_UM
    return check_positive(float(np.clip(radius, *RADIUS_RANGE_UM)), "the radius of the nuclei")


def _check(placed: PlacedNuclei) -> None:
    bad = int((~np.isfinite(placed.xy_px)).any(axis=1).sum())
    if bad:
        msg = f"{bad} of {len(placed.xy_px)} nuclei of {placed.section} have no finite centre (empty shapes, NaN); drop them"
        raise ValueError(msg)
    if _is_grid(placed.xy_px[:_CHECKED], placed.mpp):
        msg = (
            f"the rows of {placed.section} lie on a grid, as spots and bins do; nuclei or cells are needed: choose them with "
            "table_key= or shapes_key="
        )
        raise ValueError(msg)


def _is_grid(xy_px: Floats, mpp: float) -> bool:
    """Whether points are spots or bins: as far apart as no nuclei are, or to within a few per cent on a grid.

    Nuclei in rows, as of a gland, are nearly as regular as spots.
    """
    from scipy.spatial import cKDTree

    if len(xy_px) < _FEWEST or not is_grid(xy_px):
        return False
    low, middle, high = np.quantile(cKDTree(xy_px).query(xy_px, k=2)[0][:, 1], [0.25, 0.5, 0.75])
    apart = middle * mpp > _FARTHEST_UM and (len(xy_px) >= _MANY or (high - low) / middle < _FEW_SPREAD)
    return bool(apart or (high - low) / middle < _EXACT)


def table_with(data: Data, key: str, hint: str, table_key: str | None = None) -> AnnData:
    """The table with a result in ``uns[key]``: the one that was named, else the only one that has it."""
    if is_spatialdata(data) and table_key is None:
        found = [name for name, table in data.tables.items() if key in table.uns]
        if len(found) > 1:
            msg = f'several tables have uns["{key}"]: {listing(found)}; choose with table_key='
            raise ValueError(msg)
        table_key = found[0] if found else None
        if table_key is None and len(data.tables) != 1:
            raise missing_key("uns", key, sorted({name for each in data.tables.values() for name in each.uns}), hint)
    table = get_table(data, table_key)
    if key not in table.uns:
        raise missing_key("uns", key, table.uns, hint)
    return table
