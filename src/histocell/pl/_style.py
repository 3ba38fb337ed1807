"""The look of all plots and their axes; no global setting is changed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, is_color_like
from matplotlib.lines import Line2D
from matplotlib.offsetbox import AnchoredOffsetbox, AuxTransformBox, HPacker, TextArea
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from histocell._core.errors import listing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.artist import Artist
    from matplotlib.colorbar import Colorbar
    from matplotlib.typing import ColorType
    from numpy.typing import NDArray

    type Palette = Mapping[str, str] | Sequence[str] | str

# One scale for amounts: pale where there is little, and of hues that haematoxylin and eosin do not have.
AMOUNT = "YlGnBu"
# Okabe and Ito: told apart by every kind of colour vision and in grey.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#999933")
MUTED = "0.55"
BACKGROUND = "0.93"  # under pale spots where there is no image

_SIZES: dict[Any, Any] = {  # matplotlib types the keys as 300 literals
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.labelsize": 8.0,
    "figure.titlesize": 9.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.0,
}
_STYLE: dict[Any, Any] = {
    **_SIZES,
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

    Ours takes the place of matplotlib's defaults only: a setting that the user changed stays, and with a ``font.size`` of
    the user's all sizes of text go by it. Only our own entries are put back: in a notebook the first figure switches the
    backend and turns interactive plots on, which a full `rc_context` would undo.
    """
    before = {name: mpl.rcParams[name] for name in _STYLE if created and _is_default(name)}
    try:
        mpl.rcParams.update({name: _STYLE[name] for name in before})
        yield
    finally:
        mpl.rcParams.update(before)


def _is_default(name: Any) -> bool:
    """Whether the user left a setting, and for sizes of text also the size that they go by, as matplotlib has it."""
    names = [name, "font.size"] if name in _SIZES else [name]
    return all(mpl.rcParams[each] == mpl.rcParamsDefault[each] for each in names)


def text_scale() -> float:
    """Size of the text as a multiple of ours: by how much the parts of a figure grow that hold text."""
    return float(mpl.rcParams["font.size"]) / float(_SIZES["font.size"])


def colors_of(names: Sequence[str], palette: Palette | None) -> dict[str, ColorType]:
    """A colour for each name.

    Parameters
    ----------
    names
        The categories.
    palette
        Colours by name (the others keep theirs), a list of colours, or the name of a colour map; `None` is our own.
    """
    if isinstance(palette, str):
        colors = mpl.colormaps.get_cmap(palette)  # an unknown name is an error that lists those there are
        listed = getattr(colors, "colors", ()) if colors.N <= 20 else ()  # tab10 is a list, viridis a scale
        own = list(listed) or [colors(x) for x in np.linspace(0, 1, len(names))]
    else:
        own = list(PALETTE) if palette is None or isinstance(palette, Mapping) else list(palette)
    if not own:
        msg = "palette holds no colour"
        raise ValueError(msg)
    chosen = {name: own[index % len(own)] for index, name in enumerate(names)}
    if isinstance(palette, Mapping):
        chosen |= {name: palette[name] for name in names if name in palette}
    if odd := [color for color in chosen.values() if not is_color_like(color)]:
        msg = f"palette holds {listing(odd)}, which matplotlib does not know as a colour"
        raise ValueError(msg)
    return chosen


def one_axes(ax: Axes | None, figsize: tuple[float, float]) -> Axes:
    """The axes that the user brought, or the only ones of a new figure."""
    if ax is None:
        return plt.subplots(figsize=figsize, layout="constrained")[1]
    return check_axes(ax, (1,), "this plot needs one")[0]


