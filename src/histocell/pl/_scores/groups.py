"""Scores of each held-out group as bars, models or features side by side."""

from __future__ import annotations

from functools import partial
from textwrap import fill
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import ScaledTranslation

from histocell._core import keys
from histocell._core.arguments import as_names
from histocell.pl._choices import choose
from histocell.pl._fit import box_size, fit, font_size
from histocell.pl._scores.table import (
    ALL,
    LABELS,
    MEAN,
    NAMES,
    RUN,
    interval_names,
    read,
    run_colors,
    run_names,
    select,
)
from histocell.pl._style import MUTED, check_axes, finish, styled, text_scale

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.text import Text
    from matplotlib.typing import ColorType
    from numpy.typing import NDArray

    from histocell.pl._style import Palette
    from histocell.tables.access import Data

SHARE = 0.8  # of the room of a group that its bars take
APART = 0.4  # more room before the mean of the groups
SHORT = LABELS | {"cc": "CC", "coverage": "coverage"}  # beside low axes
LETTER = 0.6  # width of a letter as a share of its size


def group_scores(
    data: Data | pd.DataFrame,
    *,
    key: str = keys.EVALUATION,
    metric: str | Sequence[str] = "cc",
    models: str | Sequence[str] | None = None,
    features: str | Sequence[str] | None = None,
    groups: str | Sequence[str] | None = None,
    cell_type: str = MEAN,
    palette: Palette | None = None,
    title: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    table_key: str | None = None,
) -> Axes | NDArray[np.object_] | None:
    r"""Show the score of each held-out group as bars, models or features side by side, and their mean over groups.

    Lines are the intervals that the table holds; the legend says what they are. A score that is undefined, such as the
    correlation with a constant, is a cross; the legend names models of which no score is defined.

    Parameters
    ----------
    data
        Reads ``uns[key]``, the tidy table of ``hc.tl.evaluate_abundance`` (see ``hc.get.scores``); or such a table
        itself, as ``hc.bench`` makes it, whose ``features`` may differ, too.
    key
        Slot of the scores.
    metric
        ``"cc"``, ``"cc_per_slide"``, ``"l1"``, ``"coverage"``, of a benchmark also ``"colocalization_cosine"`` and others;
        several are drawn one above the other.
    models
        Which models to show; all by default.
    features
        Which features to show, where the table of a benchmark holds several; all by default.
    groups
        Which groups to show, in this order; all by default, in that of the table.
    cell_type
        The cell type; by default the mean over them.
    palette
        Colours of the models (as the legend names them): by name, a list, or the name of a colour map. By default a mean
        beside others is grey.
    title
        By default the cell type, where one was chosen.
    figsize
        Width and height of a new figure in inches.
    ax
        Axes to draw on, as many as metrics; they shrink to make room for names and legend.
    show
        Whether to show the figure; by default if it is new and matplotlib is interactive.
    table_key
        The table of a SpatialData that has several.

    Returns
    -------
    The axes, for several metrics an array of them; nothing if `show` is `True`.

    Raises
    ------
    KeyError
        If the slot is not there.
    ValueError
        If the table holds no such metric, model, features, group or cell type, or two runs of one name, the data frame is
        no table of scores, or there are not as many axes as metrics.

    References
    ----------
    arXiv 2507.07013, Figures 2 to 4.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(3, n_patients=3, size_px=600, spot_pitch_um=50, rng=0)
    >>> hc.pp.patches(sdata)
    >>> hc.pp.embed_image(sdata, "morphology")
    >>> scores = hc.bench.leave_one_group_out(sdata, models=["mean", "ridge"], n_bootstrap=100, rng=0)
    >>> ax = hc.pl.group_scores(scores, show=False)
    >>> [label.get_text() for label in ax.get_xticklabels()]
    ['P1', 'P2', 'P3', 'mean\nof 3']
    """
    table = read(data, key, table_key, models=models, features=features)
    metrics = as_names(metric)
    table = select(select(table, "metric", metrics), "cell_type", cell_type)
    names = _group_names(table, groups)
    runs = run_names(table)
    caption = cell_type if cell_type != MEAN else ""
    with styled(ax is None):
        if ax is None:
            axes = _new_axes(len(metrics), len(names), len(runs), figsize)
        else:
            axes = check_axes(ax, (len(metrics),), f"{len(metrics)} metrics need {len(metrics)}")
        colors = run_colors(runs, palette, is_only=len(runs) == 1)
        places = np.arange(len(names), dtype=float) + APART * np.array(
            [len(names) > 1 and name == ALL for name in names]
        )
        undefined: dict[str, list[str]] = {}
        for axis, each in zip(axes, metrics, strict=True):
            rows = table[table["metric"] == each]
            undefined[each] = _draw_bars(axis, rows, dict(zip(names, places, strict=True)), colors)
            _label_axis(axis, each)
            axis.set_xticks(places, [""] * len(names))
            axis.set_xlim(-0.55, places[-1] + 0.55)
        heading = axes[0].set_title(caption if title is None else title, loc="right")
        shown = _shown(names, table)
        resize = partial(_resize, axes, shown, heading, _handles(axes, table, colors, undefined))
        fit(list(axes), resize, lambda: _largest(axes[-1], shown))
    return finish(axes if len(axes) > 1 else axes[0], created=ax is None, show=show)


