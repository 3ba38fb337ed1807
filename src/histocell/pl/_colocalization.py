"""Maps of co-localization: all pairs as a clustered matrix, truth beside prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from scipy.cluster import hierarchy

from histocell._core.errors import listing, missing_key
from histocell.pl._style import finish, styled
from histocell.tables.access import get_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from numpy.typing import NDArray

    from histocell.tables.access import Data

DIVERGING = "RdBu_r"
KEY = "colocalization"
RUN = "Run hc.tl.colocalization(data) first."
MARKED = 60  # more types than this leave no room for marks


def colocalization(
    data: Data,
    key: str | Sequence[str] = KEY,
    *,
    cell_types: Sequence[str] | None = None,
    linkage: NDArray[Any] | str | bool = True,
    significance: float | None = 0.05,
    vmax: float | None = None,
    cmap: str | Colormap = DIVERGING,
    titles: str | Sequence[str] | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    table_key: str | None = None,
) -> Axes | NDArray[Any] | None:
    """Draw R of all pairs as a clustered matrix; several results side by side in one order and on one scale.

    Red pairs sit together, blue ones apart. A dot marks pairs that are significant after adjustment. The scale is
    symmetric about 0 and reaches the strongest pair; a type with itself says nothing about pairs and is left grey.

    Parameters
    ----------
    data
        Reads ``uns[key]`` of ``hc.tl.colocalization``, or of ``hc.tl.colocalization_difference``.
    key
        The slot, or several of them to compare, such as truth and prediction.
    cell_types
        Which types to show; all by default.
    linkage
        The order: `True` clusters the first result, a slot's name clusters that one, an array is a linkage of scipy,
        `False` keeps the order of the types.
    significance
        Level of the adjusted p-value up to which pairs are marked; `None` marks none.
    vmax
        End of the colour scale.
    cmap
        A diverging colour map.
    titles
        One for each result; by default the name of the slot where there are several.
    figsize
        Width and height of a new figure in inches.
    ax
        Axes to draw on, as many as there are results; then there is no dendrogram.
    show
        Whether to show the figure; by default if it is new and matplotlib is interactive.
    table_key
        The table of a SpatialData that has several.

    Returns
    -------
    The axes of the matrix, for several results an array of them; nothing if `show` is `True`.

    Raises
    ------
    KeyError
        If a slot or a cell type is not there.
    ValueError
        If the results have different cell types, or there are not as many axes as results.
    """
    table = get_table(data, table_key)
    slots = [key] if isinstance(key, str) else list(key)
    results = [read_result(table, slot) for slot in slots]
    names = _common_names(results, slots, cell_types)
    maps = [pick(result, "R", names) for result in results]
    tree = _linkage(table, maps[0], names, linkage)
    order = np.arange(len(names)) if tree is None else hierarchy.leaves_list(tree)
    off = ~np.eye(len(names), dtype=bool)
    limit = vmax or max((np.nanmax(np.abs(each[off]), initial=0) for each in maps), default=0) or 1.0
    with styled(ax is None):
        axes = _axes(ax, len(maps), len(names), figsize)
        for axis, values, result in zip(axes, maps, results, strict=True):
            shown = np.where(off, values, np.nan)[np.ix_(order, order)]
            image = axis.imshow(shown, cmap=cmap, vmin=-limit, vmax=limit, interpolation="nearest")
            axis.set_facecolor("0.85")
            if significance is not None and len(names) <= MARKED:
                p = pick(result, "p_adj", names)[np.ix_(order, order)]
                with np.errstate(invalid="ignore"):
                    y, x = np.nonzero((p <= significance) & np.isfinite(shown))
                size = (72 * 0.05 if len(names) <= 25 else 72 * 0.03) ** 2 / 3
                dark = np.abs(shown[y, x]) > 0.6 * limit
                axis.scatter(x, y, s=size, c=np.where(dark, "white", "0.15"), linewidths=0, label="significant")
            _name_axes(axis, [names[index] for index in order], last=axis is axes[-1])
        for axis, title in zip(axes, _titles(titles, slots), strict=True):
            axis.set_title(title, pad=4)
        if tree is not None and ax is None:
            _draw_tree(axes[0].inset_axes((-0.11, 0, 0.1, 1)), tree)
        bar = axes[-1].figure.colorbar(image, ax=list(axes), shrink=0.45, aspect=16, pad=0.02)
        bar.outline.set_visible(False)
        bar.set_label("difference of R" if "R_first" in results[0] else "Moran's R")
        if significance is not None and len(names) <= MARKED:
            note = f"dot: adjusted\np ≤ {significance:g}"
            bar.ax.text(0, -0.08, note, transform=bar.ax.transAxes, fontsize=6.5, ha="left", va="top")
    return finish(axes if len(axes) > 1 else axes[0], created=ax is None, show=show)


def read_result(table: AnnData, key: str) -> Mapping[str, Any]:
    """``uns[key]``, or the error that says what to run."""
    if key not in table.uns:
        raise missing_key("uns", key, table.uns.keys(), RUN)
    result = table.uns[key]
    if not hasattr(result, "keys") or not {"R", "names"} <= set(result):
        msg = f'uns["{key}"] is not a result of hc.tl.colocalization'
        raise ValueError(msg)
    return result


def result_names(result: Mapping[str, Any]) -> list[str]:
    """Names of the types."""
    return [str(name) for name in result["names"]]


def pick(result: Mapping[str, Any], part: str, names: Sequence[str]) -> NDArray[np.float64]:
    """One array of a result, for these types in this order."""
    own = result_names(result)
    places = [own.index(name) for name in names]
    return np.asarray(result[part], dtype=np.float64)[np.ix_(places, places)]


def choose_names(available: list[str], wanted: Sequence[str] | None) -> list[str]:
    """The wanted types, all of them by default."""
    if wanted is None:
        return available
    if absent := [name for name in wanted if name not in available]:
        msg = f"cell type {listing(absent)} not found; available: {listing(available, 40)}"
        raise KeyError(msg)
    return list(wanted)


def _common_names(results: list[Mapping[str, Any]], slots: list[str], wanted: Sequence[str] | None) -> list[str]:
    first = result_names(results[0])
    for result, slot in zip(results[1:], slots[1:], strict=True):
        if set(result_names(result)) != set(first):
            odd = sorted(set(result_names(result)) ^ set(first))
            msg = f"{slots[0]!r} and {slot!r} have different cell types: {listing(odd)} are in one of them only"
            raise ValueError(msg)
    names = choose_names(first, wanted)
    if len(names) < 2:
        msg = "a map of co-localization needs at least two cell types"
        raise ValueError(msg)
    return names


def cluster(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linkage of the types by what they sit with: average linkage of the correlations of rows, leaves in best order."""
    filled = np.where(np.isfinite(values), values, 0)
    filled = (filled + filled.T) / 2
    np.fill_diagonal(filled, np.abs(filled - np.diag(np.diag(filled))).max())  # a type is its own best partner
    distance = np.sqrt(np.maximum(((filled[:, None] - filled[None]) ** 2).sum(axis=-1), 0))
    condensed = distance[np.triu_indices(len(filled), 1)]
    return hierarchy.optimal_leaf_ordering(hierarchy.average(condensed), condensed)


