"""Plot of nuclei on their image, and of the contrast under shifted copies of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.collections import PolyCollection

from histocell._core import keys
from histocell._core.arguments import check_positive
from histocell.pl._choices import choose
from histocell.pl._style import MUTED, PALETTE, add_scalebar, check_axes, finish, hide_frame, styled, text_scale
from histocell.tables.placed_nuclei import place_nuclei, table_with

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from histocell.images.slide_image import ImageSource
    from histocell.tables.access import Data
    from histocell.tables.placed_nuclei import PlacedNuclei

    type Floats = NDArray[np.float64]

AS_THEY_ARE, BELONG = "#00E5FF", "#FFE100"  # hues that haematoxylin and eosin do not have
SHOWN_UM = 60.0  # of the profile, or more where the best shift is larger
MOST_CHECKED = 20_000
MOST_PX = 700


def alignment(
    data: Data,
    *,
    key: str = keys.ALIGNMENT,
    section: str | Sequence[str] | None = None,
    shapes_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    image: ImageSource | Mapping[str, ImageSource] | None = None,
    mpp: float | Mapping[str, float] | None = None,
    width_um: float = 150.0,
    figsize: tuple[float, float] | None = None,
    ax: Sequence[Axes] | None = None,
    show: bool | None = None,
    table_key: str | None = None,
) -> NDArray[np.object_] | None:
    """Show whether nuclei lie on their image: outlines on the H&E, and how dark it is under shifted copies of them.

    On the left, the place where the nuclei are densest: their outlines as they are, and, where they do not fit, where they belong.
    On the right the contrast under copies of the nuclei that are shifted in x or in y, both through the best
    shift: nuclei that fit have their peak at 0. Where x and y are swapped and the like, the profile is that after the repair.

    Parameters
    ----------
    data
        Reads ``uns[key]``, which :func:`histocell.pp.check_alignment` wrote, the nuclei and the image.
    key
        The slot.
    section
        The sections to show, all by default.
    shapes_key, image_key, image, mpp
        As in :func:`histocell.pp.check_alignment`, and the same as there.
    width_um
        Width of the place that is shown, in um.
    figsize
        Width and height of a new figure in inches.
    ax
        Two axes for each section.
    show
        Whether to show the figure; by default if it is new and matplotlib is interactive.
    table_key
        The table, where several hold the slot.

    Returns
    -------
    The axes, shape ``(sections, 2)``; `None` with ``show=True``.

    Raises
    ------
    KeyError
        If the slot, a section or an image is not there.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=800)
    >>> hc.pp.check_alignment(sdata)
    >>> axes = hc.pl.alignment(sdata, show=False)
    >>> axes.shape
    (1, 2)
    """
    width = check_positive(width_um, "width_um")
    table = table_with(data, key, "Run hc.pp.check_alignment(data) first.", table_key)
    result = table.uns[key]
    frame, profile = pd.DataFrame(result["sections"]), pd.DataFrame(result["profile"])
    names = frame["section"].astype(str).tolist()
    chosen = names if section is None else choose(section, names, "section")
    options = {"shapes_key": shapes_key, "image": image, "image_key": image_key, "mpp": mpp, "table_key": table_key}
    _, found = place_nuclei(data, "alignment", **options)  # type: ignore[arg-type]
    placed = {each.section: each for each in found}
    choose(chosen, placed, "section")
    with styled(ax is None):
        scale = text_scale()
        if ax is None:
            size = figsize or (6.2 * scale, 2.7 * scale * len(chosen))
            axes = plt.subplots(len(chosen), 2, figsize=size, layout="constrained", squeeze=False)[1]
        else:
            axes = check_axes(ax, (len(chosen), 2), f"this plot needs two for each of {len(chosen)} sections")
        for row, name in zip(axes, chosen, strict=True):
            facts = frame.iloc[names.index(name)]
            matrix = np.asarray(result["matrix"], dtype=np.float64)[names.index(name)]
            _overlay(row[0], placed[name], facts, matrix, width)
            _profile(row[1], profile[profile["section"].astype(str) == name], facts)
    return finish(axes, created=ax is None, show=show)


def _overlay(ax: Axes, placed: PlacedNuclei, facts: pd.Series, matrix: Floats, width_um: float) -> None:
    """Outlines on a window of the image, in um."""
    import shapely

    known = bool(np.isfinite(matrix).all())
    belong = placed.moved(matrix) if known and facts["verdict"] != "fits" else None
    low, high = _window(placed if belong is None else belong, width_um)
    (x0, y0), (x1, y1) = low, high
    shrink = min(1.0, MOST_PX / max(x1 - x0, y1 - y0))
    shape = (max(1, round((y1 - y0) * shrink)), max(1, round((x1 - x0) * shrink)))
    pixels = placed.image.read(y0, x0, y1, x1, out_shape=shape, fill=(255, 255, 255))
    mpp = placed.mpp
    ax.imshow(pixels, extent=(x0 * mpp, x1 * mpp, y1 * mpp, y0 * mpp), interpolation="antialiased", zorder=0)
    sets = [("as they are", placed, AS_THEY_ARE, 1)]
    if belong is not None:
        sets.append(("where they belong", belong, BELONG, 2))
    for label, nuclei, color, order in sets:
        outer = shapely.get_exterior_ring(shapely.get_parts(nuclei.outlines(low, high)))
        rings = [shapely.get_coordinates(each) * mpp for each in outer if each is not None]
        ax.add_collection(
            PolyCollection(rings, facecolors="none", edgecolors=color, linewidths=0.9, zorder=order, label=label),
            autolim=False,
        )
    hide_frame(ax)
    ax.set(xlim=(x0 * mpp, x1 * mpp), ylim=(y1 * mpp, y0 * mpp), aspect="equal", title=_title(facts))
    add_scalebar(ax)
    if belong is not None:
        for place, (label, _, color, _) in enumerate(sets):
            box = {"facecolor": color, "edgecolor": "none", "pad": 1.0}
            corner = (0.98, 0.97 - 0.09 * place)
            ax.text(
                *corner, label, transform=ax.transAxes, ha="right", va="top", fontsize="small", color="black", bbox=box
            )


def _window(placed: PlacedNuclei, width_um: float) -> tuple[Floats, Floats]:
    """Corners (x, y) in px of the window with the most nuclei on the image; in the middle of the image where there are none."""
    from scipy.spatial import cKDTree

    size = np.array(placed.image.shape[::-1], dtype=np.float64)
    half = min(width_um / placed.mpp, float(size.max())) / 2
    xy = placed.xy_px[((placed.xy_px >= 0) & (placed.xy_px < size)).all(axis=1)]
    middle = size / 2
    if len(xy):
        sample = xy[:: max(1, len(xy) // MOST_CHECKED)]
        asked = sample[:: max(1, len(sample) // 500)]
        number = cKDTree(sample).query_ball_point(asked, half, p=np.inf, return_length=True)
        middle = asked[int(np.argmax(number))]
    middle = np.clip(middle, np.minimum(half, size / 2), np.maximum(size - half, size / 2))
    return middle - half, middle + half


def _profile(ax: Axes, lines: pd.DataFrame, facts: pd.Series) -> None:
    """Contrast by shift in x and in y."""
    reach = SHOWN_UM
    for axis, color in (("x", PALETTE[0]), ("y", PALETTE[4])):
        line = lines[lines["axis"].astype(str) == axis]
        shift, effect = (line[name].to_numpy(dtype=np.float64) for name in ("shift_um", "effect"))
        ax.plot(shift, effect, color=color, linewidth=1.2, label=f"in {axis}")
        if facts["found"] and np.isfinite(effect).any():
            reach = max(reach, 1.4 * abs(float(shift[np.nanargmax(effect)])))
    tolerance = float(facts["tolerance_um"])
    ax.axvspan(-tolerance, tolerance, color="0.88", linewidth=0, zorder=0)
    ax.axhline(0, color=MUTED, linewidth=0.6, zorder=0)
    ax.set(xlim=(-reach, reach), xlabel="shift of the nuclei (µm)", ylabel="darker than around (sd)")
    height, p = float(facts["effect"]), float(facts["p"])
    says = "unknown" if not np.isfinite(height) else f"{height:.2f}, p = {p:.2g}".replace("-", "\N{MINUS SIGN}")
    ax.set_title(f"as they are: effect {says}")
    ax.legend(loc="upper right")


def _title(facts: pd.Series) -> str:
    """Section, verdict and what is to be done."""
    move = f"x {facts['offset_x_um']:+.1f}, y {facts['offset_y_um']:+.1f} µm".replace("-", "\N{MINUS SIGN}")
    verdict = str(facts["verdict"])
    more = {
        "fits": f"within {facts['tolerance_um']:.2g} µm",
        "shifted": f"move by {move}",
        "wrong pixel size": f"multiply by {facts['factor']:.4g}",
        "unrelated": f"n = {facts['n_nuclei']}",
    }.get(verdict, str(facts["found"]).partition(", about")[0])
    if verdict == "rotated" and facts["found"] == "as it is":
        more = f"turn by {facts['rotation']:+.1f} degrees"
    return f"{facts['section']}: {verdict}\n{more}"
