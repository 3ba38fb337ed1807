"""Scores of each cell type with their intervals."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.lines import Line2D

from histocell._core import keys
from histocell._core.errors import listing
from histocell.pl._fit import box_size, fit, resize_text
from histocell.pl._scores.table import (
    ALL,
    LABELS,
    MEAN,
    NAMES,
    OF_CELLS,
    RUN,
    interval_names,
    promised,
    read,
    run_colors,
    run_names,
    select,
)
from histocell.pl._style import MUTED, finish, one_axes, styled, text_scale

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.legend import Legend
    from matplotlib.text import Text
    from matplotlib.typing import ColorType

    from histocell.pl._style import Palette
    from histocell.tables.access import Data


def scores(
    data: Data | pd.DataFrame,
    *,
    key: str = keys.EVALUATION,
    metric: str = "cc",
    models: str | Sequence[str] | None = None,
    features: str | Sequence[str] | None = None,
    group: str | None = None,
    palette: Palette | None = None,
    title: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    table_key: str | None = None,
) -> Axes | None:
    """Show the score of each cell type with its interval, the model beside its baselines.

    Cell types are sorted by the model's score, their mean stands on top. The legend says what the lines are: a 95 %
    interval over groups or spots, or the range of fewer than five groups. A score that is undefined, such as the
    correlation with a constant, is named and not drawn.

    Parameters
    ----------
    data
        Reads ``uns[key]``, the tidy table of ``hc.tl.evaluate_abundance`` (see ``hc.get.scores``); for the coverage
        also what share of values the intervals of ``predicted_abundance`` promise. Or such a table itself, as
        ``hc.bench.leave_one_group_out`` and ``hc.bench.cross_dataset`` return it.
    key
        Slot of the scores.
    metric
        ``"cc"``, ``"cc_per_slide"``, ``"l1"`` or ``"coverage"``; of cell types, with ``key="cell_type_evaluation"``,
        ``"f1"``, ``"precision"``, ``"recall"``, ``"accuracy"``, ``"calibration_error"`` or ``"called"``.
    models
        Which models to show; all by default.
    features
        Which features to show, where the table of a benchmark holds several; all by default.
    group
        Which held-out group to show; by default their mean, each of them as a tick beside it.
    palette
        Colours of the models (as the legend names them): by name, a list, or the name of a colour map. By default a mean beside others is grey.
    title
        By default the group, or the number of groups, and how many spots were scored.
    figsize
        Width and height of a new figure in inches.
    ax
        Axes to draw on; they shrink to make room for names and legend.
    show
        Whether to show the figure; by default if it is new and matplotlib is interactive.
    table_key
        The table of a SpatialData that has several.

    Returns
    -------
    The axes; nothing if `show` is `True`.

    Raises
    ------
    KeyError
        If the slot is not there.
    ValueError
        If the table holds no such metric, model or group, or two runs of one name, or the data frame is no table of scores.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(3, n_patients=3, size_px=600)
    >>> hc.pp.patches(sdata)
    >>> hc.pp.embed_image(sdata, "morphology")
    >>> hc.pp.split(sdata, by="patient", test=["P3"])
    >>> hc.tl.fit_abundance(sdata, "X_morphology", model="ridge")
    >>> hc.tl.predict_abundance(sdata)
    >>> hc.tl.evaluate_abundance(sdata)
    >>> ax = hc.pl.scores(sdata, metric="l1")
    >>> ax.get_xlabel()
    'mean absolute error'
    """
    table = read(data, key, table_key, models=models, features=features)
    of_genes = table.attrs["target"] == "gene"
    table = select(table, "metric", metric)
    table, single, caption = _by_group(table, group)
    names = run_names(table)
    by_model = {name: table[table[RUN] == name] for name in names}
    drawn = [name for name in names if np.isfinite(by_model[name]["value"]).any()]
    types = _type_order(by_model[(drawn or names)[0]], metric)
    with styled(ax is None):
        own = figsize or (4.4 * text_scale(), (1.0 + 0.21 * (len(types) + 1)) * text_scale())
        axis = one_axes(ax, own)
        colors = run_colors(drawn, palette, is_only=len(names) == 1)
        for index, name in enumerate(drawn):
            color = colors[name]
            offset = 0.0 if len(drawn) == 1 else 0.44 * (index / (len(drawn) - 1) - 0.5)
            y = {cell_type: position + offset for position, cell_type in enumerate(types)}
            _draw_scores(axis, by_model[name], y, color=color, label=NAMES.get(name, name))
            ticks = single[single[RUN] == name]
            if len(ticks):
                axis.plot(ticks["value"], ticks["cell_type"].map(y), "|", color=color, alpha=0.6, zorder=1)
        if metric == "coverage" and (level := promised(data, table_key)):
            axis.axvline(level, color=MUTED, linewidth=0.8, linestyle=":", label=f"promised: {level:.0%}", zorder=1)
        _label_axes(axis, types, metric, of_genes, [NAMES.get(name, name) for name in names if name not in drawn])
        _name_undefined(axis, table, types)
        heading = axis.set_title(caption if title is None else title, loc="right")
        legend = _legend(axis, table, has_groups=len(single) > 0)
        fit([axis], partial(_resize, axis, heading, legend), lambda: _largest(axis, len(types)))
    return finish(axis, created=ax is None, show=show)


def _by_group(table: pd.DataFrame, group: str | None) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """The rows to draw, those of the single groups beside them, and a title."""
    names = [name for name in table["group"].unique() if name != ALL]
    has_mean = ALL in set(table["group"])
    if group is None and not has_mean and len(names) > 1:
        msg = f"the scores are of {len(names)} groups; choose one with group=: {listing(names)}"
        raise ValueError(msg)
    if group is None:
        group = ALL if has_mean else names[0]
    drawn = select(table, "group", group)
    single = table[table["group"] != ALL] if group == ALL and len(names) > 1 else table[:0]
    title = group if group != ALL else f"mean of {len(names)} groups" if len(single) else [*names, "one group"][0]
    unit = "cells" if set(drawn["metric"]) <= OF_CELLS else "spots"
    return drawn, single, f"{title}, {drawn['n_spots'].max():,} {unit}" if "n_spots" in drawn else title


def _type_order(table: pd.DataFrame, metric: str) -> list[str]:
    """Cell types from best to worst, undefined ones last; their mean first."""
    values = table.set_index("cell_type")["value"].astype(float)
    types = values.drop(MEAN, errors="ignore").sort_values(ascending=metric == "l1", na_position="last", kind="stable")
    return ([MEAN] if MEAN in values else []) + list(types.index)


def _draw_scores(ax: Axes, table: pd.DataFrame, y: Mapping[str, float], *, color: ColorType, label: str) -> None:
    """Dots with their intervals, each at the height `y` of its cell type."""
    ends = table.reindex(columns=["value", "low", "high"]).astype(float)
    known = np.isfinite(ends).all(axis=1)
    height = table["cell_type"].map(y)
    ax.hlines(height[known], ends["low"][known], ends["high"][known], color=color, linewidth=1.1, alpha=0.75)
    ax.plot(ends["value"], height, "o", color=color, markersize=4, markeredgewidth=0, label=label)


def _label_axes(ax: Axes, types: list[str], metric: str, of_genes: bool, undefined: list[str]) -> None:
    """Names of the types, a band behind their mean, a line where nothing was learnt, and models without any score."""
    ax.set_yticks(
        range(len(types)), [f"mean of {'genes' if of_genes else 'types'}" if name == MEAN else name for name in types]
    )
    ax.set_ylim(len(types) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color=MUTED, alpha=0.25, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines["left"].set_visible(False)
    if types and types[0] == MEAN:
        ax.get_yticklabels()[0].set_fontweight("bold")
        ax.axhspan(-0.5, 0.5, color=MUTED, alpha=0.12, linewidth=0, zorder=0)
    if metric in {"cc", "cc_per_slide"}:
        ax.axvline(0, color=MUTED, linewidth=0.8, zorder=1)
    elif metric in LABELS and metric != "coverage" and "colocalization" not in metric:
        ax.set_xlim(left=0)
    note = f"\n(undefined for {listing(undefined)})" if undefined else ""
    label = "CC with the measured expression" if of_genes and metric == "cc" else LABELS.get(metric, metric)
    ax.set_xlabel(label + note, loc="right")  # what is long reaches under the names


def _name_undefined(ax: Axes, table: pd.DataFrame, types: list[str]) -> None:
    """Name the cell types for which no model has a score."""
    defined = set(table["cell_type"][np.isfinite(table["value"].astype(float))])
    box = {"facecolor": ax.get_facecolor(), "edgecolor": "none", "pad": 1}
    across = ax.get_yaxis_transform()
    for position, name in enumerate(types):
        if name not in defined:
            ax.text(0.02, position, "undefined", transform=across, va="center", color=MUTED, bbox=box)


def _legend(ax: Axes, table: pd.DataFrame, *, has_groups: bool) -> Legend:
    """Models, and what lines and ticks are; under the axes."""
    handles: list[Artist] = list(ax.get_legend_handles_labels()[0])
    if name := interval_names(table):
        handles.append(Line2D([], [], color=MUTED, linewidth=1.1, label=name))
    if has_groups:
        handles.append(Line2D([], [], color=MUTED, linestyle="none", marker="|", markersize=5, label="each group"))
    return ax.legend(handles=handles, loc="upper right", ncols=2, frameon=False, handletextpad=0.4, borderaxespad=0)


def _largest(ax: Axes, n_types: int) -> float:
    """Size of names that leave each a row, and the axes some width."""
    width, height = box_size(ax)
    return min(0.95 * height / n_types, width / 12)


def _resize(ax: Axes, heading: Text, legend: Legend, size: float) -> None:
    resize_text(ax, legend, heading, size)
    for text in ax.texts:
        text.set_fontsize(size)
    for line in ax.lines:  # beside those of other models
        line.set_markersize(min(4, 0.5 * size))
