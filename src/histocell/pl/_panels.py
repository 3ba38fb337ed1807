"""Panels of a figure of maps: values, score, colour scale, view and position of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.layout_engine import ConstrainedLayoutEngine

from histocell._core.arguments import check_count, check_positive, check_share
from histocell.metrics import pearson
from histocell.pl._points import draw_spots, draw_tissue, draw_veil
from histocell.pl._style import text_scale
from histocell.tables.units import recorded_unit, unit_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from numpy.typing import NDArray

    from histocell.pl._points import Drawn
    from histocell.pl._sections import Section


@dataclass(frozen=True)
class Panel:
    """A column of maps: a section, the values to show, the truth to score them against, and rows to veil."""

    section: Section
    values: pd.DataFrame
    truth: pd.DataFrame | None
    title: str
    veiled: NDArray[np.bool_] | None = None

    def column(self, name: str) -> NDArray[np.float64]:
        """Values of a cell type, NaN where it was not measured."""
        return _column(self.values, name, self.section)

    def notes(self, name: str, split: NDArray[np.str_]) -> str:
        """What stands beside the title: the score, and how much lies under the veil."""
        veiled = 0.0 if self.veiled is None else float(self.veiled[self.section.rows].mean())
        return ", ".join(filter(None, [self._score(name, split), f"{veiled:.0%} veiled" if veiled else ""]))

    def _score(self, name: str, split: NDArray[np.str_]) -> str:
        """Pearson's correlation with the truth as text; over the test spots where there are some."""
        if self.truth is None or name not in self.truth:
            return ""
        parts = split[self.section.rows]
        used = parts == "test" if "test" in parts else np.ones(len(parts), dtype=bool)
        note = " (train)" if "train" in parts[used] else ""
        value = pearson(_column(self.truth, name, self.section)[used], self.column(name)[used])[0]
        return f"CC {value:.2f}{note}".replace("-", "\N{MINUS SIGN}") if np.isfinite(value) else "CC undefined"


@dataclass(frozen=True)
class Look:
    """The image, the window and the colours of the maps of a figure."""

    images: Mapping[str, NDArray[np.uint8] | None]
    views: Mapping[str, NDArray[np.float64]]
    cmap: Colormap
    size: float
    alpha: float | None
    image_alpha: float | None

    def __post_init__(self) -> None:
        check_positive(self.size, "size")
        for name, opacity in (("alpha", self.alpha), ("image_alpha", self.image_alpha)):
            if opacity is not None:
                check_share(opacity, name)

    def draw(self, ax: Axes, panel: Panel, name: str, vmax: float) -> Drawn:
        """A map of a cell type."""
        section = panel.section
        draw_tissue(ax, section, self.images[section.name], self.views[section.name], alpha=self.image_alpha)
        values = panel.column(name)
        drawn = draw_spots(ax, section, values, cmap=self.cmap, vmax=vmax, size=self.size, alpha=self.alpha)
        if panel.veiled is not None:
            draw_veil(ax, section, panel.veiled[section.rows] & np.isfinite(values), size=self.size)
        return drawn


def _column(frame: pd.DataFrame, name: str, section: Section) -> NDArray[np.float64]:
    if name not in frame:
        return np.full(len(section.rows), np.nan)
    return frame[name].to_numpy(dtype=np.float64)[section.rows]


def quantity(table: AnnData, slots: Mapping[str, pd.DataFrame]) -> str:
    """Unit of the values of slots that are drawn on one scale: the first that is recorded, else by the last of them."""
    recorded = (recorded_unit(table, slot) for slot in slots)
    return next(filter(None, recorded), None) or unit_of(table, *list(slots.items())[-1])


def upper_limit(name: str, panels: list[Panel], vmax: float | str | Mapping[str, float]) -> float:
    """Upper end of the colour scale that all maps of a cell type share."""
    if not isinstance(vmax, (int, float, str)):
        vmax = vmax.get(name, "p99")
    if not isinstance(vmax, str):
        return check_positive(vmax, "vmax")
    percent = _percent(vmax)
    columns = [panel.column(name) for panel in panels]
    finite = [values for column in columns if len(values := column[np.isfinite(column)])]
    # the largest of the maps' own percentiles: neither truth nor prediction is cut off at the height of the other
    top = max((np.percentile(values, percent) for values in finite), default=0.0)
    if top <= 0:  # rarer than the percentile
        top = max((values.max() for values in finite), default=0.0)
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


def views_of(panels: list[Panel]) -> tuple[dict[str, NDArray[np.float64]], bool]:
    """The window of each section, ``[[x0, y0], [x1, y1]]``, and whether all have one scale.

    They do, by one height, unless one would then be too small to be seen, or the resolution of some is unknown.
    """
    sections = {panel.section.name: panel.section for panel in panels}
    heights = [float(np.ptp(section.view[:, 1])) for section in sections.values()]
    known = {section.mpp is not None for section in sections.values()}
    one_scale = max(heights) <= 3 * min(heights) and len(known) == 1
    views = {}
    for name, section in sections.items():
        height = max(heights) if one_scale else np.ptp(section.view[:, 1])
        half = np.array([np.ptp(section.view[:, 0]), height]) / 2
        middle = section.view.mean(axis=0)
        views[name] = np.stack([middle - half, middle + half])
    return views, one_scale


def map_axes(
    ratios: NDArray[np.float64], n_types: int, ncols: int | None, figsize: tuple[float, float] | None, *, heading: bool
) -> tuple[NDArray[np.object_], int]:
    """Axes of a new figure, shape (cell types, panels), and the number of cell types that stand side by side.

    Parameters
    ----------
    ratios
        Width of each panel as a multiple of its height.
    heading
        Whether there is a title over all of them.
    """
    width = ratios.sum()  # of a row of one cell type, as a multiple of its height
    if ncols is not None:
        check_count(ncols, "ncols", least=1)
    else:
        ncols = round(np.sqrt(1.2 * n_types / (width + 0.4)))
    ncols = int(np.clip(ncols, 1, n_types))
    nrows = -(-n_types // ncols)
    scale = text_scale()
    if figsize is None:
        # one map, or truth and prediction, fill a column or the width of a paper, be they wide or high
        largest = min(3.2 / np.sqrt(ratios.mean()), 4.2) if n_types * len(ratios) <= 2 else 2.8
        height = float(np.clip(9 / (ncols * width), 1.3, largest))
        text = (0.9 * scale * ncols, (0.19 * nrows + 0.25 + 0.2 * heading) * scale)
        figsize = (ncols * width * height + text[0], nrows * height + text[1])
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01, compress=True)
    figure = plt.figure(figsize=figsize, layout=layout)
    block = len(ratios) + 1  # the last column of a block parts it from the next
    grid = figure.add_gridspec(nrows, ncols * block - 1, width_ratios=np.tile([*ratios, 0.1], ncols)[:-1])
    axes = np.empty((n_types, len(ratios)), dtype=object)
    for index in range(n_types):
        row, start = index // ncols, index % ncols * block
        for column in range(len(ratios)):
            axes[index, column] = figure.add_subplot(grid[row, start + column])
    return axes, ncols
