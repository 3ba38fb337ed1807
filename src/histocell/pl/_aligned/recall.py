"""Recall of the other view of a cell, by how many cells are looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from histocell._core import keys
from histocell._core.errors import listing, missing_key
from histocell.pl._style import MUTED, PALETTE, check_axes, finish, styled, text_scale
from histocell.tables.access import get_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from histocell.tables.access import Data

_TITLES = {"within": "among cells of the block", "across": "among cells of other blocks"}
_STYLES = {"image to genes": "-", "genes to image": "--"}
_CHANCE = "chance"
_COLUMNS = {"model", "direction", "gallery", "metric", "k", "value", "low", "high"}


def alignment_recall(
    data: Data | pd.DataFrame,
    *,
    key: str = keys.ALIGNMENT_EVALUATION,
    figsize: tuple[float, float] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    table_key: str | None = None,
) -> Axes | NDArray[np.object_] | None:
    """Show in how many cells the other view is among the k most similar, beside the linear alignment and chance.

    Parameters
    ----------
    data
        Reads ``uns[key]``, the table of `histocell.tl.evaluate_alignment`; or such a table itself.
    key
        Slot of the scores.
    figsize
        Width and height of a new figure in inches.
    ax
        Axes to draw on, one for each gallery (within blocks, across them).
    show
        Whether to show the figure; by default if it is new and matplotlib is interactive.
    table_key
        The table of a SpatialData that has several.

    Returns
    -------
    The axes, an array where there are two; nothing if `show` is `True`. Bands are the intervals of the table.

    Raises
    ------
    KeyError
        If the slot is not there.
    ValueError
        If the data frame is no such table.

    Examples
    --------
    >>> import pandas as pd
    >>> import histocell as hc
    >>> columns = ["model", "direction", "gallery", "metric", "k", "value", "low", "high"]
    >>> rows = [["cca", "image to genes", "within", f"recall@{k}", k, k / 20, k / 25, k / 15] for k in (1, 10)]
    >>> ax = hc.pl.alignment_recall(pd.DataFrame(rows, columns=columns), show=False)
    >>> ax.get_title()
    'among cells of the block'
    """
    table = _read(data, key, table_key)
    galleries = [name for name in _TITLES if name in set(table["gallery"])]
    with styled(ax is None):
        if ax is None:
            size = figsize or (2.7 * len(galleries) * text_scale(), 2.7 * text_scale())
            axes = plt.subplots(1, len(galleries), figsize=size, layout="constrained", sharey=True, squeeze=False)[1][0]
        else:
            axes = check_axes(ax, (len(galleries),), f"{listing(galleries)}: {len(galleries)} galleries need as many")
        for axis, gallery in zip(axes, galleries, strict=True):
            _draw(axis, table[table["gallery"] == gallery])
            axis.set_title(_TITLES[gallery])
        axes[0].set_ylabel("share of cells found")
        axes[0].legend(loc="upper left")
    return finish(axes[0] if len(axes) == 1 else axes, created=ax is None, show=show)


def _read(data: Data | pd.DataFrame, key: str, table_key: str | None) -> pd.DataFrame:
    if isinstance(data, pd.DataFrame):
        scores = data
    else:
        table = get_table(data, table_key)
        if key not in table.uns:
            raise missing_key("uns", key, table.uns, "Run hc.tl.evaluate_alignment(data) first.")
        scores = table.uns[key]
    if not isinstance(scores, pd.DataFrame) or not set(scores.columns) >= _COLUMNS:
        msg = f"this is no table of hc.tl.evaluate_alignment, which has the columns {listing(sorted(_COLUMNS))}"
        raise ValueError(msg)
    recall = scores[scores["metric"].astype(str).str.startswith("recall@")]
    if recall.empty:
        msg = "the table holds no recall"
        raise ValueError(msg)
    return recall


def _draw(ax: Axes, table: pd.DataFrame) -> None:
    models = [name for name in dict.fromkeys(table["model"].astype(str)) if name != _CHANCE]
    colors = dict(zip([*models, _CHANCE], [*PALETTE[: len(models)], MUTED], strict=False))
    for model, color in colors.items():
        for direction, style in _STYLES.items():
            rows = table[(table["model"] == model) & (table["direction"] == direction)].sort_values("k")
            if rows.empty or (model == _CHANCE and direction != "image to genes"):  # the same both ways
                continue
            label = model if model == _CHANCE else f"{model}, {direction}"
            dotted = ":" if model == _CHANCE else style
            ax.plot(
                rows["k"], rows["value"], dotted, color=color, label=label, marker="o", markersize=2.5, linewidth=1.2
            )
            if np.isfinite(rows["low"]).all():
                ax.fill_between(rows["k"], rows["low"], rows["high"], color=color, alpha=0.15, linewidth=0)
    ax.set(xscale="log", xlabel="cells looked at", ylim=(0, None))
    ax.set_ylim(top=min(1.0, ax.get_ylim()[1]))
    ks = sorted(set(table["k"]))
    ax.set_xticks(ks, [str(k) for k in ks])
    ax.minorticks_off()
