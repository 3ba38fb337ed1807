"""A contact sheet of the patches under spots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histocell import get
from histocell._core import keys
from histocell._core.rng import as_rng
from histocell.pl._choices import choose
from histocell.pl._style import MUTED, PALETTE, add_bar, finish, hide_frame, new_axes, styled
from histocell.tables.access import get_obsm
from histocell.tables.sections import Sections

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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


@dataclass(frozen=True)
class _Group:
    """Patches under one heading."""

    heading: str
    rows: NDArray[np.intp]
    color: str = "black"


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
        A cell type: half of the patches are those with the most of it, half those with the least.
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
        Patches per row.
    patch_px
        Edge of a drawn patch in px.
    scalebar
        Whether to draw a scalebar on the first patch; it needs the resolution.
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
    values = None if by is None else _values(table, by, key)
    if n < 1:
        msg = f"n must be at least 1, not {n}"
        raise ValueError(msg)
    if spots is not None:
        groups = [_Group("", table.obs_names.get_indexer(pd.Index(choose(spots, table.obs_names, "spot"))))]
    elif values is None:
        rows = _rows(sections, section)
        groups = [_Group("", np.sort(as_rng(rng).choice(rows, size=min(n, len(rows)), replace=False)))]
    else:
        groups = _extremes(_rows(sections, section), values, n, str(by))
    images = {
        row: region.image for region in sections.regions(image=image) for row in region.rows if region.image is not None
    }
    if ncols is None:
        ncols = _patches_per_row(max(len(group.rows) for group in groups), several=len(groups) > 1)
    height = sum(-(-len(group.rows) // ncols) * (1 + CAPTION) + (HEADING if group.heading else 0) for group in groups)
    with styled(ax is None):
        sheet = new_axes(figsize or (ncols * 1.15, height * 1.1 + 0.25)) if ax is None else ax
        top = 0.0
        for group in groups:
            if group.heading:
                sheet.text(0, top + 0.17, group.heading, fontweight="bold", color=group.color, va="bottom")
                top += HEADING
            for place, row in enumerate(group.rows):
                line, column = divmod(place, ncols)
                corner = column * (1 + GAP), top + line * (1 + CAPTION + GAP) + CAPTION
                pixels = images[row].read(*windows[row], out_shape=(patch_px, patch_px))
                _draw_patch(sheet, pixels, corner, table.obs_names[row], None if values is None else values[row])
            top += -(-len(group.rows) // ncols) * (1 + CAPTION + GAP) + GAP
        hide_frame(sheet)
        sheet.set(xlim=(-GAP, ncols * (1 + GAP)), ylim=(top, -GAP), aspect="equal")
        edge_um = _edge_um(windows, images, np.concatenate([group.rows for group in groups]))
        if edge_um is not None:
            sheet.set_xlabel(f"patches of {edge_um:.0f} µm", color=MUTED, fontsize="small")
            if scalebar:
                add_bar(sheet, um_per_unit=edge_um, fraction=0.75 / ncols, thickness=0.008)
    return finish(sheet, created=ax is None, show=show)


def _values(table: AnnData, by: str, key: str | None) -> NDArray[np.float64]:
    if key is None:
        key = keys.PREDICTED if keys.PREDICTED in table.obsm else keys.ABUNDANCE
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


def _extremes(rows: NDArray[np.intp], values: NDArray[np.float64], n: int, by: str) -> list[_Group]:
    """The rows with the highest and those with the lowest values."""
    rows = rows[np.isfinite(values[rows])]
    if len(rows) == 0:
        msg = f"no spot of the section has a value of {by!r}"
        raise ValueError(msg)
    ranked = rows[np.argsort(values[rows], kind="stable")]
    half = max(1, min(n, len(rows)) // 2)
    most = _Group(f"most {by}", ranked[::-1][:half], PALETTE[4])
    least = _Group(f"least {by}", ranked[: min(half, len(ranked) - half)], PALETTE[0])
    return [group for group in (most, least) if len(group.rows)]


def _patches_per_row(n: int, *, several: bool) -> int:
    """A square sheet; groups in full rows of at most eight."""
    return -(-n // -(-n // 8)) if several else int(np.ceil(np.sqrt(n)))


def _draw_patch(
    ax: Axes, pixels: NDArray[np.uint8], corner: tuple[float, float], name: str, value: float | None
) -> None:
    """A patch of edge 1 under its name, and its value where there is one."""
    x, y = corner
    ax.imshow(pixels, extent=(x, x + 1, y + 1, y), interpolation="antialiased")
    shortened = name if len(name) <= 14 else f"{name[:7]}…{name[-6:]}"
    ax.text(x, y - 0.015, shortened, fontsize="small", va="bottom")
    if value is not None:
        ax.text(x + 1, y - 0.015, f"{value:.2g}", color=MUTED, ha="right", fontsize="small", va="bottom")


def _edge_um(windows: NDArray[np.integer], images: Mapping[int, SlideImage], rows: NDArray[np.intp]) -> float | None:
    """Edge of the patches in um, `None` where it is unknown or not the same for all."""
    edges = (windows[rows, 2] - windows[rows, 0]) * np.array([images[row].mpp or np.nan for row in rows])
    return float(edges.mean()) if np.isfinite(edges).all() and np.ptp(edges) < 0.03 * edges.mean() else None
