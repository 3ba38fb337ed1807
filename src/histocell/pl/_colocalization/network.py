"""Plot of co-localization as a network of significant pairs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from scipy.cluster import hierarchy
from scipy.optimize import isotonic_regression

from histocell._core.arguments import check_amount, check_share
from histocell.pl._choices import choose
from histocell.pl._colocalization.map import cluster
from histocell.pl._colocalization.result import DIVERGING, KEY, read_result
from histocell.pl._fit import box_size, fit, font_size
from histocell.pl._style import MUTED, finish, hide_frame, one_axes, styled, text_scale
from histocell.tables.access import get_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.text import Annotation, Text
    from numpy.typing import NDArray

    from histocell.tables.access import Data

WIDEST = 5.0  # points
RADIUS = 1.1  # of the names about the circle


def colocalization_network(
    data: Data,
    key: str = KEY,
    *,
    cell_types: str | Sequence[str] | None = None,
    significance: float = 0.05,
    min_r: float = 0.0,
    cmap: str | Colormap = DIVERGING,
    title: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    table_key: str | None = None,
) -> Axes | None:
    """Draw cell types on a circle and a line between those that are significantly together (red) or apart (blue).

    Neighbours on the circle have the same partners. The wider a line, the stronger the pair; where R has a direction,
    the stronger of the two is drawn. Of a difference of two groups, red pairs are together more in the first.

    Parameters
    ----------
    data
        Reads ``uns[key]`` of ``hc.tl.colocalization``, or of ``hc.tl.colocalization_difference``.
    key
        The slot.
    cell_types
        Which types to show; all by default.
    significance
        Level of the adjusted p-value.
    min_r
        Smallest absolute R of a line.
    cmap
        A diverging colour map.
    title
        Of the axes; none by default.
    figsize
        Width and height of a new figure in inches.
    ax
        Axes to draw on; they shrink to make room for names and legend.
    show
        Whether to show the figure; by default if it is new and matplotlib is interactive.
    table_key
        The table of a SpatialData that has several.

    Returns
    -------
    The axes; nothing if `show` is `True`.

    Raises
    ------
    KeyError
        If the slot or a cell type is not there.
    ValueError
        If `significance` is not between 0 and 1, or `min_r` is negative.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600)
    >>> hc.tl.colocalization(sdata)
    >>> ax = hc.pl.colocalization_network(sdata, show=False)
    """
    check_share(significance, "significance")
    check_amount(min_r, "min_r")
    result = read_result(get_table(data, table_key), key)
    names = result.names if cell_types is None else choose(cell_types, result.names, "cell type")
    if len(names) > 2:
        names = [names[index] for index in hierarchy.leaves_list(cluster(result.effect(names)))]
    first, second, strength = _edges(result.effect(names), result.matrix("p_adj", names), significance, min_r)
    angle = np.pi / 2 - 2 * np.pi * np.arange(len(names)) / len(names)
    points = np.column_stack([np.cos(angle), np.sin(angle)])
    with styled(ax is None):
        axis = one_axes(ax, figsize or (4.6 * text_scale(), 4.2 * text_scale()))
        limit = float(np.max(np.abs(strength), initial=0)) or 1.0
        curves = [_curve(points[a], points[b]) for a, b in zip(first, second, strict=True)]
        widths = 0.5 + WIDEST * np.abs(strength) / limit
        lines = LineCollection(curves, colors=_colors(strength / limit, cmap), linewidths=widths, capstyle="round")
        axis.add_collection(lines)
        linked = np.isin(np.arange(len(names)), [*first, *second])
        colors = [mpl.rcParams["text.color"] if used else MUTED for used in linked]
        axis.scatter(points[:, 0], points[:, 1], s=26, c=colors, zorder=3, linewidths=0)
        hide_frame(axis)
        axis.set(aspect="equal", xlim=(-1.05, 1.05), ylim=(-1.05, 1.05))
        if title is not None:
            axis.set_title(title, pad=8 + font_size("ytick.labelsize"))  # above the name on top
        labels = [_name_node(axis, *each) for each in zip(names, points, colors, strict=True)]
        middle = None
        if len(strength):
            heading = f"{result.effect_name}, adjusted p ≤ {significance:g}"
            _legend(axis, limit, np.unique(np.sign(strength)), cmap, heading)
        else:
            note = f"no pair with adjusted\np ≤ {significance:g}" + (f" and |R| ≥ {min_r:g}" if min_r > 0 else "")
            middle = axis.text(0, 0, note, ha="center", va="center", color=MUTED)
        fit(
            [axis],
            partial(_resize, axis, labels, points, middle),
            lambda: min(box_size(axis)) / max(12, 0.6 * len(names)),
        )
    return finish(axis, created=ax is None, show=show)


def _edges(
    r: NDArray[np.float64], p: NDArray[np.float64], significance: float, min_r: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Pairs to draw, the weakest first, with their R."""
    with np.errstate(invalid="ignore"):
        strength = np.where((p <= significance) & (np.abs(r) >= min_r) & np.isfinite(r), r, 0)
    strength = np.where(np.abs(strength) >= np.abs(strength.T), strength, strength.T)
    first, second = np.nonzero(np.triu(strength, 1))
    order = np.argsort(np.abs(strength[first, second]))
    return first[order], second[order], strength[first, second][order]


