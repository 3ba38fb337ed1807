"""Reliability diagram of predicted types of cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histocell import metrics
from histocell._core import keys
from histocell._core.arguments import check_count
from histocell.pl._cells.predictions import Predictions, read
from histocell.pl._fit import box_size, fit, font_size
from histocell.pl._scores.table import NAMES
from histocell.pl._style import MUTED, PALETTE, finish, one_axes, styled, text_scale
from histocell.tables.access import get_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes

    from histocell.tables.access import Data


def reliability(
    data: Data,
    *,
    key: str = keys.PREDICTED_TYPE,
    target: str | None = None,
    n_bins: int = 10,
    baselines: bool = True,
    title: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    table_key: str | None = None,
) -> Axes | None:
    """Show how often predicted types are right, beside how confident the model was.

    On the diagonal, confidence means what it says; below it, the model is too sure. The legend has the expected calibration
    error, in 15 bins. The grey bars are the shares of the
    cells in each bin. Rows of ``obs["split"] == "test"`` count where there are any, else all; cells that are ``unsure``
    do not.

    Parameters
    ----------
    data
        Reads ``obs[key]``, ``obsm[key + "_probability"]``, ``obs[target]`` and, where it is there, ``obs["split"]``.
    key
        Column of the predictions.
    target
        Column of the true types; by default the one that the model was fitted on.
    n_bins
        Number of bins of equal width, from 0 to 1.
    baselines
        Whether the baselines are drawn, too.
    title
        By default the number of cells, and whether they served to train.
    figsize
        Width and height of a new figure in inches.
    ax
        Axes to draw on; they shrink to make room for names.
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
        If a slot is not there.
    ValueError
        If no cell has a label and a prediction.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(3, n_patients=3, size_px=400, rng=0)
    >>> hc.pp.embed_genes(sdata, "pca", table_key="cell_table")
    >>> hc.pp.split(sdata, by="section", test="P3S1", table_key="cell_table")
    >>> hc.tl.fit_cell_types(sdata, "X_pca_genes", model="logistic", table_key="cell_table")
    >>> hc.tl.predict_cell_types(sdata, table_key="cell_table")
    >>> ax = hc.pl.reliability(sdata, table_key="cell_table", show=False)
    >>> ax.get_xlabel()
    'confidence'
    """
    check_count(n_bins, "n_bins", least=1)
    found = read(data, key, target, table_key)
    recorded = keys.read_provenance(get_table(data, table_key), key)
    shown = {str(recorded.get("model", key)): found}
    for name in recorded.get("baselines", []) if baselines else []:
        shown[name] = read(data, f"{key}_{name}", target or recorded.get("target"), table_key)
    with styled(ax is None):
        axis = one_axes(ax, figsize or (4.8 * text_scale(), 2.9 * text_scale()))
        _draw(axis, shown, n_bins)
        axis.set_title(found.caption if title is None else title, loc="left")
        fit([axis], lambda size: _resize(axis, size), lambda: box_size(axis)[1] / 14)
    return finish(axis, created=ax is None, show=show)


def _draw(axis: Axes, shown: Mapping[str, Predictions], n_bins: int) -> None:
    """The curve of each model, the first one before the others, and the shares of its cells."""
    tables = {name: metrics.reliability(each.truth, each.probability, n_bins=n_bins) for name, each in shown.items()}
    first = next(iter(tables.values()))
    edges = np.arange(n_bins) / n_bins
    share = first[:, 0] / max(first[:, 0].sum(), 1)
    axis.bar(edges, share, 1 / n_bins, align="edge", color="0.88", label="share of the cells", zorder=0)
    axis.plot([0, 1], [0, 1], ":", color=MUTED, linewidth=0.9, label="as promised")
    for index, (name, values) in enumerate(tables.items()):
        error = float(metrics.calibration_error(shown[name].truth, shown[name].probability)[0])
        width, size = (1.4, 3.5) if index == 0 else (0.9, 2.0)
        label = f"{NAMES.get(name, name)}, error {error:.3f}"
        there = np.isfinite(values[:, 1])
        axis.plot(
            *values[there, 1:].T,
            "o-",
            color=PALETTE[index % len(PALETTE)],
            label=label,
            linewidth=width,
            markersize=size,
        )
    axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="share that is right")
    axis.set_aspect("equal")
    axis.legend(loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False, borderaxespad=0)


def _resize(axis: Axes, size: float) -> None:
    axis.tick_params(labelsize=size)
    axis.set_title(axis.get_title("left"), loc="left", fontsize=min(font_size("axes.titlesize"), 1.15 * size))
    for label in (axis.xaxis.label, axis.yaxis.label):
        label.set_fontsize(min(font_size("axes.labelsize"), 1.15 * size))
    legend = axis.get_legend()
    for text in legend.get_texts() if legend else []:
        text.set_fontsize(min(font_size("legend.fontsize"), size))
