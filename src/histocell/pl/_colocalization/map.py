"""Plot of co-localization as a clustered matrix of all pairs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from scipy.cluster import hierarchy

from histocell._core.arguments import check_positive, check_share
from histocell._core.errors import listing
from histocell.pl._choices import choose
from histocell.pl._colocalization.result import DIVERGING, KEY, read_result
from histocell.pl._fit import box_size, fit, font_size
from histocell.pl._style import MUTED, check_axes, finish, styled, text_scale
from histocell.tables.access import get_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.colors import Colormap
    from matplotlib.image import AxesImage
    from numpy.typing import NDArray

    from histocell.pl._colocalization.result import Result
    from histocell.tables.access import Data

MARKED = 60  # more types than this leave no room for marks


def colocalization(
    data: Data,
    key: str | Sequence[str] = KEY,
    *,
    cell_types: str | Sequence[str] | None = None,
    linkage: NDArray[np.float64] | str | bool = True,
    scores: pd.DataFrame | Mapping[str, pd.DataFrame] | None = None,
    significance: float | None = 0.05,
    vmax: float | None = None,
    cmap: str | Colormap = DIVERGING,
    title: str | Sequence[str] | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    table_key: str | None = None,
) -> Axes | NDArray[np.object_] | None:
    """Draw R of all pairs as a clustered matrix; several results side by side in one order and on one scale.

    Red pairs sit together, blue ones apart. A dot marks pairs that are significant after adjustment. The scale is
    symmetric about 0 and reaches the strongest pair; a type with itself says nothing about pairs and is left grey.
    Where the null expects an R that is not 0, as for cell types, what is drawn is R less that; rows are x, columns its
    neighbours y. Of a difference of two groups the colour bar names both: red pairs are together more in the first.

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
    scores
        What ``hc.tl.evaluate_colocalization`` says of a result, by its slot, or of the only one after the first: row-wise cosine
        and correlation, without the diagonal, which is not drawn, are written under its title.
    significance
        Level of the adjusted p-value up to which pairs are marked; `None` marks none.
    vmax
        End of the colour scale.
    cmap
        A diverging colour map.
    title
        One for each result; by default the name of the slot where there are several.
    figsize
        Width and height of a new figure in inches.
    ax
        Axes to draw on, as many as there are results; then there is no dendrogram, and they shrink to make room for names
        and colour bar.
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
        If the results have different cell types, there are not as many axes as results, scores are of no result that is
        shown or no scores of co-localization, or a number is out of range.

    References
    ----------
    arXiv 2507.07013, Figure A1 (b) and Table 1.

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
    captions = _captions(slots, title, scores)
    names = _common_names(results, slots, cell_types)
    maps = [result.effect(names) for result in results]
    tree = _linkage(table, maps[0], names, linkage)
    order = np.arange(len(names)) if tree is None else hierarchy.leaves_list(tree)
    off = ~np.eye(len(names), dtype=bool)
    if vmax is not None:
        check_positive(vmax, "vmax")
    if significance is not None:
        check_share(significance, "significance")
    strongest = max(np.nanmax(np.abs(each[off]), initial=0) for each in maps)
    limit = vmax or strongest or 1.0
    with styled(ax is None):
        axes = list(
            _new_axes(len(maps), len(names), figsize)
            if ax is None
            else check_axes(ax, (len(maps),), f"there are {len(maps)} results")
        )
        dots = []
        for axis, values, result, caption in zip(axes, maps, results, captions, strict=True):
            shown = np.where(off, values, np.nan)[np.ix_(order, order)]
            image = axis.imshow(shown, cmap=cmap, vmin=-limit, vmax=limit, interpolation="nearest")
            axis.set_title(caption, pad=4)
            if significance is not None and len(names) <= MARKED:
                p = result.matrix("p_adj", names)[np.ix_(order, order)]
                dots.append(_mark(axis, shown, p <= significance, limit))
        shown_names = [names[index] for index in order]
        _name_axes(axes, shown_names, created=ax is None)
        if tree is not None and ax is None:
            _draw_tree(axes[0].inset_axes((-0.11, 0, 0.1, 1)), tree)
        label = ", ".join(dict.fromkeys(result.effect_name for result in results))
        bar = _colorbar(axes, image, label, created=ax is None, extend="both" if strongest > limit else "neither")
        if dots:
            any_dot = any(np.size(each.get_offsets()) for each in dots)
            note = f"{'dot: adjusted' if any_dot else 'no adjusted'}\np ≤ {significance:g}"
            bar.text(0, -0.12, note, transform=bar.transAxes, ha="left", va="top")
        fit(axes, partial(_resize, axes, bar), lambda: 0.95 * box_size(axes[0])[1] / len(names))
        for each in dots:
            each.set_sizes([min(0.33 * box_size(axes[0])[1] / len(names), 6) ** 2])  # a third of a cell
    return finish(np.array(axes, dtype=object) if len(axes) > 1 else axes[0], created=ax is None, show=show)


