"""Sections of tissue as they are drawn: places and true size of their spots in micrometres, and the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from histocell._core import keys
from histocell._core.geometry import is_grid, spot_pitch
from histocell.pl._choices import choose
from histocell.tables.access import is_spatialdata
from histocell.tables.sections import Sections

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from geopandas import GeoDataFrame
    from numpy.typing import NDArray

    from histocell.images.slide_image import ImageSource, SlideImage
    from histocell.tables.access import Data
    from histocell.tables.regions import Region

    type Images = ImageSource | Mapping[str, ImageSource]

MOST_CHECKED = 100_000  # points that may be spots of a grid, whose size is compared with their pitch
SPOT_TO_PITCH = 0.55  # a Visium spot: 55 um across, 100 um from the next


@dataclass(frozen=True)
class Section:
    """Spots of one section in the unit of its axes: um, or px where the resolution is unknown.

    Attributes
    ----------
    name
        The section.
    title
        Its name for the reader, empty where the data have none.
    rows
        Positions of its spots in the table.
    xy
        Centers of the spots, shape ``(k, 2)``.
    size
        Diameter of a round spot or edge of a square tile.
    square
        Whether the spots are square tiles.
    mpp
        Micrometres per px, `None` where it is unknown.
    image
        The image, if there is one.
    """

    name: str
    title: str
    rows: NDArray[np.intp]
    xy: NDArray[np.float64]
    size: float
    square: bool
    mpp: float | None
    image: SlideImage | None

    @property
    def view(self) -> NDArray[np.float64]:
        """The window to show, ``[[x0, y0], [x1, y1]]``: the spots and a margin around them, as far as the image goes."""
        low, high = self.xy.min(axis=0), self.xy.max(axis=0)
        margin = np.maximum(0.03 * (high - low).max() + self.size, 2.5 * self.size - (high - low) / 2)
        view = np.stack([low - margin, high + margin])
        if self.image is not None:
            edge = np.array(self.image.shape[::-1]) * (self.mpp or 1.0)
            half = self.size / 2  # a spot at the border is shown whole
            view[0] = np.maximum(view[0], np.minimum(0, low - half))
            view[1] = np.minimum(view[1], np.maximum(edge, high + half))
        return view


def find_sections(
    data: Data,
    section: str | Sequence[str] | None,
    *,
    table_key: str | None,
    image: Images | bool,
    mpp: float | None = None,
) -> list[Section]:
    """The sections of `data` by name, all of them where `section` is `None`; `mpp` wins over what the data say."""
    sections = Sections(data, table_key=table_key, mpp=mpp)
    source = None if isinstance(image, bool) else image
    regions = {region.section: region for region in sections.regions(image=source, need_image=False, thumbnails=True)}
    if not regions:
        msg = "there is no spot to draw: the table has no rows"
        raise ValueError(msg)
    chosen = regions if section is None else choose(section, regions, "section")
    return [_section(data, sections, regions[name], with_image=image is not False) for name in chosen]


def _section(data: Data, sections: Sections, region: Region, *, with_image: bool) -> Section:
    size_px, square = _spot_size(data, sections.table, region)
    if not square and len(region.centers) <= MOST_CHECKED and is_grid(region.centers):
        size_px = min(size_px, spot_pitch(region.centers))  # those of a denser grid would hide each other
    xy, unit = region.centers, region.mpp or 1.0
    image = region.image if with_image else None
    title = _title(sections, region)
    return Section(region.section, title, region.rows, xy * unit, size_px * unit, square, region.mpp, image)


def _title(sections: Sections, region: Region) -> str:
    """The section in ``obs``, else the library of Space Ranger; the name of a table or of shapes is no section's."""
    table = sections.table
    is_region_key = sections.library_key == table.uns.get("spatialdata_attrs", {}).get("region_key")
    if (sections.labels[region.rows] == region.section).all():
        return "" if is_region_key and sections.library_key != keys.SECTION else region.section
    libraries = list(table.uns.get("spatial", {}))
    return str(libraries[0]) if len(libraries) == 1 and sections.library_key is None else ""


def _spot_size(data: Data, table: AnnData, region: Region) -> tuple[float, bool]:
    """Size in px from the shapes, from Space Ranger or from the pitch, and whether it is the edge of square tiles."""
    if is_spatialdata(data) and region.name in data.shapes:
        return _shape_size(data.shapes[region.name], table, region)
    libraries = table.uns.get("spatial", {})
    library = libraries.get(region.name) or (next(iter(libraries.values())) if len(libraries) == 1 else {})
    if diameter := library.get("scalefactors", {}).get("spot_diameter_fullres"):
        return float(diameter), False
    if np.ptp(region.centers, axis=0).any():
        return _size_from_distances(region.centers), False
    if keys.PATCHES in table.obsm:  # a single spot has no pitch
        return float(np.ptp(np.asarray(table.obsm[keys.PATCHES])[region.rows[0]][[0, 2]])), False
    return 100.0, False


def _size_from_distances(xy: NDArray[np.float64]) -> float:
    """Diameter of spots by their pitch; of cells, which lie on no grid, by the room that each has."""
    sample = xy[:: max(1, len(xy) // 5000)]  # with its neighbours among all
    distance = cKDTree(xy).query(sample, k=min(5, len(xy)))[0][:, 1:]
    nearest, fourth = np.median(distance[:, 0]), np.median(distance[:, -1])
    if len(xy) < 5 or fourth < 1.6 * nearest or fourth == 0:  # 1 on a grid, about 2.3 where points lie at random
        return SPOT_TO_PITCH * (spot_pitch(xy) if len(sample) == len(xy) else float(nearest))
    return 0.83 * float(fourth)  # 0.9 times the square root of the room, which has that share of this distance


def _shape_size(shapes: GeoDataFrame, table: AnnData, region: Region) -> tuple[float, bool]:
    """Median size of the region's shapes, scaled as their coordinates are to the px of the image."""
    own = shapes.loc[table.obs[table.uns["spatialdata_attrs"]["instance_key"]].to_numpy()[region.rows]]
    centroids = np.column_stack([own.geometry.centroid.x, own.geometry.centroid.y])
    spread = centroids.std(axis=0).sum()
    scale = region.centers.std(axis=0).sum() / spread if spread > 0 else 1.0
    if "radius" in own:
        return 2 * scale * float(np.median(own["radius"])), False
    return scale * float(np.sqrt(np.median(own.geometry.area))), True


def tissue_image(section: Section, view: NDArray[np.float64], max_px: int = 900) -> NDArray[np.uint8] | None:
    """The image inside of `view`, its longer side `max_px`; white beyond its borders."""
    if section.image is None:
        return None
    (x0, y0), (x1, y1) = view / (section.mpp or 1.0)
    shrink = max_px / max(x1 - x0, y1 - y0)
    shape = (max(1, round((y1 - y0) * shrink)), max(1, round((x1 - x0) * shrink)))
    return section.image.read(y0, x0, y1, x1, out_shape=shape, fill=(255, 255, 255))
