"""Calibration of prediction intervals: how often the measured values lie in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import rankdata

from histocell import get, metrics
from histocell._core import keys
from histocell._core.arguments import check_count, check_share
from histocell._core.errors import listing
from histocell.pl._choices import choose
from histocell.pl._fit import box_size, fit, font_size
from histocell.pl._scores.table import promised
from histocell.pl._style import MUTED, PALETTE, check_axes, finish, styled, text_scale
from histocell.tables.access import row_labels, split_parts
from histocell.tables.sections import Sections

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from numpy.typing import NDArray

    from histocell.tables.access import Data

    type Floats = NDArray[np.float64]

DIVERGING = "RdBu"  # red: too often outside
LEAST_SPAN = 0.1  # of the colours on either side of what was promised
MOST_NUMBERS = 300  # cells of a matrix with a figure in each


def calibration(
    data: Data,
    *,
    key: str = keys.PREDICTED,
    truth: str | None = None,
    level: float | None = None,
    cell_types: str | Sequence[str] | None = None,
    group_key: str | None = None,
    n_bins: int = 10,
    cmap: str | Colormap = DIVERGING,
    title: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Sequence[Axes] | None = None,
    show: bool | None = None,
    table_key: str | None = None,
) -> NDArray[np.object_] | None:
    """Show how often measured values lie in their intervals, beside what the intervals promise.

    On the left the coverage of each cell type in each group: white is what was promised, red too little, blue more than
    that. On the right the coverage from the lowest to the highest predictions of each cell type, thin lines are groups:
    an interval that holds enough values on the whole may hold too few where much is predicted. Rows of
    ``obs["split"] == "test"`` count where there are any, else all rows.

    Parameters
    ----------
    data
        Reads ``obsm[key]``, ``obsm[key + "_lower"]``, ``obsm[key + "_upper"]``, ``obsm[truth]``, and where it is there
        ``obs["split"]``.
    key
        Slot of the predictions.
    truth
        Slot of the measured abundances; by default the one that the model was fitted on, else ``"cell_abundance"``.
    level
        Share of the values that an interval should hold; by default what is recorded of the prediction.
    cell_types
        Which types to show; all by default.
    group_key
        Column of ``obs`` with the groups; by default ``patient``, else the section, whichever has two levels among the
        rows, else all rows are one group.
    n_bins
        Number of parts, from the lowest to the highest predictions, with equal numbers of rows.
    cmap
        A diverging colour map.
    title
        By default the number of rows, and whether they served to train.
    figsize
        Width and height of a new figure in inches.
    ax
        Two axes to draw on; they shrink to make room for names.
    show
        Whether to show the figure; by default if it is new and matplotlib is interactive.
    table_key
        The table of a SpatialData that has several.

    Returns
    -------
    The two axes; nothing if `show` is `True`.

    Raises
    ------
    KeyError
        If a slot, a cell type or a column is not there.
    ValueError
        If no row has a measured value and an interval, it is not known what the intervals promise, or there are not two
        axes.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(3, n_patients=3, size_px=600, spot_pitch_um=50, rng=0)
    >>> hc.pp.patches(sdata)
    >>> hc.pp.embed_image(sdata, "morphology")
    >>> hc.pp.split(sdata, by="patient", test="P3")
    >>> hc.tl.fit_abundance(sdata, model="ridge")
    >>> hc.tl.predict_abundance(sdata)
    >>> axes = hc.pl.calibration(sdata, n_bins=5, show=False)
    >>> axes[1].get_ylabel()
    'coverage'
    """
    check_count(n_bins, "n_bins", least=1)
    sections = Sections(data, table_key=table_key)
    level = _level(data, key, table_key, level)
    found = _read(data, sections, key, truth, cell_types, group_key, table_key)
    with styled(ax is None):
        axes = (
            _new_axes(len(found.names), len(found.groups), figsize)
            if ax is None
            else check_axes(ax, (2,), "calibration needs two")
        )
        _draw_matrix(axes[0], found, level, plt.get_cmap(cmap))
        _draw_bins(axes[1], found, level, n_bins)
        axes[0].set_title(found.caption if title is None else title, loc="left")
        fit(list(axes), lambda size: _resize(axes, size), lambda: _largest(axes[0], found))
    return finish(axes, created=ax is None, show=show)


@dataclass(frozen=True)
class Found:
    """Predictions, whether their intervals hold the truth (NaN where unknown), and the group of each row."""

    predicted: Floats
    hit: Floats
    names: list[str]
    labels: NDArray[np.object_]
    caption: str

    @property
    def groups(self) -> list[str]:
        """The groups in the order of their first row."""
        return list(dict.fromkeys(self.labels))

    def coverage(self) -> Floats:
        """Shape ``(types, groups)``."""
        return np.column_stack([metrics.nan_mean(self.hit[self.labels == name]) for name in self.groups])

    def coverage_by_bin(self, n_bins: int) -> Floats:
        """Over the cell types, from their lowest to their highest predictions, shape ``(groups, n_bins)``."""
        rank = rankdata(np.where(np.isfinite(self.hit), self.predicted, np.nan), axis=0, nan_policy="omit")
        share = (rank - 0.5) / np.isfinite(self.hit).sum(axis=0)  # equal predictions lie in one bin
        bins = np.where(np.isfinite(share), np.minimum(share * n_bins, n_bins - 1), -1).astype(int)
        out = np.full((len(self.groups), n_bins), np.nan)
        for row, name in enumerate(self.groups):
            inside = (self.labels == name)[:, None]
            out[row] = [float(metrics.nan_mean(self.hit[inside & (bins == each)])) for each in range(n_bins)]
        return out


def _level(data: Data, key: str, table_key: str | None, level: float | None) -> float:
    level = promised(data, table_key, key) if level is None else level
    if level is None:
        msg = f'it is not recorded what share of values the intervals of obsm["{key}"] should hold; give level=, such as 0.9'
        raise ValueError(msg)
    return check_share(level, "level", ends="()")


def _read(
    data: Data,
    sections: Sections,
    key: str,
    truth: str | None,
    cell_types: str | Sequence[str] | None,
    group_key: str | None,
    table_key: str | None,
) -> Found:
    table = sections.table
    predicted = get.abundance(data, key, table_key=table_key)
    lower, upper = (get.abundance(data, key + end, table_key=table_key) for end in (keys.LOWER, keys.UPPER))
    target = truth or str(keys.read_provenance(table, key).get("target") or keys.ABUNDANCE)
    measured = get.abundance(data, target, table_key=table_key)
    shared = [str(name) for name in predicted if name in measured]
    if not shared:
        msg = f'obsm["{target}"] ({listing(measured)}) and obsm["{key}"] ({listing(predicted)}) share no cell type'
        raise ValueError(msg)
    names = shared if cell_types is None else choose(cell_types, shared, "cell type")
    hit = metrics.covered(*(frame[names].to_numpy(dtype=float) for frame in (measured, lower, upper)))
    parts = split_parts(table, keys.SPLIT)
    known = np.isfinite(hit).any(axis=1)
    is_test = known & (parts == keys.TEST) if parts is not None else np.zeros(len(known), dtype=bool)
    rows = is_test if is_test.any() else known
    if not rows.any():
        msg = f'no row has a measured value in obsm["{target}"] and an interval in obsm["{key}_lower"]'
        raise ValueError(msg)
    column = group_key or sections.replicate_key(rows)
    labels = np.full(table.n_obs, "all", dtype=object) if column is None else row_labels(table, column)
    what = "test spots" if is_test.any() else "spots, of training too" if parts is not None else "spots"
    caption = f"{rows.sum():,} {what}"
    return Found(predicted[names].to_numpy(dtype=float)[rows], hit[rows], names, labels[rows], caption)


def _new_axes(n_types: int, n_groups: int, figsize: tuple[float, float] | None) -> NDArray[np.object_]:
    width = float(np.clip(0.3 * (n_groups + 1), 0.9, 6))
    height = float(np.clip(0.2 * (n_types + 1), 1.5, 7.5))
    scale = text_scale()
    size = figsize or ((width + 4.6) * scale, (height + 0.9) * scale)
    return plt.subplots(1, 2, figsize=size, width_ratios=[width + 0.6, 2.4], layout="constrained")[1]


def _draw_matrix(ax: Axes, found: Found, level: float, cmap: Colormap) -> None:
    """Coverage of cell types in groups; means above and on the right, where there is something to average."""
    values, names, groups = found.coverage(), list(found.names), found.groups
    if len(groups) > 1:
        values, groups = np.column_stack([values, metrics.nan_mean(values, axis=1)]), [*groups, "mean"]
    if len(names) > 1:
        values, names = np.vstack([metrics.nan_mean(values), values]), ["mean of types", *names]
    span = max(LEAST_SPAN, float(np.nanmax(np.abs(values - level))))
    image = ax.imshow(values, cmap=cmap, vmin=level - span, vmax=level + span, aspect="auto", interpolation="nearest")
    ax.set_xticks(range(len(groups)), groups, rotation=90)
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(length=0)
    ax.set_facecolor("0.85")
    ax.spines[:].set_visible(False)
    if values.size <= MOST_NUMBERS:
        for (y, x), value in np.ndenumerate(values):
            color = "white" if abs(value - level) > 0.6 * span else "0.15"
            if np.isfinite(value):
                ax.text(x, y, f"{value:.2f}".lstrip("0"), ha="center", va="center", color=color)
    bar = ax.figure.colorbar(image, cax=ax.inset_axes((1.02, 0, 0.04, 1)))
    bar.outline.set_visible(False)
    bar.ax.set_ylim(max(0, level - span), min(1, level + span))
    bar.ax.axhline(level, color="0.15", linewidth=0.8)


def _draw_bins(ax: Axes, found: Found, level: float, n_bins: int) -> None:
    values = found.coverage_by_bin(n_bins)
    x = 100 * (np.arange(n_bins) + 0.5) / n_bins
    if len(values) > 1:
        for row in values:
            ax.plot(x, row, color=PALETTE[0], alpha=0.35, linewidth=0.7)
        ax.plot([], [], color=PALETTE[0], alpha=0.35, linewidth=0.7, label="each group")
    label = "mean of groups" if len(values) > 1 else found.groups[0]
    ax.plot(x, metrics.nan_mean(values), "o-", color=PALETTE[0], linewidth=1.4, markersize=3, label=label)
    ax.axhline(level, color=MUTED, linewidth=0.9, linestyle=":", label=f"promised: {level:.0%}")
    ax.set(xlim=(0, 100), xlabel="percentile of the prediction", ylabel="coverage")
    ax.set_ylim(min(0.5, float(np.nanmin(values)) - 0.05), 1.02)
    ax.grid(color=MUTED, alpha=0.25, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.legend(loc="lower left", frameon=False)


def _largest(ax: Axes, found: Found) -> float:
    width, height = box_size(ax)
    return min(0.9 * height / (len(found.names) + 1), 0.9 * width / (len(found.groups) + 1))


def _resize(axes: NDArray[np.object_], size: float) -> None:
    matrix, lines = axes
    matrix.tick_params(labelsize=size)
    matrix.set_title(matrix.get_title("left"), loc="left", fontsize=min(font_size("axes.titlesize"), 1.15 * size))
    width = box_size(matrix)[0] / max(len(matrix.get_xticks()), 1)
    for text in matrix.texts:
        text.set_fontsize(min(size, 0.5 * width))
    matrix.child_axes[0].tick_params(labelsize=size)
    lines.tick_params(labelsize=size)
    for label in (lines.xaxis.label, lines.yaxis.label):
        label.set_fontsize(min(font_size("axes.labelsize"), 1.15 * size))
    for text in lines.get_legend().get_texts():
        text.set_fontsize(min(font_size("legend.fontsize"), size))
