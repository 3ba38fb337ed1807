"""Niches on the tissue, and the cell types that are enriched in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.lines import Line2D

from histocell._core import keys
from histocell._core.arguments import check_positive, check_share
from histocell._core.errors import listing, missing_key
from histocell.pl._points import draw_labels, draw_tissue
from histocell.pl._sections import find_sections, tissue_image
from histocell.pl._style import add_colorbar, add_scalebar, check_axes, colors_of, finish, styled, text_scale
from histocell.tables.access import get_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.typing import ColorType
    from numpy.typing import NDArray

    from histocell.pl._sections import Images
    from histocell.pl._style import Palette
    from histocell.tables.access import Data

MAX_SECTIONS = 6
_SMALLEST, _LARGEST = 14.0, 70.0  # area of a dot of no cell, and what all cells of a niche add
_OWN_COLORS = 7


def niches(
    data: Data,
    *,
    key: str = keys.NICHE,
    section: str | Sequence[str] | None = None,
    enrichment: bool = True,
    max_q: float = 0.05,
    image: Images | bool = True,
    image_alpha: float | None = None,
    alpha: float | None = None,
    size: float = 1.0,
    palette: Palette | None = None,
    title: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    table_key: str | None = None,
) -> Axes | NDArray[np.object_] | None:
    """Map the niches on the tissue, beside a dot plot of the cell types in them.

    A dot is the larger, the more cells of a niche are of a type; its colour says how much more (red) or fewer (blue) there
    are than if niches and types were independent; a black ring marks what shifts over the tissue hardly ever give
    (q < `max_q`). Cells too many to be told apart are drawn as the most frequent niche of squares of about a px.

    Parameters
    ----------
    data
        Reads ``obs[key]``, ``uns["<key>s"]["enrichment"]`` of `histocell.tl.niches`, coordinates, and the image if there is one.
    key
        Column of ``obs`` with the niches; any other category will do for the maps.
    section
        One or several of the sections; by default all of them, if there are not more than six.
    enrichment
        Whether to draw the dot plot where the data hold it.
    max_q
        From which q down a dot gets a ring.
    image
        Whether to draw the image under the cells. For an AnnData also the image itself, or a mapping from section to it.
    image_alpha
        Opacity of the image, between 0 and 1; by default it is faded.
    alpha
        Opacity of the cells.
    size
        Diameter of the cells as a multiple of the true one.
    palette
        Colours of the niches: by name, a list, or the name of a colour map.
    title
        Above the first map; by default its section.
    figsize
        Width and height of a new figure in inches.
    ax
        Axes to draw on, one for each section and one for the dots where these are drawn.
    show
        Whether to show the figure; by default if it is new and matplotlib is interactive.
    table_key
        The table of a SpatialData that has several.

    Returns
    -------
    The axes, or an array of several: the maps, then the dot plot; nothing if `show` is `True`.

    Raises
    ------
    KeyError
        If there are no niches, or a section is not there.
    ValueError
        If there are too many sections, or not as many axes as parts.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=800, rng=0)
    >>> hc.pp.embed_genes(sdata, "pca", n_dims=20, table_key="cell_table")
    >>> options = {"method": "kmeans", "n_niches": 4, "n_permutations": 99, "table_key": "cell_table"}
    >>> hc.tl.niches(sdata, "X_pca_genes", cell_type_key="cell_type", **options)
    >>> tissue, dots = hc.pl.niches(sdata, table_key="cell_table", show=False)
    >>> tissue.get_title(), [label.get_text() for label in dots.get_yticklabels()]
    ('P1S1', ['0', '1', '2', '3'])
    """
    table = get_table(data, table_key)
    if key not in table.obs:
        raise missing_key("obs", key, table.obs.columns, "Run hc.tl.niches(data, key) first.")
    check_positive(size, "size")
    check_share(max_q, "max_q")
    column = table.obs[key].astype("category")
    names = [str(name) for name in column.cat.categories]
    colors = colors_of(names, palette if palette is not None else _palette(len(names)))
    enriched = table.uns.get(f"{key}s", {}).get("enrichment") if enrichment else None
    sections = find_sections(data, section, table_key=table_key, image=image)
    if len(sections) > MAX_SECTIONS:
        msg = f"{len(sections)} sections are too many for one figure; choose with section=: {listing(each.name for each in sections)}"
        raise ValueError(msg)
    with styled(ax is None):
        axes = _axes(ax, len(sections), enriched, figsize)
        for axis, each in zip(axes, sections, strict=False):
            draw_tissue(axis, each, tissue_image(each, each.view), each.view, alpha=image_alpha)
            codes = column.cat.codes.to_numpy()[each.rows]
            draw_labels(axis, each, codes, list(colors.values()), size=size, alpha=alpha)
            axis.set_title(title if title is not None and axis is axes[0] else each.title, pad=3)
            if each.mpp is not None:
                add_scalebar(axis)
        if enriched is not None:
            _draw_dots(axes[-1], enriched, colors, max_q)
        else:
            _legend(axes[len(sections) - 1], colors)
    return finish(axes[0] if len(axes) == 1 else axes, created=ax is None, show=show)


def _palette(n: int) -> str | None:
    """A colour map for more niches than we have colours."""
    return None if n <= _OWN_COLORS else "tab20" if n <= 20 else "turbo"


def _axes(
    ax: Axes | Sequence[Axes] | None,
    n_maps: int,
    enriched: pd.DataFrame | None,
    figsize: tuple[float, float] | None,
) -> NDArray[np.object_]:
    n_parts = n_maps + (enriched is not None)
    if ax is not None:
        return check_axes(ax, (n_parts,), f"{n_maps} maps{' and the dots' if n_parts > n_maps else ''} need {n_parts}")
    scale = text_scale()
    widths, height = [3.0] * n_maps, 3.0
    if enriched is not None:
        widths.append((0.9 + 0.28 * enriched["cell_type"].nunique()) * scale)
        height = max(height, (1.3 + 0.24 * enriched["niche"].nunique()) * scale)
    size = figsize or (sum(widths) + 1.6 * scale, height)
    return plt.subplots(1, n_parts, figsize=size, width_ratios=widths, layout="constrained", squeeze=False)[1][0]


def _draw_dots(ax: Axes, table: pd.DataFrame, colors: dict[str, ColorType], max_q: float) -> None:
    """A dot for each niche and cell type."""
    rows, columns = (list(dict.fromkeys(table[name].astype(str))) for name in ("niche", "cell_type"))
    y, x = (
        table[name].astype(str).map({v: i for i, v in enumerate(vs)})
        for name, vs in (("niche", rows), ("cell_type", columns))
    )
    share = table["observed"] / table.groupby("niche", observed=True)["observed"].transform("sum").clip(lower=1)
    value = table["log2_enrichment"].to_numpy()
    limit = max(1.0, min(4.0, float(np.abs(value).max())))
    rare = (table["q"] < max_q).to_numpy()
    edges = ["black" if each else "none" for each in rare]
    dots = ax.scatter(
        x,
        y,
        s=_SMALLEST + _LARGEST * share,
        c=value,
        cmap="RdBu_r",
        norm=TwoSlopeNorm(0, -limit, limit),
        edgecolors=edges,
        linewidths=0.8,
    )
    ax.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(rows)), rows)
    for label in ax.get_yticklabels():  # the legend of the maps
        label.set(color="white" if _is_dark(colors.get(label.get_text(), "0.5")) else "black", fontweight="bold")
        label.set_bbox(
            {"facecolor": colors.get(label.get_text(), "0.5"), "edgecolor": "none", "boxstyle": "round,pad=0.25"}
        )
    ax.set(xlim=(-0.6, len(columns) - 0.4), ylim=(len(rows) - 0.4, -0.6), ylabel="niche")
    ax.tick_params(length=0)
    add_colorbar(ax, dots, "log2 (observed / expected)")
    handles = [
        Line2D(
            [],
            [],
            linestyle="",
            marker="o",
            color="0.6",
            markersize=np.sqrt(_SMALLEST + _LARGEST * part),
            label=f"{part:.0%}",
        )
        for part in (0.1, 0.5, 1.0)
    ]
    ring = Line2D([], [], linestyle="", marker="o", mfc="none", mec="black", markersize=5, label=f"q < {max_q:g}")
    ax.legend(
        handles=[*handles, ring],
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=4,
        columnspacing=0.6,
        handletextpad=0.1,
        borderaxespad=0.2,
    )


def _is_dark(color: ColorType) -> bool:
    from matplotlib.colors import to_rgb

    return float(np.dot(to_rgb(color), (0.299, 0.587, 0.114))) < 0.6


def _legend(ax: Axes, colors: dict[str, ColorType]) -> None:
    handles = [Line2D([], [], linestyle="", marker="o", color=color, label=name) for name, color in colors.items()]
    ax.legend(
        handles=handles, loc="center left", bbox_to_anchor=(1.02, 0.5), ncols=1 + len(colors) // 16, handletextpad=0.2
    )
