"""One pair of cell types on the tissue: both maps, and where they meet."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import stats

from histocell._core.errors import listing
from histocell.pl._colocalization import DIVERGING, KEY, choose_names, read_result, result_names
from histocell.pl._sections import add_scalebar, draw_spots, draw_tissue, find_sections, tissue_image
from histocell.pl._style import AMOUNT, finish, styled
from histocell.tables.access import get_obsm, get_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.collections import Collection
    from matplotlib.colors import Colormap
    from numpy.typing import NDArray

    from histocell.pl._sections import Section
    from histocell.tables.access import Data


def colocalization_pair(
    data: Data,
    x: str,
    y: str,
    *,
    key: str = KEY,
    section: str | None = None,
    significance: float | None = 0.05,
    image: Any = False,
    image_alpha: float = 0.45,
    cmap: str | Colormap = AMOUNT,
    local_cmap: str | Colormap = DIVERGING,
    size: float = 1.0,
    scalebar: bool = True,
    figsize: tuple[float, float] | None = None,
    ax: Sequence[Axes] | None = None,
    show: bool | None = None,
    table_key: str | None = None,
) -> NDArray[Any] | None:
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
    """
    table = get_table(data, table_key)
    result = read_result(table, key)
    choose_names(result_names(result), [x, y])
    local, p = _local(table, result, key, x, y)
    found = find_sections(data, section, table_key=table_key, image=image)
    if len(found) > 1:
        msg = f"{len(found)} sections; choose one with section=: {listing(each.name for each in found)}"
        raise ValueError(msg)
    place = found[0]
    source = json.loads(str(result["params"]))["key"]
    pixels = tissue_image(place, place.view)
    with styled(ax is None):
        axes = _axes(ax, place, figsize)
        for axis, name in zip(axes[:2], (x, y), strict=True):
            values = _variable(table, source, name)[place.rows]
            top = float(np.nanpercentile(values, 99)) if np.isfinite(values).any() else 1.0
            top = top or float(np.nanmax(values, initial=0)) or 1.0
            draw_tissue(axis, pixels, place.view, alpha=image_alpha)
            spots = draw_spots(axis, place, values, cmap=plt.get_cmap(cmap), vmax=top, size=size)
            axis.set_title(name, pad=3)
            _colorbar(axis, spots, "")
        own = local[place.rows]
        limit = float(np.nanpercentile(np.abs(own), 99)) if np.isfinite(own).any() else 1.0
        draw_tissue(axes[2], pixels, place.view, alpha=image_alpha)
        spots = draw_spots(axes[2], place, own, cmap=plt.get_cmap(local_cmap), vmax=limit, size=size)
        spots.set_clim(-limit, limit)
        axes[2].set_title(_title(result, place.name, x, y), pad=3)
        _colorbar(axes[2], spots, "local R")
        if significance is not None:
            _mark(axes[2], place, p[place.rows], significance)
        if scalebar:
            add_scalebar(axes[0], place)
    return finish(axes, created=ax is None, show=show)


def _local(
    table: AnnData, result: Mapping[str, Any], key: str, x: str, y: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    pairs = [(str(a), str(b)) for a, b in zip(result.get("local_x", ()), result.get("local_y", ()), strict=True)]
    if (x, y) not in pairs:
        msg = (
            f'local R of {x!r} and {y!r} not found in obsm["{key}_local"]; available: {listing(pairs)}. '
            f"Run hc.tl.colocalization(data, local=[({x!r}, {y!r})]) first."
        )
        raise KeyError(msg)
    column = pairs.index((x, y))
    local, p = (
        np.asarray(get_obsm(table, f"{key}_{part}"), dtype=np.float64)[:, column] for part in ("local", "local_p")
    )
    return local, p


def _variable(table: AnnData, key: str, name: str) -> NDArray[np.float64]:
    """What R was computed from: a column of obsm, or membership in a category."""
    if key in table.obsm:
        frame = table.obsm[key]
        if isinstance(frame, pd.DataFrame):
            return frame[frame.columns[[str(column) for column in frame.columns].index(name)]].to_numpy(
                dtype=np.float64
            )
        return np.asarray(frame, dtype=np.float64)[:, int(name)]
    return np.asarray(table.obs[key].astype(str) == name, dtype=np.float64)


def _axes(ax: Sequence[Axes] | None, section: Section, figsize: tuple[float, float] | None) -> NDArray[Any]:
    if ax is not None:
        axes = np.array(ax, dtype=object).reshape(-1)
        if len(axes) != 3:
            msg = f"ax holds {len(axes)} axes; a pair needs three"
            raise ValueError(msg)
        return axes
    width, height = np.diff(section.view, axis=0)[0]
    panel = 2.6 * float(np.clip(width / height, 0.4, 1.8))
    _, axes = plt.subplots(1, 3, figsize=figsize or (3 * (panel + 0.6), 2.95), layout="compressed")
    return axes


def _colorbar(ax: Axes, spots: Collection, label: str) -> None:
    bar = ax.figure.colorbar(spots, ax=ax, shrink=0.6, aspect=16, pad=0.02, label=label)
    bar.outline.set_visible(False)


def _mark(ax: Axes, section: Section, p: NDArray[np.float64], significance: float) -> None:
    known = np.isfinite(p)
    adjusted = np.full(p.shape, np.nan)
    if known.any():
        adjusted[known] = stats.false_discovery_control(p[known])
    with np.errstate(invalid="ignore"):
        xy = section.xy[adjusted <= significance]
    if len(xy):
        ax.scatter(
            xy[:, 0], xy[:, 1], s=9, c="black", edgecolors="white", linewidths=0.5, zorder=4, label="significant"
        )
        ax.set_xlabel(f"dot: adjusted p ≤ {significance:g}", fontsize=6.5, labelpad=2)


def _title(result: Mapping[str, Any], section: str, x: str, y: str) -> str:
    """R of this section."""
    names = result_names(result)
    sections = [str(name) for name in result["sections"]["names"]]
    row = sections.index(section) if section in sections else 0 if len(sections) == 1 else None
    if row is None:
        return "local R"
    r = float(np.asarray(result["sections"]["R"])[row, names.index(x), names.index(y)])
    return f"local R, mean R = {round(r, 2) + 0.0:.2f}"
