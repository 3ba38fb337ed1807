"""Encoders by tasks: the score of each as a number and a colour, with its interval."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from histocell._core.arguments import as_names
from histocell._core.errors import listing
from histocell.pl._choices import choose
from histocell.pl._fit import box_size, fit, font_size
from histocell.pl._scores.table import ALL, MEAN, interval_names
from histocell.pl._style import finish, one_axes, styled, text_scale

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    class HasScores(Protocol):
        """What holds a table of scores, such as the result of `histocell.bench.compare_encoders`."""

        scores: pd.DataFrame


METRICS = dict.fromkeys(("pearson", "cc"), "Pearson correlation")
_NEEDED = ("task", "model", "features", "group", "metric", "value", "low", "high")
_TARGETS = ("gene", "target", "cell_type")
_DARK = 0.55  # of the colour map, from which on numbers are white


def probe(
    data: pd.DataFrame | HasScores,
    *,
    metric: str | None = None,
    tasks: str | Sequence[str] | None = None,
    encoders: str | Sequence[str] | None = None,
    intervals: bool = True,
    cmap: str = "viridis",
    title: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
) -> Axes | None:
    """Show the scores of encoders in tasks: a row for each encoder, a column for each task, the best of a column bold.

    Parameters
    ----------
    data
        The table of `histocell.bench.probe`, the result of `histocell.bench.compare_encoders`, or several of them in one
        data frame.
    metric
        By default correlations: ``"pearson"`` of probes, ``"cc"`` of other tasks.
    tasks, encoders
        Which to show, in this order; all by default.
    intervals
        Whether the bounds stand under the scores.
    cmap
        Name of a colour map.
    title
        By default the metric.
    figsize
        Width and height of a new figure in inches.
    ax
        Axes to draw on; they shrink to make room for names.
    show
        Whether to show the figure; by default if it is new and matplotlib is interactive.

    Returns
    -------
    The axes; nothing if `show` is `True`. A score that is not defined, or not there, is grey.

    Raises
    ------
    ValueError
        If it is no table of probes, or holds no such metric, task or encoder.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(3, n_patients=3, size_px=600, spot_pitch_um=50, rng=0)
    >>> hc.pp.patches(sdata)
    >>> hc.pp.embed_image(sdata, "morphology")
    >>> scores = hc.bench.probe(sdata, protocol=["hest-no-pca", "hest-cv-no-pca"], genes=20, n_bootstrap=100)
    >>> ax = hc.pl.probe(scores, show=False)
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['morphology, hest-no-pca', 'morphology, hest-cv-no-pca']
    """
    table = _means(data, metric)
    rows, columns = _choices(table, encoders, tasks)
    with styled(ax is None):
        size = ((1.1 * len(columns) + 2.4) * text_scale(), (0.42 * len(rows) + 1.1) * text_scale())
        axis = one_axes(ax, figsize or size)
        _draw(axis, table, rows, columns, cmap, intervals=intervals)
        names = list(dict.fromkeys(METRICS.get(name, name) for name in table["metric"]))
        axis.set_title(" or ".join(names) if title is None else title, loc="left")
        if intervals and (bounds := interval_names(table)):
            axis.set_xlabel(bounds)
        fit([axis], lambda points: _resize(axis, points), lambda: _largest(axis, len(rows)))
    return finish(axis, created=ax is None, show=show)


def _means(data: pd.DataFrame | HasScores, metric: str | None) -> pd.DataFrame:
    """One row for each run and task, with the column ``run``."""
    table = data if isinstance(data, pd.DataFrame) else getattr(data, "scores", None)
    absent = list(_NEEDED) if not isinstance(table, pd.DataFrame) else [name for name in _NEEDED if name not in table]
    if table is None or absent or not any(name in table for name in _TARGETS):
        msg = f"this is no table of probes: column {listing(absent or _TARGETS)} not found; hc.bench.probe and hc.bench.compare_encoders make one"
        raise ValueError(msg)
    target = table[[name for name in _TARGETS if name in table]].bfill(axis=1).iloc[:, 0]
    table = table[(table["group"] == ALL) & (target == MEAN)]
    known = list(dict.fromkeys(table["metric"]))
    wanted = (
        [name for name in METRICS if name in known]
        if metric is None
        else choose(metric, known, "metric", error=ValueError)
    )
    table = table[table["metric"].isin(wanted)]
    # of a task with several correlations the first
    first = table.groupby("task", sort=False)["metric"].transform("first")
    table = table[table["metric"] == first]
    encoders = table["features"].astype(str).str.removeprefix("X_")
    per_task = table.groupby("task")["model"].nunique().max()
    runs = encoders if per_task < 2 else encoders + ", " + table["model"].astype(str)
    table = table.assign(run=runs, encoder=encoders)
    if table.empty or (twice := table.duplicated(["run", "task"])).any():
        what = (
            f"several scores of {table['run'][twice].iloc[0]!r} for one task"
            if len(table)
            else "no score over all groups"
        )
        msg = f"the table has {what}"
        raise ValueError(msg)
    return table


def _choices(
    table: pd.DataFrame, encoders: str | Sequence[str] | None, tasks: str | Sequence[str] | None
) -> tuple[list[str], list[str]]:
    runs, columns = list(dict.fromkeys(table["run"])), list(dict.fromkeys(table["task"]))
    if tasks is not None:
        columns = choose(tasks, columns, "task", error=ValueError)
    if encoders is not None:
        there = list(dict.fromkeys(table["encoder"]))
        chosen = choose([name.removeprefix("X_") for name in as_names(encoders)], there, "encoder", error=ValueError)
        of_run = dict(zip(table["run"], table["encoder"], strict=True))
        runs = [run for name in chosen for run in runs if of_run[run] == name]
    return runs, columns


def _draw(axis: Axes, table: pd.DataFrame, rows: list[str], columns: list[str], cmap: str, *, intervals: bool) -> None:
    cells = table.set_index(["run", "task"])
    order = pd.MultiIndex.from_product([rows, columns])
    numbers = (
        cells[["value", "low", "high"]].astype(float).reindex(order).to_numpy().reshape(len(rows), len(columns), 3)
    )
    values = numbers[..., 0]
    known = values[np.isfinite(values)]
    least, most = (known.min(), known.max()) if len(known) else (0.0, 1.0)
    room = max(most - least, 0.02)
    colors = plt.get_cmap(cmap)
    axis.imshow(
        values, cmap=colors, vmin=least - 0.1 * room, vmax=most + 0.1 * room, aspect="auto", interpolation="nearest"
    )
    best = np.where(np.isfinite(values), values, -np.inf).max(axis=0)
    for (y, x), value in np.ndenumerate(values):
        if not np.isfinite(value):
            continue
        low, high = numbers[y, x, 1:]
        is_best = len(rows) > 1 and np.round(value, 3) == np.round(best[x], 3)
        red, green, blue, _ = colors((value - least + 0.1 * room) / (1.2 * room))
        ink = "white" if 0.3 * red + 0.59 * green + 0.11 * blue < _DARK else "black"
        weight = "bold" if is_best else "normal"
        bounded = intervals and np.isfinite(low)
        axis.text(x, y, f"{value:.3f}", va="bottom" if bounded else "center", ha="center", color=ink, weight=weight)
        if bounded:
            axis.text(x, y, f"{low:.2f} to {high:.2f}", va="top", gid="bounds", ha="center", color=ink)
    axis.set_xticks(range(len(columns)), columns)
    axis.set_yticks(range(len(rows)), rows)
    axis.tick_params(length=0)
    axis.set(facecolor="0.85")
    axis.spines[:].set_visible(False)


def _largest(axis: Axes, n_rows: int) -> float:
    return 0.42 * box_size(axis)[1] / n_rows


def _resize(axis: Axes, size: float) -> None:
    width, height = box_size(axis)
    wide = width / max(len(axis.get_xticks()), 1)
    axis.tick_params(labelsize=size)
    letters = max((len(label.get_text()) for label in axis.get_xticklabels()), default=1)
    axis.tick_params(axis="x", rotation=90 if 0.6 * size * letters > wide else 0)
    axis.set_title(axis.get_title("left"), loc="left", fontsize=min(font_size("axes.titlesize"), 1.15 * size))
    axis.xaxis.label.set_fontsize(min(font_size("axes.labelsize"), size))
    tall = height / max(len(axis.get_yticks()), 1)
    for text in axis.texts:
        share = 0.36 if text.get_gid() == "bounds" else 0.42
        text.set_fontsize(max(min(size, share * tall, 1.6 * wide / max(len(text.get_text()), 5)), 1))