def _colors(relative: NDArray[np.float64], cmap: str | Colormap) -> NDArray[np.float64]:
    """Colours of R relative to the strongest pair; none so pale that it could not be seen."""
    return mpl.colormaps.get_cmap(cmap)(0.5 + 0.42 * np.sign(relative) * (0.35 + 0.65 * np.abs(relative)))


def _curve(start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """A curve from node to node that bends towards the middle of the circle."""
    t = np.linspace(0, 1, 40)[:, None]
    apart = np.linalg.norm(end - start) / 2
    control = (start + end) / 2 * (0.8 - 0.5 * apart)
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end


def _name_node(ax: Axes, name: str, point: NDArray[np.float64], color: str) -> Annotation:
    """The name of a node, on its side of the circle, and a line to it once the name is moved."""
    leader = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
    right = point[0] > -1e-9
    return ax.annotate(
        name,
        (point[0], point[1]),
        xytext=(RADIUS * point[0], RADIUS * point[1]),
        ha="left" if right else "right",
        va="center",
        color=color,
        arrowprops=leader,
    )


def _resize(
    ax: Axes, labels: Sequence[Annotation], points: NDArray[np.float64], middle: Text | None, size: float
) -> None:
    """Names in this size, each on a line of its own, as near to its node as that goes; a note within the circle."""
    if middle is not None:
        middle.set_fontsize(min(font_size("axes.labelsize"), box_size(ax)[0] / 16))
    at_right = points[:, 0] > -1e-9
    line = 2.1 * 1.15 * size / min(box_size(ax))
    for side in (at_right, ~at_right):
        rank = np.flatnonzero(side)[np.argsort(points[side, 1], kind="stable")]
        steps = line * np.arange(len(rank))
        heights = isotonic_regression(RADIUS * points[rank, 1] - steps).x + steps
        for index, height in zip(rank, heights, strict=True):
            out = np.sqrt(max(RADIUS**2 - height**2, 0))
            sign = 1 if at_right[index] else -1
            labels[index].set(position=(sign * max(out, abs(points[index, 0]), 0.03), height), fontsize=size)
            moved = abs(height - RADIUS * points[index, 1]) > 0.5 * line
            labels[index].arrow_patch.set_visible(moved)


def _legend(ax: Axes, limit: float, signs: NDArray[np.float64], cmap: str | Colormap, title: str) -> None:
    """Width and colour of lines, under the names and hardly wider than the axes."""
    handles = []
    for share in (1.0, 0.5, -0.5, -1.0):
        if np.sign(share) in signs:
            color, width = _colors(np.array([share]), cmap)[0], 0.5 + WIDEST * abs(share)
            handles.append(
                Line2D(
                    [], [], color=color, linewidth=width, label=f"{share * limit:+.2f}".replace("-", "\N{MINUS SIGN}")
                )
            )
    widest = max(20, 6.25 * len(handles))  # in letters: the title, or the columns
    size = min(font_size("legend.fontsize"), box_size(ax)[0] / widest)
    ax.legend(
        handles=handles,
        title=title,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.08),
        ncols=len(handles),
        frameon=False,
        fontsize=size,
        title_fontsize=size,
        handlelength=1.2,
        columnspacing=1.2,
    )