def _group_names(table: pd.DataFrame, wanted: str | Sequence[str] | None) -> list[str]:
    """The groups to show, the mean over all of them last: that over a selection would be another one."""
    there = list(table["group"].unique())
    single = [name for name in there if name != ALL]
    if wanted is not None:
        return choose(wanted, there, "group", where=" in the scores", error=ValueError)
    if len(single) == 1:
        return single
    return single + [ALL] * (ALL in there)


def _shown(names: Sequence[str], table: pd.DataFrame) -> list[str]:
    """Names of the groups for the reader; the mean is over all of the table, whichever are shown."""
    n_groups = len(set(table["group"]) - {ALL})
    return [fill(name, 16) if name != ALL else f"mean\nof {n_groups}" if n_groups > 1 else "all" for name in names]


def _new_axes(n_metrics: int, n_groups: int, n_runs: int, figsize: tuple[float, float] | None) -> NDArray[np.object_]:
    width = float(np.clip(1.0 + n_groups * (0.2 + 0.13 * n_runs), 3.2, 10))
    size = figsize or (width * text_scale(), (0.9 + 1.7 * n_metrics) * text_scale())
    return plt.subplots(n_metrics, 1, figsize=size, layout="constrained", squeeze=False)[1][:, 0]


def _draw_bars(
    ax: Axes, table: pd.DataFrame, places: Mapping[str, float], colors: Mapping[str, ColorType]
) -> list[str]:
    """Bars with their intervals; the names of runs without any score."""
    drawn = {run: table[(table[RUN] == run) & table["group"].isin(list(places))] for run in colors}
    undefined = [run for run, rows in drawn.items() if not np.isfinite(rows["value"].astype(float)).any()]
    shown = [run for run in drawn if run not in undefined]
    width = SHARE / max(len(shown), 1)
    for index, run in enumerate(shown):
        ends = drawn[run][["value", "low", "high"]].astype(float).to_numpy()
        x = drawn[run]["group"].map(places).to_numpy() + (index - (len(shown) - 1) / 2) * width
        known = np.isfinite(ends[:, 0])
        ax.bar(x[known], ends[known, 0], 0.92 * width, color=colors[run], linewidth=0, label=NAMES.get(run, run))
        bounded = np.isfinite(ends).all(axis=1)
        ink = ax.xaxis.label.get_color()  # seen on bars and beside them, whatever the style
        ax.vlines(x[bounded], ends[bounded, 1], ends[bounded, 2], color=ink, linewidth=0.8)
        if not known.all():
            ax.plot(x[~known], np.zeros((~known).sum()), "x", color=colors[run], markersize=3)
    return [NAMES.get(run, run) for run in undefined]


