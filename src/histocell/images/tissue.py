"""Tissue masks by optical density, and the quality of patches: share of background, edges, focus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from histocell.images.pixels import optical_density

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histocell.images.slide_image import SlideImage

MASK_UM = 8.0  # resolution of the tissue mask, to the next power of two: finer than any patch, small for a whole slide
BLOCK_PX = 4096  # edge of the windows that a slide is read in for its mask
BLACK = 20  # a px whose largest channel is below this is black fill
WHITE = 220  # a px whose smallest channel is above this is background of a patch


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
    # Otsu splits any image in two; the bounds keep an all-tissue or an empty slide whole.
    threshold = np.clip(threshold_otsu(visible), 0.04, 0.09) if len(visible) and np.ptp(visible) > 0 else 0.09
    mask = (colour > threshold) & ~dark
    mask = ndimage.binary_opening(ndimage.binary_closing(np.pad(mask, 4, mode="edge"), disk(3)), disk(1))[4:-4, 4:-4]
    pixels = max(min_area_um2 / (shrink * mpp) ** 2, 1.0)
    mask = _drop_small(mask, pixels)
    return TissueMask(~_drop_small(~mask, pixels), (float(shrink), float(shrink)))


def tissue_fraction(
    image: SlideImage, outlines: NDArray[np.object_] | None, windows: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Share of tissue in each window ``(y0, x0, y1, x1)``: by polygons in px of the image, else found on it."""
    import shapely

    if outlines is None:
        return find_tissue(image).fraction(windows)
    tissue = shapely.union_all(shapely.make_valid(np.asarray(outlines, dtype=object)))
    shapely.prepare(tissue)
    boxes = shapely.box(windows[:, 1], windows[:, 0], windows[:, 3], windows[:, 2])
    share = shapely.contains(tissue, boxes).astype(np.float64)
    at_edge = np.flatnonzero((share == 0) & shapely.intersects(tissue, boxes))
    rows, row_of = np.unique(windows[at_edge][:, [0, 2]], axis=0, return_inverse=True)
    for number, (top, bottom) in enumerate(rows):  # a row of windows sees little of a large outline
        row = at_edge[row_of == number]
        strip = shapely.clip_by_rect(tissue, windows[row, 1].min(), top, windows[row, 3].max(), bottom)
        share[row] = shapely.area(shapely.intersection(boxes[row], strip)) / shapely.area(boxes[row])
    return share


def _density(image: SlideImage, shrink: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Largest optical density of the channels, and where the slide is black, on a grid of `shrink` level-0 px.

    The slide is read in squares whose borders are those of its tiles, so that no tile is decoded twice and neither a
    row of tiles nor the slide lies in memory, with or without a pyramid.
    """
    height, width = image.shape
    rows, columns = -(-height // shrink), -(-width // shrink)
    density, dark = np.empty((rows, columns), dtype=np.float32), np.empty((rows, columns), dtype=np.bool_)
    white = np.maximum(np.asarray(image.background, dtype=np.float64), 128.0)
    of_value = optical_density(white).astype(np.float32)
    step = max(BLOCK_PX // shrink, 1)
    for top in range(0, rows, step):
        for left in range(0, columns, step):
            bottom, right = min(top + step, rows), min(left + step, columns)
            window = (top * shrink, left * shrink, bottom * shrink, right * shrink)
            pixels = image.read(*window, out_shape=(bottom - top, right - left))
            channels = [of_value[pixels[..., channel], channel] for channel in range(3)]
            density[top:bottom, left:right] = np.maximum.reduce(channels)
            dark[top:bottom, left:right] = pixels.max(axis=2) < BLACK
    return density, dark


def _drop_small(mask: NDArray[np.bool_], pixels: float) -> NDArray[np.bool_]:
    from scipy import ndimage

    labels, n = ndimage.label(mask)
    if n == 0:
        return mask
    size = np.bincount(labels.ravel())
    size[0] = 0
    return (size >= pixels)[labels]


def background_fraction(patch: NDArray[np.uint8]) -> float:
    """Share of px of a patch (h, w, 3) that are near white, or black."""
    return float(((patch.min(axis=2) > WHITE) | (patch.max(axis=2) < BLACK)).mean())


def mean_edges(patch: NDArray[np.uint8]) -> float:
    """Mean response of a 3 x 3 edge filter."""
    from PIL import Image, ImageFilter

    return float(np.asarray(Image.fromarray(patch).filter(ImageFilter.FIND_EDGES), dtype=np.float64).mean())


def focus(patch: NDArray[np.uint8]) -> float:
    """Log variance of the Laplacian of the grey patch; low when blurred."""
    from scipy import ndimage

    return float(np.log1p(ndimage.laplace(patch.mean(axis=2)).var()))