def check_axes(
    ax: Axes | Sequence[Axes] | NDArray[np.object_], shape: tuple[int, ...], needed: str
) -> NDArray[np.object_]:
    """The axes that the user brought, in the shape of what is drawn on them."""
    axes = np.array(ax, dtype=object)
    if odd := [type(each).__name__ for each in axes.flat if not isinstance(each, Axes)]:
        msg = f"ax takes axes of matplotlib, such as those of plt.subplots(), not {listing(sorted(set(odd)))}"
        raise TypeError(msg)
    if axes.size != np.prod(shape):
        msg = f"ax holds {axes.size} axes; {needed}"
        raise ValueError(msg)
    return axes.reshape(shape)


def finish[T](result: T, *, created: bool, show: bool | None) -> T | None:
    """Show the figure if asked to, and return what was drawn on unless `show` is `True`."""
    if show or (show is None and created and plt.isinteractive()):
        plt.show()
    return None if show else result


def add_scalebar(ax: Axes, *, um_per_unit: float = 1.0, longest: float | None = None) -> Artist:
    """A bar of 1, 2 or 5 times a power of ten in a strip under the axes, its length beside it; it covers no data.

    Parameters
    ----------
    um_per_unit
        Micrometres per unit of the x axis.
    longest
        Most units that the bar may be long; a quarter of the axes by default.
    """
    longest_um = um_per_unit * (longest or 0.25 * abs(float(np.diff(ax.get_xlim())[0])))
    power = 10.0 ** np.floor(np.log10(longest_um))
    length = power * max(step for step in (1, 2, 5) if step * power <= longest_um)
    label = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    color = mpl.rcParams["text.color"]
    bar = AuxTransformBox(ax.transData)
    bar.add_artist(Line2D([0, length / um_per_unit], [0, 0], color=color, linewidth=2, solid_capstyle="butt"))
    text = TextArea(label, textprops={"size": "small", "color": color})
    packed = HPacker(children=[bar, text], align="center", pad=0, sep=4)
    strip = ScaleBar(
        "upper left",
        child=packed,
        pad=0,
        borderpad=0.4,
        frameon=False,
        bbox_to_anchor=(0, 0),
        bbox_transform=ax.transAxes,
    )
    strip.length_um = float(length)
    return ax.add_artist(strip)


class ScaleBar(AnchoredOffsetbox):
    """A bar with its length beside it."""

    length_um: float


def add_colorbar(ax: Axes, drawn: ScalarMappable, label: str = "", *, extend: str | None = None) -> Colorbar:
    """A colour bar on the right of the axes, as high as what is drawn there; pointed where values lie beyond it."""
    if extend is None:
        values = np.ma.masked_invalid(np.ma.asarray(drawn.get_array(), dtype=np.float64)).compressed()
        low, high = drawn.get_clim()
        beyond = bool(np.min(values, initial=low) < low), bool(np.max(values, initial=high) > high)
        extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get(beyond, "neither")
    if (alpha := drawn.get_alpha()) is not None:  # as it looks on white, on a dark figure, too, and without seams
        colors = drawn.get_cmap()(np.linspace(0, 1, 256))[:, :3]
        drawn = ScalarMappable(drawn.norm, ListedColormap(1 - float(alpha) * (1 - colors)))
    place = ax.inset_axes((1.03, 0.06, 0.5, 0.88))
    place.set_anchor("W")
    place.set_box_aspect(20)
    bar = ax.figure.colorbar(drawn, cax=place, extend=extend)
    bar.outline.set_visible(False)
    bar.locator = MaxNLocator(4)
    if isinstance(bar.formatter, ScalarFormatter):
        bar.formatter.set_powerlimits((-3, 4))
    bar.update_ticks()
    bar.set_label(label)
    return bar


def points_per_unit(ax: Axes) -> float:
    """Typographic points that a unit of the data takes, by the place of the axes as it is now."""
    box, (x, y) = ax.get_window_extent(), (abs(float(np.diff(limits)[0])) for limits in (ax.get_xlim(), ax.get_ylim()))
    return float(min(box.width / x, box.height / y)) * 72 / ax.figure.dpi


def hide_frame(ax: Axes) -> None:
    """Remove ticks and frame."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
