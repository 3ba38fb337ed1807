"""Result of a search: the patches with what they scored, and where they lie on the tissue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np

from histocell._core import keys
from histocell._core.arguments import check_count
from histocell._core.errors import MissingKeyError, missing_key
from histocell.pl._choices import choose
from histocell.pl._patches.sheet import Group, Sheet, edge_um
from histocell.pl._points import draw_tissue
from histocell.pl._sections import find_sections, tissue_image
from histocell.pl._style import add_scalebar, check_axes, colors_of, finish, styled, text_scale
from histocell.tables.access import get_obsm
from histocell.tables.sections import Sections
from histocell.tables.windows import check_patches

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.typing import ColorType
    from numpy.typing import NDArray

    from histocell.pl._sections import Images
    from histocell.pl._style import Palette
    from histocell.tables.access import Data

_FEW = 4  # queries that are shown where none is named


def retrieval(
    data: Data,
    queries: str | Sequence[str] | None = None,
    *,
    n: int = 8,
    key: str = keys.RETRIEVAL,
    section: str | None = None,
    image: Images | None = None,
    patch_px: int = 128,
    palette: Palette | None = None,
    title: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    table_key: str | None = None,
) -> NDArray[np.object_] | None:
    """Show the patches that were found for each query, the most similar first, and where they lie on the tissue.

    Above a patch stands the expression of the gene as fold of the mean, or the similarity where that is unknown; above a
    query its enrichment, and in brackets the middle 95 % of random draws.

    Parameters
    ----------
    data
        Reads ``uns[key]`` of `histocell.tl.retrieve`, ``obsm["patches"]``, coordinates and the image.
    queries
        Which of the queries; by default the first four.
    n
        Most patches for each.
    key
        Slot of ``uns``.
    section
        Of the map; by default the one that most of these patches lie on.
    image
        For an AnnData: a path, an array, or a mapping from section to either.
    patch_px
        Edge of a drawn patch in px.
    palette
        Colours of the queries: by name, a list, or the name of a colour map.
    title
        Above the map; by default its section and how many of the patches lie there.
    figsize
        Width and height of a new figure in inches.
    ax
        Two axes to draw on: for the patches, and for the map.
    show
        Whether to show the figure; by default if it is new and matplotlib is interactive.
    table_key
        The table of a SpatialData that has several.

    Returns
    -------
    Both axes; nothing if `show` is `True`.

    Raises
    ------
    KeyError
        If nothing was retrieved, or a query, a section or the patches are not there.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=800)
    >>> hc.pp.patches(sdata, size_um=112)
    >>> hc.pp.embed_image(sdata, "morphology")
    >>> hc.tl.retrieve(sdata, "X_morphology", rows=sdata["table"].obs_names[0], k=4)
    >>> sheet, tissue = hc.pl.retrieval(sdata, show=False)
    >>> tissue.get_title()
    'P1S1: 4 of 4'
    """
    check_count(n, "n", least=1), check_count(patch_px, "patch_px", least=1)
    sections = Sections(data, table_key=table_key)
    table = sections.table
    if key not in table.uns:
        raise missing_key("uns", key, table.uns, "Run hc.tl.retrieve(data, ...) first.")
    hits, scores = table.uns[key]["hits"], table.uns[key]["scores"]
    found = list(dict.fromkeys(hits["query"].astype(str)))
    names = found[:_FEW] if queries is None else choose(queries, found, "query")
    colors = colors_of(found, palette)
    shown = hits[hits["query"].astype(str).isin(names) & (hits["rank"] <= n)]
    shown = shown.assign(place=table.obs_names.get_indexer(shown["row"].astype(str)))
    if (shown["place"] < 0).any():
        msg = f'uns["{key}"] names rows that this table has not; run hc.tl.retrieve(data, ...) again'
        raise MissingKeyError(msg)
    place = section or str(shown["section"].astype(str).value_counts().index[0])
    with styled(ax is None):
        if ax is None:
            scale, rows = text_scale(), len(names)
            size = figsize or ((0.72 * n + 2.6) * scale, max(0.95 * rows + 0.4, 2.6) * scale)
            axes = plt.subplots(1, 2, figsize=size, width_ratios=[0.72 * n, 2.6], layout="constrained")[1]
        else:
            axes = check_axes(ax, (2,), "the patches and the map need two")
        _draw_map(axes[1], data, shown, {name: colors[name] for name in names}, place, image, table_key, title)
        _draw_patches(
            axes[0],
            sections,
            shown,
            {name: (_heading(name, scores), colors[name]) for name in names},
            n,
            image,
            patch_px,
            created=ax is None,
        )
    return finish(axes, created=ax is None, show=show)


def _heading(name: str, scores: pd.DataFrame) -> str:
    own = scores[(scores["query"].astype(str) == name) & (scores["metric"] == "enrichment")]
    if own.empty or not np.isfinite(own["value"].iloc[0]):
        return name
    value, low, high = own[["value", "chance_low", "chance_high"]].iloc[0]
    return f"{name}: {value:.1f} times the mean (by chance {low:.1f} to {high:.1f})"


def _draw_patches(
    ax: Axes,
    sections: Sections,
    shown: pd.DataFrame,
    headings: dict[str, tuple[str, ColorType]],
    n: int,
    image: Images | None,
    patch_px: int,
    *,
    created: bool,
) -> None:
    table = sections.table
    windows = np.asarray(get_obsm(table, keys.PATCHES, "Run hc.pp.patches(data) first."))
    groups = []
    for name, (heading, color) in headings.items():
        rows = shown[shown["query"].astype(str) == name]
        groups.append((Group(heading, rows["place"].to_numpy(), color), rows))
    regions = sections.regions(image=image)
    check_patches(table, regions)
    images = {row: region.image for region in regions for row in region.rows if region.image is not None}
    sheet = Sheet.lay([group for group, _ in groups], n, None, ax, created=created)
    corners = sheet.corners([group for group, _ in groups])
    for _, rows in groups:
        column = "expression" if "expression" in rows and np.isfinite(rows["expression"]).all() else "similarity"
        values = rows[column].to_numpy(dtype=np.float64)
        for value, (row, corner) in zip(values, corners, strict=False):
            sheet.draw(
                images[row].read(*windows[row], out_shape=(patch_px, patch_px)),
                corner,
                "",
                float(value),
            )
    edge = edge_um(windows, images, shown["place"].to_numpy())
    if edge is not None:
        sheet.name_size(edge, scalebar=True)


def _draw_map(
    ax: Axes,
    data: Data,
    shown: pd.DataFrame,
    colors: dict[str, ColorType],
    place: str,
    image: Images | None,
    table_key: str | None,
    title: str | None,
) -> None:
    section = find_sections(data, place, table_key=table_key, image=True if image is None else image)[0]
    draw_tissue(ax, section, tissue_image(section, section.view), section.view)
    where = dict(zip(section.rows, section.xy, strict=True))
    for name, color in colors.items():
        own = [where[row] for row in shown.loc[shown["query"].astype(str) == name, "place"] if row in where]
        x, y = np.array(own).reshape(-1, 2).T
        ax.scatter(x, y, s=22, facecolor=color, edgecolor="white", linewidth=0.7, label=name, zorder=3)
    if len(colors) > 1:
        ax.legend(loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0, frameon=False)
    n_here = int((shown["section"].astype(str) == section.name).sum())
    ax.set_title(f"{section.title or section.name}: {n_here} of {len(shown)}" if title is None else title, pad=3)
    if section.mpp is not None:
        add_scalebar(ax)
