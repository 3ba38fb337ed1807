"""Axes that the user brought: what is written around them is kept in their part of the figure."""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.font_manager import FontProperties
from matplotlib.transforms import Bbox

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import LayoutEngine
    from matplotlib.legend import Legend
    from matplotlib.text import Text
    from numpy.typing import NDArray

    type TextSize = Literal["ytick.labelsize", "axes.labelsize", "axes.titlesize", "legend.fontsize"]
    type Corners = NDArray[np.float64]  # [[x0, y0], [x1, y1]], in fractions of the figure

PAD = 3.0  # points to the next axes
LEAST_SHARE = 0.15  # of their width and height that axes must keep
SMALLEST = 2.0  # points
HALVINGS = 5
PASSES = 2  # the place of text depends on the size of the axes, and their size on the text


def font_size(name: TextSize) -> float:
    """Points of an entry of the style, such as ``"xtick.labelsize"``."""
    return float(FontProperties(size=mpl.rcParams[name]).get_size_in_points())


def box_size(axis: Axes) -> tuple[float, float]:
    """Width and height of axes as they are drawn, in points."""
    axis.apply_aspect()
    window, scale = axis.get_window_extent(), 72 / axis.figure.dpi
    return float(window.width * scale), float(window.height * scale)


def fit(axes: Sequence[Axes], resize: Callable[[float], None], largest: Callable[[], float]) -> None:
    """Make room, inside of the axes' part of the figure, for what is written around them, and choose the size of text.

    Labels, legends and inset axes push the axes in, so that they neither leave the figure nor lie on other axes. A figure
    with a layout engine makes the room itself. Text has the size of the style's tick labels, or the largest one that
    is left room for.

    Parameters
    ----------
    axes
        Axes of one figure.
    resize
        Writes the text in a size in points.
    largest
        The size in points that the axes, as they are, have room for.
    """
    figure = axes[0].get_figure(root=True)
    engine = figure and figure.get_layout_engine()
    cells = [_cell(axis, axes) for axis in axes]
    starts = [axis.get_position(original=True).get_points() for axis in axes]

    def fits(size: float) -> bool:
        for _ in range(PASSES):
            resize(size)
            if figure and engine:
                enough = _lay_out(figure, engine)
            else:
                enough = _make_room(axes, starts, cells)
        return enough and largest() >= size

    size = font_size("ytick.labelsize")
    if not fits(size):
        low, high = SMALLEST, size  # smaller text leaves more room: there is one size that just fits
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        size = low
        fits(size)
    if not engine:
        _make_equal(axes, starts)
    resize(size)


def resize_text(axis: Axes, legend: Legend, heading: Text, size: float) -> None:
    """Numbers of the axes in this size, other text hardly larger, the legend right under the label of the x axis."""
    axis.tick_params(labelsize=size)
    label_size = min(font_size("axes.labelsize"), 1.2 * size)
    for label in (axis.xaxis.label, axis.yaxis.label):
        label.set_fontsize(label_size)
    heading.set_fontsize(min(font_size("axes.titlesize"), 1.2 * size))
    for text in legend.get_texts():
        text.set_fontsize(min(font_size("legend.fontsize"), 1.2 * size))
    lines = 1 + axis.get_xlabel().count("\n")
    below = size + 1.3 * lines * label_size + 14  # ticks, their numbers, the label
    legend.set_bbox_to_anchor((1, -below / box_size(axis)[1]), axis.transAxes)


def fit_maps(axes: Sequence[Axes]) -> None:
    """Make room for the titles, colour bars and scalebars of maps."""
    resize = partial(_resize_maps, axes, [_cell(axis, axes) for axis in axes])
    fit(axes, resize, lambda: min(box_size(axis)[0] for axis in axes) / 12)


def _resize_maps(axes: Sequence[Axes], cells: Sequence[Corners], size: float) -> None:
    """Text of the colour bars in this size, titles and notes hardly larger."""
    for axis, cell in zip(axes, cells, strict=True):
        _resize_title(axis, cell, min(font_size("axes.titlesize"), 1.2 * size))
        axis.xaxis.label.set_fontsize(min(font_size("axes.labelsize"), size))
        axis.yaxis.label.set_fontsize(min(font_size("axes.labelsize"), 1.2 * size))
        for bar in axis.child_axes:
            bar.tick_params(labelsize=size)
            bar.yaxis.label.set_fontsize(min(font_size("axes.labelsize"), 1.2 * size))


