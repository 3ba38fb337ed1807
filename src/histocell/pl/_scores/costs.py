"""Costs of each model: training time, memory and number of parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np

from histocell._core import keys
from histocell._core.errors import listing
from histocell.metrics import nan_mean
from histocell.pl._choices import choose
from histocell.pl._fit import box_size, fit, font_size
from histocell.pl._scores.table import ALL, MEAN, NAMES, RUN, read, run_colors, run_names
from histocell.pl._style import MUTED, check_axes, finish, styled, text_scale

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.typing import ColorType
    from numpy.typing import NDArray

    from histocell.pl._style import Palette
    from histocell.tables.access import Data

COSTS = {
    "seconds": "training time",
    "peak_memory_mb": "peak memory",
    "peak_gpu_memory_mb": "peak GPU memory",
    "n_parameters": "parameters",
}
UNITS = (("M", 1e6), ("k", 1e3), ("", 1.0))  # of parameters
LETTER = 0.62  # width of a letter as a share of its size


def costs(
    data: Data | pd.DataFrame,
    *,
    key: str = keys.EVALUATION,
    metrics: str | Sequence[str] | None = None,
    models: str | Sequence[str] | None = None,
    features: str | Sequence[str] | None = None,
    palette: Palette | None = None,
    title: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    table_key: str | None = None,
) -> NDArray[np.object_] | None:
    """Show what each model costs: training time, memory and number of parameters, with the figures beside the dots.

    The axes are logarithmic. Ticks are the single groups, that is the trainings of a protocol that leaves each out in
    turn; a dot is what the table says of all of them, or else their mean.

    Parameters
    ----------
    data
        The tidy table of ``hc.bench.leave_one_group_out`` or ``hc.bench.cross_dataset``; or what holds one in
        ``uns[key]``. Reads the metrics ``seconds``, ``peak_memory_mb``, ``peak_gpu_memory_mb`` and ``n_parameters``.
    key
        Slot of the table.
    metrics
        Which of these to show; by default all that the table holds.
    models
        Which models to show; all by default.
    features
        Which features to show, where the table holds several; all by default.
    palette
        Colours of the models: by name, a list, or the name of a colour map. By default a mean beside others is grey.
    title
        Above the figure, or above the first of axes that were given; none by default.
    figsize
        Width and height of a new figure in inches.
    ax
        Axes to draw on, as many as metrics; they shrink to make room for names.
    show
        Whether to show the figure; by default if it is new and matplotlib is interactive.
    table_key
        The table of a SpatialData that has several.

    Returns
    -------
    An array of the axes, one for each metric; nothing if `show` is `True`.

    Raises
    ------
    KeyError
        If the slot is not there.
    ValueError
        If the table holds no costs, or no such metric, model or features, or there are not as many axes as metrics.

    References
    ----------
    arXiv 2507.07013, Table 3.

    Examples
    --------
    >>> import pandas as pd
    >>> import histocell as hc
    >>> rows = [(model, "all", "mean", "seconds", value, None, None) for model, value in (("mlp", 553), ("ridge", 14))]
    >>> table = pd.DataFrame(rows, columns=["model", "group", "cell_type", "metric", "value", "low", "high"])
    >>> axes = hc.pl.costs(table, show=False)
    >>> [text.get_text() for text in axes[0].texts]
    ['9 min 13 s', '14.0 s']
    """
    table = read(data, key, table_key, models=models, features=features)
    shown = _metrics(table, metrics)
    runs = run_names(table)
    with styled(ax is None):
        if ax is None:
            axes = _new_axes(len(shown), [NAMES.get(run, run) for run in runs], figsize)
        else:
            axes = check_axes(ax, (len(shown),), f"{len(shown)} metrics need {len(shown)}")
        colors = run_colors(runs, palette, is_only=len(runs) == 1)
        for axis, metric in zip(axes, shown, strict=True):
            _draw(axis, table[table["metric"] == metric], metric, colors)
            names = [NAMES.get(run, run) for run in runs] if axis is axes[0] or ax is not None else [""] * len(runs)
            axis.set_yticks(range(len(runs)), names)
        if title and ax is None:
            axes[0].figure.suptitle(title)
        elif title:
            axes[0].set_title(f"{title}\n{axes[0].get_title('left')}", loc="left")
        fit(list(axes), lambda size: _resize(axes, size), lambda: _largest(axes, len(runs)))
    return finish(axes, created=ax is None, show=show)


def _metrics(table: pd.DataFrame, wanted: str | Sequence[str] | None) -> list[str]:
    there = [metric for metric in COSTS if metric in set(table["metric"])]
    if not there:
        msg = f"the table holds no costs ({listing(COSTS)}), but: {listing(table['metric'].unique())}. "
        msg += "hc.bench.leave_one_group_out measures them"
        raise ValueError(msg)
    if wanted is not None:
        return choose(wanted, there, "metric", where=" in the costs", error=ValueError)
    known = set(table["metric"][np.isfinite(table["value"].astype(float))])
    return [metric for metric in there if metric in known] or there


def _new_axes(n_metrics: int, names: Sequence[str], figsize: tuple[float, float] | None) -> NDArray[np.object_]:
    width = 0.055 * max(map(len, names)) + 1.75 * n_metrics + 0.2
    size = figsize or (width * text_scale(), (0.65 + 0.21 * len(names)) * text_scale())
    return plt.subplots(1, n_metrics, figsize=size, layout="constrained", squeeze=False)[1][0]


def _draw(ax: Axes, table: pd.DataFrame, metric: str, colors: Mapping[str, ColorType]) -> None:
    """A dot for each run, ticks for its groups, and the figure on the right."""
    totals: list[float] = []
    singles: list[NDArray[np.float64]] = []
    for run in colors:
        rows = table[(table[RUN] == run) & (table["cell_type"] == MEAN)]
        values = rows["value"].astype(float)
        single = np.array(values[rows["group"] != ALL], dtype=np.float64)
        of_all = np.array(values[rows["group"] == ALL], dtype=np.float64)
        totals.append(float(of_all[0]) if len(of_all) else float(nan_mean(single)))
        singles.append(single[single > 0])
    drawn = np.array([value for value in [*totals, *np.concatenate(singles)] if np.isfinite(value) and value > 0])
    low, high = (drawn.min(), drawn.max()) if len(drawn) else (1.0, 1.0)
    ax.set_xscale("log")
    ax.set_xlim(low / 1.5, max(high * 1.5, low * 10))
    for y, (color, total, single) in enumerate(zip(colors.values(), totals, singles, strict=True)):
        if len(single) > 1 and np.ptp([*single, total]) > 0:
            ax.plot(single, np.full(len(single), y), "|", color=color, alpha=0.6, zorder=1)
        if total > 0:
            ax.plot(total, y, "o", color=color, markersize=4, markeredgewidth=0)
        text = show_amount(total, metric)
        ax.text(
            1.02, y, text, transform=ax.get_yaxis_transform(), va="center", color=None if np.isfinite(total) else MUTED
        )
    ax.set_title(COSTS[metric], loc="left")
    ax.set_xlabel({"seconds": "s", "n_parameters": ""}.get(metric, "MB"), labelpad=1)
    ax.set_ylim(len(colors) - 0.5, -0.5)
    ax.minorticks_off()
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color=MUTED, alpha=0.25, linewidth=0.6)
    ax.grid(axis="y", color=MUTED, alpha=0.15, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["left", "top", "right"]].set_visible(False)


def show_amount(value: float, metric: str) -> str:
    """An amount as people write it: 9 min 13 s, 570 MB, 14.2 M."""
    if not np.isfinite(value):
        return "unknown"
    if metric == "seconds":
        hours, rest = divmod(round(value), 3600)
        minutes, seconds = divmod(rest, 60)
        if hours:
            return f"{hours} h {minutes} min"
        return f"{minutes} min {seconds} s" if minutes else f"{value:.3g} s" if value < 10 else f"{value:.1f} s"
    if metric.endswith("_mb"):
        return f"{value / 1000:.1f} GB" if value >= 9999.5 else f"{value:,.0f} MB" if value >= 10 else f"{value:.2g} MB"
    unit, size = next((each for each in UNITS if value >= 0.9995 * each[1]), ("", 1.0))
    return f"{value / size:.3g} {unit}".strip()


def _largest(axes: NDArray[np.object_], n_runs: int) -> float:
    width, height = box_size(axes[0])
    return min(0.95 * height / n_runs, width / 7)


def _resize(axes: NDArray[np.object_], size: float) -> None:
    for axis in axes:
        axis.tick_params(labelsize=size)
        for text in axis.texts:
            text.set_fontsize(size)
        axis.xaxis.label.set_fontsize(size)
        axis.set_title(axis.get_title("left"), loc="left", fontsize=min(font_size("axes.titlesize"), 1.15 * size))
