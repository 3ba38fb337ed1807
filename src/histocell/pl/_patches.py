"""A contact sheet of the patches under spots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.font_manager import FontProperties

from histocell import get
from histocell._core import keys
from histocell._core.arguments import check_count
from histocell._core.rng import as_rng
from histocell.pl._choices import choose
from histocell.pl._style import (
    MUTED,
    PALETTE,
    add_scalebar,
    finish,
    hide_frame,
    one_axes,
    points_per_unit,
    styled,
    text_scale,
)
from histocell.tables.access import get_obsm
from histocell.tables.sections import Sections
from histocell.tables.windows import check_patches

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from histocell._core.rng import RNGLike, SeedLike
    from histocell.images.slide_image import SlideImage
    from histocell.pl._sections import Images
    from histocell.tables.access import Data

# Lengths in edges of a patch.
GAP = 0.06  # between patches
CAPTION = 0.17
HEADING = 0.2
READABLE = 4.0  # size of text in typographic points


@dataclass(frozen=True)
class _Group:
    """Patches under one heading."""

    heading: str
    rows: NDArray[np.intp]
    color: str | None = None


def patches(
    data: Data,
    *,
    n: int = 16,
    by: str | None = None,
    spots: str | Sequence[str] | None = None,
    key: str | None = None,
    section: str | Sequence[str] | None = None,
    rng: SeedLike | RNGLike | None = 0,
    image: Images | None = None,
    ncols: int | None = None,
    patch_px: int = 192,
    scalebar: bool = True,
    title: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    table_key: str | None = None,
) -> Axes | None:
    """Show patches as the encoder sees them: at random, of given spots, or of the highest and lowest abundances.

    Parameters
    ----------
    data
        Reads ``obsm["patches"]``, the image, and ``obsm[key]`` for `by`.
    n
        How many patches.
    by
        A cell type: half of the patches are those with the most of it, half those with the least, as predicted or
        measured, which their heading says.
    spots
        Names of the spots to show, instead of a choice.
    key
        Slot with the abundances for `by`: ``"predicted_abundance"`` where it exists, else ``"cell_abundance"``.
    section
        One or several sections to choose from, as in ``obs["section"]``.
    rng
        Seed or generator of the random choice; `None` for another one each time.
    image
        For an AnnData: a path, an array, or a mapping from section to either.
    ncols
        Patches per row; by default as many as fill the sheet.
    patch_px
        Edge of a drawn patch in px.
    scalebar
        Whether to draw a scalebar under the patches; it needs the resolution.
    title
        What is written above them.
    figsize
        Width and height of a new figure in inches.
    ax
        Axes to draw on.
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
        If a slot, a cell type, a spot or a section is not there.
    ValueError
        If there is no image or nothing to choose from.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600)
    >>> hc.pp.patches(sdata, size_um=112)
    >>> ax = hc.pl.patches(sdata, by="tumour", key="cell_abundance", n=4)
    >>> ax.get_xlabel()
    'patches of 112 µm'
    """
    sections = Sections(data, table_key=table_key)
    table = sections.table
    windows = np.asarray(get_obsm(table, keys.PATCHES, "Run hc.pp.patches(data) first."))
    if key is None:
        key = keys.PREDICTED if keys.PREDICTED in table.obsm else keys.ABUNDANCE
    values = None if by is None else _values(table, by, key)
    for name, count in (("n", n), ("ncols", ncols), ("patch_px", patch_px)):
        if count is not None:
            check_count(count, name, least=1)
    if spots is not None:
        groups = [_Group("", table.obs_names.get_indexer(pd.Index(choose(spots, table.obs_names, "spot"))))]
    elif values is None:
        rows = _rows(sections, section)
        groups = [_Group("", np.sort(as_rng(rng).choice(rows, size=min(n, len(rows)), replace=False)))]
    else:
        kind = {keys.PREDICTED: "predicted", keys.ABUNDANCE: "measured"}.get(key, key)
        groups = _extremes(_rows(sections, section), values, n, str(by), kind)
    regions = sections.regions(image=image)
    check_patches(table, regions)
    images = {row: region.image for region in regions for row in region.rows if region.image is not None}
    shown = np.concatenate([group.rows for group in groups])
    if len(shown) == 0:
        msg = "there is no patch to show: the table has no rows"
        raise ValueError(msg)
    with styled(ax is None):
        sheet = _Sheet.lay(groups, ncols, figsize, ax)
        for row, corner in sheet.corners(groups):
            pixels = images[row].read(*windows[row], out_shape=(patch_px, patch_px))
            sheet.draw(pixels, corner, table.obs_names[row], None if values is None else values[row])
        edge_um = _edge_um(windows, images, shown)
        if edge_um is not None:
            sheet.name_size(edge_um, scalebar=scalebar)
        if title:
            sheet.ax.set_title(title)
    return finish(sheet.ax, created=ax is None, show=show)


def _values(table: AnnData, by: str, key: str) -> NDArray[np.float64]:
    frame = get.abundance(table, key)
    choose(by, frame.columns, "cell type", where=f' in obsm["{key}"]')
    return frame[by].to_numpy(dtype=np.float64)


def _rows(sections: Sections, wanted: str | Sequence[str] | None) -> NDArray[np.intp]:
    """Rows of the wanted sections whose patches lie inside of the image, all of them where none does."""
    kept = np.isin(sections.labels, sections.names if wanted is None else choose(wanted, sections.names, "section"))
    if keys.INSIDE in sections.table.obs:
        inside = kept & np.asarray(sections.table.obs[keys.INSIDE], dtype=bool)
        kept = inside if inside.any() else kept
    return np.flatnonzero(kept)


def _extremes(rows: NDArray[np.intp], values: NDArray[np.float64], n: int, by: str, kind: str) -> list[_Group]:
    """The rows with the highest and those with the lowest values."""
    rows = rows[np.isfinite(values[rows])]
    if len(rows) == 0:
        msg = f"no spot of the section has a value of {by!r}"
        raise ValueError(msg)
    ranked = rows[np.argsort(values[rows], kind="stable")]
    half = max(1, min(n, len(rows)) // 2)
    most = _Group(f"most {by} ({kind})", ranked[::-1][:half], PALETTE[4])
    least = _Group(f"least {by} ({kind})", ranked[: min(half, len(ranked) - half)], PALETTE[0])
    return [group for group in (most, least) if len(group.rows)]


def _patches_per_row(numbers: Sequence[int]) -> int:
    """As many, up to eight, as leave the fewest holes; then the squarest sheet, or groups in long rows."""
    most = max(numbers)
    least = int(np.ceil(np.sqrt(most)))
    choice = range(least, max(least, min(most, 8)) + 1)
    return min(choice, key=lambda n: (sum(-number % n for number in numbers), n if len(numbers) == 1 else -n))


@dataclass(frozen=True)
class _Sheet:
    """The axes that patches are laid out on, in edges of a patch, and the room for a name above each."""

    ax: Axes
    ncols: int
    edge_pt: float

    @classmethod
    def lay(
        cls, groups: list[_Group], ncols: int | None, figsize: tuple[float, float] | None, ax: Axes | None
    ) -> _Sheet:
        ncols = ncols or _patches_per_row([len(group.rows) for group in groups])
        width, height = ncols * (1 + GAP) + GAP, sum(_height(group, ncols) for group in groups)
        scale = text_scale()
        axis = one_axes(ax, figsize or (width * 1.1 * scale, height * 1.1 * scale + 0.3 * scale))
        hide_frame(axis)
        axis.set(xlim=(-GAP, width - GAP), ylim=(height, -GAP), aspect="equal")
        if ax is None and (figure := axis.get_figure(root=True)) is not None:
            figure.draw_without_rendering()  # the layout decides how large a patch is
        return cls(axis, ncols, points_per_unit(axis))

    def corners(self, groups: list[_Group]) -> Iterator[tuple[int, tuple[float, float]]]:
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
        shortened = name if len(name) <= 14 else f"{name[:7]}…{name[-6:]}"
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


def _height(group: _Group, ncols: int) -> float:
    """Of a group with its heading, in edges of a patch."""
    return -(-len(group.rows) // ncols) * (1 + CAPTION + GAP) + GAP + (HEADING if group.heading else 0)


def _edge_um(windows: NDArray[np.integer], images: Mapping[int, SlideImage], rows: NDArray[np.intp]) -> float | None:
    """Edge of the patches in um, `None` where it is unknown or not the same for all."""
    edges = (windows[rows, 2] - windows[rows, 0]) * np.array([images[row].mpp or np.nan for row in rows])
    return float(edges.mean()) if np.isfinite(edges).all() and np.ptp(edges) < 0.03 * edges.mean() else None
