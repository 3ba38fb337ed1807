"""A contact sheet of the patches under spots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histocell import get
from histocell._core import keys
from histocell._core.errors import listing, missing_key
from histocell._core.rng import as_rng
from histocell.pl._style import MUTED, PALETTE, add_bar, bare, finish, new_axes, styled
from histocell.tables.access import get_obsm, get_table
from histocell.tables.sections import Sections

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from histocell._core.rng import RNGLike, SeedLike
    from histocell.tables.access import Data
    from histocell.tables.regions import Region

GAP = 0.06  # between patches, as a part of their edge
CAPTION = 0.17  # height of a caption, likewise
HEADING = 0.2


@dataclass(frozen=True)
class _Group:
    """Patches that stand together under a heading."""

    heading: str
    rows: NDArray[np.intp]
    color: str | None


def patches(
    data: Data,
    *,
    n: int = 16,
    by: str | None = None,
    spots: Sequence[str] | None = None,
    key: str | None = None,
    section: str | Sequence[str] | None = None,
    rng: SeedLike | RNGLike | None = None,
    image: Any = None,
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
        Seed or generator of the random choice.
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
    """
    table = get_table(data, table_key)
    windows = np.asarray(get_obsm(table, keys.PATCHES, "Run hc.pp.patches(data) first."))
    values = None if by is None else _values(table, by, key)
    if n < 1:
        msg = f"n must be at least 1, not {n}"
        raise ValueError(msg)
    groups = _choose(table, n, by, values, spots, section, rng)
    found = Sections(data, table_key=table_key).regions(image=image)
    images = {row: region.image for region in found for row in region.rows}
    if ncols is None:
        ncols = _columns(max(len(group.rows) for group in groups), several=len(groups) > 1)
    height = sum(-(-len(group.rows) // ncols) * (1 + CAPTION) + (HEADING if group.heading else 0) for group in groups)
    with styled(ax is None):
        sheet = new_axes(figsize or (ncols * 1.15, height * 1.1 + 0.25)) if ax is None else ax
        top = 0.0
        for group in groups:
            top = _draw_group(sheet, group, images, table, windows, values, ncols=ncols, patch_px=patch_px, top=top)
        bare(sheet)
        sheet.set(xlim=(-GAP, ncols * (1 + GAP)), ylim=(top, -GAP), aspect="equal")
        shown = np.concatenate([group.rows for group in groups])
        _describe(sheet, _edge_um(table, windows, found, shown), with_bar=scalebar)
    return finish(sheet, created=ax is None, show=show)


def _values(table: AnnData, by: str, key: str | None) -> NDArray[np.float64]:
    if key is None:
        key = keys.PREDICTED if keys.PREDICTED in table.obsm else keys.ABUNDANCE
    frame = get.abundance(table, key)
    if by not in frame:
        msg = f"cell type {by!r} not found in obsm[{key!r}]; available: {listing(frame.columns, 30)}"
        raise KeyError(msg)
    return frame[by].to_numpy(dtype=np.float64)


def _choose(
    table: AnnData,
    n: int,
    by: str | None,
    values: NDArray[np.float64] | None,
    spots: Sequence[str] | None,
    section: str | Sequence[str] | None,
    rng: SeedLike | RNGLike | None,
) -> list[_Group]:
    """Rows to show, in groups."""
    if spots is not None:
        rows = table.obs_names.get_indexer(pd.Index(spots))
        if (rows < 0).any():
            msg = f"spots not found: {listing(np.asarray(spots, dtype=object)[rows < 0])}; names are those of obs_names"
            raise KeyError(msg)
        return [_Group("", rows, None)]
    rows = _rows_of(table, section)
    if values is None:
        chosen = as_rng(rng).choice(rows, size=min(n, len(rows)), replace=False)
        return [_Group("", np.sort(chosen), None)]
    rows = rows[np.isfinite(values[rows])]
    if len(rows) == 0:
        msg = f"no spot of the section has a value of {by!r}"
        raise ValueError(msg)
    ranked = rows[np.argsort(values[rows], kind="stable")]
    half = max(1, min(n, len(rows)) // 2)
    most = _Group(f"most {by}", ranked[::-1][:half], PALETTE[4])
    least = _Group(f"least {by}", ranked[: min(half, len(ranked) - half)], PALETTE[0])
    return [group for group in (most, least) if len(group.rows)]


def _rows_of(table: AnnData, section: str | Sequence[str] | None) -> NDArray[np.intp]:
    """Rows of the sections whose patches lie inside of the image, all of them where none does."""
    kept = np.ones(table.n_obs, dtype=bool)
    if section is not None:
        if keys.SECTION not in table.obs:
            raise missing_key("obs", keys.SECTION, table.obs.columns, "section= chooses by it.")
        wanted = [section] if isinstance(section, str) else list(section)
        labels = table.obs[keys.SECTION].astype(str)
        absent = sorted(set(wanted) - set(labels))
        if absent:
            msg = f"section {listing(absent)} not found; available: {listing(labels.unique())}"
            raise KeyError(msg)
        kept = labels.isin(wanted).to_numpy()
    if keys.INSIDE in table.obs:
        inside = kept & np.asarray(table.obs[keys.INSIDE], dtype=bool)
        kept = inside if inside.any() else kept
    return np.flatnonzero(kept)


def _draw_group(
    ax: Axes,
    group: _Group,
    images: dict[int, Any],
    table: AnnData,
    windows: NDArray[np.integer],
    values: NDArray[np.float64] | None,
    *,
    ncols: int,
    patch_px: int,
    top: float,
) -> float:
    """Draw a group below `top`; returns where the next one starts. Patches are 1 wide, with gaps."""
    caption: dict[str, Any] = {"fontsize": "small", "va": "bottom"}
    if group.heading:
        ax.text(0, top + 0.17, group.heading, fontweight="bold", color=group.color, ha="left", va="bottom")
        top += HEADING
    for place, row in enumerate(group.rows):
        line, column = divmod(place, ncols)
        x, y = column * (1 + GAP), top + line * (1 + CAPTION + GAP) + CAPTION
        pixels = images[row].read(*windows[row], out_shape=(patch_px, patch_px))
        ax.imshow(pixels, extent=(x, x + 1, y + 1, y), interpolation="antialiased")
        ax.text(x, y - 0.015, _shorten(table.obs_names[row]), **caption)
        if values is not None:
            ax.text(x + 1, y - 0.015, f"{values[row]:.2g}", color=MUTED, ha="right", **caption)
    lines = -(-len(group.rows) // ncols)
    return top + lines * (1 + CAPTION + GAP) + GAP


def _columns(n: int, *, several: bool) -> int:
    """A square sheet; groups in full rows of at most eight."""
    return -(-n // -(-n // 8)) if several else int(np.ceil(np.sqrt(n)))


def _shorten(name: str, limit: int = 14) -> str:
    return name if len(name) <= limit else f"{name[: limit - 7]}…{name[-6:]}"


def _edge_um(table: AnnData, windows: NDArray[np.integer], found: list[Region], rows: NDArray[np.intp]) -> float | None:
    """Edge of the patches in um, `None` where it is unknown or not the same for all."""
    mpp = np.full(table.n_obs, np.nan)
    for region in found:
        mpp[region.rows] = np.nan if region.mpp is None else region.mpp
    if keys.MPP in table.obs:
        mpp = np.where(np.isfinite(mpp), mpp, np.asarray(table.obs[keys.MPP], dtype=float))
    edges = (windows[rows, 2] - windows[rows, 0]) * mpp[rows]
    return float(edges.mean()) if np.isfinite(edges).all() and np.ptp(edges) < 0.03 * edges.mean() else None


def _describe(ax: Axes, edge_um: float | None, *, with_bar: bool) -> None:
    if edge_um is None:
        return
    ax.set_xlabel(f"patches of {edge_um:.0f} µm", color=MUTED, fontsize="small")
    if with_bar:
        columns = ax.get_xlim()[1] / (1 + GAP)
        add_bar(ax, um_per_unit=edge_um, fraction=0.75 / columns, thickness=0.008)