def _linkage(
    table: AnnData, first: NDArray[np.float64], names: list[str], linkage: NDArray[Any] | str | bool
) -> NDArray[Any] | None:
    if linkage is False:
        return None
    if linkage is True:
        return cluster(first)
    if isinstance(linkage, str):
        return cluster(pick(read_result(table, linkage), "R", names))
    tree = np.asarray(linkage, dtype=np.float64)
    if tree.shape != (len(names) - 1, 4):
        msg = f"a linkage of {len(names)} cell types has shape {(len(names) - 1, 4)}, not {tree.shape}"
        raise ValueError(msg)
    return tree


def _axes(
    ax: Axes | Sequence[Axes] | None, n_maps: int, n_types: int, figsize: tuple[float, float] | None
) -> NDArray[Any]:
    if ax is not None:
        axes = np.array(ax, dtype=object).reshape(-1)
        if len(axes) != n_maps:
            msg = f"ax holds {len(axes)} axes for {n_maps} results"
            raise ValueError(msg)
        return axes
    side = float(np.clip(0.19 * n_types, 1.6, 7.5))
    size = figsize or (n_maps * (side + 0.15) + 2.4, side + 1.5)
    _, axes = plt.subplots(1, n_maps, figsize=size, layout="compressed", squeeze=False)
    return axes[0]


def _name_axes(ax: Axes, names: list[str], *, last: bool) -> None:
    size = 7 if len(names) <= 30 else 5 if len(names) <= 60 else 3.5
    ticks = np.arange(len(names))
    ax.set_xticks(ticks, names, rotation=90, fontsize=size)
    ax.yaxis.tick_right()
    ax.set_yticks(ticks, names if last else [], fontsize=size)
    ax.tick_params(length=0, pad=2)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _titles(titles: str | Sequence[str] | None, slots: list[str]) -> list[str]:
    if titles is None:
        return [""] if len(slots) == 1 else slots
    given = [titles] if isinstance(titles, str) else list(titles)
    if len(given) != len(slots):
        msg = f"{len(given)} titles for {len(slots)} results"
        raise ValueError(msg)
    return given


def _draw_tree(ax: Axes, tree: NDArray[Any]) -> None:
    """The dendrogram, leaves at the rows of the matrix."""
    drawn = hierarchy.dendrogram(tree, no_plot=True)
    for place, height in zip(drawn["icoord"], drawn["dcoord"], strict=True):
        ax.plot(height, (np.array(place) - 5) / 10, color="0.35", linewidth=0.7, solid_joinstyle="miter")
    n = len(tree) + 1
    ax.set_ylim(n - 0.5, -0.5)
    ax.set_xlim(ax.get_xlim()[1], 0)
    ax.axis("off")
