"""Nuclei and cells on the H&E, coloured by type, value or probability."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from histocell._core import keys
from histocell._core.arguments import check_amount, check_share
from histocell.pl._nuclei.colours import Colours, by_column, find_column, plain
from histocell.pl._nuclei.drawing import MOST_PATHS, draw_painted, draw_paths
from histocell.pl._nuclei.place import place
from histocell.pl._points import BRIGHTNESS, GREY
from histocell.pl._style import (
    AMOUNT,
    BACKGROUND,
    add_colorbar,
    add_scalebar,
    finish,
    hide_frame,
    one_axes,
    styled,
    text_scale,
)
from histocell.tables.nuclei import with_shapes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.typing import ColorType
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from histocell._core.types import Floats
    from histocell.pl._nuclei.place import Placed
    from histocell.pl._style import Palette

FILLED = 0.75  # opacity of fills
LINE = "#00C853"  # of outlines that nothing colours: neither haematoxylin nor eosin
CELLS = ("cells", "cell_boundaries", "cell_circles")  # ours, and those of spatialdata-io


def nuclei(
    data: SpatialData,
    color: str | None = None,
    *,
    shapes_key: str = keys.NUCLEI,
    center_um: Sequence[float] | None = None,
    size_um: float | Sequence[float] | None = None,
    fill: bool | None = None,
    image: bool = True,
    image_alpha: float | None = None,
    alpha: float = FILLED,
    line_color: ColorType = LINE,
    linewidth: float = 0.7,
    cmap: str | Colormap = AMOUNT,
    palette: Palette | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    legend: bool = True,
    scalebar: bool = True,
    title: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    image_key: str | None = None,
    mpp: float | None = None,
    table_key: str | None = None,
) -> Axes | None:
    """Draw nuclei on their slide: outlines, or fills by type, value or probability.

    Up to 20,000 in view are drawn as paths; more are painted into an image of the view, filled, each as one px at least,
    which takes seconds for half a million.

    Parameters
    ----------
    data
        SpatialData with the shapes; reads the image and the table that annotates them where they are there.
    color
        What to colour by: a column of ``obs``, a measurement such as ``"area_um2"``, a type in
        ``obsm["cell_type_probability"]``, a gene, or a column of the shapes, the first of them that there is; `None` draws
        outlines alone. Texts and categories are types, numbers are on a scale.
    shapes_key
        Name of the shapes: polygons, or circles.
    center_um, size_um
        Draw only a window: its centre (x, y) in um from the corner of the image, and its edge, or width and height, 300
        um by default.
    fill
        Whether to fill outlines; by default where `color` is given. Filled ones lie on the image in grey, so that their
        colours are those of the legend.
    image
        Whether to draw the image.
    image_alpha
        Opacity of the image in its colours, also under fills.
    alpha
        Opacity of the fills.
    line_color
        Colour of the outlines where `color` is not given.
    linewidth
        Width of the outlines in points.
    palette
        Colours of types: by name, a list, or a colour map; by default those in ``uns["<color>_colors"]``, else our own.
    cmap, vmin, vmax
        Colour map of numbers, and the ends of its scale: by default the 1st and 99th percentile of the nuclei in view, 0
        and 1 of probabilities.
    legend
        Whether to draw the legend or the colour bar.
    scalebar
        Whether to draw a scalebar; it needs the resolution.
    title
        What is written above.
    figsize
        Width and height of a new figure in inches.
    ax
        Axes to draw on.
    show
        Whether to show the figure; by default if it is new and matplotlib is interactive.
    image_key
        The image, where there are several slides.
    mpp
        Micrometres per full-resolution px, where the image does not say it.
    table_key
        The table, where several annotate the shapes.

    Returns
    -------
    The axes; nothing if `show` is `True`.

    Raises
    ------
    KeyError
        If there are no such shapes, or nothing to colour by.
    TypeError
        If `data` is no SpatialData.
    ValueError
        If there is nothing to draw in the view, there are nuclei of several slides, or too many types.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600)
    >>> ax = hc.pl.nuclei(sdata, "cell_type", shapes_key="cells", center_um=(150, 150), size_um=100)
    >>> ax.get_legend().get_title().get_text()
    'cell_type'
    """
    placed = place(data, "hc.pl.nuclei", shapes_key, image_key=image_key, mpp=mpp, table_key=table_key)
    check_share(alpha, "alpha")
    check_amount(linewidth, "linewidth")
    if image_alpha is not None:
        check_share(image_alpha, "image_alpha")
    view = placed.view(center_um, size_um)
    rows = placed.within(view)
    colours = _colours(placed, color, rows, line_color, palette=palette, cmap=cmap, limits=(vmin, vmax))
    filled = color is not None if fill is None else fill
    with styled(ax is None):
        width, height = np.ptp(view, axis=0)
        room = 1.1 * text_scale() if legend and color is not None else 0.0
        axis = one_axes(ax, figsize or (4 * min(1, width / height) + room, 4 * min(1, height / width) + 0.4))
        _draw_image(
            axis, placed.pixels(view) if image else None, view, grey=filled and image_alpha is None, alpha=image_alpha
        )
        if len(rows) > MOST_PATHS:
            draw_painted(axis, placed, rows, colours.rgba, view, alpha=alpha)
        else:
            draw_paths(axis, placed, rows, colours.rgba, filled=filled, alpha=alpha, linewidth=linewidth)
        if title:
            axis.set_title(title, pad=3)
        if legend and color is not None:
            _add_legend(axis, colours, color, alpha if filled else None)
        if scalebar and placed.mpp is not None:
            add_scalebar(axis)
    return finish(axis, created=ax is None, show=show)


def _colours(
    placed: Placed,
    color: str | None,
    rows: NDArray[np.intp],
    line_color: ColorType,
    *,
    palette: Palette | None,
    cmap: str | Colormap,
    limits: tuple[float | None, float | None],
) -> Colours:
    """Of the outlines in view."""
    if color is None:
        return plain(len(rows), line_color)
    series, is_probability = find_column(color, placed.table, placed.places, placed.shapes)
    if is_probability:
        limits = (0.0 if limits[0] is None else limits[0], 1.0 if limits[1] is None else limits[1])
    own = None if placed.table is None else placed.table.uns.get(f"{color}_colors")
    return by_column(series.iloc[rows], palette=palette, own=own, cmap=cmap, limits=limits)


def _draw_image(ax: Axes, pixels: NDArray[np.uint8] | None, view: Floats, *, grey: bool, alpha: float | None) -> None:
    (x0, y0), (x1, y1) = view
    hide_frame(ax)
    ax.set_facecolor(BACKGROUND if pixels is None else "white")
    if pixels is not None:
        shown = pixels @ BRIGHTNESS if grey else pixels
        opacity = alpha if alpha is not None else GREY if grey else 1.0
        extent = (x0, x1, y1, y0)
        ax.imshow(
            shown, extent=extent, alpha=opacity, cmap="gray", vmin=0, vmax=255, interpolation="antialiased", zorder=0
        )
    ax.set(xlim=(x0, x1), ylim=(y1, y0), aspect="equal")


def _add_legend(ax: Axes, colours: Colours, color: str, alpha: float | None) -> None:
    """Types beside the axes, or a colour bar."""
    if colours.norm is not None and colours.cmap is not None:
        shades = colours.cmap(np.linspace(0, 1, 256))[:, :3]
        drawn = ScalarMappable(colours.norm, ListedColormap(1 - (alpha or 1.0) * (1 - shades)))  # as it looks on white
        drawn.set_array(colours.values)
        add_colorbar(ax, drawn, color)
        return
    handles = [Patch(facecolor=each, label=name) for name, each in colours.names.items()]
    ax.legend(
        handles=handles,
        title=color,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        borderaxespad=0,
        handlelength=1,
        handleheight=1,
        frameon=False,
        ncols=1 + (len(handles) - 1) // 24,
    )


def cells(
    data: SpatialData,
    color: str | None = None,
    *,
    shapes_key: str | None = None,
    center_um: Sequence[float] | None = None,
    size_um: float | Sequence[float] | None = None,
    fill: bool | None = None,
    image: bool = True,
    image_alpha: float | None = None,
    alpha: float = FILLED,
    line_color: ColorType = LINE,
    linewidth: float = 0.7,
    cmap: str | Colormap = AMOUNT,
    palette: Palette | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    legend: bool = True,
    scalebar: bool = True,
    title: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    image_key: str | None = None,
    mpp: float | None = None,
    table_key: str | None = None,
) -> Axes | None:
    """Draw cells on their slide, as :func:`histocell.pl.nuclei` draws nuclei.

    Parameters
    ----------
    data
        SpatialData with the shapes of cells.
    color
        What to colour by, as in :func:`histocell.pl.nuclei`.
    shapes_key
        Name of the shapes; by default the first there is of ``"cells"``, ``"cell_boundaries"`` and ``"cell_circles"``.
    center_um, size_um, fill, image, image_alpha, alpha, line_color, linewidth, palette, cmap, vmin, vmax
        As in :func:`histocell.pl.nuclei`.
    legend, scalebar, title, figsize, ax, show, image_key, mpp, table_key
        As in :func:`histocell.pl.nuclei`.

    Returns
    -------
    The axes; nothing if `show` is `True`.

    Raises
    ------
    KeyError
        If there are no such shapes, or nothing to colour by.
    TypeError
        If `data` is no SpatialData.
    ValueError
        If there is nothing to draw in the view, there are cells of several slides, or too many types.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600)
    >>> ax = hc.pl.cells(sdata, "nucleus_area_um2", center_um=(150, 150))
    >>> ax.get_legend() is None
    True
    """
    shapes = with_shapes(data, "hc.pl.cells").shapes
    if shapes_key is None:
        shapes_key = next((name for name in CELLS if name in shapes), CELLS[0])
    return nuclei(
        data,
        color,
        shapes_key=shapes_key,
        center_um=center_um,
        size_um=size_um,
        fill=fill,
        image=image,
        image_alpha=image_alpha,
        alpha=alpha,
        line_color=line_color,
        linewidth=linewidth,
        palette=palette,
        cmap=cmap,
        vmin=vmin,
        vmax=vmax,
        legend=legend,
        scalebar=scalebar,
        title=title,
        figsize=figsize,
        ax=ax,
        show=show,
        image_key=image_key,
        mpp=mpp,
        table_key=table_key,
    )
