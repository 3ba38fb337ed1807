"""Confusion matrix of predicted types of cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np

from histocell import metrics
from histocell._core import keys
from histocell.pl._cells.predictions import read
from histocell.pl._fit import box_size, fit, font_size
from histocell.pl._style import AMOUNT, finish, one_axes, styled, text_scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

    from histocell._core.types import Floats
    from histocell.tables.access import Data

MOST_NUMBERS = 300  # cells of a matrix with a figure in each
NORMALIZED = {"true": "share of the cells of a type", "predicted": "share of the cells given a type", "none": "cells"}


def confusion(
    data: Data,
    *,
    key: str = keys.PREDICTED_TYPE,
    target: str | None = None,
    normalize: str = "true",
    cmap: str | Colormap = AMOUNT,
    title: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    table_key: str | None = None,
) -> Axes | None:
    """Show which types of cells are taken for which.

    Lines are true types, columns predicted ones. Rows of ``obs["split"] == "test"`` count where there are any, else all;
    cells that are ``unsure`` or without features have a column of their own, ``not called``, where there are any.

    Parameters
    ----------
    data
        Reads ``obs[key]``, ``obsm[key + "_probability"]``, ``obs[target]`` and, where it is there, ``obs["split"]``.
    key
        Column of the predictions; ``"predicted_cell_type_logistic"`` are those of a baseline.
    target
        Column of the true types; by default the one that the model was fitted on.
    normalize
        ``"true"``: shares of the cells of each true type, so that recall stands on the diagonal. ``"predicted"``: of the
        cells given each type, precision. ``"none"``: numbers of cells.
    cmap
        Colour map.
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
        If no cell has a label and a prediction, or for an unknown `normalize`.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(3, n_patients=3, size_px=400, rng=0)
    >>> hc.pp.embed_genes(sdata, "pca", table_key="cell_table")
    >>> hc.pp.split(sdata, by="section", test="P3S1", table_key="cell_table")
    >>> hc.tl.fit_cell_types(sdata, "X_pca_genes", model="logistic", table_key="cell_table")
    >>> hc.tl.predict_cell_types(sdata, table_key="cell_table")
    >>> ax = hc.pl.confusion(sdata, table_key="cell_table", show=False)
    >>> ax.get_ylabel()
    'true type'
    """
    if normalize not in NORMALIZED:
        msg = f"normalize must be one of {', '.join(NORMALIZED)}, not {normalize!r}"
        raise ValueError(msg)
    found = read(data, key, target, table_key)
    called = np.isfinite(found.probability).all(axis=1)
    counts, columns = metrics.confusion_matrix(found.truth, found.probability), list(found.names)
    if not called.all():
        counts, columns = np.column_stack([counts, found.truth[~called].sum(axis=0)]), [*columns, "not called"]
    with styled(ax is None):
        side = float(np.clip(0.34 * len(columns), 1.5, 7))
        axis = one_axes(ax, figsize or ((side + 1.9) * text_scale(), (side + 1.3) * text_scale()))
        values = _shares(counts, normalize)
        _draw(axis, values, plt.get_cmap(cmap), found.names, columns, normalize)
        axis.set_title(found.caption if title is None else title, loc="left")
        fit([axis], lambda size: _resize(axis, size), lambda: _largest(axis, values))
    return finish(axis, created=ax is None, show=show)


def _shares(counts: Floats, normalize: str) -> Floats:
    """The numbers to show; NaN in the line or column of a type without cells."""
    if normalize == "none":
        return counts
    whole = np.broadcast_to(counts.sum(axis=1 if normalize == "true" else 0, keepdims=True), counts.shape)
    return np.divide(counts, whole, out=np.full(counts.shape, np.nan), where=whole > 0)


def _draw(axis: Axes, values: Floats, cmap: Colormap, names: list[str], columns: list[str], normalize: str) -> None:
    most = 1.0 if normalize != "none" else max(float(np.nanmax(values)), 1.0)
    image = axis.imshow(values, cmap=cmap, vmin=0, vmax=most, aspect="auto", interpolation="nearest")
    axis.set_xticks(range(len(columns)), columns, rotation=90)
    axis.set_yticks(range(len(names)), names)
    axis.tick_params(length=0)
    axis.set(xlabel="predicted type", ylabel="true type", facecolor="0.85")
    axis.spines[:].set_visible(False)
    if values.size <= MOST_NUMBERS:
        for (y, x), value in np.ndenumerate(values):
            if np.isfinite(value):
                text = f"{value:.0f}" if normalize == "none" else f"{value:.2f}".lstrip("0") if value < 1 else "1"
                color = "white" if value > 0.6 * most else "0.15"
                axis.text(x, y, text, ha="center", va="center", color=color)
    bar = axis.figure.colorbar(image, cax=axis.inset_axes((1.03, 0, 0.04, 1)))
    bar.outline.set_visible(False)
    bar.set_label(NORMALIZED[normalize])


def _largest(axis: Axes, values: Floats) -> float:
    width, height = box_size(axis)
    return min(0.9 * height / values.shape[0], 0.9 * width / values.shape[1])


def _resize(axis: Axes, size: float) -> None:
    axis.tick_params(labelsize=size)
    axis.set_title(axis.get_title("left"), loc="left", fontsize=min(font_size("axes.titlesize"), 1.15 * size))
    width = box_size(axis)[0] / max(len(axis.get_xticks()), 1)
    for text in axis.texts:
        text.set_fontsize(min(size, 0.45 * width))
    bar = axis.child_axes[0]
    bar.tick_params(labelsize=size)
    for label in (axis.xaxis.label, axis.yaxis.label, bar.yaxis.label):
        label.set_fontsize(min(font_size("axes.labelsize"), 1.15 * size))
