"""Maps of cell abundance on the tissue, truth beside prediction."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

from histocell import get
from histocell._core import keys
from histocell._core.access import get_table
from histocell._core.errors import listing, warn
from histocell.pl._sections import add_scalebar, draw_spots, draw_tissue, find_sections, plain_background
from histocell.pl._style import AMOUNT, MUTED, finish, styled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from histocell._core.access import Data
    from histocell.pl._sections import Section

MAX_TYPES = 24
MAX_SECTIONS = 6


@dataclass(frozen=True)
class _Panel:
    """One column of maps: a section, and whose values it shows."""

    section: Section
    values: pd.DataFrame
    truth: pd.DataFrame | None  # what the values are scored against
    name: str


def abundance(
    data: Data,
    cell_types: str | Sequence[str] | None = None,
    *,
    key: str = keys.PREDICTED,
    truth: str | Literal[False] | None = None,
    section: str | Sequence[str] | None = None,
    image: Any = True,
    image_alpha: float = 0.45,
    cmap: str | Colormap = AMOUNT,
    vmax: float | str | Mapping[str, float] = "p99",
    size: float = 1.0,
    ncols: int | None = None,
    scalebar: bool = True,
    figsize: tuple[float, float] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    table_key: str | None = None,
) -> Axes | NDArray[Any] | None:
    """Map cell abundances on the tissue, the measured ones beside the predicted ones.

    Spots are drawn at their true size. Truth and prediction of a cell type share one colour scale, which starts at 0.
    The correlation in a title is Pearson's over the spots shown, over the test spots alone where
    ``obs["split"]`` marks some, and says so where the spots served to train. Spots without a value are hollow.

    Parameters
    ----------
    data
        Reads ``obsm[key]``, ``obsm[truth]``, the coordinates, and where they are there: the image, ``obs["section"]``,
        ``obs["mpp"]``, ``obs["split"]``.
    cell_types
        What to map; all columns of ``obsm[key]``, at most the 24 most abundant ones, by default.
    key
        Slot with the abundances.
    truth
        Slot with the measured abundances to show beside them; ``"cell_abundance"`` where it exists. `False`: none.
    section
        One or several of the sections; by default all of them, if there are not more than six.
    image
        Whether to draw the image under the spots. For an AnnData also the image itself: a path, an array, or a
        mapping from section to either.
    image_alpha
        Opacity of the image, between 0 and 1.
    cmap
        Colour map.
    vmax
        Upper end of the colour scales: a number, a percentile such as ``"p99"`` of truth and prediction together, or
        a number by cell type.
    size
        Diameter of the spots as a multiple of the true one.
    ncols
        Number of cell types side by side.
    scalebar
        Whether to draw a scalebar; it needs the resolution.
    figsize
        Width and height of a new figure in inches.
    ax
        Axes to draw on, as many as there are maps, row by row: cell types x (sections x truth, prediction).
    show
        Whether to show the figure; by default if it is new and matplotlib is interactive.
    table_key
        The table of a SpatialData that has several.

    Returns
    -------
    The axes, or for several maps an array of them of shape ``(cell types, maps of each)``; nothing if `show` is `True`.

    Raises
    ------
    KeyError
        If a slot, a cell type or a section is not there.
    ValueError
        If there are too many sections, or not as many axes as maps.
    """
    table = get_table(data, table_key)
    predicted = get.abundance(table, key)
    measured = _measured(table, key, truth)
    names = _choose_types(predicted, cell_types)
    sections = find_sections(data, section, table_key=table_key, image=image)
    if len(sections) > MAX_SECTIONS:
        msg = f"{len(sections)} sections are too many for one figure; choose with section=, for example section="
        msg += f"{sections[0].name!r}: {listing(each.name for each in sections)}"
        raise ValueError(msg)
    panels = _panels(table, sections, predicted, measured, key)
    scales = {name: _upper(name, panels, vmax) for name in names}
    label = quantity(predicted if measured is None else measured)
    with styled(ax is None):
        axes = map_axes(panels, len(names), ncols, figsize) if ax is None else _given(ax, (len(names), len(panels)))
        for row, name in zip(axes, names, strict=True):
            limit = upper_limit(name, panels, vmax)
            for axis, panel in zip(row, panels, strict=True):
                spots = _draw_map(axis, panel, name, view_height(panels), alpha=image_alpha, cmap=cmap, vmax=limit, size=size)
                axis.set_title(_title(panel, name, split, several=len(sections) > 1), pad=3)
            _name_row(row, name, single=len(panels) == 1)
            _colorbar(row, spots, panels, name, limit, label)
            if scalebar:
                add_scalebar(row[0], panels[0].section)
    return finish(axes[0, 0] if axes.size == 1 else axes, created=ax is None, show=show)


def _measured(table: AnnData, key: str, truth: str | Literal[False] | None) -> pd.DataFrame | None:
    if truth is False or truth == key or (truth is None and (key == keys.ABUNDANCE or keys.ABUNDANCE not in table.obsm)):
        return None
    return get.abundance(table, truth or keys.ABUNDANCE)


def _choose_types(frame: pd.DataFrame, cell_types: str | Sequence[str] | None) -> list[str]:
    columns = list(frame.columns)
    if cell_types is None:
        if len(columns) <= MAX_TYPES:
            return columns
        warn(f"showing the {MAX_TYPES} most abundant of {len(columns)} cell types; choose others with cell_types=")
        most = set(frame.mean().nlargest(MAX_TYPES).index)
        return [name for name in columns if name in most]
    wanted = [cell_types] if isinstance(cell_types, str) else list(cell_types)
    absent = [name for name in wanted if name not in columns]
    if absent or not wanted:
        msg = f"cell type {listing(absent)} not found; available: {listing(columns, 30)}"
        raise KeyError(msg)
    return wanted


def _panels(
    table: AnnData, sections: list[Section], predicted: pd.DataFrame, measured: pd.DataFrame | None, key: str
) -> list[_Panel]:
    out = []
    for section in sections:
        if measured is not None:
            out.append(_Panel(section, measured, None, "measured"))
        name = "predicted" if key == keys.PREDICTED else "measured" if key == keys.ABUNDANCE else key
        out.append(_Panel(section, predicted, measured, name))
    return out


def _column(panel: _Panel, name: str) -> NDArray[np.float64] | None:
    if name not in panel.values:
        return None
    return panel.values[name].to_numpy(dtype=np.float64)[panel.section.rows]


def _upper(name: str, panels: list[_Panel], vmax: float | str | Mapping[str, float]) -> float:
    """Upper end of the scale that all maps of a cell type share."""
    if not isinstance(vmax, (int, float, str)):
        if name in vmax:
            return float(vmax[name])
        vmax = "p99"
    if not isinstance(vmax, str):
        return float(vmax)
    columns = [column for panel in panels if (column := _column(panel, name)) is not None]
    # each map counts by its own percentile, so that neither truth nor prediction is cut down by the other
    finite = [column[np.isfinite(column)] for column in columns]
    tops = [np.percentile(each, _percent(vmax)) for each in finite if len(each)]
    top = max(tops, default=0.0)
    if top <= 0:  # rarer than the percentile
        top = max((each.max() for each in finite if len(each)), default=0.0)
    return float(top) if top > 0 else 1.0


def _percent(text: str) -> float:
    try:
        percent = float(text.removeprefix("p"))
    except ValueError:
        percent = np.nan
    if not 0 <= percent <= 100:
        msg = f'vmax must be a number, a percentile such as "p99", or a number by cell type, not {text!r}'
        raise ValueError(msg)
    return percent


def _view_size(panels: list[_Panel]) -> NDArray[np.float64]:
    """Widths and the common height of the maps, so that all of them have one scale."""
    spans = np.array([np.diff(panel.section.view, axis=0)[0] for panel in panels])
    spans[:, 1] = spans[:, 1].max()
    return spans


def _grid(
    panels: list[_Panel], n_types: int, ncols: int | None, figsize: tuple[float, float] | None
) -> NDArray[Any]:
    """Axes of shape (cell types, panels), cell types side by side in `ncols` blocks."""
    spans = _view_size(panels)
    ratios = spans[:, 0] / spans[:, 1].max()
    if ncols is None:
        ncols = max(1, round(np.sqrt(1.4 * n_types / ratios.sum()))) if n_types > 1 else 1
        ncols = max(1, min(ncols, n_types, int(8 / len(panels))))
    ncols = min(ncols, n_types)
    nrows = -(-n_types // ncols)
    height = float(np.clip(11 / (ncols * ratios.sum()), 1.15, 2.6))
    if figsize is None:
        figsize = (ncols * (ratios.sum() * height + 0.75) + 0.2, nrows * (height + 0.28) + 0.1)
    figure = plt.figure(figsize=figsize, layout="compressed")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)  # type: ignore[union-attr]
    grid = figure.add_gridspec(nrows, ncols * len(panels), width_ratios=np.tile(ratios, ncols))
    axes = np.empty((n_types, len(panels)), dtype=object)
    for index in range(n_types):
        row, block = divmod(index, ncols)
        for column in range(len(panels)):
            axes[index, column] = figure.add_subplot(grid[row, block * len(panels) + column])
    return axes


def _given(ax: Axes | Sequence[Axes], shape: tuple[int, int]) -> NDArray[Any]:
    axes = np.array(ax, dtype=object).reshape(-1)
    if len(axes) != shape[0] * shape[1]:
        msg = f"ax holds {len(axes)} axes; {shape[0]} cell types x {shape[1]} maps of each need {shape[0] * shape[1]}"
        raise ValueError(msg)
    return axes.reshape(shape)


def _draw_map(
    ax: Axes,
    panel: _Panel,
    name: str,
    view_size: NDArray[np.float64],
    *,
    alpha: float,
    cmap: str | Colormap,
    vmax: float,
    size: float,
) -> None:
    section = panel.section
    middle = section.view.mean(axis=0)
    span = np.array([np.ptp(section.view[:, 0]), view_size[:, 1].max()])
    draw_tissue(ax, section, np.stack([middle - span / 2, middle + span / 2]), alpha=alpha)
    if section.image is None:
        plain_background(ax)
    values = _column(panel, name)
    if values is None:
        values = np.full(len(section.rows), np.nan)
    draw_spots(ax, section, values, cmap=cmap, vmax=vmax, size=size)
