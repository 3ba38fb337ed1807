"""Plot of one pair of cell types on the tissue, with local R."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap

from histocell._core.arguments import check_share
from histocell._core.errors import MissingKeyError, listing
from histocell.kernels.null import false_discovery
from histocell.pl._choices import choose
from histocell.pl._colocalization.result import DIVERGING, KEY, read_result
from histocell.pl._fit import fit_maps
from histocell.pl._panels import quantity
from histocell.pl._points import MANY, draw_spots, draw_tissue
from histocell.pl._sections import find_sections, tissue_image
from histocell.pl._style import (
    AMOUNT,
    add_colorbar,
    add_scalebar,
    check_axes,
    colors_of,
    finish,
    points_per_unit,
    styled,
    text_scale,
)
from histocell.tables.access import get_obsm, get_table
from histocell.tables.genes.normalized import normalized_genes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.typing import ColorType
    from numpy.typing import NDArray

    from histocell.pl._colocalization.result import Result
    from histocell.pl._points import Drawn
    from histocell.pl._sections import Images, Section
    from histocell.pl._style import Palette
    from histocell.tables.access import Data

    type Floats = NDArray[np.float64]

OTHERS = "0.82"  # cells of other types


def colocalization_pair(
    data: Data,
    x: str,
    y: str,
    *,
    key: str = KEY,
    section: str | None = None,
    significance: float | None = 0.05,
    image: Images | bool = False,
    image_alpha: float | None = None,
    cmap: str | Colormap = AMOUNT,
    palette: Palette | None = None,
    local_cmap: str | Colormap = DIVERGING,
    size: float = 1.0,
    scalebar: bool = True,
    title: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Sequence[Axes] | None = None,
    show: bool | None = None,
    table_key: str | None = None,
) -> NDArray[np.object_] | None:
    """Draw two cell types on the tissue, and local R beside them.

    Abundances are drawn in a colour scale, cells of a type in the colour of the type over all others in grey. Where cells
    are too many to be told apart, the share of the type among the cells of each small square is drawn, and the mean of
    their local R. Local R at a point is the standardised x there times the standardised y around it; R is its mean. Red is where both
    are high, or both low; a dot marks points where both are present more than two unrelated fields of this kind would be,
    after adjustment over the points.

    Parameters
    ----------
    data
        Reads ``uns[key]``, ``obsm[key + "_local"]``, ``obsm[key + "_local_p"]``, and the abundances or cell types that
        they were made from.
    x, y
        The cell types; y is the lagged one.
    key
        The slot.
    section
        The section; needed where there are several.
    significance
        Level of the adjusted local p-value; `None` marks nothing.
    image
        Whether to draw the image under the points. For an AnnData also the image itself.
    image_alpha
        Opacity of the image in its colours, between 0 and 1; by default it is faded under spots, and grey under tiles.
    cmap
        Colour map of the abundances.
    palette
        Colours of x and y where they are types of cells: by name, a list, or the name of a colour map.
    local_cmap
        Diverging colour map of local R.
    size
        Diameter of the points as a multiple of the true one.
    scalebar
        Whether to draw a scalebar; it needs the resolution.
    title
        Of the third map, by default local R and its mean, which is R of the section.
    figsize
        Width and height of a new figure in inches.
    ax
        Three axes to draw on; they shrink to make room for colour bars.
    show
        Whether to show the figure; by default if it is new and matplotlib is interactive.
    table_key
        The table of a SpatialData that has several.

    Returns
    -------
    The three axes: x, y, local R. Nothing if `show` is `True`.

    Raises
    ------
    KeyError
        If a slot, a cell type, the section or local R of the pair is not there.
    ValueError
        If there are several sections and none was chosen, or not three axes.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600)
    >>> x, y = sdata["table"].obsm["cell_abundance"].columns[:2]
    >>> hc.tl.colocalization(sdata, local=[(x, y)], rng=0)
    >>> axes = hc.pl.colocalization_pair(sdata, x, y, show=False)
    """
    table = get_table(data, table_key)
    result = read_result(table, key)
    choose([x, y], result.names, "cell type")
    if significance is not None:
        check_share(significance, "significance")
    local, p = _local(table, result, key, x, y)
    params = json.loads(str(result.stored["params"]))
    sections = find_sections(data, section, table_key=table_key, image=image, mpp=params.get("mpp"))
    if len(sections) > 1:
        msg = f"{len(sections)} sections; choose one with section=: {listing(each.name for each in sections)}"
        raise ValueError(msg)
    (shown,) = sections
    pixels = tissue_image(shown, shown.view)
    with styled(ax is None):
        axes = _new_axes(shown, figsize) if ax is None else check_axes(ax, (3,), "a pair needs three")
        colors = colors_of([x, y], palette)
        for axis, name in zip(axes[:2], (x, y), strict=True):
            draw_tissue(axis, shown, pixels, shown.view, alpha=image_alpha)
            variable = _variable(table, params["key"], name)
            if variable.label is None:
                _draw_type(axis, shown, variable.values, color=colors[name], size=size)
            else:
                _draw_amount(axis, shown, variable, cmap=cmap, size=size)
            axis.set_title(name, pad=3)
        draw_tissue(axes[2], shown, pixels, shown.view, alpha=image_alpha)
        _draw_local(axes[2], shown, local, cmap=local_cmap, size=size)
        axes[2].set_title(_title(result, shown.name, x, y) if title is None else title, pad=3)
        if significance is not None:
            _mark(axes[2], shown, p[shown.rows], significance, size)
        if scalebar and shown.mpp is not None:
            add_scalebar(axes[0])
        fit_maps(list(axes))
    return finish(axes, created=ax is None, show=show)


def _local(table: AnnData, result: Result, key: str, x: str, y: str) -> tuple[Floats, Floats]:
    """Local R of the pair and its p-value."""
    pairs = list(
        zip(*([str(name) for name in result.stored.get(side, ())] for side in ("local_x", "local_y")), strict=True)
    )
    if (x, y) not in pairs:
        msg = (
            f'local R of {x!r} and {y!r} not found in obsm["{key}_local"]; available: {listing(pairs)}. '
            f"Run hc.tl.colocalization(data, local=[({x!r}, {y!r})]) first."
        )
        raise MissingKeyError(msg)
    column = pairs.index((x, y))
    local, p = (np.asarray(get_obsm(table, f"{key}_{part}"), dtype=np.float64) for part in ("local", "local_p"))
    return local[:, column], p[:, column]


class Variable(NamedTuple):
    """Values of all rows of a table, and the label of their colour bar; membership in a category has none."""

    values: Floats
    label: str | None


def _variable(table: AnnData, key: str | list[str], name: str) -> Variable:
    """What R was computed from: a gene, a column of obsm, or membership in a category."""
    if not isinstance(key, str):
        values, normalization = normalized_genes(table, [name])
        label = "as in X" if normalization.startswith("none") else "log-normalised counts"
        return Variable(values[:, 0].astype(np.float64), label)
    if key in table.obsm:
        frame = pd.DataFrame(table.obsm[key])
        frame = frame.set_axis(frame.columns.astype(str), axis=1)
        return Variable(frame[name].to_numpy(dtype=np.float64), quantity(table, {key: frame}))
    return Variable(np.asarray(table.obs[key].astype(str) == name, dtype=np.float64), None)


def _draw_amount(ax: Axes, section: Section, variable: Variable, *, cmap: str | Colormap, size: float) -> None:
    values = variable.values[section.rows]
    top = float(np.nanpercentile(values, 99)) if np.isfinite(values).any() else 1.0
    top = top or float(np.nanmax(values, initial=0)) or 1.0
    spots = draw_spots(ax, section, values, cmap=plt.get_cmap(cmap), vmax=top, size=size)
    add_colorbar(ax, spots, variable.label or "")


def _draw_type(ax: Axes, section: Section, members: Floats, *, color: ColorType, size: float) -> None:
    """Cells of a type over the others; the share of the type in small squares, where cells are too many."""
    order = np.argsort(members[section.rows], kind="stable")
    ordered = replace(section, rows=section.rows[order], xy=section.xy[order])
    cmap = LinearSegmentedColormap.from_list("members", [OTHERS, color])
    spots = draw_spots(ax, ordered, members[ordered.rows], cmap=cmap, vmax=1.0, size=size)
    shares = _numbers(spots)
    if not np.isin(shares, (0, 1)).all():
        spots.set_clim(0, float(np.percentile(shares, 99.5)) or 1.0)
        add_colorbar(ax, spots, "share of cells")


def _draw_local(ax: Axes, section: Section, local: Floats, *, cmap: str | Colormap, size: float) -> None:
    """Local R on a symmetric scale, the strongest on top."""
    order = np.argsort(np.nan_to_num(np.abs(local[section.rows])), kind="stable")
    ordered = replace(section, rows=section.rows[order], xy=section.xy[order])
    values = local[ordered.rows]
    spots = draw_spots(ax, ordered, values, cmap=plt.get_cmap(cmap), vmax=1.0, size=size)
    shown = np.abs(_numbers(spots))  # of many cells, means over squares
    limit = (float(np.percentile(shown, 99)) or float(shown.max())) if len(shown) else 1.0
    spots.set_clim(-(limit or 1.0), limit or 1.0)
    add_colorbar(ax, spots, "local R")


def _numbers(spots: Drawn) -> Floats:
    """The values that are drawn, of points or of pixels."""
    values = np.ma.filled(np.ma.asarray(spots.get_array(), dtype=np.float64), np.nan)
    return values[np.isfinite(values)]


def _new_axes(section: Section, figsize: tuple[float, float] | None) -> NDArray[np.object_]:
    width, height = np.diff(section.view, axis=0)[0]
    panel = 2.6 * float(np.clip(width / height, 0.4, 1.8))
    size = figsize or (3 * (panel + 0.6) * text_scale(), 2.95 * text_scale())
    return plt.subplots(1, 3, figsize=size, layout="compressed")[1]


def _mark(ax: Axes, section: Section, p: Floats, significance: float, size: float) -> None:
    """Dots on the points that are significant, never larger than the points."""
    adjusted = false_discovery(p)
    with np.errstate(invalid="ignore"):
        xy = section.xy[adjusted <= significance]
    if len(xy):
        point = section.size * size * points_per_unit(ax)
        dots = ax.scatter(xy[:, 0], xy[:, 1], c="black", zorder=4, label="significant", rasterized=len(xy) > MANY)
        dots.set(sizes=[min(9, max(0.5 * point, 0.5) ** 2)], edgecolors="white", linewidths=0.5 if point > 6 else 0)
        ax.set_xlabel(f"dot: adjusted p ≤ {significance:g}", labelpad=2)


def _title(result: Result, section: str, x: str, y: str) -> str:
    """R of this section."""
    stored = result.stored["sections"]
    sections = [str(name) for name in stored["names"]]
    if section not in sections and len(sections) > 1:
        return "local R"
    row = sections.index(section) if section in sections else 0
    r = float(np.asarray(stored["R"])[row, result.names.index(x), result.names.index(y)])
    return f"local R, mean {round(r, 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}")
