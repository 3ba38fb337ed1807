"""A sheet of patches in groups, each under its heading."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.font_manager import FontProperties

from histocell.pl._style import MUTED, add_scalebar, hide_frame, one_axes, points_per_unit, text_scale

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.typing import ColorType
    from numpy.typing import NDArray

    from histocell.images.slide_image import SlideImage

# Lengths in edges of a patch.
GAP = 0.06  # between patches
CAPTION = 0.17
HEADING = 0.2
READABLE = 4.0  # size of text in typographic points
LONGEST = 18  # letters of a name that is written whole, as a Visium barcode


@dataclass(frozen=True)
class Group:
    """Patches under one heading."""

    heading: str
    rows: NDArray[np.intp]
    color: ColorType | None = None


def _patches_per_row(numbers: Sequence[int]) -> int:
    """As many, up to eight, as leave the fewest holes; then the squarest sheet, or groups in long rows."""
    most = max(numbers)
    least = int(np.ceil(np.sqrt(most)))
    choice = range(least, max(least, min(most, 8)) + 1)
    return min(choice, key=lambda n: (sum(-number % n for number in numbers), n if len(numbers) == 1 else -n))


@dataclass(frozen=True)
class Sheet:
    """The axes that patches are laid out on, in edges of a patch, and the room for a name above each."""

    ax: Axes
    ncols: int
    edge_pt: float

    @classmethod
    def lay(
        cls,
        groups: list[Group],
        ncols: int | None,
        figsize: tuple[float, float] | None,
        ax: Axes | None,
        *,
        created: bool | None = None,
    ) -> Sheet:
        """On axes of the user, or on those of a figure that was `created` and still has to be laid out."""
        created = ax is None if created is None else created
        ncols = ncols or _patches_per_row([len(group.rows) for group in groups])
        width, height = ncols * (1 + GAP) + GAP, sum(_height(group, ncols) for group in groups)
        scale = text_scale()
        axis = one_axes(ax, figsize or (width * 1.1 * scale, height * 1.1 * scale + 0.3 * scale))
        hide_frame(axis)
        axis.set(xlim=(-GAP, width - GAP), ylim=(height, -GAP), aspect="equal")
        if created and (figure := axis.get_figure(root=True)) is not None:
            figure.draw_without_rendering()  # the layout decides how large a patch is
        return cls(axis, ncols, points_per_unit(axis))

    def corners(self, groups: list[Group]) -> Iterator[tuple[int, tuple[float, float]]]:
        """Each row with the place of its patch, under the heading of its group, which is written on the way."""
        top = 0.0
        for group in groups:
            if group.heading:
                size = self.font_size(len(group.heading), self.ncols, HEADING)
                self.ax.text(0, top + 0.17, group.heading, weight="bold", color=group.color, va="bottom", fontsize=size)
            start = top + (HEADING if group.heading else 0)
            for place, row in enumerate(group.rows):
                line, column = divmod(place, self.ncols)
                yield int(row), (column * (1 + GAP), start + line * (1 + CAPTION + GAP) + CAPTION)
            top += _height(group, self.ncols)

    def font_size(self, n_letters: int, width: float, height: float) -> float:
        """At most that of the ticks, less where so many letters would not fit into edges of a patch."""
        largest = FontProperties(size=mpl.rcParams["xtick.labelsize"]).get_size_in_points()
        return min(largest, self.edge_pt * width / (0.6 * n_letters), self.edge_pt * height / 1.25)

    def draw(self, pixels: NDArray[np.uint8], corner: tuple[float, float], name: str, value: float | None) -> None:
        """A patch under its name, and its value where there is one; no name where it would be too small to be read."""
        x, y = corner
        self.ax.imshow(pixels, extent=(x, x + 1, y + 1, y), origin="upper", interpolation="antialiased")
        shortened = name if len(name) <= LONGEST else f"{name[: LONGEST // 2]}…{name[1 - LONGEST // 2 :]}"
        number = "" if value is None else f"{value:.0f}" if abs(value) >= 10 else f"{value:.2g}"  # 107, not 1.1e+02
        size = self.font_size(len(shortened + number) + 2 * bool(number), 1, CAPTION)
        if size < READABLE:
            return
        self.ax.text(x, y - 0.015, shortened, fontsize=size, va="bottom")
        if number:
            self.ax.text(x + 1, y - 0.015, number, color=MUTED, ha="right", fontsize=size, va="bottom")

    def name_size(self, edge_um: float, *, scalebar: bool) -> None:
        """The edge of the patches, and a bar, side by side or in two lines."""
        lines = 12 * text_scale() if scalebar and self.edge_pt * self.ncols < 20 * mpl.rcParams["font.size"] else 0
        self.ax.set_xlabel(
            f"patches of {edge_um:.0f} µm", color=MUTED, fontsize="small", loc="right", labelpad=1 + lines
        )
        if scalebar:
            add_scalebar(self.ax, um_per_unit=edge_um, longest=0.75)


def _height(group: Group, ncols: int) -> float:
    """Of a group with its heading, in edges of a patch."""
    return -(-len(group.rows) // ncols) * (1 + CAPTION + GAP) + GAP + (HEADING if group.heading else 0)


def edge_um(windows: NDArray[np.integer], images: Mapping[int, SlideImage], rows: NDArray[np.intp]) -> float | None:
    """Edge of the patches in um, `None` where it is unknown or not the same for all."""
    edges = (windows[rows, 2] - windows[rows, 0]) * np.array([images[row].mpp or np.nan for row in rows])
    return float(edges.mean()) if np.isfinite(edges).all() and np.ptp(edges) < 0.03 * edges.mean() else None
