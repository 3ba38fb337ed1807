"""Where the tissue is, and which patches are worth embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from histocell._core import keys
from histocell._core.access import get_obsm, get_table, is_spatialdata
from histocell._core.errors import listing, warn
from histocell._core.images import open_image
from histocell._core.regions import regions
from histocell._core.settings import logger, progress_bar

if TYPE_CHECKING:
    from collections.abc import Mapping

    import geopandas as gpd
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from histocell._core.images import SlideImage

MASK_UM = 8.0  # resolution of the tissue mask, to the next power of two: finer than any patch, small for a whole slide
BLOCK_PX = 4096  # edge of the windows that a slide is read in for its mask
WHITE, BLACK = 220, 20  # a px with min(RGB) above, or max(RGB) below, holds no tissue
EDGE_THRESHOLD = 15.0  # of the tiler that Hist2Cell used, on patches of 224 px
QC_PX, QC_MPP = 224, 0.5


@dataclass(frozen=True)
class TissueMask:
    """Tissue of a slide at low resolution.

    Attributes
    ----------
    mask
        Boolean, shape ``(height, width)`` at low resolution.
    scale
        Full-resolution px per px of the mask, for y and x.
    """

    mask: NDArray[np.bool_]
    scale: tuple[float, float]

    def fraction(self, windows: NDArray[np.integer]) -> NDArray[np.float64]:
        """Share of tissue in each window ``(y0, x0, y1, x1)``; what lies outside of the slide counts as background."""
        area = np.zeros((self.mask.shape[0] + 1, self.mask.shape[1] + 1), dtype=np.int32)
        self.mask.cumsum(axis=0, out=area[1:, 1:])
        area[1:, 1:].cumsum(axis=1, out=area[1:, 1:])
        scaled = windows / np.array([*self.scale, *self.scale])
        y0, x0, y1, x1 = np.rint(scaled).astype(np.int64).T
        y1, x1 = np.maximum(y1, y0 + 1), np.maximum(x1, x0 + 1)
        full = (y1 - y0) * (x1 - x0)
        y0, y1 = np.clip([y0, y1], 0, self.mask.shape[0])
        x0, x1 = np.clip([x0, x1], 0, self.mask.shape[1])
        return (area[y1, x1] - area[y0, x1] - area[y1, x0] + area[y0, x0]) / full

    def polygons(self) -> list[Any]:
        """Outlines in full-resolution px, holes included."""
        import shapely
        from skimage.measure import find_contours

        rings = []
        for contour in find_contours(np.pad(self.mask, 1).astype(np.float64), 0.5):
            points = (contour - 0.5)[:, ::-1] * self.scale[::-1]  # centre of px 0 lies at 0.5; padding shifts by 1
            if len(points) > 3:
                rings.append(shapely.LinearRing(points))
        if not rings:
            return []
        merged = shapely.build_area(shapely.GeometryCollection(rings)).simplify(min(self.scale))
        return [part for part in getattr(merged, "geoms", [merged]) if not part.is_empty]


def find_tissue(image: SlideImage, *, min_area_um2: float = 20_000.0) -> TissueMask:
    """Tissue by optical density: above Otsu's threshold and above what paper and dust reach; black fill is background."""
    from scipy import ndimage
    from skimage.filters import gaussian, threshold_otsu
    from skimage.morphology import disk

    mpp = image.mpp or 1.0
    shrink = 2 ** max(round(np.log2(MASK_UM / mpp)), 0)
    density, dark = _density(image, shrink)
    colour = gaussian(density, 1.0)
    visible = colour[~dark]
    # Otsu splits any picture in two; the bounds keep an all-tissue or an empty slide whole.
    threshold = np.clip(threshold_otsu(visible), 0.04, 0.09) if len(visible) and np.ptp(visible) > 0 else 0.09
    mask = (colour > threshold) & ~dark
    mask = ndimage.binary_opening(ndimage.binary_closing(np.pad(mask, 4, mode="edge"), disk(3)), disk(1))[4:-4, 4:-4]
    pixels = max(min_area_um2 / (shrink * mpp) ** 2, 1.0)
    mask = _drop_small(mask, pixels)
    return TissueMask(~_drop_small(~mask, pixels), (float(shrink), float(shrink)))


