"""The look of all plots and their axes; no global setting is changed."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

# One scale for amounts: pale where there is little, and of hues that haematoxylin and eosin do not have.
AMOUNT = "YlGnBu"
# Okabe and Ito: told apart by every kind of colour vision and in grey.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#999933")
MUTED = "0.55"
BACKGROUND = "0.93"  # under pale spots where there is no image

_STYLE: dict[Any, Any] = {  # matplotlib types the keys as 300 literals
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.labelsize": 8.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.0,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,
}


@contextmanager
def styled(created: bool) -> Iterator[None]:
    """The style of our own figures; axes that the user brought keep the user's.

    Only our own entries are put back: in a notebook the first figure switches the backend and turns interactive plots on,
    which a full `rc_context` would undo.
    """
    before = {name: mpl.rcParams[name] for name in _STYLE} if created else {}
    try:
        if created:
            mpl.rcParams.update(_STYLE)
        yield
    finally:
        mpl.rcParams.update(before)


def new_axes(figsize: tuple[float, float]) -> Axes:
    """The only axes of a new figure."""
    return plt.subplots(figsize=figsize, layout="constrained")[1]


def check_axes(
    ax: Axes | Sequence[Axes] | NDArray[np.object_], shape: tuple[int, ...], needed: str
) -> NDArray[np.object_]:
    """The axes that the user brought, in the shape of what is drawn on them."""
    axes = np.array(ax, dtype=object)
    if axes.size != np.prod(shape):
        msg = f"ax holds {axes.size} axes; {needed}"
        raise ValueError(msg)
    return axes.reshape(shape)


def finish[T](result: T, *, created: bool, show: bool | None) -> T | None:
    """Show the figure if asked to, and return what was drawn on unless `show` is `True`."""
    if show or (show is None and created and plt.isinteractive()):
        plt.show()
    return None if show else result


def add_bar(ax: Axes, *, um_per_unit: float = 1.0, fraction: float = 0.25, thickness: float = 0.012) -> Artist:
    """A bar of 1, 2 or 5 times a power of ten, at most `fraction` of the axes long, in their lower left corner."""
    from matplotlib_scalebar.scalebar import ScaleBar

    longest = fraction * abs(float(np.diff(ax.get_xlim())[0])) * um_per_unit
    power = 10.0 ** np.floor(np.log10(longest))
    length = power * max(step for step in (1, 2, 5) if step * power <= longest)
    shown = length / 1000 if length >= 1000 else length
    bar = ScaleBar(
        um_per_unit,
        "um",
        fixed_value=round(shown) if shown >= 1 else shown,
        fixed_units="mm" if length >= 1000 else "um",
        location="lower left",
        box_alpha=0.75,
        width_fraction=thickness,
        border_pad=0.3,
        sep=2,
        font_properties={"size": 7},
    )
    return ax.add_artist(bar)


def hide_frame(ax: Axes) -> None:
    """Remove ticks and frame."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
