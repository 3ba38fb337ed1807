"""How well each cell type was predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histocell import get
from histocell._core import keys
from histocell._core.access import get_table
from histocell._core.errors import listing
from histocell.pl._style import MUTED, PALETTE, finish, new_axes, styled

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from histocell._core.access import Data

    type Floats = NDArray[np.float64]

MEAN = "mean"
BASELINES = ("ridge", "mean")
NAMES = {"mean": "training mean"}  # of models, where their own could be taken for something else
POOLED = ("all", "pooled", "mean", "overall")
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
        Reads ``uns[key]``, the tidy table of ``hc.tl.evaluate_abundance`` (see ``hc.get.scores``).
    key
        Slot of the scores.
    metric
        ``"cc"``, ``"cc_per_slide"``, ``"l1"`` or ``"coverage"``.
    models
        Which models to show; all by default.
    group
        Which held-out group to show. By default the pooled one or the only one; else the mean over groups, each group
        as a small dot.
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
    table = get.scores(get_table(data, table_key), key)
    table = _select(table, "metric", metric)
    if models is not None:
        table = _select(table, "model", models)
    table, title = _one_group(table, group)
    names = _model_order(table["model"])
    undefined = [name for name in names if not np.isfinite(_of(table, name)["value"].astype(float)).any()]
    drawn = [name for name in names if name not in undefined]
    types = _type_order(_of(table, (drawn or names)[0]), metric)
    with styled(ax is None):
        axis = new_axes(figsize or (4.4, 0.75 + 0.21 * (len(types) + 1))) if ax is None else ax
        for index, name in enumerate(drawn):
            color = MUTED if name == MEAN and len(names) > 1 else PALETTE[index % len(PALETTE)]
            offset = 0.0 if len(drawn) == 1 else 0.44 * (index / (len(drawn) - 1) - 0.5)
            _draw_model(axis, _of(table, name), types, offset=offset, color=color, label=NAMES.get(name, name))
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


def _one_group(table: pd.DataFrame, group: str | None) -> tuple[pd.DataFrame, str]:
    """The rows of one group and a title; all groups where none of them stands for the rest."""
    names = list(table["group"].astype(str).unique())
    if group is None:
        group = names[0] if len(names) == 1 else next((name for name in POOLED if name in names), None)
    if group is None:
        return table, f"mean of {len(names)} groups"
    table = _select(table, "group", group)
    n_spots = table["n_spots"].astype(float).max() if "n_spots" in table else np.nan
    return table, f"{group}, {n_spots:.0f} spots" if np.isfinite(n_spots) else group


def _of(table: pd.DataFrame, model: str) -> pd.DataFrame:
    return table[table["model"].astype(str) == model]


def _model_order(column: pd.Series) -> list[str]:
    """As they come, the baselines last."""
    names = list(column.astype(str).unique())
    return [name for name in names if name not in BASELINES] + [name for name in BASELINES if name in names]


def _type_order(table: pd.DataFrame, metric: str) -> list[str]:
    """Cell types from best to worst, undefined ones last; their mean first."""
    values = table.assign(value=table["value"].astype(float)).groupby(table["cell_type"].astype(str), sort=False)
    means = values["value"].mean()
    types = means.drop(MEAN, errors="ignore").sort_values(ascending=metric == "l1", na_position="last", kind="stable")
    return ([MEAN] if MEAN in means else []) + list(types.index)


def _draw_model(ax: Axes, table: pd.DataFrame, types: list[str], *, offset: float, color: str, label: str) -> None:
    places = {name: place for place, name in enumerate(types)}
    y = np.array([places[name] + offset for name in table["cell_type"].astype(str)])
    value = table["value"].to_numpy(dtype=float)
    several = table["group"].astype(str).nunique() > 1
    if several:
        ax.plot(value, y, ".", color=color, alpha=0.4, markersize=3, markeredgewidth=0)
        means = table.assign(value=value, y=y).groupby("y")["value"].mean()
        y, value = means.index.to_numpy(), means.to_numpy()
    else:
        low, high = (_bound(table, side) for side in ("low", "high"))
        known = np.isfinite(value) & np.isfinite(low) & np.isfinite(high)
        ax.hlines(y[known], low[known], high[known], color=color, linewidth=1.1, alpha=0.75)
    ax.plot(value, y, "o", color=color, markersize=4, markeredgewidth=0, label=label)


def _bound(table: pd.DataFrame, side: str) -> Floats:
    return table[side].to_numpy(dtype=float) if side in table else np.full(len(table), np.nan)


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
