"""Maps of cell abundance on the tissue, truth beside prediction."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill
from typing import TYPE_CHECKING, Literal, NamedTuple

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
    from collections.abc import Sequence

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
    key: str | Sequence[str] | Mapping[str, str] = keys.PREDICTED,
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

    Spots are drawn at their true size (smaller on a denser grid, where they would hide each other), tiles let the tissue
    show through, points too many to be told apart are drawn as their mean over squares of about a px. Truth and prediction of a cell type share one colour scale, which starts at 0.
    The correlation in a title is Pearson's over the spots shown, over the test spots alone where
    ``obs["split"]`` marks some, and says so where the spots served to train. Spots without a value are hollow.

    Parameters
    ----------
    data
        Reads ``obsm[key]``, ``obsm[truth]``, the coordinates, and where they are there: the image, ``obs["section"]``,
        ``obs["mpp"]``, ``obs["split"]``, ``obs["<key>_novelty"]``.
    cell_types
        What to map; all columns of ``obsm[key]`` (that all of several have), at most the 24 most abundant ones, by default.
    key
        Slot with the abundances; or several to compare, such as those of two models, as a list or as a mapping from what to
        call each to its slot.
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
        Axes to draw on, as many as there are maps, row by row: cell types x (sections x truth, predictions).
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
        If there are too many sections or no rows, not as many axes as maps, slots are in different units or share no cell
        type, or two of them have one name.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600)
    >>> ax = hc.pl.abundance(sdata, "tumour", key="cell_abundance")
    >>> ax.get_title()
    'P1S1, tumour'
    """
    table = get_table(data, table_key)
    slots = _slots(table, key)
    predicted, measured, label = _read(table, slots, truth)
    names = _choose_types(list(predicted.values()), cell_types)
    maps = Maps(predicted, measured, label, names, _veiled(table, slots, veil_novelty))
    look = {"image_alpha": image_alpha, "alpha": alpha, "cmap": cmap, "vmax": vmax, "size": size}
    layout = {"ncols": ncols, "scalebar": scalebar, "title": title, "figsize": figsize, "ax": ax, "show": show}
    return draw_maps(data, maps, section=section, image=image, table_key=table_key, **look, **layout)  # type: ignore[arg-type]


class Maps(NamedTuple):
    """What is mapped.

    Attributes
    ----------
    predicted
        Values by what they are called, one column per cell type or gene.
    measured
        The truth, if it is shown.
    label
        Of the colour bars.
    names
        Columns to show.
    veiled
        Rows to veil, by what the values are called.
    """

    predicted: dict[str, pd.DataFrame]
    measured: pd.DataFrame | None
    label: str
    names: list[str]
    veiled: dict[str, NDArray[np.bool_]] = {}


def draw_maps(
    data: Data,
    maps: Maps,
    *,
    section: str | Sequence[str] | None,
    image: Images | bool,
    image_alpha: float | None,
    alpha: float | None,
    cmap: str | Colormap,
    vmax: float | str | Mapping[str, float],
    size: float,
    ncols: int | None,
    scalebar: bool,
    title: str | None,
    figsize: tuple[float, float] | None,
    ax: Axes | Sequence[Axes] | None,
    show: bool | None,
    table_key: str | None,
) -> Axes | NDArray[np.object_] | None:
    """Draw maps; the arguments are those of `abundance`."""
    table = get_table(data, table_key)
    predicted, measured, label, names, veiled = maps
    sections = find_sections(data, section, table_key=table_key, image=image)
    _check_number(sections)
    heading = title if title is not None else sections[0].title if len(sections) == 1 else ""
    single = len(names) == 1 and len(sections) == 1 and measured is None and len(predicted) == 1
    panels = _panels(sections, predicted, measured, heading if ax is not None else "", veiled)
    split = np.asarray(table.obs[keys.SPLIT] if keys.SPLIT in table.obs else [""] * table.n_obs, dtype=np.str_)
    views, one_scale = views_of(panels)
    max_px = 900 if len(names) * len(panels) <= MANY_MAPS else 400
    images = {each.name: tissue_image(each, views[each.name], max_px) for each in sections}
    look = Look(images, views, plt.get_cmap(cmap), size, alpha, image_alpha)  # an unknown name fails before a figure
    limits = [upper_limit(name, panels, vmax) for name in names]
    separator = "\n" if len(sections) > 1 or (ax is not None and heading) else ", "
    with styled(ax is None):
        if ax is None:
            ratios = np.array([np.divide(*np.ptp(views[panel.section.name], axis=0)) for panel in panels])
            axes, n_side = map_axes(ratios, len(names), ncols, figsize, heading=bool(heading) and not single)
        else:
            axes, n_side = _users_axes(ax, len(names), len(panels)), 1
        for row, name, limit in zip(axes, names, limits, strict=True):
            for axis, panel in zip(row, panels, strict=True):
                spots = look.draw(axis, panel, name, limit)
                axis.set_title(separator.join(filter(None, [panel.title, panel.notes(name, split)])), pad=3)
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


