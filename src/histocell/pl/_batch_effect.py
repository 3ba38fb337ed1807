"""Plot of what embeddings show of the batch, beside what they show of biology."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from histocell._core import keys
from histocell._core.arguments import as_names
from histocell._core.errors import listing, missing_key
from histocell.pl._style import MUTED, check_axes, colors_of, finish, styled, text_scale
from histocell.tables.access import get_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.typing import ColorType
    from numpy.typing import NDArray

    from histocell.pl._style import Palette
    from histocell.tables.access import Data

_TITLES = {"ari": "adjusted Rand index", "ami": "adjusted mutual information", "neighbors": "alike neighbours"}
_COLUMNS = {"embedding", "metric", "clusters", "against", "value", "low", "high"}


def batch_effect(
    data: Data | Mapping[str, pd.DataFrame],
    *,
    key: str = keys.BATCH_EFFECT,
    metric: str | Sequence[str] = ("ari", "neighbors"),
    palette: Palette | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    table_key: str | None = None,
) -> NDArray[np.object_] | None:
    """Show each embedding by how much it shows of the batch (to the right) and of biology (upwards).

    A good encoder lies at the top left; one that collapsed lies at the origin; on the dashed line both count as much. Lines are
    the intervals over groups. A cross is k-means, a circle Leiden or neighbours.

    Parameters
    ----------
    data
        Reads ``uns[key]`` of `histocell.tl.batch_effect`; or such a result itself.
    key
        Slot of ``uns``.
    metric
        One or several of ``"ari"``, ``"ami"`` and ``"neighbors"``, each on axes of its own.
    palette
        Colours of the embeddings: by name, a list, or the name of a colour map.
    figsize
        Width and height of a new figure in inches.
    ax
        Axes to draw on, one for each metric.
    show
        Whether to show the figure; by default if it is new and matplotlib is interactive.
    table_key
        The table of a SpatialData that has several.

    Returns
    -------
    The axes, an array; nothing if `show` is `True`.

    Raises
    ------
    KeyError
        If the slot is not there.
    ValueError
        If the scores hold no such metric, or are of something else.

    Examples
    --------
    >>> import pandas as pd
    >>> import histocell as hc
    >>> columns = ["embedding", "metric", "clusters", "against", "value", "low", "high"]
    >>> rows = [
    ...     ["X_uni", "neighbors", "", against, value, 0, 1] for against, value in (("batch", 0.2), ("biology", 0.6))
    ... ]
    >>> axes = hc.pl.batch_effect({"scores": pd.DataFrame(rows, columns=columns)}, metric="neighbors", show=False)
    >>> axes[0].get_title()
    'alike neighbours'
    """
    scores = _read(data, key, table_key)
    metrics = as_names(metric)
    if unknown := [name for name in metrics if name not in _TITLES or name not in set(scores["metric"])]:
        there = [name for name in _TITLES if name in set(scores["metric"])]
        msg = f"metric {listing(unknown)} is not there; available: {listing(there)}"
        raise ValueError(msg)
    colors = colors_of(list(dict.fromkeys(scores["embedding"].astype(str))), palette)
    with styled(ax is None):
        if ax is None:
            scale = text_scale()
            size = figsize or ((2.6 * len(metrics) + 1.3) * scale, 2.7 * scale)
            axes = plt.subplots(1, len(metrics), figsize=size, layout="constrained", squeeze=False)[1][0]
        else:
            axes = check_axes(ax, (len(metrics),), f"{listing(metrics)}: each metric needs one")
        for axis, name in zip(axes, metrics, strict=True):
            _draw(axis, scores[scores["metric"] == name], colors)
            axis.set_title(_TITLES[name])
        axes[0].set_ylabel("of biology")
        axes[-1].legend(loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0, frameon=False)
    return finish(axes, created=ax is None, show=show)


def _read(data: Data | Mapping[str, pd.DataFrame], key: str, table_key: str | None) -> pd.DataFrame:
    result: object = data
    if not isinstance(data, dict):
        table = get_table(data, table_key)
        if key not in table.uns:
            raise missing_key("uns", key, table.uns, "Run hc.tl.batch_effect(data, ...) first.")
        result = table.uns[key]
    scores = result.get("scores") if hasattr(result, "get") else None
    if not isinstance(scores, pd.DataFrame) or not set(scores.columns) >= _COLUMNS:
        msg = f"this is no result of hc.tl.batch_effect, whose scores have the columns {listing(sorted(_COLUMNS))}"
        raise ValueError(msg)
    return scores


def _draw(ax: Axes, scores: pd.DataFrame, colors: dict[str, ColorType]) -> None:
    highest = 0.0
    for name, color in colors.items():
        own = scores[scores["embedding"].astype(str) == name]
        for clusters, some in own.groupby("clusters", observed=True):
            batch, biology = (some[some["against"] == what].iloc[0] for what in ("batch", "biology"))
            x, y = float(batch["value"]), float(biology["value"])
            for each, horizontal in ((batch, True), (biology, False)):
                if np.isfinite(each["low"]):
                    ends = [each["low"], each["high"]]
                    ax.plot(*((ends, [y, y]) if horizontal else ([x, x], ends)), color=color, linewidth=1)
            ax.plot(
                x,
                y,
                "x" if clusters == "kmeans" else "o",
                color=color,
                markersize=5,
                label=name if clusters in {"", "leiden"} or len(own) <= 4 else None,
            )
            highest = max(highest, x, y, *(each["high"] for each in (batch, biology) if np.isfinite(each["high"])))
    top = min(1.0, 1.15 * highest + 0.05)
    ax.plot([0, top], [0, top], "--", color=MUTED, linewidth=0.8, zorder=0)
    shown = scores.loc[scores["against"].isin(["batch", "biology"]), "value"]
    low = min(-0.03 * top, float(shown.min()))
    ax.set(xlim=(low, top), ylim=(low, top), xlabel="of the batch", aspect="equal")
