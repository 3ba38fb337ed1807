"""Tiles, or nuclei, of several slides in one table: joined, made again, and never lost without a word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd

from histocell._core import keys
from histocell._core.errors import listing, warn
from histocell.tables.access import resolutions
from histocell.tables.slides import beside_image, region_image, source_key

if TYPE_CHECKING:
    from collections.abc import Collection

    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from histocell.tables.slides import Slide

_ATTRS = "spatialdata_attrs"
_INSTANCE = "instance_id"


@dataclass(frozen=True)
class Kind:
    """What a table of several slides annotates.

    Attributes
    ----------
    shapes, table
        Names of the shapes, before the ending of a slide, and of the table. In messages the shapes are their own name.
    verb
        What makes them.
    place
        Slot of ``obsm`` that tells whether they are the same.
    """

    shapes: str
    table: str
    verb: str
    place: str


TILES = Kind(keys.TILES, keys.TILE_TABLE, "hc.pp.tiles", keys.PATCHES)
NUCLEI = Kind(keys.NUCLEI, keys.NUCLEUS_TABLE, "hc.pp.segment_nuclei", keys.SPATIAL)


def shapes_name(data: SpatialData, slide: Slide, kind: Kind) -> str:
    """Name of the tiles or nuclei of a slide: what they are called already, else as `beside_image` says."""
    there = [name for name in _shapes_of(data, slide, kind) if name.partition("-")[0] == kind.shapes]
    return there[0] if there else beside_image(data, kind.shapes, slide.key)


def _shapes_of(data: SpatialData, slide: Slide, kind: Kind) -> list[str]:
    """The shapes in the table that lie on a slide; of the same section, where the image is not known."""
    table = data.tables.get(kind.table)
    if table is None:
        return []
    regions, found = _regions(table, kind), []
    for name in dict.fromkeys(regions):
        image = region_image(data, name)
        sections = set(table.obs[keys.SECTION][regions == name].astype(str)) if keys.SECTION in table.obs else set()
        if sections == {slide.section} if image is None else image == source_key(data, slide.key):
            found.append(str(name))
    return found


def add_rows(
    data: SpatialData,
    name: str,
    table: AnnData,
    slide: Slide,
    kind: Kind,
    *,
    overwrite: bool,
    renewed: Collection[str] = (),
) -> None:
    """Put the table of the tiles or nuclei `name` of a slide into that of all slides, beside the rows of others.

    Parameters
    ----------
    data, name, table, slide, kind
        The object, the shapes and their table, the slide they lie on, and what they are.
    overwrite
        Whether what was computed on others of the slide may be lost.
    renewed
        Slots of ``obsm`` that are computed again at once.

    Raises
    ------
    ValueError
        When what was computed on others of the slide would be lost, or tiles of other slides have another size.
    """
    there = data.tables.get(kind.table)
    if there is None:
        data.tables[kind.table] = table
        return
    own = np.isin(_regions(there, kind), [name, *_shapes_of(data, slide, kind)])
    if set(_regions(there, kind)[own]) == {name} and _same_places(there[own], table, kind):
        if keys.TISSUE_FRACTION in table.obs:
            there.obs.loc[own, keys.TISSUE_FRACTION] = table.obs[keys.TISSUE_FRACTION].to_numpy()
        return
    lost = _computed(there, own, table, renewed)
    if lost and not overwrite:
        old = listing(map(repr, dict.fromkeys(_regions(there, kind)[own])))
        msg = (
            f"the {kind.shapes} {old} would be replaced by others, and {listing(lost)} of theirs would be lost; do so with "
            "overwrite=True, or get the new ones beside them with inplace=False"
        )
        raise ValueError(msg)
    data.tables[kind.table] = table if own.all() else _joined(there[~own].copy(), table, name, kind, renewed)


def _regions(table: AnnData, kind: Kind) -> NDArray[np.object_]:
    """Name of the shapes of each row."""
    if _ATTRS not in table.uns or kind.place not in table.obsm:
        msg = f"the table {kind.table!r} is none of {kind.shapes} on shapes, so it is not of {kind.verb}; give it another name"
        raise ValueError(msg)
    return table.obs[table.uns[_ATTRS]["region_key"]].astype(str).to_numpy()


def _same_places(there: AnnData, table: AnnData, kind: Kind) -> bool:
    same = np.array_equal(there.obsm[kind.place], table.obsm[kind.place])
    return same and np.array_equal(resolutions(there), resolutions(table))


def _computed(there: AnnData, own: NDArray[np.bool_], table: AnnData, renewed: Collection[str]) -> list[str]:
    """What the rows `own` hold that new ones do not."""
    if not own.any():
        return []
    slots = {"obs": there.obs, "obsm": there.obsm, "uns": there.uns if own.all() else {}}
    new = {"obs": {*table.obs, _INSTANCE}, "obsm": {*table.obsm, *renewed}, "uns": {_ATTRS, keys.PROVENANCE}}
    return [
        f'{slot}["{key}"]'
        for slot, entries in slots.items()
        for key, value in entries.items()
        if key not in new[slot] and (slot == "uns" or _is_known(value, own))
    ]


def _is_known(value: object, rows: NDArray[np.bool_]) -> bool:
    """Whether any of the rows has a value."""
    if not isinstance(value, np.ndarray | pd.DataFrame | pd.Series):  # of files, or sparse: not read for this
        return True
    return bool(pd.notna(np.asarray(value)[rows]).any())


def _joined(others: AnnData, table: AnnData, name: str, kind: Kind, renewed: Collection[str]) -> AnnData:
    """Rows of other slides, then those of `table`."""
    import anndata as ad
    from spatialdata.models import TableModel

    if kind is TILES:
        _check_size(others, table)
    empty = [f'obsm["{key}"]' for key in others.obsm if key not in {*table.obsm, *renewed}]
    region_key = others.uns[_ATTRS]["region_key"]
    frames, instance_key = _with_equal_columns(others, table, name)
    # values that will be missing in the new rows: a file holds them as "boolean", not as objects
    flags = frames[0].select_dtypes("bool").columns.difference(frames[1].columns)
    frames[0] = frames[0].astype(dict.fromkeys(flags, "boolean"))
    others.obs, table.obs = frames
    ending = name.partition("-")[2] or name
    if table.obs_names.isin(others.obs_names).any():
        table.obs_names = [f"{each}-{ending}" for each in table.obs_names]
    joined = ad.concat([others, table], join="outer", pairwise=True)
    joined.uns = {key: value for key, value in {**table.uns, **others.uns}.items() if key != _ATTRS}
    joined.uns[keys.PROVENANCE] = {**table.uns.get(keys.PROVENANCE, {}), **others.uns.get(keys.PROVENANCE, {})}
    joined.obs[region_key] = pd.Categorical(joined.obs[region_key].astype(str))
    regions = list(dict.fromkeys(joined.obs[region_key]))
    if empty:
        warn(
            f"the {kind.shapes} {name!r} have no {listing(empty)} yet, their rows are NaN: run the steps that wrote them again"
        )
    return TableModel.parse(joined, region=regions, region_key=region_key, instance_key=instance_key)


def _with_equal_columns(others: AnnData, table: AnnData, name: str) -> tuple[list[pd.DataFrame], str]:
    """``obs`` of both tables, regions and instances in columns of one name each; and that of the instances."""
    of_others, of_table = others.uns[_ATTRS], table.uns[_ATTRS]
    frames = [cast("pd.DataFrame", each.obs) for each in (others, table)]
    frames[1] = frames[1].rename(columns={of_table["region_key"]: of_others["region_key"]})
    instances = [frames[0][of_others["instance_key"]], frames[1][of_table["instance_key"]]]
    kinds = ["numbers" if pd.api.types.is_numeric_dtype(each.dtype) else "names" for each in instances]
    if kinds[0] != kinds[1]:
        msg = (
            f"shapes {name!r} are indexed by {kinds[1]}, those of other slides by {kinds[0]}, and a table wants one kind; "
            f'give them another index: sdata.shapes["{name}"].index = ...'
        )
        raise TypeError(msg)
    if of_others["instance_key"] == of_table["instance_key"]:
        return frames, of_others["instance_key"]
    return [frame.assign(**{_INSTANCE: each}) for frame, each in zip(frames, instances, strict=True)], _INSTANCE


def _check_size(others: AnnData, table: AnnData) -> None:
    """Refuse tiles of another size in um: a table has one, and so has an embedding."""
    sizes = []
    for each in (others, table):
        y0, _, y1, _ = each.obsm[keys.PATCHES][0]
        sizes.append((y1 - y0) * resolutions(each)[0])
    px = max(resolutions(each)[0] for each in (others, table))
    if abs(sizes[0] - sizes[1]) > 1.01 * px:  # windows are of whole px
        msg = (
            f"{keys.TILE_TABLE!r} holds tiles of {sizes[0]:.4g} um of other slides, and these are of {sizes[1]:.4g} um; all "
            "tiles of a table have one size: give the same size_um=, or keep them apart with inplace=False"
        )
        raise ValueError(msg)