def _resize_title(axis: Axes, cell: Corners, size: float) -> None:
    """A title of at most this size, in two lines or smaller where it would leave the part of the figure around its axes."""
    axis.apply_aspect()
    middle = _fractions(axis, None)[:, 0].mean()
    room = max(2 * min(middle - cell[0, 0], cell[1, 0] - middle), 0.02)  # a layout may have moved the axes elsewhere

    def too_wide() -> float:
        return float(np.ptp(_fractions(axis, axis.title.get_window_extent())[:, 0])) / room

    axis.title.set_fontsize(size)
    if too_wide() > 1:
        axis.title.set_text(axis.get_title().replace(", ", "\n"))
        axis.title.set_fontsize(size / max(too_wide(), 1))


def _cell(axis: Axes, ours: Sequence[Axes]) -> Corners:
    """The part of the figure around axes: on each side up to halfway to the next ones, or to what is written at them."""
    own = axis.get_position(original=True).get_points()
    cell = np.array([[0.0, 0.0], [1.0, 1.0]])
    for other in axis.figure.axes:
        near = other.get_position(original=True).get_points()
        drawn = near if other in ours else _fractions(axis, other.get_tightbbox(for_layout_only=True))
        for side in (0, 1):
            beside = near[0, 1 - side] < own[1, 1 - side] and near[1, 1 - side] > own[0, 1 - side]
            if beside and near[1, side] <= own[0, side]:
                border = max((near[1, side] + own[0, side]) / 2, drawn[1, side])
                cell[0, side] = max(cell[0, side], min(border, own[0, side]))
            elif beside and near[0, side] >= own[1, side]:
                border = min((near[0, side] + own[1, side]) / 2, drawn[0, side])
                cell[1, side] = min(cell[1, side], max(border, own[1, side]))
    return cell


def _lay_out(figure: Figure, engine: LayoutEngine) -> bool:
    """Let the layout engine of the figure make room; whether there was some."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        engine.execute(figure)
    return not said  # "constrained_layout not applied": there is no room


def _make_room(axes: Sequence[Axes], starts: Sequence[Corners], cells: Sequence[Corners]) -> bool:
    """Set the largest positions inside of `starts` with which all that is written around the axes lies in `cells`, if any."""
    enough = True
    for axis, start, cell in zip(axes, starts, cells, strict=True):
        margin = np.abs(_fractions(axis, axis.get_tightbbox(for_layout_only=True)) - _fractions(axis, None))
        margin += PAD * axis.figure.dpi / 72 / np.array(axis.figure.bbox.size)
        low, high = np.maximum(start[0], cell[0] + margin[0]), np.minimum(start[1], cell[1] - margin[1])
        fits = bool((high - low > LEAST_SHARE * (start[1] - start[0])).all())
        axis.set_position(Bbox([low, high]) if fits else Bbox(start))
        enough &= fits
    return enough


def _make_equal(axes: Sequence[Axes], starts: Sequence[Corners]) -> None:
    """Maps that are shown beside each other have one size and one height above the ground."""
    if len(axes) > 1:
        places = np.array([axis.get_position(original=True).get_points() for axis in axes])
        half = np.ptp(places[:, :, 0], axis=1).min() / 2
        middles = places[:, :, 0].mean(axis=1)
        places[:, :, 0] = np.column_stack([middles - half, middles + half])
        moved = places[:, :, 1] - np.array(starts)[:, :, 1]
        places[:, :, 1] = np.array(starts)[:, :, 1] + [moved[:, 0].max(), moved[:, 1].min()]
        for axis, place in zip(axes, places, strict=True):
            axis.set_position(Bbox(place))


def _fractions(axis: Axes, window: Bbox | None) -> Corners:
    inside = axis.figure.transSubfigure.inverted()
    return np.asarray((window or axis.get_window_extent()).transformed(inside).get_points())
