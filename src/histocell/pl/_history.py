"""Curves of a training: losses by epoch, scores by penalty."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import MaxNLocator

from histocell._core import keys
from histocell._core.errors import listing, missing_key
from histocell.metrics import nan_mean
from histocell.pl._fit import box_size, fit, font_size, resize_text
from histocell.pl._style import MUTED, PALETTE, finish, one_axes, styled, text_scale
from histocell.tables.access import get_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from histocell.tables.access import Data

    type Floats = NDArray[np.float64]

_LOSSES = (("train_loss", "training", PALETTE[0]), ("val_loss", "validation", PALETTE[1]))
_CRITERIA = {"pearson": "CC on held-out groups", "mse": "minus squared error / variance on held-out groups"}


def history(
    data: Data,
    *,
    key: str = keys.MODEL,
    title: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    table_key: str | None = None,
) -> Axes | None:
    """Show how a model was trained: its losses by epoch, or for a ridge the score of each penalty.

    Thin lines are the members of an ensemble (or the targets of a ridge), the thick one is their mean; dots mark the
    epochs that were kept, a dotted line the best penalty.

    Parameters
    ----------
    data
        Reads ``uns[key]["history"]``: ``train_loss`` and ``val_loss``, shape ``(members, epochs)``, padded with NaN,
        and ``best_epoch``; or ``alphas`` and ``cv_score``, shape ``(penalties, targets)``.
    key
        Slot of the model.
    title
        Of the axes; none by default.
    figsize
        Width and height of a new figure in inches.
    ax
        Axes to draw on; they shrink to make room for labels and legend.
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
        If the model keeps no curve, as the mean baseline does.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(3, n_patients=3, size_px=600)
    >>> hc.pp.patches(sdata)
    >>> hc.pp.embed_image(sdata, "morphology")
    >>> hc.pp.split(sdata, by="patient", test=["P3"])
    >>> hc.tl.fit_abundance(sdata, "X_morphology", model="ridge")
    >>> ax = hc.pl.history(sdata)
    >>> ax.get_xlabel()
    'penalty'
    """
    table = get_table(data, table_key)
    if key not in table.uns:
        raise missing_key("uns", key, table.uns, "Run hc.tl.fit_abundance(data) first.")
    model = table.uns[key]
    curves = {name: np.asarray(values, dtype=np.float64) for name, values in model.get("history", {}).items()}
    losses = {name: np.atleast_2d(curves[name]) for name, *_ in _LOSSES if curves.get(name, np.empty(0)).size}
    is_path = curves.get("alphas", np.empty(0)).size and "cv_score" in curves
    if not losses and not is_path:
        msg = f'uns["{key}"]["history"] holds no training curve (train_loss, val_loss, or alphas and cv_score)'
        msg += f"; it holds: {listing(curves)}. The mean baseline has none"
        raise ValueError(msg)
    with styled(ax is None):
        axis = one_axes(ax, figsize or (3.5 * text_scale(), 2.7 * text_scale()))
        if losses:
            _draw_losses(axis, losses, curves.get("best_epoch"))
        else:
            criterion = re.search(r'"criterion": *"(\w+)"', str(model.get("config", "")))
            label = _CRITERIA.get(criterion[1] if criterion else "", "score on held-out groups")
            _draw_path(axis, curves["alphas"], curves["cv_score"], label)
        heading = axis.set_title(title or "")
        columns = 3 if box_size(axis)[0] > 24 * font_size("legend.fontsize") else 1  # else too wide for the axes
        legend = axis.legend(loc="upper right", ncols=columns, frameon=False, columnspacing=1.2, borderaxespad=0)
        fit([axis], partial(resize_text, axis, legend, heading), lambda: box_size(axis)[0] / 20)
    return finish(axis, created=ax is None, show=show)


def _draw_losses(ax: Axes, losses: Mapping[str, Floats], best_epoch: Floats | None) -> None:
    for name, label, color in _LOSSES:
        if name not in losses or not np.isfinite(losses[name]).any():
            continue
        members = losses[name]
        epochs = np.arange(1, members.shape[1] + 1)
        single = "o" if len(epochs) == 1 else None
        if len(members) > 1:
            ax.plot(epochs, members.T, color=color, linewidth=0.6, alpha=0.4, marker=single, markersize=3)
        # towards the end few members are left, and the mean of those is not that of all
        whole = np.isfinite(members).sum(axis=0) >= max(1, len(members) / 2)
        mean = np.where(whole, nan_mean(members), np.nan)
        ax.plot(epochs, mean, color=color, linewidth=1.6, label=label, marker=single, markersize=4)
    _mark_best(ax, losses, best_epoch)
    finite = np.concatenate([values[np.isfinite(values)] for values in losses.values()])
    if finite.min() > 0 and finite.max() > 20 * np.median(finite):
        ax.set_yscale("log")
    ax.set(xlabel="epoch", ylabel="loss")
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))


def _mark_best(ax: Axes, losses: Mapping[str, Floats], best_epoch: Floats | None) -> None:
    """Dots where the weights that were kept stand on their validation curve."""
    members = losses.get("val_loss", losses.get("train_loss"))
    if best_epoch is None or members is None:
        return
    best = np.atleast_1d(best_epoch)[: len(members)]
    usable = np.isfinite(best) & (best >= 0) & (best < members.shape[1])
    epochs = best[usable].astype(int)
    if len(epochs):
        values = members[: len(best)][usable, epochs]
        ax.plot(epochs + 1, values, "o", color=mpl.rcParams["text.color"], markersize=3, zorder=3, label="best epoch")


def _draw_path(ax: Axes, alphas: Floats, score: Floats, label: str) -> None:
    score = score.reshape(len(alphas), -1)
    mean = nan_mean(score, axis=1)
    if score.shape[1] > 1:
        thin = ax.plot(alphas, score, color=MUTED, linewidth=0.6, alpha=0.6)
        thin[0].set_label("each target")
    ax.plot(alphas, mean, color=PALETTE[0], linewidth=1.6, label="mean", marker="o" if len(alphas) == 1 else None)
    if np.isfinite(mean).any():
        best = alphas[np.nanargmax(mean)]
        ax.axvline(
            best, color=mpl.rcParams["text.color"], linewidth=0.8, linestyle=":", label=f"best penalty: {best:.3g}"
        )
    ax.set(xscale="log", xlabel="penalty", ylabel=label)
