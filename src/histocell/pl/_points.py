"""Spots, tiles and cells of a section drawn on its image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.collections import EllipseCollection, PolyCollection
from matplotlib.colors import ListedColormap, to_rgba_array

from histocell.pl._style import BACKGROUND, hide_frame, points_per_unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.collections import Collection
    from matplotlib.colors import Colormap
    from matplotlib.image import AxesImage
    from matplotlib.typing import ColorType
    from numpy.typing import NDArray

    from histocell.pl._sections import Section

    type Drawn = Collection | AxesImage
    type Floats = NDArray[np.float64]
    # pixels, NaN where there is none, and x0, x1, y1, y0
    type Raster = tuple[Floats, tuple[float, float, float, float]]

MANY = 5000  # points that are drawn as pixels in a vector format, too
SMALLEST = 0.7  # typographic points: diameter below which nothing is seen
DENSE = 0.5  # typographic points: distance below which points are not told apart
UNKNOWN = "0.7"
MOST_PIXELS = 50_000_000
FADED = 0.45  # opacity of an image under spots
GREY = 0.8  # of one under tiles, in grey: colours under theirs would make others that are not in the colour bar
THROUGH = 0.75  # opacity of tiles on an image
VEIL = 0.75  # of the white over rows that are not to be relied on
BRIGHTNESS = (0.299, 0.587, 0.114)  # of red, green and blue


def draw_tissue(
    ax: Axes, section: Section, pixels: NDArray[np.uint8] | None, view: Floats, *, alpha: float | None = None
) -> None:
    """The image or a plain background; y runs downwards, both axes have one unit.

    By default the image is faded under spots, and grey under tiles; an opacity shows it in its colours.
    """
    (x0, y0), (x1, y1) = view
    hide_frame(ax)
    ax.set_facecolor(BACKGROUND if pixels is None else "white")
    if pixels is not None:
        shown = pixels @ BRIGHTNESS if section.square and alpha is None else pixels
        if alpha is None:
            alpha = GREY if section.square else FADED
        extent, smooth = (x0, x1, y1, y0), "antialiased"
        ax.imshow(shown, extent=extent, alpha=alpha, cmap="gray", vmin=0, vmax=255, interpolation=smooth, zorder=0)
    ax.set(xlim=(x0, x1), ylim=(y1, y0), aspect="equal")


def draw_spots(
    ax: Axes,
    section: Section,
    values: Floats,
    *,
    cmap: Colormap,
    vmax: float,
    size: float = 1.0,
    alpha: float | None = None,
) -> Drawn:
    """Spots coloured by `values` between 0 and `vmax`; hollow where there is no value. Tiles let an image show through.

    Tiles that lie on a grid are drawn as an image without seams, and so are points that are too many to be told apart:
    as their means over squares of about a px.
    """
    if alpha is None and section.square and section.image is not None:
        alpha = THROUGH
    known = np.isfinite(values)
    pixels = _pixels(ax, section, known, values, size)
    spots = _shapes(ax, section, known, size) if pixels is None else _image(ax, pixels)
    if pixels is None:
        spots.set_array(values[known])
    spots.set(cmap=cmap, alpha=alpha)
    spots.set_clim(0, vmax)
    if known.all():
        return spots
    pixels = _pixels(ax, section, ~known, np.zeros(len(values)), size) if len(values) > MANY else None
    if pixels is None:
        _shapes(ax, section, ~known, size).set(facecolors="none", edgecolors="0.35", linewidths=0.5)
    else:
        _image(ax, pixels).set(cmap=ListedColormap([UNKNOWN]), alpha=alpha)
    return spots


def draw_labels(
    ax: Axes,
    section: Section,
    codes: NDArray[np.integer],
    colors: Sequence[ColorType],
    *,
    size: float = 1.0,
    alpha: float | None = None,
) -> Drawn:
    """Spots, tiles or cells in the colours of their labels; hollow where there is none, -1.

    Points that are too many to be told apart are drawn as the most frequent label of squares of about a px.
    """
    if alpha is None and section.square and section.image is not None:
        alpha = THROUGH
    known = codes >= 0
    edge = _dense_edge(ax, section, known)
    if edge is not None:
        drawn: Drawn = _image(ax, _mode_image(section.xy[known], codes[known], edge))
        drawn.set(cmap=ListedColormap(list(colors)), alpha=alpha)
        drawn.set_clim(-0.5, len(colors) - 0.5)
        return drawn
    drawn = _shapes(ax, section, known, size)
    drawn.set(facecolors=to_rgba_array(list(colors))[codes[known]], alpha=alpha)
    if not known.all():
        _shapes(ax, section, ~known, size).set(facecolors="none", edgecolors="0.35", linewidths=0.5)
    return drawn


def draw_veil(ax: Axes, section: Section, veiled: NDArray[np.bool_], *, size: float = 1.0) -> None:
    """A veil over some of the spots: their colours are still to be seen, but not to be relied on."""
    if not veiled.any():
        return
    pixels = _pixels(ax, section, veiled, np.zeros(len(veiled)), size) if len(veiled) > MANY or section.square else None
    if pixels is None:
        _shapes(ax, section, veiled, size).set(facecolors="white", edgecolors="0.5", linewidths=0.3, alpha=VEIL)
    else:
        _image(ax, pixels).set(cmap=ListedColormap(["white"]), alpha=VEIL)


def _pixels(ax: Axes, section: Section, chosen: NDArray[np.bool_], values: Floats, size: float) -> Raster | None:
    """The chosen values as an image where that is what they look like."""
    xy, values, many = section.xy[chosen], values[chosen], len(chosen) > MANY
    if len(xy) == 0:
        return None
    if (section.square or many) and (raster := _on_grid(xy, values, section.size)):
        pixels, (x0, x1, _, _) = raster
        if not section.square or section.size * size > 0.9 * (x1 - x0) / pixels.shape[1]:  # no gaps between the tiles
            return raster
    edge = _dense_edge(ax, section, chosen)
    return None if edge is None else _mean_image(xy, values, edge)


def _dense_edge(ax: Axes, section: Section, chosen: NDArray[np.bool_]) -> float | None:
    """Edge of squares for points that are too many to be told apart; `None` where they are not."""
    pitch, point = float(np.sqrt(np.prod(np.ptp(section.xy, axis=0)) / len(section.xy))), 1 / points_per_unit(ax)
    if not chosen.any() or len(chosen) <= MANY or pitch > DENSE * point:
        return None
    return max(3 * pitch, SMALLEST * point)  # about nine points: hardly a square has none


def _image(ax: Axes, raster: Raster) -> AxesImage:
    pixels, extent = raster
    masked = np.ma.masked_invalid(pixels)
    return ax.imshow(masked, extent=extent, origin="upper", interpolation="nearest", aspect="equal", zorder=1)


def _shapes(ax: Axes, section: Section, chosen: NDArray[np.bool_], size: float) -> Collection:
    """Squares or circles of the true size, never too small to be seen."""
    xy, edge = section.xy[chosen], max(section.size * size, SMALLEST / points_per_unit(ax))
    shapes: Collection
    if section.square:
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * edge / 2
        shapes = PolyCollection(list(xy[:, None] + corners), antialiaseds=False, linewidths=0)
    else:
        edges = np.full(len(xy), edge)
        transform = ax.transData
        shapes = EllipseCollection(
            edges, edges, np.zeros(len(xy)), units="xy", offsets=xy, offset_transform=transform, linewidths=0
        )
    shapes.set_rasterized(len(chosen) > MANY)
    ax.add_collection(shapes, autolim=False)
    return shapes


def _on_grid(xy: Floats, values: Floats, edge: float) -> Raster | None:
    """An image with one pixel for each point; `None` where the points are on no square grid.

    Parameters
    ----------
    xy
        The points, shape ``(n, 2)``.
    values
        Their values.
    edge
        Their size; where they are squares that overlap, a pixel is the part of each up to the next.
    """
    steps = [gaps[gaps > 0.1 * edge] for gaps in (np.diff(np.unique(column)) for column in xy.T)]
    medians = [float(np.median(each)) for each in steps if len(each)]
    if not medians or max(medians) > 1.05 * min(medians):  # a single point; a grid that is not square, as of Visium
        return None
    columns = [_index(column, medians[0]) for column in xy.T]
    fits = [_line(index, column, medians[0]) for index, column in zip(columns, xy.T, strict=True)]
    for (start, step), index, column in zip(fits, columns, xy.T, strict=True):
        if np.abs(start + step * index - column).max() > 0.1 * step:
            return None
    (width, height) = (int(index.max()) + 1 for index in columns)
    cells = columns[1] * width + columns[0]
    if width * height > MOST_PIXELS or len(np.unique(cells)) < len(cells):
        return None
    pixels = np.full(width * height, np.nan)
    pixels[cells] = values
    (x, dx), (y, dy) = fits
    return pixels.reshape(height, width), (x - dx / 2, x + (width - 0.5) * dx, y + (height - 0.5) * dy, y - dy / 2)


def _index(column: Floats, step: float) -> NDArray[np.intp]:
    """Position of each coordinate on a grid of about `step`; errors of the step do not add up."""
    levels, inverse = np.unique(column, return_inverse=True)
    return np.concatenate([[0], np.cumsum(np.round(np.diff(levels) / step))]).astype(np.intp)[inverse]


def _line(index: NDArray[np.intp], column: Floats, step: float) -> tuple[float, float]:
    """First coordinate and step of the grid."""
    if index.max() == 0:
        return float(column.mean()), step
    slope, start = np.polyfit(index, column, 1)
    return float(start), float(slope)


def _squares(xy: Floats, edge: float) -> tuple[NDArray[np.intp], tuple[int, int], tuple[float, float, float, float]]:
    """The square of `edge` that each point lies in, how many there are, height and width, and where they are drawn."""
    low = xy.min(axis=0)
    x, y = ((xy - low) // edge).astype(np.intp).T
    width, height = int(x.max()) + 1, int(y.max()) + 1
    return y * width + x, (height, width), (low[0], low[0] + width * edge, low[1] + height * edge, low[1])


def _mode_image(xy: Floats, codes: NDArray[np.integer], edge: float) -> Raster:
    """The most frequent label of the points in squares of `edge`."""
    cells, shape, extent = _squares(xy, edge)
    n_labels = int(codes.max()) + 1
    pairs, number = np.unique(cells * n_labels + codes, return_counts=True)
    order = np.argsort(number, kind="stable")  # the most frequent is written last
    pixels = np.full(shape[0] * shape[1], np.nan)
    pixels[pairs[order] // n_labels] = pairs[order] % n_labels
    return pixels.reshape(shape), extent


def _mean_image(xy: Floats, values: Floats, edge: float) -> Raster:
    """Means of the points in squares of `edge`."""
    cells, (height, width), extent = _squares(xy, edge)
    number = np.bincount(cells, minlength=width * height)
    total = np.bincount(cells, weights=values, minlength=width * height)
    pixels = np.divide(total, number, out=np.full(width * height, np.nan), where=number > 0)
    return pixels.reshape(height, width), extent
