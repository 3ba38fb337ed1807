"""How well each cell type was predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histocell import get
from histocell._core import keys
from histocell._core.errors import listing
from histocell.pl._style import MUTED, PALETTE, finish, new_axes, styled
from histocell.tables.access import get_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes

    from histocell.tables.access import Data

MEAN = "mean"
BASELINES = ("ridge", "mean")
NAMES = {"mean": "training mean"}  # of models, where their own could be taken for something else
ALL = "all"  # the group that stands for all of them
LABELS = {
    "cc": "CC with the measured abundance",
    "cc_per_slide": "CC within sections",
    "l1": "mean absolute error",
    "coverage": "share of measured values in the interval",
}


def scores(
    data: Data,
    *,
    key: str = keys.EVALUATION,
    metric: str = "cc",
    models: str | Sequence[str] | None = None,
    group: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    table_key: str | None = None,
) -> Axes | None:
    """Show the score of each cell type with its bootstrap interval, the model beside its baselines.

    Cell types are sorted by the model's score, their mean stands on top. A score that is undefined, such as the
    correlation with a constant, is named and not drawn.

    Parameters
    ----------
    data
        Reads ``uns[key]``, the tidy table of ``hc.tl.evaluate_abundance`` (see ``hc.get.scores``); for the coverage
        also what share of values the intervals of ``predicted_abundance`` promise.
    key
        Slot of the scores.
    metric
        ``"cc"``, ``"cc_per_slide"``, ``"l1"`` or ``"coverage"``.
    models
        Which models to show; all by default.
    group
        Which held-out group to show; by default their mean, each of them as a tick beside it.
    figsize
        Width and height of a new figure in inches.
    ax
        Axes to draw on.
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
        If the table holds no such metric, model or group.
    """
    adata = get_table(data, table_key)
    table = get.scores(adata, key)
    table = _select(table, "metric", metric)
    if models is not None:
        table = _select(table, "model", models)
    table, single, title = _by_group(table, group)
    names = _model_order(table["model"])
    undefined = [name for name in names if not np.isfinite(_of(table, name)["value"].astype(float)).any()]
    drawn = [name for name in names if name not in undefined]
    types = _type_order(_of(table, (drawn or names)[0]), metric)
    with styled(ax is None):
        axis = new_axes(figsize or (4.4, 0.75 + 0.21 * (len(types) + 1))) if ax is None else ax
        for index, name in enumerate(drawn):
            color = MUTED if name == MEAN and len(names) > 1 else PALETTE[index % len(PALETTE)]
            offset = 0.0 if len(drawn) == 1 else 0.44 * (index / (len(drawn) - 1) - 0.5)
            _draw_model(
                axis,
                _of(table, name),
                _of(single, name),
                types,
                offset=offset,
                color=color,
                label=NAMES.get(name, name),
            )
        if metric == "coverage" and (level := keys.read_provenance(adata, keys.PREDICTED).get("interval")):
            axis.axvline(level, color="0.4", linewidth=0.8, linestyle=":", label=f"promised: {level:.0%}", zorder=1)
        _dress(axis, types, metric, undefined)
        _name_undefined(axis, table[table["model"].astype(str).isin(drawn)], types)
        axis.set_title(title, loc="left")
    return finish(axis, created=ax is None, show=show)


def _select(table: pd.DataFrame, column: str, wanted: str | Sequence[str]) -> pd.DataFrame:
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    there = table[column].astype(str)
    absent = [name for name in names if name not in set(there)]
    if absent:
        msg = f"{column} {listing(absent)} not found in the scores; available: {listing(there.unique())}"
        raise ValueError(msg)
    return table[there.isin(names)]


def _by_group(table: pd.DataFrame, group: str | None) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """The rows to draw, those of the single groups beside them, and a title."""
    labels = table["group"].astype(str)
    names = [name for name in labels.unique() if name != ALL]
    if group is None and ALL not in set(labels) and len(names) > 1:
        msg = f"the scores are of {len(names)} groups; choose one with group=: {listing(names)}"
        raise ValueError(msg)
    if group is None:
        group = ALL if ALL in set(labels) else names[0]
    drawn = _select(table, "group", group)
    single = table[labels != ALL] if group == ALL and len(names) > 1 else table[:0]
    title = f"mean of {len(names)} groups" if len(single) else names[0] if group == ALL and names else "one group" if group == ALL else group
    return drawn, single, f"{title}, {drawn['n_spots'].max():,} spots" if "n_spots" in drawn else title


def _of(table: pd.DataFrame, model: str) -> pd.DataFrame:
    return table[table["model"].astype(str) == model]


def _model_order(column: pd.Series) -> list[str]:
    """As they come, the baselines last."""
    names = list(column.astype(str).unique())
    return [name for name in names if name not in BASELINES] + [name for name in BASELINES if name in names]


def _type_order(table: pd.DataFrame, metric: str) -> list[str]:
    """Cell types from best to worst, undefined ones last; their mean first."""
    values = table.set_index(table["cell_type"].astype(str))["value"].astype(float)
    types = values.drop(MEAN, errors="ignore").sort_values(ascending=metric == "l1", na_position="last", kind="stable")
    return ([MEAN] if MEAN in values else []) + list(types.index)


def _draw_model(
    ax: Axes, table: pd.DataFrame, single: pd.DataFrame, types: list[str], *, offset: float, color: str, label: str
) -> None:
    places = {name: place + offset for place, name in enumerate(types)}
    y, value = table["cell_type"].astype(str).map(places), table["value"].astype(float)
    low, high = (table[side].astype(float) if side in table else value for side in ("low", "high"))
    known = np.isfinite(value) & np.isfinite(low) & np.isfinite(high)
    ax.hlines(y[known], low[known], high[known], color=color, linewidth=1.1, alpha=0.75)
    ax.plot(value, y, "o", color=color, markersize=4, markeredgewidth=0, label=label)
    if len(single):
        ax.plot(
            single["value"].astype(float),
            single["cell_type"].astype(str).map(places),
            "|",
            color=color,
            markersize=5,
            alpha=0.6,
            zorder=1,
        )


def _dress(ax: Axes, types: list[str], metric: str, undefined: list[str]) -> None:
    """Names, a rule below the mean, a line where nothing was learnt, and what could not be drawn."""
    ax.set_yticks(range(len(types)), ["mean of types" if name == MEAN else name for name in types])
    ax.set_ylim(len(types) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color="0.92", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines["left"].set_visible(False)
    if types and types[0] == MEAN:
        ax.get_yticklabels()[0].set_fontweight("bold")
        ax.axhspan(-0.5, 0.5, color="0.96", zorder=0)
    if metric in {"cc", "cc_per_slide"}:
        ax.axvline(0, color="0.4", linewidth=0.8, zorder=1)
    elif metric == "l1":
        ax.set_xlim(left=0)
    ax.set_xlabel(LABELS.get(metric, metric))
    for name in undefined:
        ax.plot([], [], " ", label=f"{NAMES.get(name, name)}: undefined")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handletextpad=0.3)


def _name_undefined(ax: Axes, table: pd.DataFrame, types: list[str]) -> None:
    """Say which cell types no model has a score for."""
    defined = set(table["cell_type"].astype(str)[np.isfinite(table["value"].to_numpy(dtype=float))])
    across = ax.get_yaxis_transform()
    plain = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    for place, name in enumerate(types):
        if name not in defined:
            ax.text(0.02, place, "undefined", transform=across, va="center", color=MUTED, fontsize="small", bbox=plain)
