"""Maps of cell abundance on the tissue, truth beside prediction."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING, Literal

import matplotlib.pyplot as plt
import numpy as np

from histocell import get
from histocell._core import keys
from histocell._core.arguments import check_positive
from histocell._core.errors import listing, missing_key, warn
from histocell.pl._choices import choose
from histocell.pl._fit import fit_maps
from histocell.pl._panels import Look, Panel, map_axes, quantity, upper_limit, views_of
from histocell.pl._sections import find_sections, tissue_image
from histocell.pl._style import AMOUNT, add_colorbar, add_scalebar, check_axes, finish, styled
from histocell.tables.access import get_table
from histocell.tables.units import PROPORTION, recorded_unit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from numpy.typing import NDArray

    from histocell.pl._sections import Images, Section
    from histocell.tables.access import Data

MAX_TYPES = 24
MAX_SECTIONS = 6
MANY_MAPS = 12  # beyond it maps are small, and so may their images be


def abundance(
    data: Data,
    cell_types: str | Sequence[str] | None = None,
    *,
    key: str = keys.PREDICTED,
    truth: str | Literal[False] | None = None,
    section: str | Sequence[str] | None = None,
    image: Images | bool = True,
    image_alpha: float | None = None,
    alpha: float | None = None,
    cmap: str | Colormap = AMOUNT,
    vmax: float | str | Mapping[str, float] = "p99",
    size: float = 1.0,
    veil_novelty: float | None = None,
    ncols: int | None = None,
    scalebar: bool = True,
    title: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    table_key: str | None = None,
) -> Axes | NDArray[np.object_] | None:
    """Map cell abundances on the tissue, the measured ones beside the predicted ones.

    Spots are drawn at their true size, tiles let the tissue show through, points too many to be told apart are drawn as
    their mean over squares of about a px. Truth and prediction of a cell type share one colour scale, which starts at 0.
    The correlation in a title is Pearson's over the spots shown, over the test spots alone where
    ``obs["split"]`` marks some, and says so where the spots served to train. Spots without a value are hollow.

    Parameters
    ----------
    data
        Reads ``obsm[key]``, ``obsm[truth]``, the coordinates, and where they are there: the image, ``obs["section"]``,
        ``obs["mpp"]``, ``obs["split"]``, ``obs["<key>_novelty"]``.
    cell_types
        What to map; all columns of ``obsm[key]``, at most the 24 most abundant ones, by default.
    key
        Slot with the abundances.
    truth
        Slot with the measured abundances to show beside them; by default the one that the model was fitted on, else
        ``"cell_abundance"``, where it exists in the same unit. `False`: none.
    section
        One or several of the sections; by default all of them, if there are not more than six.
    image
        Whether to draw the image under the spots. For an AnnData also the image itself: a path, an array, or a
        mapping from section to either.
    image_alpha
        Opacity of the image in its colours, between 0 and 1; by default it is faded under spots, and grey under tiles,
        whose colours can then be read off the colour bar.
    alpha
        Opacity of spots and tiles; by default 1, and less for tiles on an image.
    cmap
        Colour map.
    vmax
        Upper end of the colour scales: a number, a percentile such as ``"p99"`` of truth and prediction together, or
        a number by cell type.
    size
        Diameter of the spots as a multiple of the true one.
    veil_novelty
        Predictions of rows whose ``obs["<key>_novelty"]`` is greater lie under a white veil: 1 is the novelty of a typical
        group that was held out from the fit, at 1.5 `histocell.tl.predict_abundance` warns of a section. `None`: none.
    ncols
        Number of cell types side by side.
    scalebar
        Whether to draw a scalebar under the maps, one where all have one scale; it needs the resolution.
    title
        What is written above the figure, or above the only map instead of the cell type; by default the section where
        one is shown that has a name.
    figsize
        Width and height of a new figure in inches.
    ax
        Axes to draw on, as many as there are maps, row by row: cell types x (sections x truth, prediction).
    show
        Whether to show the figure; by default if it is new and matplotlib is interactive.
    table_key
        The table of a SpatialData that has several.

    Returns
    -------
    The axes, or for several maps an array of them of shape ``(cell types, maps of each)``; nothing if `show` is `True`.

    Raises
    ------
    KeyError
        If a slot, a cell type, a section or, for a veil, the novelty is not there.
    ValueError
        If there are too many sections or no rows, not as many axes as maps, or `truth` is in another unit.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600)
    >>> ax = hc.pl.abundance(sdata, "tumour", key="cell_abundance")
    >>> ax.get_title()
    'P1S1, tumour'
    """
    table = get_table(data, table_key)
    predicted = get.abundance(table, key)
    measured = _measured(table, key, truth)
    names = _choose_types(predicted, cell_types)
    sections = find_sections(data, section, table_key=table_key, image=image)
    _check_number(sections)
    heading = title if title is not None else sections[0].title if len(sections) == 1 else ""
    single = len(names) == 1 and len(sections) == 1 and measured is None
    veiled = _veiled(table, key, veil_novelty)
    panels = _panels(sections, predicted, measured, key, heading if ax is not None else "", veiled)
    split = np.asarray(table.obs[keys.SPLIT] if keys.SPLIT in table.obs else [""] * table.n_obs, dtype=np.str_)
    views, one_scale = views_of(panels)
    max_px = 900 if len(names) * len(panels) <= MANY_MAPS else 400
    images = {each.name: tissue_image(each, views[each.name], max_px) for each in sections}
    look = Look(images, views, plt.get_cmap(cmap), size, alpha, image_alpha)  # an unknown name fails before a figure
    limits = [upper_limit(name, panels, vmax) for name in names]
    separator = "\n" if len(sections) > 1 or (ax is not None and heading) else ", "
    label = quantity(table, {key: predicted} | ({} if measured is None else {truth or keys.ABUNDANCE: measured}))
    with styled(ax is None):
        if ax is None:
            ratios = np.array([np.divide(*np.ptp(views[panel.section.name], axis=0)) for panel in panels])
            axes, n_side = map_axes(ratios, len(names), ncols, figsize, heading=bool(heading) and not single)
        else:
            axes, n_side = _users_axes(ax, len(names), len(panels)), 1
        for row, name, limit in zip(axes, names, limits, strict=True):
            for axis, panel in zip(row, panels, strict=True):
                spots = look.draw(axis, panel, name, limit)
                axis.set_title(separator.join(filter(None, [panel.title, panel.score(name, split)])), pad=3)
            _name_row(row, name, heading if ax is not None or single else "")
            beyond = any(np.nanmax(panel.column(name), initial=0) > limit * (1 + 1e-9) for panel in panels)
            add_colorbar(row[-1], spots, label, extend="max" if beyond else "neither")
        _set_title(axes, title if single else heading if ax is None else None, single=single)
        lowest = axes[(len(names) - 1) // n_side * n_side]
        if scalebar:
            _scalebars(axes if ax is not None else lowest[:1] if one_scale else lowest, panels)
        if ax is not None:
            fit_maps(list(axes.flat))
    return finish(axes[0, 0] if axes.size == 1 else axes, created=ax is None, show=show)


def _check_number(sections: list[Section]) -> None:
    if len(sections) > MAX_SECTIONS:
        msg = f"{len(sections)} sections are too many for one figure; choose with section=, for example section="
        msg += f"{sections[0].name!r}: {listing(each.name for each in sections)}"
        raise ValueError(msg)


def _measured(table: AnnData, key: str, truth: str | Literal[False] | None) -> pd.DataFrame | None:
    chosen = truth
    if truth is None:
        fitted = str(keys.read_provenance(table, key).get("target"))
        chosen = next((slot for slot in (fitted, keys.ABUNDANCE) if slot in table.obsm), None)
    if not chosen or chosen == key:
        return None
    units = [recorded_unit(table, slot) for slot in (chosen, key)]
    if None not in units and units[0] != units[1] and PROPORTION in units:
        msg = f'obsm["{chosen}"] is in {units[0]}, obsm["{key}"] in {units[1]}: they have no common colour scale'
        if truth is not None:
            raise ValueError(msg)
        warn(f"{msg}, so only the latter is drawn")
        return None
    return get.abundance(table, chosen)


def _veiled(table: AnnData, key: str, most: float | None) -> NDArray[np.bool_] | None:
    """Rows that are newer to the model than they may be, `None` where all may be as new as they are."""
    if most is None:
        return None
    check_positive(most, "veil_novelty")
    column = key + keys.NOVELTY
    if column not in table.obs:
        raise missing_key(
            "obs", column, table.obs.columns, "hc.tl.predict_abundance(data) writes it beside a prediction."
        )
    return np.asarray(table.obs[column], dtype=np.float64) > most


def _choose_types(frame: pd.DataFrame, cell_types: str | Sequence[str] | None) -> list[str]:
    columns = list(frame.columns)
    if cell_types is not None:
        return choose(cell_types, columns, "cell type")
    if len(columns) <= MAX_TYPES:
        return columns
    warn(f"showing the {MAX_TYPES} most abundant of {len(columns)} cell types; choose others with cell_types=")
    most = set(frame.mean().nlargest(MAX_TYPES).index)
    return [name for name in columns if name in most]


def _panels(
    sections: list[Section],
    predicted: pd.DataFrame,
    measured: pd.DataFrame | None,
    key: str,
    heading: str,
    veiled: NDArray[np.bool_] | None,
) -> list[Panel]:
    names = {keys.PREDICTED: "predicted", keys.ABUNDANCE: "measured"}
    out = []
    for section in sections:
        prefix = " ".join(filter(None, [heading, section.name if len(sections) > 1 else ""]))
        for values, truth, name in ((measured, None, "measured"), (predicted, measured, names.get(key, key))):
            if values is not None:
                rows = veiled if values is predicted else None
                out.append(Panel(section, values, truth, f"{prefix} {name}".strip(), rows))
    return out


def _users_axes(ax: Axes | Sequence[Axes], n_types: int, n_maps: int) -> NDArray[np.object_]:
    needed = f"{n_types} cell types x {n_maps} maps of each need {n_types * n_maps}"
    return check_axes(ax, (n_types, n_maps), needed)


def _set_title(axes: NDArray[np.object_], title: str | None, *, single: bool) -> None:
    """Of the only map, or above the figure."""
    if title and single:
        axes[0, 0].set_title(title, pad=3)
    elif title:
        axes[0, 0].figure.suptitle(title)


def _name_row(row: NDArray[np.object_], name: str, heading: str) -> None:
    """The cell type beside a row of maps, or above the only one, after its heading."""
    if len(row) == 1:
        row[0].set_title(", ".join(filter(None, [heading, fill(name, 26)])), pad=3)
    else:
        row[0].set_ylabel(fill(name, 20), fontweight="bold", labelpad=3)


def _scalebars(axes: NDArray[np.object_], panels: list[Panel]) -> None:
    """A scalebar under each of the axes whose resolution is known."""
    for axis, panel in zip(axes.flat, panels * len(axes), strict=False):
        if panel.section.mpp is not None:
            add_scalebar(axis)
