"""Plot of co-localization as a network of significant pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from scipy.cluster import hierarchy

from histocell.pl._choices import choose
from histocell.pl._colocalization import DIVERGING, KEY, cluster, read_result
from histocell.pl._style import MUTED, finish, hide_frame, new_axes, styled
from histocell.tables.access import get_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from numpy.typing import NDArray

    from histocell.tables.access import Data

WIDEST = 5.0  # points


def colocalization_network(
    data: Data,
    key: str = KEY,
    *,
    cell_types: str | Sequence[str] | None = None,
    significance: float = 0.05,
    min_r: float = 0.0,
    cmap: str | Colormap = DIVERGING,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    table_key: str | None = None,
) -> Axes | None:
    """Draw cell types on a circle and a line between those that are significantly together (red) or apart (blue).

    Neighbours on the circle have the same partners. The wider a line, the stronger the pair; where R has a direction,
    the stronger of the two is drawn.

    Parameters
    ----------
    data
        Reads ``uns[key]`` of ``hc.tl.colocalization``.
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
    figsize
        Width and height of a new figure in inches.
    ax
        Axes to draw on.
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

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600)
    >>> hc.tl.colocalization(sdata)
    >>> ax = hc.pl.colocalization_network(sdata, show=False)
    """
    result = read_result(get_table(data, table_key), key)
    names = result.names if cell_types is None else choose(cell_types, result.names, "cell type")
    if len(names) > 2:
        names = [names[index] for index in hierarchy.leaves_list(cluster(result.effect(names)))]
    first, second, strength = _edges(result.effect(names), result.matrix("p_adj", names), significance, min_r)
    angle = np.pi / 2 - 2 * np.pi * np.arange(len(names)) / len(names)
    points = np.column_stack([np.cos(angle), np.sin(angle)])
    with styled(ax is None):
        axis = new_axes(figsize or (5.4, 4.2)) if ax is None else ax
        limit = float(np.max(np.abs(strength), initial=0)) or 1.0
        curves = [_curve(points[a], points[b]) for a, b in zip(first, second, strict=True)]
        colors = _colors(strength / limit, cmap)
        axis.add_collection(
            LineCollection(curves, colors=colors, linewidths=0.5 + WIDEST * np.abs(strength) / limit, capstyle="round")
        )
        linked = np.isin(np.arange(len(names)), [*first, *second])
        axis.scatter(points[:, 0], points[:, 1], s=26, c=np.where(linked, "0.25", "0.8"), zorder=3, linewidths=0)
        for name, (x, y), turn, used in zip(names, points, np.degrees(angle), linked, strict=True):
            _name_node(axis, name, (x, y), turn, color="0.1" if used else MUTED)
        _legend(axis, limit if len(strength) else None, cmap, result.effect_name, significance=significance)
        hide_frame(axis)
        axis.set_aspect("equal")
        axis.set_xlim(-1.05, 1.05)
        axis.set_ylim(-1.05, 1.05)
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


def _name_node(ax: Axes, name: str, position: tuple[float, float], turn: float, *, color: str) -> None:
    """The name outside of the circle, written along the radius and never upside down."""
    flipped = np.cos(np.radians(turn)) < -1e-9
    ax.text(
        position[0] * 1.06,
        position[1] * 1.06,
        name,
        rotation=(turn + 180 if flipped else turn) % 360,
        rotation_mode="anchor",
        ha="right" if flipped else "left",
        va="center",
        fontsize=7,
        color=color,
    )


def _legend(ax: Axes, limit: float | None, cmap: str | Colormap, title: str, *, significance: float) -> None:
    if limit is None:
        ax.text(0, 0, f"no pair with adjusted\np ≤ {significance:g}", ha="center", va="center", color=MUTED)
        return
    handles = []
    for share in (1.0, 0.5, -0.5, -1.0):
        color, width = _colors(np.array([share]), cmap)[0], 0.5 + WIDEST * abs(share)
        handles.append(Line2D([], [], color=color, linewidth=width, label=f"{share * limit:+.2f}"))
    ax.legend(handles=handles, title=title, loc="upper left", bbox_to_anchor=(1.32, 1.0), title_fontsize=7)