def _density(image: SlideImage, shrink: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Largest optical density of the channels, and where the slide is black, on a grid of `shrink` level-0 px.

    The slide is read in squares whose borders are those of its tiles, so that no tile is decoded twice and neither a
    row of tiles nor the slide lies in memory, with or without a pyramid.
    """
    height, width = image.shape
    rows, columns = -(-height // shrink), -(-width // shrink)
    density, dark = np.empty((rows, columns), dtype=np.float32), np.empty((rows, columns), dtype=np.bool_)
    white = np.maximum(np.asarray(image.background, dtype=np.float64), 128.0)
    of_value = np.maximum(-np.log10(np.maximum(np.arange(256), 1)[:, None] / white), 0).astype(np.float32)
    step = max(BLOCK_PX // shrink, 1)
    for top in range(0, rows, step):
        for left in range(0, columns, step):
            bottom, right = min(top + step, rows), min(left + step, columns)
            window = (top * shrink, left * shrink, bottom * shrink, right * shrink)
            picture = image.read(*window, out_shape=(bottom - top, right - left))
            channels = [of_value[picture[..., channel], channel] for channel in range(3)]
            density[top:bottom, left:right] = np.maximum.reduce(channels)
            dark[top:bottom, left:right] = picture.max(axis=2) < BLACK
    return density, dark


def _drop_small(mask: NDArray[np.bool_], pixels: float) -> NDArray[np.bool_]:
    from scipy import ndimage

    labels, n = ndimage.label(mask)
    if n == 0:
        return mask
    size = np.bincount(labels.ravel())
    size[0] = 0
    return (size >= pixels)[labels]


def slide_image(sdata: SpatialData, image_key: str | None, mpp: float | None) -> tuple[str, Any]:
    """The one image of a slide, opened, with its resolution known."""
    images = list(sdata.images)
    if image_key is None and len(images) != 1:
        msg = f"choose the image with image_key=; this SpatialData has: {listing(images)}"
        raise ValueError(msg)
    key = images[0] if image_key is None else image_key
    if key not in images:
        msg = f"image {key!r} not found; available: {listing(images)}"
        raise KeyError(msg)
    picture = open_image(sdata.images[key], mpp=mpp)
    if picture.mpp is None:
        msg = f"the resolution of image {key!r} is unknown; give mpp= (um per full-resolution px)"
        raise ValueError(msg)
    return key, picture


def _beside(image_key: str, name: str) -> str:
    """Name of an element that belongs to an image: ``he-C2`` and ``tissue`` give ``tissue-C2``."""
    return name + image_key.removeprefix(keys.IMAGE) if image_key.startswith(f"{keys.IMAGE}-") else name


def tissue_mask(
    data: SpatialData,
    *,
    image_key: str | None = None,
    mpp: float | None = None,
    min_area_um2: float = 20_000.0,
    key_added: str = keys.TISSUE,
    inplace: bool = True,
) -> gpd.GeoDataFrame | None:
    """Outline of the tissue on a slide.

    Parameters
    ----------
    data
        SpatialData with an image.
    image_key
        The image, where there are several.
    mpp
        Micrometres per full-resolution px, where the image does not say it.
    min_area_um2
        Smaller pieces are dropped and smaller holes are filled, in um2.
    key_added
        Name of the new shapes.
    inplace
        Whether to write the result; else it is returned.

    Returns
    -------
    `None`, or with ``inplace=False`` the GeoDataFrame. Writes:

    ``shapes["tissue"]`` : polygons
        One row for each piece, with ``area_um2``; in the coordinate systems of the image.

    Raises
    ------
    ValueError
        When no tissue is found or the resolution is unknown.
    """
    import geopandas as gpd
    import shapely
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import get_transformation

    if not is_spatialdata(data):
        msg = "hc.pp.tissue_mask takes a SpatialData; hc.io.slide(path) makes one from a slide"
        raise TypeError(msg)
    key, picture = slide_image(data, image_key, mpp)
    corner = picture.shape[::-1]  # a px of the mask may reach over the border
    found = find_tissue(picture, min_area_um2=min_area_um2).polygons()
    outlines = [shapely.transform(outline, lambda xy: np.minimum(xy, corner)) for outline in found]
    if not outlines:
        msg = f"no tissue found on image {key!r}; look at it, or lower min_area_um2 (now {min_area_um2:g})"
        raise ValueError(msg)
    frame = gpd.GeoDataFrame({"area_um2": [outline.area * picture.mpp**2 for outline in outlines]}, geometry=outlines)
    shapes = ShapesModel.parse(frame, transformations=dict(get_transformation(data.images[key], get_all=True)))
    if not inplace:
        return shapes
    data.shapes[_beside(key, key_added)] = shapes
    return None


def patch_qc(
    data: AnnData | SpatialData,
    *,
    rule: Literal["rgb", "edge"] = "rgb",
    image: Any = None,
    image_key: str | Mapping[str, str] | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    inplace: bool = True,
) -> pd.DataFrame | None:
    """How much tissue a patch holds and how sharp it is; flags background, drops nothing.

    Parameters
    ----------
    data
        Reads ``obsm["patches"]`` and the images.
    rule
        What counts as a background patch. ``"rgb"``: more than half of the px are near white (smallest channel above 220)
        or black (largest channel below 20). ``"edge"``: the rule of the tiler that Hist2Cell used, a mean response of a 3 x 3
        edge filter of at most 15 on 224 px.
    image, image_key, library_key, table_key
        As in :func:`histocell.pp.patches`.
    inplace
        Whether to write the result; else it is returned.

    Returns
    -------
    `None`, or with ``inplace=False`` a DataFrame of the same columns. Writes:

    ``obs["tissue_fraction"]`` : float64
        Share of the patch inside of the slide's tissue mask.
    ``obs["focus"]`` : float64
        Log variance of the Laplacian of the grey image at 0.5 um per px; low when blurred.
    ``obs["patch_background"]`` : bool
        Whether `rule` calls the patch background. Their number is logged.
    """
    import pandas as pd

    if rule not in {"rgb", "edge"}:
        msg = f"rule must be 'rgb' or 'edge', not {rule!r}"
        raise ValueError(msg)
    table = get_table(data, table_key)
    windows = np.asarray(get_obsm(table, keys.PATCHES, "Run hc.pp.patches(data) first."))
    found = regions(data, table_key=table_key, image=image, image_key=image_key, library_key=library_key)
    frame = pd.DataFrame(
        {keys.TISSUE_FRACTION: np.nan, keys.FOCUS: np.nan, "patch_background": False}, index=table.obs_names
    )
    with progress_bar(total=table.n_obs, desc="patch quality", unit="patch") as bar:
        for region in found:
            picture: Any = region.image
            frame.iloc[region.rows, 0] = find_tissue(picture).fraction(windows[region.rows])
            for row in region.rows:
                patch = picture.read(*windows[row], out_shape=(QC_PX, QC_PX))
                frame.iloc[row, 1] = _focus(patch)
                frame.iloc[row, 2] = _background(patch) > 0.5 if rule == "rgb" else _edges(patch) <= EDGE_THRESHOLD
                bar.update()
    flagged = int(frame["patch_background"].sum())
    logger.info("%d of %d patches are background by the %s rule", flagged, table.n_obs, rule)
    if flagged == table.n_obs:
        warn(f"the {rule} rule calls all {flagged} patches background: are the coordinates those of this image?")
    if not inplace:
        return frame
    for name in frame:
        table.obs[name] = frame[name]
    return None


def _background(patch: NDArray[np.uint8]) -> float:
    return float(((patch.min(axis=2) > WHITE) | (patch.max(axis=2) < BLACK)).mean())


def _edges(patch: NDArray[np.uint8]) -> float:
    from PIL import Image, ImageFilter

    return float(np.asarray(Image.fromarray(patch).filter(ImageFilter.FIND_EDGES), dtype=np.float64).mean())


def _focus(patch: NDArray[np.uint8]) -> float:
    from scipy import ndimage

    return float(np.log1p(ndimage.laplace(patch.mean(axis=2)).var()))