def _label_axis(ax: Axes, metric: str) -> None:
    ax.set_ylabel(SHORT.get(metric, metric))
    ax.tick_params(axis="x", length=0)
    ax.grid(axis="y", color=MUTED, alpha=0.25, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.axhline(0, color=MUTED, linewidth=0.8, zorder=1)
    if metric in {"l1", "coverage"}:
        ax.set_ylim(bottom=0)


def _handles(
    axes: NDArray[np.object_], table: pd.DataFrame, colors: Mapping[str, ColorType], undefined: Mapping[str, list[str]]
) -> list[Artist]:
    """Models and features, what the lines are, and the runs without any score."""
    drawn = {label for axis in axes for label in axis.get_legend_handles_labels()[1]}
    labels = {run: NAMES.get(run, run) for run in colors}
    handles: list[Artist] = [Patch(color=colors[run], label=labels[run]) for run in colors if labels[run] in drawn]
    if name := interval_names(table):
        handles.append(Line2D([], [], color=axes[0].xaxis.label.get_color(), linewidth=0.8, label=name))
    if not np.isfinite(table["value"].astype(float)).all():
        notes = [f"{SHORT.get(metric, metric)} of {', '.join(runs)}" for metric, runs in undefined.items() if runs]
        label = "undefined" + f" ({'; '.join(notes)})" * bool(notes)
        handles.append(Line2D([], [], color=MUTED, linestyle="none", marker="x", markersize=3, label=label))
    return handles


def _place_legend(ax: Axes, handles: list[Artist], size: float, below: float) -> None:
    """A legend so many points under the axes, no wider than they are, entries side by side where there is room."""
    letters = np.array([len(str(handle.get_label())) + 5 for handle in handles] or [1])
    widest = box_size(ax)[0] / (LETTER * letters.max())
    size = min(
        size, max(np.floor(2 * widest) / 2, 1)
    )  # in steps: axes that were made narrower a little keep their legend
    widths = {n: sum(column.max() for column in np.array_split(letters, n)) for n in range(len(letters), 0, -1)}
    columns = next((n for n, width in widths.items() if LETTER * size * width <= box_size(ax)[0]), 1)
    down = ScaledTranslation(0, -below / 72, ax.figure.dpi_scale_trans)
    ax.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0, 0),
        bbox_transform=ax.transAxes + down,
        ncols=columns,
        fontsize=size,
        frameon=False,
        handlelength=1,
        handletextpad=0.5,
        columnspacing=1.2,
        borderaxespad=0,
        borderpad=0,
    )


def _is_upright(ax: Axes, names: Sequence[str], size: float) -> bool:
    """Whether names have to be turned to leave each a group's room."""
    return LETTER * size * _letters(names) > 0.95 * box_size(ax)[0] / (len(names) + APART)


def _letters(names: Sequence[str]) -> int:
    return max(len(line) for name in names for line in name.split("\n"))


def _largest(ax: Axes, names: Sequence[str]) -> float:
    """Size of names that leaves each the room of a group, and the axes some width and height."""
    width, height = box_size(ax)
    return min(0.9 * width / len(names), width / 12, height / 5)


def _resize(axes: NDArray[np.object_], names: Sequence[str], heading: Text, handles: list[Artist], size: float) -> None:
    upright = _is_upright(axes[-1], names, size)
    for axis in axes:
        axis.tick_params(labelsize=size)
        room = box_size(axis)[1] / (LETTER * max(len(axis.get_ylabel()), 1))
        axis.yaxis.label.set_fontsize(min(font_size("axes.labelsize"), 1.1 * size, room))
    if upright:
        names = [name.replace("\n", " ") for name in names]
    axes[-1].set_xticks(axes[-1].get_xticks(), names, rotation=90 if upright else 0)
    heading.set_fontsize(min(font_size("axes.titlesize"), 1.2 * size))
    lines = _letters(names) * LETTER if upright else 1.2 * (1 + max(name.count("\n") for name in names))
    _place_legend(axes[-1], handles, min(font_size("legend.fontsize"), size), lines * size + 10)
