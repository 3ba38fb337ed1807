"""Blocks of a slide: a grid of px at the resolution of a method, cut into cores with a margin around each."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import shapely

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histocell.images.slide_image import SlideImage

    type Window = tuple[int, int, int, int]  # y0, x0, y1, x1 in px of the grid

_EMPTY_PX = 32
_SAME_SCALE = 0.1  # a whole factor this near is taken: px need not be cut


@dataclass(frozen=True)
class Grid:
    """The px that a method sees of a slide; px (0, 0) starts in the corner of the image.

    Attributes
    ----------
    scale
        Full-resolution px per px of the grid.
    mpp
        um per px of the grid.
    shape
        Height and width in px of the grid; less than one px at the far borders may be left out.
    """

    scale: float
    mpp: float
    shape: tuple[int, int]

    @classmethod
    def of_slide(cls, shape: tuple[int, int], *, mpp: float, wanted: float, enlarges: bool = False) -> Grid:
        """The grid whose px come near to `wanted` um: whole full-resolution px, where these differ by a tenth at most.

        Px of a coarser slide are taken as they are, or enlarged.
        """
        scale = wanted / mpp if enlarges else max(wanted / mpp, 1.0)
        whole = round(scale)
        if whole >= 1 and abs(scale - whole) <= _SAME_SCALE * whole:
            scale = float(whole)
        rows, columns = (max(1, int(length / scale + 1e-9)) for length in shape)
        return cls(scale, mpp * scale, (rows, columns))

    def read(self, image: SlideImage, window: Window) -> NDArray[np.uint8]:
        """Pixels of a window; what lies outside of the image has the colour of the background."""
        y0, x0, y1, x1 = window
        edges = [edge * self.scale for edge in window]
        return image.read(*edges, out_shape=(y1 - y0, x1 - x0))


@dataclass(frozen=True)
class Block:
    """A block.

    Attributes
    ----------
    row, column
        Its place among the blocks.
    core
        The px whose objects it gives.
    window
        The px that it sees.
    is_inside
        Whether the core lies wholly in the tissue.
    """

    row: int
    column: int
    core: Window
    window: Window
    is_inside: bool


def plan_blocks(
    grid: Grid, *, block_px: int, margin_px: int, window_px: int | None, tissue: shapely.Geometry | None
) -> list[Block]:
    """The blocks that hold tissue, row by row.

    Parameters
    ----------
    grid
        The px.
    block_px
        Edge of a core.
    margin_px
        What a block sees around its core.
    window_px
        Edge of the windows of a method that wants one size; they then reach over the borders of the image.
    tissue
        In full-resolution px; without it, all of the image is looked at.
    """
    height, width = grid.shape
    corners = list(product(range(0, height, block_px), range(0, width, block_px)))
    cores = np.array([(y, x, min(y + block_px, height), min(x + block_px, width)) for y, x in corners])
    touched = inside = np.ones(len(cores), bool)
    if tissue is not None:
        shapely.prepare(tissue)
        y0, x0, y1, x1 = cores.T * grid.scale
        boxes = shapely.box(x0, y0, x1, y1)
        touched, inside = shapely.intersects(tissue, boxes), shapely.contains(tissue, boxes)
    blocks = []
    for core, is_inside in zip(cores[touched].tolist(), inside[touched].tolist(), strict=True):
        y0, x0, y1, x1 = core
        if window_px is None:
            window = (
                max(y0 - margin_px, 0),
                max(x0 - margin_px, 0),
                min(y1 + margin_px, height),
                min(x1 + margin_px, width),
            )
        else:
            top, left = y0 - margin_px, x0 - margin_px
            window = top, left, top + window_px, left + window_px
        blocks.append(Block(y0 // block_px, x0 // block_px, (y0, x0, y1, x1), window, is_inside))
    return blocks


def sample_images(
    image: SlideImage, grid: Grid, tissue: shapely.Geometry | None, *, edge_um: float = 128.0, most: int = 32
) -> list[NDArray[np.uint8]]:
    """Images of squares of tissue, spread evenly over a slide: always the same for the same slide.

    The last one is small and has the colour of the empty slide, which there may be none of in the tissue.

    Parameters
    ----------
    image, grid
        The slide and its px.
    tissue
        In full-resolution px; without it, all of the image counts.
    edge_um
        Edge of a square.
    most
        Number of squares.
    """
    edge = max(1, round(edge_um / grid.mpp))
    height, width = grid.shape
    tops, lefts = (list(range(0, max(length - edge, 0) + 1, edge)) for length in (height, width))
    corners = np.array(list(product(tops, lefts)))
    if tissue is not None:
        shapely.prepare(tissue)
        y, x = (np.minimum(corners + edge / 2, np.array(grid.shape) / 2 + corners) * grid.scale).T
        held = shapely.contains_xy(tissue, x, y)
        corners = corners[held] if held.any() else corners
    chosen = np.unique(np.linspace(0, len(corners) - 1, min(most, len(corners))).round().astype(int))
    windows = [(y, x, min(y + edge, height), min(x + edge, width)) for y, x in corners[chosen].tolist()]
    empty = np.full((_EMPTY_PX, _EMPTY_PX, 3), image.background, np.uint8)
    return [*(grid.read(image, window) for window in windows), empty]
