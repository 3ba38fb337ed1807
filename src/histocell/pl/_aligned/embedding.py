"""Two-dimensional embeddings of cells side by side, such as of images before and after the alignment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D

from histocell._core.arguments import as_names, check_positive
from histocell._core.errors import missing_key
from histocell.pl._style import MUTED, check_axes, colors_of, finish, hide_frame, styled, text_scale
from histocell.tables.access import get_obsm, get_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from histocell.pl._style import Palette
    from histocell.tables.access import Data

_HINT = (
    'Two dimensions come from scanpy: sc.pp.neighbors(table, use_rep="X_aligned_image", key_added="aligned"), then '
    'sc.tl.umap(table, neighbors_key="aligned", key_added="X_umap_aligned_image").'
)


def alignment_embedding(
    data: Data,
    color: str = "cell_type",
    *,
    bases: str | Sequence[str] = ("X_umap_image", "X_umap_aligned_image"),
    titles: Sequence[str] = ("image, before", "image, aligned"),
    size: float | None = None,
    palette: Palette | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    table_key: str | None = None,
) -> Axes | NDArray[np.object_] | None:
    """Show cells in two dimensions, before and after the alignment, in the colours of their types.

    Cells are drawn in random order, so that none of the types hides the others.

    Parameters
    ----------
    data
        Reads ``obsm`` and ``obs[color]``.
    color
        Column of ``obs`` with labels; cells without one are grey.
    bases
        Slots of ``obsm`` with two columns, such as UMAPs of scanpy, side by side.
    titles
        Of the axes, as many as `bases`.
    size
        Area of a dot; by default smaller for more cells.
    palette
        Colours of the labels: by name, a list, or the name of a colour map.
    figsize
        Width and height of a new figure in inches.
    ax
        Axes to draw on, as many as `bases`.
    show
        Whether to show the figure; by default if it is new and matplotlib is interactive.
    table_key
        The table of a SpatialData that has several.

    Returns
    -------
    The axes, an array where there are several; nothing if `show` is `True`.

    Raises
    ------
    KeyError
        If a slot or the column is not there.
    ValueError
        If a slot does not have two columns, or there are not as many titles or axes as slots.

    Examples
    --------
    >>> import numpy as np
    >>> import histocell as hc
    >>> from anndata import AnnData
    >>> xy = np.random.default_rng(0).normal(size=(2, 50, 2))
    >>> cells = AnnData(obsm={"X_umap_image": xy[0], "X_umap_aligned_image": xy[1]})
    >>> cells.obs["cell_type"] = ["a", "b"] * 25
    >>> [ax.get_title() for ax in hc.pl.alignment_embedding(cells, show=False)]
    ['image, before', 'image, aligned']
    """
    table = get_table(data, table_key)
    names = as_names(bases)
    if len(names) != len(titles):
        msg = f"{len(titles)} titles for {len(names)} bases; give one for each"
        raise ValueError(msg)
    if color not in table.obs:
        raise missing_key("obs", color, table.obs.columns, "color= names a column with labels.")
    points = [_points(get_obsm(table, name, _HINT), name) for name in names]
    column = table.obs[color].astype("category")
    labels = [str(name) for name in column.cat.categories]
    colors = colors_of(labels, palette if palette is not None or len(labels) <= 7 else "tab20")
    each = np.array([*colors.values(), MUTED], dtype=object)[column.cat.codes.to_numpy()]
    area = check_positive(size, "size") if size is not None else float(np.clip(40_000 / table.n_obs, 0.3, 20))
    order = np.random.default_rng(0).permutation(table.n_obs)
    with styled(ax is None):
        if ax is None:
            width = 2.6 * len(names) + 1.2 * text_scale()
            grid = plt.subplots(1, len(names), figsize=figsize or (width, 2.7), layout="constrained", squeeze=False)[1][
                0
            ]
        else:
            grid = check_axes(ax, (len(names),), f"{len(names)} bases need as many")
        for axis, xy, title in zip(grid, points, titles, strict=True):
            axis.scatter(*xy[order].T, s=area, c=list(each[order]), linewidths=0, rasterized=len(xy) > 5000)
            axis.set_title(title)
            hide_frame(axis)
        handles = [Line2D([], [], linestyle="", marker="o", color=c, label=name) for name, c in colors.items()]
        grid[-1].legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), handletextpad=0.2)
    return finish(grid[0] if len(grid) == 1 else grid, created=ax is None, show=show)


def _points(values: object, name: str) -> NDArray[np.float64]:
    xy = np.asarray(values, dtype=np.float64)
    if xy.ndim != 2 or xy.shape[1] != 2:
        msg = f'obsm["{name}"] must have two columns; it has shape {xy.shape}. {_HINT}'
        raise ValueError(msg)
    return xy