def _captions(
    slots: Sequence[str],
    title: str | Sequence[str] | None,
    scores: pd.DataFrame | Mapping[str, pd.DataFrame] | None,
) -> list[str]:
    """What stands above each map: its title, and its agreement with the first one."""
    titles = [title] if isinstance(title, str) else list(title or (slots if len(slots) > 1 else [""]))
    if len(titles) != len(slots):
        msg = f"title holds {len(titles)}, but there are {len(slots)} results"
        raise ValueError(msg)
    return ["\n".join(filter(None, pair)) for pair in zip(titles, _agreements(slots, scores), strict=True)]


def _agreements(slots: Sequence[str], scores: pd.DataFrame | Mapping[str, pd.DataFrame] | None) -> list[str]:
    """Row-wise cosine and correlation with the first result, where they were given."""
    if scores is None:
        return [""] * len(slots)
    if not isinstance(scores, Mapping):
        if len(slots) != 2:
            msg = f"scores of one of {len(slots)} results: say of which, scores={{{slots[-1]!r}: ...}}"
            raise ValueError(msg)
        scores = {slots[1]: scores}
    choose(list(scores), slots, "scores of the result", error=ValueError)
    return [_agreement(scores[slot]) if slot in scores else "" for slot in slots]


def _agreement(scores: pd.DataFrame) -> str:
    if not {"measure", "diagonal", "value"} <= set(scores):
        msg = f"these are no scores of co-localization, but: {listing(map(str, scores))}. "
        msg += "hc.tl.evaluate_colocalization makes them"
        raise ValueError(msg)
    found = scores[~scores["diagonal"].astype(bool)].set_index("measure")["value"].astype(float)
    names = {"cosine": "cosine", "pearson": "correlation"}
    parts = [f"{name} {found[measure] + 0.0:.2f}" for measure, name in names.items() if measure in found]
    return ", ".join(parts).replace("-", "\N{MINUS SIGN}").replace("nan", "undefined")


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
    side, scale = float(np.clip(0.19 * n_types, 1.6, 7.5)), text_scale()
    size = figsize or ((n_maps * (side + 0.15) + 2.4) * scale, (side + 1.5) * scale)
    return plt.subplots(1, n_maps, figsize=size, layout="compressed", squeeze=False)[1][0]


def _mark(ax: Axes, shown: NDArray[np.float64], significant: NDArray[np.bool_], limit: float) -> PathCollection:
    """A dot on each significant pair."""
    y, x = np.nonzero(significant & np.isfinite(shown))
    dark = np.abs(shown[y, x]) > 0.6 * limit
    return ax.scatter(x, y, c=np.where(dark, "white", "0.15"), linewidths=0, label="significant")


def _name_axes(axes: Sequence[Axes], names: list[str], *, created: bool) -> None:
    """Rows are named once at the right of our own axes, whose left has the dendrogram; on the left of all others."""
    for axis in axes:
        axis.set_xticks(range(len(names)), names, rotation=90)
        if created:
            axis.yaxis.tick_right()
        axis.set_yticks(range(len(names)), names if axis is axes[-1] or not created else [])
        axis.tick_params(length=0, pad=2)
        axis.set_facecolor("0.85")
        for spine in axis.spines.values():
            spine.set_visible(False)


def _colorbar(axes: Sequence[Axes], image: AxesImage, label: str, *, created: bool, extend: str) -> Axes:
    if created:
        bar = axes[-1].figure.colorbar(image, ax=list(axes), shrink=0.45, aspect=16, pad=0.02, extend=extend)
    else:
        bar = axes[-1].figure.colorbar(image, cax=axes[-1].inset_axes((1.04, 0.36, 0.05, 0.6)), extend=extend)
    bar.outline.set_visible(False)
    bar.set_label(label)
    return bar.ax


def _resize(axes: Sequence[Axes], bar: Axes, size: float) -> None:
    """Names in this size, text of the colour bar hardly larger."""
    for axis in axes:
        axis.tick_params(labelsize=size)
    for text in bar.texts:
        text.set_fontsize(min(font_size("legend.fontsize"), 1.3 * size))
    bar.yaxis.label.set_fontsize(min(font_size("axes.labelsize"), 1.3 * size))
    bar.tick_params(labelsize=min(font_size("ytick.labelsize"), 1.3 * size))


def _draw_tree(ax: Axes, tree: NDArray[np.float64]) -> None:
    """The dendrogram, leaves at the rows of the matrix."""
    drawn = hierarchy.dendrogram(tree, no_plot=True)
    for position, height in zip(drawn["icoord"], drawn["dcoord"], strict=True):
        ax.plot(height, (np.array(position) - 5) / 10, color=MUTED, linewidth=0.7, solid_joinstyle="miter")
    n = len(tree) + 1
    ax.set_ylim(n - 0.5, -0.5)
    ax.set_xlim(ax.get_xlim()[1], 0)
    ax.axis("off")
