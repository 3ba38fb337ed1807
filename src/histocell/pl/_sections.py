"""Sections of tissue as they are drawn: spots at their true size on the image, in micrometres."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.collections import EllipseCollection, PolyCollection

from histocell._core import keys
from histocell._core.geometry import spot_pitch
from histocell.pl._choices import choose
from histocell.pl._style import BACKGROUND, add_bar, hide_frame
from histocell.tables.access import is_spatialdata
from histocell.tables.sections import Sections

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from geopandas import GeoDataFrame
    from matplotlib.axes import Axes
    from matplotlib.collections import Collection
    from matplotlib.colors import Colormap
    from numpy.typing import NDArray

    from histocell.images.slide_image import ImageSource, SlideImage
    from histocell.tables.access import Data
    from histocell.tables.regions import Region

    type Images = ImageSource | Mapping[str, ImageSource]

SPOT_TO_PITCH = 0.55  # a Visium spot: 55 um across, 100 um from the next


@dataclass(frozen=True)
class Section:
    """Spots of one section in the unit of its axes: um, or px where the resolution is unknown.

    Attributes
    ----------
    name
        The section.
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
    chosen = regions if section is None else choose(section, regions, "section")
    return [_section(data, sections.table, regions[name], with_image=image is not False) for name in chosen]


def _section(data: Data, table: AnnData, region: Region, *, with_image: bool) -> Section:
    size_px, square = _spot_size(data, table, region)
    unit = region.mpp or 1.0
    image = region.image if with_image else None
    return Section(region.section, region.rows, region.centers * unit, size_px * unit, square, region.mpp, image)


def _spot_size(data: Data, table: AnnData, region: Region) -> tuple[float, bool]:
    """Size in px from the shapes, from Space Ranger or from the pitch, and whether it is the edge of square tiles."""
    if is_spatialdata(data) and region.name in data.shapes:
        return _shape_size(data.shapes[region.name], table, region)
    libraries = table.uns.get("spatial", {})
    library = libraries.get(region.name) or (next(iter(libraries.values())) if len(libraries) == 1 else {})
    if diameter := library.get("scalefactors", {}).get("spot_diameter_fullres"):
        return float(diameter), False
    if len(np.unique(region.centers, axis=0)) > 1:
        return SPOT_TO_PITCH * spot_pitch(region.centers), False
    if keys.PATCHES in table.obsm:  # a single spot has no pitch
        return float(np.ptp(np.asarray(table.obsm[keys.PATCHES])[region.rows[0]][[0, 2]])), False
    return 100.0, False


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


def draw_tissue(ax: Axes, pixels: NDArray[np.uint8] | None, view: NDArray[np.float64], *, alpha: float = 1.0) -> None:
    """The image, faded, or a plain background; y runs downwards, both axes have one unit."""
    (x0, y0), (x1, y1) = view
    hide_frame(ax)
    if pixels is None:
        ax.set_facecolor(BACKGROUND)
    else:
        ax.imshow(pixels, extent=(x0, x1, y1, y0), alpha=alpha, interpolation="antialiased", zorder=0)
    ax.set(xlim=(x0, x1), ylim=(y1, y0), aspect="equal")


def draw_spots(
    ax: Axes, section: Section, values: NDArray[np.float64], *, cmap: Colormap, vmax: float, size: float = 1.0
) -> Collection:
    """Spots coloured by `values` between 0 and `vmax`; hollow where there is no value."""
    known = np.isfinite(values)
    spots = _shapes(ax, section, known, size)
    spots.set(array=values[known], cmap=cmap, linewidths=0)
    spots.set_clim(0, vmax)
    ax.add_collection(spots, autolim=False)
    if not known.all():
        hollow = _shapes(ax, section, ~known, size)
        hollow.set(facecolors="none", edgecolors="0.35", linewidths=0.5)
        ax.add_collection(hollow, autolim=False)
    return spots


def _shapes(ax: Axes, section: Section, chosen: NDArray[np.bool_], size: float) -> Collection:
    xy, edge = section.xy[chosen], section.size * size
    if section.square:
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * edge / 2
        return PolyCollection(list(xy[:, None] + corners))
    diameters = np.full(len(xy), edge)
    return EllipseCollection(
        diameters, diameters, np.zeros(len(xy)), units="xy", offsets=xy, offset_transform=ax.transData
    )


def add_scalebar(ax: Axes, section: Section) -> None:
    """A scalebar where the resolution is known."""
    if section.mpp is not None:
        add_bar(ax)
