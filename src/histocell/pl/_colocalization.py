"""Plot of co-localization as a clustered matrix of all pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from scipy.cluster import hierarchy

from histocell._core.errors import listing, missing_key
from histocell.pl._choices import choose
from histocell.pl._style import check_axes, finish, styled
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
MARKED = 60  # more types than this leave no room for marks


def colocalization(
    data: Data,
    key: str | Sequence[str] = KEY,
    *,
    cell_types: str | Sequence[str] | None = None,
    linkage: NDArray[np.float64] | str | bool = True,
    significance: float | None = 0.05,
    vmax: float | None = None,
    cmap: str | Colormap = DIVERGING,
    titles: str | Sequence[str] | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    table_key: str | None = None,
) -> Axes | NDArray[np.object_] | None:
    """Draw R of all pairs as a clustered matrix; several results side by side in one order and on one scale.

    Red pairs sit together, blue ones apart. A dot marks pairs that are significant after adjustment. The scale is
    symmetric about 0 and reaches the strongest pair; a type with itself says nothing about pairs and is left grey.
    Where the null expects an R that is not 0, as for cell types, what is drawn is R less that; rows are x, columns its
    neighbours y.

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

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600)
    >>> hc.tl.colocalization(sdata)
    >>> ax = hc.pl.colocalization(sdata, show=False)
    """
    table = get_table(data, table_key)
    slots = [key] if isinstance(key, str) else list(key)
    results = [read_result(table, slot) for slot in slots]
    captions = [titles] if isinstance(titles, str) else list(titles or (slots if len(slots) > 1 else [""]))
    if len(captions) != len(slots):
        msg = f"{len(captions)} titles for {len(slots)} results"
        raise ValueError(msg)
    names = _common_names(results, slots, cell_types)
    maps = [result.effect(names) for result in results]
    tree = _linkage(table, maps[0], names, linkage)
    order = np.arange(len(names)) if tree is None else hierarchy.leaves_list(tree)
    off = ~np.eye(len(names), dtype=bool)
    limit = vmax or max((np.nanmax(np.abs(each[off]), initial=0) for each in maps), default=0) or 1.0
    shown_names = [names[index] for index in order]
    with styled(ax is None):
        axes = (
            _new_axes(len(maps), len(names), figsize)
            if ax is None
            else check_axes(ax, (len(maps),), f"there are {len(maps)} results")
        )
        for axis, values, result in zip(axes, maps, results, strict=True):
            shown = np.where(off, values, np.nan)[np.ix_(order, order)]
            image = axis.imshow(shown, cmap=cmap, vmin=-limit, vmax=limit, interpolation="nearest")
            axis.set_facecolor("0.85")
            if significance is not None and len(names) <= MARKED:
                p = result.matrix("p_adj", names)[np.ix_(order, order)]
                with np.errstate(invalid="ignore"):
                    y, x = np.nonzero((p <= significance) & np.isfinite(shown))
                size = (72 * 0.05 if len(names) <= 25 else 72 * 0.03) ** 2 / 3
                dark = np.abs(shown[y, x]) > 0.6 * limit
                axis.scatter(x, y, s=size, c=np.where(dark, "white", "0.15"), linewidths=0, label="significant")
            _name_axes(axis, shown_names, last=axis is axes[-1])
        for axis, title in zip(axes, captions, strict=True):
            axis.set_title(title, pad=4)
        if tree is not None and ax is None:
            _draw_tree(axes[0].inset_axes((-0.11, 0, 0.1, 1)), tree)
        bar = axes[-1].figure.colorbar(image, ax=list(axes), shrink=0.45, aspect=16, pad=0.02)
        bar.outline.set_visible(False)
        bar.set_label("difference of R" if "R_first" in results[0].stored else results[0].effect_name)
        if significance is not None and len(names) <= MARKED:
            note = f"dot: adjusted\np ≤ {significance:g}"
            bar.ax.text(0, -0.08, note, transform=bar.ax.transAxes, fontsize=6.5, ha="left", va="top")
    return finish(axes if len(axes) > 1 else axes[0], created=ax is None, show=show)


@dataclass(frozen=True)
class Result:
    """A result of ``hc.tl.colocalization`` as ``uns`` holds it, with the names of its cell types."""

    stored: Mapping[str, Any]  # arrays, and what sections and params hold
    names: list[str]

    def matrix(self, part: str, names: Sequence[str]) -> NDArray[np.float64]:
        """``R``, ``p_adj`` or another array, for these types in this order."""
        rows = [self.names.index(name) for name in names]
        return np.asarray(self.stored[part], dtype=np.float64)[np.ix_(rows, rows)]

    def effect(self, names: Sequence[str]) -> NDArray[np.float64]:
        """What is tested: R, less what the null expects where it expects something."""
        r = self.matrix("R", names)
        return r - self.matrix("expected", names) if self._expects else r

    @property
    def effect_name(self) -> str:
        """For the legend."""
        return "R − expected" if self._expects else "Moran's R"

    @property
    def _expects(self) -> bool:
        return "expected" in self.stored and bool(np.any(np.nan_to_num(self.stored["expected"])))


def read_result(table: AnnData, key: str) -> Result:
    """``uns[key]``, or the error that says what to run."""
    if key not in table.uns:
        raise missing_key("uns", key, table.uns.keys(), "Run hc.tl.colocalization(data) first.")
    stored = table.uns[key]
    if not hasattr(stored, "keys") or not {"R", "names"} <= set(stored):
        msg = f'uns["{key}"] is not a result of hc.tl.colocalization'
        raise ValueError(msg)
    return Result(stored, [str(name) for name in stored["names"]])


def _common_names(results: list[Result], slots: list[str], wanted: Sequence[str] | None) -> list[str]:
    """The types to show, which all results have."""
    first = results[0].names
    for result, slot in zip(results[1:], slots[1:], strict=True):
        if odd := sorted(set(result.names) ^ set(first)):
            msg = f"{slots[0]!r} and {slot!r} have different cell types: {listing(odd)} are in one of them only"
            raise ValueError(msg)
    names = first if wanted is None else choose(wanted, first, "cell type")
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
    table: AnnData, first: NDArray[np.float64], names: list[str], linkage: NDArray[np.float64] | str | bool
) -> NDArray[np.float64] | None:
    if linkage is False:
        return None
    if linkage is True:
        return cluster(first)
    if isinstance(linkage, str):
        return cluster(read_result(table, linkage).effect(names))
    tree = np.asarray(linkage, dtype=np.float64)
    if tree.shape != (len(names) - 1, 4):
        msg = f"a linkage of {len(names)} cell types has shape {(len(names) - 1, 4)}, not {tree.shape}"
        raise ValueError(msg)
    return tree


def _new_axes(n_maps: int, n_types: int, figsize: tuple[float, float] | None) -> NDArray[np.object_]:
    side = float(np.clip(0.19 * n_types, 1.6, 7.5))
    size = figsize or (n_maps * (side + 0.15) + 2.4, side + 1.5)
    return plt.subplots(1, n_maps, figsize=size, layout="compressed", squeeze=False)[1][0]


def _name_axes(ax: Axes, names: list[str], *, last: bool) -> None:
    size = 7 if len(names) <= 30 else 5 if len(names) <= 60 else 3.5
    ticks = np.arange(len(names))
    ax.set_xticks(ticks, names, rotation=90, fontsize=size)
    ax.yaxis.tick_right()
    ax.set_yticks(ticks, names if last else [], fontsize=size)
    ax.tick_params(length=0, pad=2)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _draw_tree(ax: Axes, tree: NDArray[np.float64]) -> None:
    """The dendrogram, leaves at the rows of the matrix."""
    drawn = hierarchy.dendrogram(tree, no_plot=True)
    for position, height in zip(drawn["icoord"], drawn["dcoord"], strict=True):
        ax.plot(height, (np.array(position) - 5) / 10, color="0.35", linewidth=0.7, solid_joinstyle="miter")
    n = len(tree) + 1
    ax.set_ylim(n - 0.5, -0.5)
    ax.set_xlim(ax.get_xlim()[1], 0)
    ax.axis("off")
