"""Attention between genes, image and coordinates by predicted type of cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from histocell._core import keys
from histocell._core.arguments import check_count
from histocell._core.errors import missing_key
from histocell.pl._choices import choose
from histocell.pl._fit import box_size, fit, font_size
from histocell.pl._style import AMOUNT, finish, one_axes, styled, text_scale
from histocell.tables.access import get_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

    from histocell.tables.access import Data

MOST_NUMBERS = 300  # fields with a figure in each


def modality_attention(
    data: Data,
    cell_types: str | Sequence[str] | None = None,
    *,
    key: str = keys.PREDICTED_TYPE,
    layer: int | None = None,
    cmap: str | Colormap = AMOUNT,
    title: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    table_key: str | None = None,
) -> Axes | None:
    """Show how much of the attention of genes, image and coordinates goes to which, for each predicted type of cell.

    Each block of columns is a kind of tokens from which attention goes; in a line its fields sum to 1. The mean is over the heads
    and cells of a type. It says where the transformer looked, not what decided the type: values can be mixed by earlier
    layers, and a token that gets attention may change nothing. What a modality adds, a prediction without it tells.

    Parameters
    ----------
    data
        Reads ``uns[key + "_attention"]`` of `histocell.tl.predict_cell_types`.
    cell_types
        One type or several; by default all that were predicted.
    key
        Column of the predictions.
    layer
        Layer of the transformer, from 1; by default the mean of all.
    cmap
        Colour map.
    title
        By default the number of cells and the layers.
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
        If the slot or a type is not there.
    ValueError
        If there is no such layer.

    References
    ----------
    Jain and Wallace, Attention is not Explanation (NAACL 2019).

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(3, n_patients=3, size_px=400, rng=0)
    >>> hc.pp.patches(sdata, size_um=32, table_key="cell_table")
    >>> hc.pp.embed_image(sdata, "morphology", table_key="cell_table")
    >>> hc.pp.embed_genes(sdata, "pca", table_key="cell_table")
    >>> hc.pp.split(sdata, by="section", test="P3S1", table_key="cell_table")
    >>> config = {"max_epochs": 1, "width": 16}
    >>> hc.tl.fit_cell_types(sdata, "X_pca_genes", "X_morphology", config=config, table_key="cell_table")
    >>> hc.tl.predict_cell_types(sdata, attention=True, table_key="cell_table")
    >>> ax = hc.pl.modality_attention(sdata, table_key="cell_table", show=False)
    >>> [label.get_text() for label in ax.get_xticklabels()]
    ['genes', 'image', 'genes', 'image']
    """
    table, slot = get_table(data, table_key), f"{key}_{keys.ATTENTION}"
    if slot not in table.uns:
        raise missing_key("uns", slot, table.uns, "Run hc.tl.predict_cell_types(data, attention=True) first.")
    frame = table.uns[slot]
    n_layers = int(frame["layer"].max())
    if layer is not None:
        layer = check_count(layer, "layer", least=1)
        if layer > n_layers:
            msg = f"layer {layer} is not there; the transformer has {n_layers}"
            raise ValueError(msg)
        frame = frame[frame["layer"] == layer]
    there = list(dict.fromkeys(frame["cell_type"]))
    names = there if cell_types is None else choose(cell_types, there, "cell type", where=f' in uns["{slot}"]')
    values = _by_type(frame, names)
    n_cells = int(frame.groupby("cell_type", sort=False, observed=True)["n_cells"].first()[names].sum())
    layers = f"layer {layer}" if layer is not None else f"mean of {n_layers} layers" if n_layers > 1 else "1 layer"
    with styled(ax is None):
        width, height = np.clip([0.42 * values.shape[1], 0.3 * len(names)], [1.5, 0.9], [9, 7])
        axis = one_axes(ax, figsize or ((width + 2.2) * text_scale(), (height + 1.5) * text_scale()))
        _draw(axis, values, plt.get_cmap(cmap))
        axis.set_title(f"{n_cells:,} cells, {layers}" if title is None else title, loc="left")
        fit([axis], lambda size: _resize(axis, size), lambda: _largest(axis, values))
    return finish(axis, created=ax is None, show=show)


def _by_type(frame: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Lines of types, columns of pairs of tokens in the order of the slot, the mean over layers."""
    pairs = list(dict.fromkeys(zip(frame["from"], frame["to"], strict=True)))
    mean = frame.pivot_table(values="attention", index="cell_type", columns=["from", "to"], observed=True)
    return mean.reindex(index=names, columns=pd.MultiIndex.from_tuples(pairs, names=["from", "to"]))


def _draw(axis: Axes, values: pd.DataFrame, cmap: Colormap) -> None:
    image = axis.imshow(values, cmap=cmap, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    sources, targets = (list(values.columns.get_level_values(level)) for level in ("from", "to"))
    axis.set_xticks(range(len(targets)), targets, rotation=90)
    axis.set_yticks(range(len(values)), list(values.index))
    axis.set(xlabel="attention to", ylabel="predicted type")
    axis.spines[:].set_visible(False)
    blocks = list(dict.fromkeys(sources))
    centres = [float(np.mean([index for index, each in enumerate(sources) if each == block])) for block in blocks]
    for start in (sources.index(block) for block in blocks[1:]):
        axis.axvline(start - 0.5, color="white", linewidth=3)
    top = axis.secondary_xaxis("top")
    top.set_xticks(centres, [f"from {block}" for block in blocks])
    top.spines[:].set_visible(False)
    for each in (axis, top):
        each.tick_params(length=0)
    if values.size <= MOST_NUMBERS:
        for (y, x), value in np.ndenumerate(values.to_numpy()):
            text = f"{value:.2f}".lstrip("0") if value < 0.995 else "1"
            axis.text(x, y, text, ha="center", va="center", color="white" if value > 0.6 else "0.15")
    bar = axis.figure.colorbar(image, cax=axis.inset_axes((1.03, 0, 0.04, 1)))
    bar.outline.set_visible(False)
    bar.set_label("share of the attention")


def _largest(axis: Axes, values: pd.DataFrame) -> float:
    width, height = box_size(axis)
    n_blocks = len(axis.child_axes[0].get_xticks())
    letters = max(len(label.get_text()) for label in axis.child_axes[0].get_xticklabels())
    return min(0.9 * height / len(values), 0.9 * width / values.shape[1], 1.6 * width / n_blocks / letters)


def _resize(axis: Axes, size: float) -> None:
    top, bar = axis.child_axes
    for each in (axis, top, bar):
        each.tick_params(labelsize=size)
    axis.set_title(axis.get_title("left"), loc="left", fontsize=min(font_size("axes.titlesize"), 1.15 * size))
    width = box_size(axis)[0] / max(len(axis.get_xticks()), 1)
    for text in axis.texts:
        text.set_fontsize(min(size, 0.45 * width))
    for label in (axis.xaxis.label, axis.yaxis.label, bar.yaxis.label):
        label.set_fontsize(min(font_size("axes.labelsize"), 1.15 * size))
