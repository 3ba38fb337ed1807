"""Maps of cell abundance on the tissue, truth beside prediction."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING, Literal

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

from histocell import get
from histocell._core import keys
from histocell._core.errors import listing, warn
from histocell.pl._choices import choose
from histocell.pl._panels import Panel, map_axes, quantity, shared_views, upper_limit
from histocell.pl._sections import add_scalebar, draw_spots, draw_tissue, find_sections, tissue_image
from histocell.pl._style import AMOUNT, check_axes, finish, styled
from histocell.tables.access import get_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.collections import Collection
    from matplotlib.colors import Colormap
    from numpy.typing import NDArray

    from histocell.pl._sections import Images, Section
    from histocell.tables.access import Data

MAX_TYPES = 24
MAX_SECTIONS = 6
MANY_MAPS = 12  # beyond it maps are small, and so may their images be


def abundance(
    data: Data,
    cell_types: str | Sequence[str] | None = None,
    *,
    key: str = keys.PREDICTED,
    truth: str | Literal[False] | None = None,
    section: str | Sequence[str] | None = None,
    image: Images | bool = True,
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
) -> Axes | NDArray[np.object_] | None:
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

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600)
    >>> ax = hc.pl.abundance(sdata, "tumour", key="cell_abundance")
    >>> ax.get_title()
    'tumour'
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
    panels = _panels(sections, predicted, measured, key)
    split = np.asarray(table.obs[keys.SPLIT] if keys.SPLIT in table.obs else [""] * table.n_obs, dtype=np.str_)
    colormap = plt.get_cmap(cmap)  # an unknown name fails before there is a figure
    views = shared_views(panels)
    shape = (len(names), len(panels))
    max_px = 900 if shape[0] * shape[1] <= MANY_MAPS else 400
    images = {each.name: tissue_image(each, views[each.name], max_px) for each in sections}
    label = quantity(
        table, {key: predicted} if measured is None else {key: predicted, truth or keys.ABUNDANCE: measured}
    )
    separator = "\n" if len(sections) > 1 else ", "
    with styled(ax is None):
        if ax is None:
            axes = map_axes(panels, len(names), ncols, figsize)
        else:
            axes = check_axes(ax, shape, f"{shape[0]} cell types x {shape[1]} maps of each need {shape[0] * shape[1]}")
        for row, name in zip(axes, names, strict=True):
            limit = upper_limit(name, panels, vmax)
            for axis, panel in zip(row, panels, strict=True):
                shown = panel.section.name
                draw_tissue(axis, images[shown], views[shown], alpha=image_alpha)
                spots = draw_spots(axis, panel.section, panel.column(name), cmap=colormap, vmax=limit, size=size)
                axis.set_title(separator.join(filter(None, [panel.title, panel.score(name, split)])), pad=3)
            _name_row(row, name)
            _colorbar(row, spots, panels, name, limit, label)
            if scalebar:
                add_scalebar(row[0], panels[0].section)
    return finish(axes[0, 0] if axes.size == 1 else axes, created=ax is None, show=show)


def _measured(table: AnnData, key: str, truth: str | Literal[False] | None) -> pd.DataFrame | None:
    if truth is None and keys.ABUNDANCE in table.obsm:
        truth = keys.ABUNDANCE
    return None if not truth or truth == key else get.abundance(table, truth)


def _choose_types(frame: pd.DataFrame, cell_types: str | Sequence[str] | None) -> list[str]:
    columns = list(frame.columns)
    if cell_types is not None:
        return choose(cell_types, columns, "cell type")
    if len(columns) <= MAX_TYPES:
        return columns
    warn(f"showing the {MAX_TYPES} most abundant of {len(columns)} cell types; choose others with cell_types=")
    most = set(frame.mean().nlargest(MAX_TYPES).index)
    return [name for name in columns if name in most]


def _panels(sections: list[Section], predicted: pd.DataFrame, measured: pd.DataFrame | None, key: str) -> list[Panel]:
    names = {keys.PREDICTED: "predicted", keys.ABUNDANCE: "measured"}
    out = []
    for section in sections:
        prefix = f"{section.name} " if len(sections) > 1 else ""
        if measured is not None:
            out.append(Panel(section, measured, None, f"{prefix}measured"))
        out.append(Panel(section, predicted, measured, f"{prefix}{names.get(key, key)}"))
    return out


def _name_row(row: NDArray[np.object_], name: str) -> None:
    """The cell type beside a row of maps, or above the only one."""
    if len(row) == 1:
        row[0].set_title(fill(name, 26), pad=3)
    else:
        row[0].set_ylabel(fill(name, 20), fontweight="bold", labelpad=3)


def _colorbar(
    row: NDArray[np.object_], spots: Collection, panels: list[Panel], name: str, limit: float, label: str
) -> None:
    above = any(np.nanmax(panel.column(name), initial=0) > limit * (1 + 1e-9) for panel in panels)
    bar = row[0].figure.colorbar(
        spots, ax=list(row), extend="max" if above else "neither", fraction=0.04, pad=0.015, aspect=22, shrink=0.85
    )
    bar.outline.set_visible(False)
    bar.locator = MaxNLocator(4)
    bar.formatter.set_powerlimits((-3, 4))
    bar.update_ticks()
    bar.set_label(label)