def _read(
    table: AnnData, slots: Mapping[str, str], truth: str | Literal[False] | None
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame | None, str]:
    """What is predicted, by what it is called, what was measured, and the unit of both."""
    frames = {slot: get.abundance(table, slot) for slot in slots.values()}
    predicted = {name: frames[slot] for name, slot in slots.items()}
    chosen = _truth(table, list(frames), truth)
    if chosen is not None:
        frames[chosen] = get.abundance(table, chosen)
    return predicted, None if chosen is None else frames[chosen], quantity(table, frames)


def _slots(table: AnnData, key: str | Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """The slots to show, by what they are called on the figure."""
    if not isinstance(key, str):
        slots = dict(key) if isinstance(key, Mapping) else {_name(table, slot, single=False): slot for slot in key}
        if not slots or len(slots) < len(key):
            msg = f"key holds {listing(key)}: give one slot, several different ones, or a mapping from names to slots"
            raise ValueError(msg)
        first, *others = slots.values()
        if problem := next(filter(None, (_other_unit(table, first, other) for other in others)), None):
            raise ValueError(problem)
        return slots
    return {_name(table, key, single=True): key}


def _name(table: AnnData, slot: str, *, single: bool) -> str:
    """What a slot is called: a prediction beside others by its model."""
    if single or slot == keys.ABUNDANCE:
        return {keys.PREDICTED: "predicted", keys.ABUNDANCE: "measured"}.get(slot, slot)
    for whole in sorted(table.uns.get(keys.PROVENANCE, {}), key=len, reverse=True):
        facts = keys.read_provenance(table, whole)
        if slot == whole and "model" in facts:
            return str(facts["model"])
        for baseline in facts.get("baselines") or ():
            if slot == f"{whole}_{baseline}":
                return str(baseline)
    return slot


def _truth(table: AnnData, slots: Sequence[str], truth: str | Literal[False] | None) -> str | None:
    """The slot of the measured abundances to show beside the others, if any."""
    chosen = truth
    if truth is None:
        fitted = str(keys.read_provenance(table, slots[0]).get("target"))
        chosen = next((slot for slot in (fitted, keys.ABUNDANCE) if slot in table.obsm), None)
    if not chosen or chosen in slots:
        return None
    for key in slots:
        if problem := _other_unit(table, chosen, key):
            if truth is not None:
                raise ValueError(problem)
            warn(f"{problem}, so only the latter is drawn")
            return None
    return chosen


def _other_unit(table: AnnData, first: str, second: str) -> str:
    """The problem with two slots of which one alone holds proportions, if it is one."""
    units = [recorded_unit(table, slot) for slot in (first, second)]
    if None in units or units[0] == units[1] or PROPORTION not in units:
        return ""
    return f'obsm["{first}"] is in {units[0]}, obsm["{second}"] in {units[1]}: they have no common colour scale'


def _veiled(table: AnnData, slots: Mapping[str, str], most: float | None) -> dict[str, NDArray[np.bool_]]:
    """By prediction, the rows that are newer to its model than they may be; nothing of slots without a novelty."""
    if most is None:
        return {}
    check_positive(most, "veil_novelty")
    columns = {name: slot + keys.NOVELTY for name, slot in slots.items()}
    known = {name: column for name, column in columns.items() if column in table.obs}
    if not known:
        hint = "hc.tl.predict_abundance(data) writes it beside a prediction."
        raise missing_key("obs", next(iter(columns.values())), table.obs.columns, hint)
    return {name: np.asarray(table.obs[column], dtype=np.float64) > most for name, column in known.items()}


def _choose_types(frames: Sequence[pd.DataFrame], cell_types: str | Sequence[str] | None) -> list[str]:
    frame = frames[0]
    columns = [name for name in frame.columns if all(name in other for other in frames)]
    if not columns:
        msg = f"the slots share no cell type: {'; '.join(listing(each.columns) for each in frames)}"
        raise ValueError(msg)
    if cell_types is not None:
        return choose(cell_types, columns, "cell type")
    if len(columns) <= MAX_TYPES:
        return columns
    warn(f"showing the {MAX_TYPES} most abundant of {len(columns)} cell types; choose others with cell_types=")
    most = set(frame[columns].mean().nlargest(MAX_TYPES).index)
    return [name for name in columns if name in most]


def _panels(
    sections: list[Section],
    predicted: Mapping[str, pd.DataFrame],
    measured: pd.DataFrame | None,
    heading: str,
    veiled: Mapping[str, NDArray[np.bool_]],
) -> list[Panel]:
    out = []
    for section in sections:
        prefix = " ".join(filter(None, [heading, section.name if len(sections) > 1 else ""]))
        if measured is not None:
            out.append(Panel(section, measured, None, f"{prefix} measured".strip()))
        out += [
            Panel(section, values, measured, f"{prefix} {name}".strip(), veiled.get(name))
            for name, values in predicted.items()
        ]
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
