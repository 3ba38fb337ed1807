"""Plot of one pair of cell types on the tissue, with local R."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from histocell._core.errors import MissingKeyError, listing
from histocell.kernels.null import false_discovery
from histocell.pl._choices import choose
from histocell.pl._colocalization import DIVERGING, KEY, read_result
from histocell.pl._sections import add_scalebar, draw_spots, draw_tissue, find_sections, tissue_image
from histocell.pl._style import AMOUNT, check_axes, finish, styled
from histocell.tables.access import get_obsm, get_table
from histocell.tables.genes import normalized_genes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.collections import Collection
    from matplotlib.colors import Colormap
    from numpy.typing import NDArray

    from histocell.pl._colocalization import Result
    from histocell.pl._sections import Images, Section
    from histocell.tables.access import Data

    type Floats = NDArray[np.float64]


def colocalization_pair(
    data: Data,
    x: str,
    y: str,
    *,
    key: str = KEY,
    section: str | None = None,
    significance: float | None = 0.05,
    image: Images | bool = False,
    image_alpha: float = 0.45,
    cmap: str | Colormap = AMOUNT,
    local_cmap: str | Colormap = DIVERGING,
    size: float = 1.0,
    scalebar: bool = True,
    figsize: tuple[float, float] | None = None,
    ax: Sequence[Axes] | None = None,
    show: bool | None = None,
    table_key: str | None = None,
) -> NDArray[np.object_] | None:
    """Draw two cell types on the tissue, and local R beside them.

    Local R at a point is the standardised x there times the standardised y around it; R is its mean. Red is where both
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
        Opacity of the image, between 0 and 1.
    cmap
        Colour map of the abundances.
    local_cmap
        Diverging colour map of local R.
    size
        Diameter of the points as a multiple of the true one.
    scalebar
        Whether to draw a scalebar; it needs the resolution.
    figsize
        Width and height of a new figure in inches.
    ax
        Three axes to draw on.
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
        for axis, name in zip(axes[:2], (x, y), strict=True):
            values = _variable(table, params["key"], name)[shown.rows]
            top = float(np.nanpercentile(values, 99)) if np.isfinite(values).any() else 1.0
            top = top or float(np.nanmax(values, initial=0)) or 1.0
            draw_tissue(axis, pixels, shown.view, alpha=image_alpha)
            spots = draw_spots(axis, shown, values, cmap=plt.get_cmap(cmap), vmax=top, size=size)
            axis.set_title(name, pad=3)
            _colorbar(axis, spots, "")
        own = local[shown.rows]
        limit = float(np.nanpercentile(np.abs(own), 99)) if np.isfinite(own).any() else 1.0
        draw_tissue(axes[2], pixels, shown.view, alpha=image_alpha)
        spots = draw_spots(axes[2], shown, own, cmap=plt.get_cmap(local_cmap), vmax=limit, size=size)
        spots.set_clim(-limit, limit)
        axes[2].set_title(_title(result, shown.name, x, y), pad=3)
        _colorbar(axes[2], spots, "local R")
        if significance is not None:
            _mark(axes[2], shown, p[shown.rows], significance)
        if scalebar:
            add_scalebar(axes[0], shown)
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


def _variable(table: AnnData, key: str | list[str], name: str) -> Floats:
    """What R was computed from: a gene, a column of obsm, or membership in a category."""
    if not isinstance(key, str):
        return normalized_genes(table, [name])[0][:, 0].astype(np.float64)
    if key in table.obsm:
        frame = pd.DataFrame(table.obsm[key])
        return frame.set_axis(frame.columns.astype(str), axis=1)[name].to_numpy(dtype=np.float64)
    return np.asarray(table.obs[key].astype(str) == name, dtype=np.float64)


def _new_axes(section: Section, figsize: tuple[float, float] | None) -> NDArray[np.object_]:
    width, height = np.diff(section.view, axis=0)[0]
    panel = 2.6 * float(np.clip(width / height, 0.4, 1.8))
    return plt.subplots(1, 3, figsize=figsize or (3 * (panel + 0.6), 2.95), layout="compressed")[1]


def _colorbar(ax: Axes, spots: Collection, label: str) -> None:
    bar = ax.figure.colorbar(spots, ax=ax, shrink=0.6, aspect=16, pad=0.02, label=label)
    bar.outline.set_visible(False)


def _mark(ax: Axes, section: Section, p: Floats, significance: float) -> None:
    adjusted = false_discovery(p)
    with np.errstate(invalid="ignore"):
        xy = section.xy[adjusted <= significance]
    if len(xy):
        ax.scatter(
            xy[:, 0], xy[:, 1], s=9, c="black", edgecolors="white", linewidths=0.5, zorder=4, label="significant"
        )
        ax.set_xlabel(f"dot: adjusted p ≤ {significance:g}", fontsize=6.5, labelpad=2)


def _title(result: Result, section: str, x: str, y: str) -> str:
    """R of this section."""
    stored = result.stored["sections"]
    sections = [str(name) for name in stored["names"]]
    if section not in sections and len(sections) > 1:
        return "local R"
    row = sections.index(section) if section in sections else 0
    r = float(np.asarray(stored["R"])[row, result.names.index(x), result.names.index(y)])
    return f"local R, mean R = {round(r, 2) + 0.0:.2f}"
