"""The attention of a slide-level model on the tissue, beside the tiles that got most of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np

from histocell._core import keys
from histocell._core.arguments import check_count, check_positive
from histocell._core.errors import listing, missing_key
from histocell.pl._patches.patches import patches
from histocell.pl._points import draw_spots, draw_tissue
from histocell.pl._sections import find_sections, tissue_image
from histocell.pl._style import AMOUNT, add_colorbar, add_scalebar, check_axes, finish, styled, text_scale
from histocell.tables.access import get_table
from histocell.tables.sections import Sections

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from numpy.typing import NDArray

    from histocell.pl._sections import Images
    from histocell.tables.access import Data

_LIMIT = 99  # percentile at the upper end of the colours


def attention(
    data: Data,
    *,
    key: str = keys.ATTENTION,
    section: str | None = None,
    n_top: int = 9,
    image: Images | bool = True,
    image_alpha: float | None = None,
    alpha: float | None = None,
    cmap: str | Colormap = AMOUNT,
    size: float = 1.0,
    vmax: float | None = None,
    title: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    table_key: str | None = None,
) -> Axes | NDArray[np.object_] | None:
    """Map the attention of the tiles of a slide, beside the tiles that got most of it.

    The colour says how many times the mean of its slide a tile got, so 1 is a tile like any other. Attention tells where a
    model looked, not that a tile causes the outcome. Tiles without attention are hollow.

    Parameters
    ----------
    data
        Table of tiles. Reads ``obs[key]`` of `histocell.tl.predict_slides`, coordinates, and for the tiles beside the map
        ``obsm["patches"]`` and the image.
    key
        Column of ``obs`` with the attention.
    section
        The slide, as in ``obs["section"]``; needed where there are several.
    n_top
        How many tiles are shown beside the map, those with the most attention first; 0 for the map alone, as where there
        is no image or there are no patches.
    image
        Whether to draw the image under the tiles. For an AnnData also the image itself: a path, an array, or a mapping from
        section to either.
    image_alpha
        Opacity of the image, between 0 and 1; by default it is grey or faded.
    alpha
        Opacity of the tiles.
    cmap
        Colour map.
    size
        Edge of the tiles as a multiple of the true one.
    vmax
        Upper end of the colours, in multiples of the mean; by default the 99th percentile.
    title
        Above the map; by default the slide.
    figsize
        Width and height of a new figure in inches.
    ax
        Axes to draw on: one, or two where tiles are shown.
    show
        Whether to show the figure; by default if it is new and matplotlib is interactive.
    table_key
        The table of a SpatialData that has several.

    Returns
    -------
    The axes of the map, or an array of those and of the tiles; nothing if `show` is `True`.

    Raises
    ------
    KeyError
        If there is no attention, or no such slide.
    ValueError
        If there are several slides and none is named, no tile of it has attention, or axes are too few.

    Examples
    --------
    >>> import histocell as hc
    >>> tiles = hc.datasets.synthetic_slides(12, n_tiles=40)
    >>> slides = hc.io.slide_table(tiles)
    >>> hc.pp.split(slides, by="patient", test=["P1", "P2"])
    >>> hc.tl.fit_slides(slides, tiles, config={"max_epochs": 2})
    >>> hc.tl.predict_slides(slides, tiles, attention=True)
    >>> hc.pl.attention(tiles, section="S2", show=False).get_title()
    'S2'
    """
    table = get_table(data, table_key)
    if key not in table.obs:
        raise missing_key(
            "obs", key, table.obs.columns, "Run hc.tl.predict_slides(slides, data, attention=True) first."
        )
    check_count(n_top, "n_top")
    check_positive(size, "size")
    sections = find_sections(data, section, table_key=table_key, image=image)
    if len(sections) > 1:
        msg = f"{len(sections)} slides; choose one with section=: {listing(each.name for each in sections)}"
        raise ValueError(msg)
    (shown,) = sections
    values = np.asarray(table.obs[key], dtype=np.float64)[shown.rows]
    if not (np.isfinite(values).any() and np.nansum(values) > 0):
        msg = f'no tile of slide {shown.name!r} has a value in obs["{key}"]; predict it with attention=True'
        raise ValueError(msg)
    values = values / np.nanmean(values)
    limit = float(np.nanpercentile(values, _LIMIT)) if vmax is None else check_positive(vmax, "vmax")
    source = None if isinstance(image, bool) else image
    has_tiles = n_top > 0 and image is not False and keys.PATCHES in table.obsm
    has_tiles = has_tiles and _has_image(data, shown.name, source, table_key)
    order = np.argsort(np.where(np.isfinite(values), -values, np.inf), kind="stable")[:n_top]
    top = [str(name) for name in table.obs_names[shown.rows[order[np.isfinite(values[order])]]]]
    colors = plt.get_cmap(cmap)
    with styled(ax is None):
        axes = _axes(ax, has_tiles=has_tiles, figsize=figsize)
        draw_tissue(axes[0], shown, tissue_image(shown, shown.view), shown.view, alpha=image_alpha)
        drawn = draw_spots(axes[0], shown, values, cmap=colors, vmax=limit, size=size, alpha=alpha)
        axes[0].set_title(shown.title if title is None else title, pad=3)
        beyond = bool(np.nanmax(values) > limit * (1 + 1e-9))
        add_colorbar(axes[0], drawn, "attention, times the mean", extend="max" if beyond else "neither")
        if shown.mpp is not None:
            add_scalebar(axes[0])
        if has_tiles:
            ncols = int(np.ceil(np.sqrt(len(top))))
            patches(data, spots=top, image=source, ncols=ncols, ax=axes[1], table_key=table_key, show=False)
            axes[1].set_title("most attention", pad=3)
    return finish(axes[0] if len(axes) == 1 else axes, created=ax is None, show=show)


def _has_image(data: Data, name: str, source: Images | None, table_key: str | None) -> bool:
    """Whether the slide itself is there, not its thumbnail alone, as in a store of `histocell.pp.embed_cohort`."""
    regions = Sections(data, table_key=table_key).regions(image=source, need_image=False)
    return any(region.section == name and region.image is not None for region in regions)


def _axes(
    ax: Axes | Sequence[Axes] | None, *, has_tiles: bool, figsize: tuple[float, float] | None
) -> NDArray[np.object_]:
    n_parts = 1 + has_tiles
    if ax is not None:
        return check_axes(ax, (n_parts,), f"the map{' and the tiles' if has_tiles else ''} need {n_parts}")
    scale = text_scale()
    size = figsize or ((3.2 + 3.2 * has_tiles) * scale, 3.0 * scale)
    ratios = [1.15, 1.0][:n_parts]
    return plt.subplots(1, n_parts, figsize=size, width_ratios=ratios, layout="constrained", squeeze=False)[1][0]
