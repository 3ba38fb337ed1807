"""A contact sheet of the patches under spots."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd

from histocell import get
from histocell._core import keys
from histocell._core.arguments import check_count
from histocell._core.rng import as_rng
from histocell.pl._choices import choose
from histocell.pl._patches.sheet import Group, Sheet, edge_um
from histocell.pl._style import PALETTE, colors_of, finish, styled
from histocell.tables.access import get_obsm
from histocell.tables.sections import Sections
from histocell.tables.windows import check_patches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from histocell._core.rng import RNGLike, SeedLike
    from histocell.pl._sections import Images
    from histocell.tables.access import Data


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
    """Show patches as the encoder sees them: at random, of given spots, of each class, or of the highest and lowest abundances.

    Parameters
    ----------
    data
        Reads ``obsm["patches"]``, the image, and ``obsm[key]`` or ``obs[by]`` for `by`.
    n
        How many patches, in all.
    by
        A cell type: half of the patches are those with the most of it, half those with the least, as predicted or
        measured, which their heading says. Or a column of ``obs`` with classes, such as ``"cell_type"`` or ``"niche"``: as many
        of each, at random.
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
    labels = _categories(table, by) if by in table.obs and not _has_type(table, by, key) else None
    values = None if by is None or labels is not None else _values(table, str(by), key)
    for name, count in (("n", n), ("ncols", ncols), ("patch_px", patch_px)):
        if count is not None:
            check_count(count, name, least=1)
    if spots is not None:
        groups = [Group("", table.obs_names.get_indexer(pd.Index(choose(spots, table.obs_names, "spot"))))]
    elif labels is not None:
        groups = _classes(_rows(sections, section), labels, str(by), n, as_rng(rng))
    elif values is None:
        rows = _rows(sections, section)
        groups = [Group("", np.sort(as_rng(rng).choice(rows, size=min(n, len(rows)), replace=False)))]
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
        sheet = Sheet.lay(groups, ncols, figsize, ax)
        for row, corner in sheet.corners(groups):
            pixels = images[row].read(*windows[row], out_shape=(patch_px, patch_px))
            sheet.draw(pixels, corner, table.obs_names[row], None if values is None else values[row])
        edge = edge_um(windows, images, shown)
        if edge is not None:
            sheet.name_size(edge, scalebar=scalebar)
        if title:
            sheet.ax.set_title(title)
    return finish(sheet.ax, created=ax is None, show=show)


def _has_type(table: AnnData, by: str | None, key: str) -> bool:
    return key in table.obsm and by in get.abundance(table, key)


def _categories(table: AnnData, by: str | None) -> pd.Categorical[str]:
    return pd.Categorical(cast("pd.Series[str]", table.obs[by]))


def _classes(
    rows: NDArray[np.intp], labels: pd.Categorical[str], by: str, n: int, rng: np.random.Generator
) -> list[Group]:
    """Some rows of each class."""
    codes = labels.codes[rows]
    present = np.unique(codes[codes >= 0])
    if not len(present):
        msg = f'obs["{by}"] is missing in all rows of the section'
        raise ValueError(msg)
    each = max(1, n // len(present))
    chosen = [rng.permutation(rows[codes == code])[:each] for code in present]
    names = [str(labels.categories[code]) for code in present]
    colors = colors_of([str(name) for name in labels.categories], None)
    return [Group(name, np.sort(some), colors[name]) for name, some in zip(names, chosen, strict=True)]


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


def _extremes(rows: NDArray[np.intp], values: NDArray[np.float64], n: int, by: str, kind: str) -> list[Group]:
    """The rows with the highest and those with the lowest values."""
    rows = rows[np.isfinite(values[rows])]
    if len(rows) == 0:
        msg = f"no spot of the section has a value of {by!r}"
        raise ValueError(msg)
    ranked = rows[np.argsort(values[rows], kind="stable")]
    half = max(1, min(n, len(rows)) // 2)
    most = Group(f"most {by} ({kind})", ranked[::-1][:half], PALETTE[4])
    least = Group(f"least {by} ({kind})", ranked[: min(half, len(ranked) - half)], PALETTE[0])
    return [group for group in (most, least) if len(group.rows)]
