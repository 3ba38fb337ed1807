"""Spots between the spots, for predictions on a denser grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd
from anndata import AnnData

from histocell._core import geometry, keys
from histocell._core.arguments import check_count
from histocell._core.errors import MissingKeyError, listing
from histocell.images.transformations import transformations
from histocell.pp._grids.lattice import between
from histocell.tables.access import is_spatialdata
from histocell.tables.files import copy_files
from histocell.tables.sections import Sections

if TYPE_CHECKING:
    import geopandas as gpd
    from spatialdata import SpatialData

    from histocell._core.types import Floats, Ints
    from histocell.tables.access import Data
    from histocell.tables.regions import Region

DENSE_TABLE = "dense_table"


def dense_spots(
    data: Data,
    *,
    factor: int = 2,
    key_added: str = DENSE_TABLE,
    table_key: str | None = None,
    overwrite: bool = False,
    inplace: bool = True,
) -> AnnData | SpatialData | None:
    """Lay spots between the spots, on which a model that was fitted on spots predicts in finer steps.

    New spots lie where neighbours lie on both sides, on hexagonal and on square grids; gaps of the grid and what is beyond its
    border stay empty. They have patches of the same size: embed them as the spots were, and predict with the same
    model, ``table_key="dense_table"``. A value at a spot is, as before, what the model expects in a spot of the
    original size that is centred there; neighbours now overlap, so values do not add up to the cells of the tissue.

    Parameters
    ----------
    data
        SpatialData whose table annotates circles; or, with ``inplace=False``, AnnData. Reads their centres, ``obs``, and
        where it is there ``obsm["patches"]``.
    factor
        How many times smaller the distance between neighbours gets: 2 gives about four times as many spots.
    key_added
        Name of the new table of a SpatialData.
    table_key
        The table of the spots, where a SpatialData has several.
    overwrite
        Whether to replace a table of that name with all that it holds.
    inplace
        Whether to write the result; else it is returned. An AnnData has no room for a second table.

    Returns
    -------
    `None`, or with ``inplace=False`` a SpatialData with the new elements, or the new AnnData. Writes:

    ``shapes["dense_<region>"]`` : circles
        Of the size of the spots, in their coordinate systems: ``dense_spots`` beside ``spots``.
    ``tables["dense_table"]`` : AnnData without variables
        The spots, and those between them. ``obs["between_spots"]`` marks the latter; other columns are those that are
        constant in each section, such as ``section``, ``patient`` and ``mpp``. ``obsm["spatial"]`` (n, 2) px;
        ``obsm["patches"]`` and ``obs["patch_inside"]`` where the spots have patches.

    Raises
    ------
    TypeError
        When `data` is an AnnData and is to be written to.
    ValueError
        When rows lie on no grid, as cells do, no two of them are neighbours, they are tiles, or the table is there already.

    References
    ----------
    Zhao et al., Hist2Cell (2024): super-resolved cell abundances.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=1000)
    >>> hc.pp.patches(sdata)
    >>> hc.pp.dense_spots(sdata)
    >>> hc.pp.embed_image(sdata, "morphology", table_key="dense_table")
    >>> dense = sdata["dense_table"]
    >>> dense.n_obs > 3 * sdata["table"].n_obs, dense.obsm["X_morphology"].shape[0] == dense.n_obs
    (True, True)
    """
    check_count(factor, "factor", least=2)
    if inplace and not is_spatialdata(data):
        msg = "an AnnData has no room for a second table: hc.pp.dense_spots(adata, inplace=False) returns it"
        raise TypeError(msg)
    sections = Sections(data, table_key=table_key)
    parts = [Part.of(region, factor) for region in sections.regions(need_image=False)]
    if not any(len(part.weights) for part in parts):
        msg = "no two rows are neighbours, so there is nothing between them"
        raise ValueError(msg)
    table = _table(sections, parts)
    keys.write_provenance(table, keys.SPATIAL, factor=factor)
    if not is_spatialdata(data):
        return table
    import spatialdata as sd

    prefix = key_added.removesuffix("_table")
    shapes = {f"{prefix}_{part.region.name}": _shapes(data, sections, part) for part in parts}
    if data.tables.get(key_added) is sections.table:
        msg = f"{key_added!r} are the spots themselves; choose another key_added="
        raise ValueError(msg)
    if not overwrite and (there := [name for name in (key_added, *shapes) if name in data]):
        msg = f"{listing(map(repr, there))} would be replaced with all that they hold; do so with overwrite=True, or choose "
        msg += "another key_added="
        raise ValueError(msg)
    table = _annotating(table, sections, parts, list(shapes))
    if not inplace:
        return sd.SpatialData(shapes=shapes, tables={key_added: table})
    for name, each in shapes.items():
        data.shapes[name] = each
    data.tables[key_added] = table
    return None


@dataclass(frozen=True)
class Part:
    """The rows of a region, and the points between them: as `between` gives them."""

    region: Region
    parents: Ints
    weights: Floats

    @classmethod
    def of(cls, region: Region, factor: int) -> Part:
        """Of the spots of a region; an error where these lie on no grid."""
        if len(region.rows) < 2:
            return cls(region, np.empty((0, 3), dtype=np.intp), np.empty((0, 3)))
        if not geometry.is_grid(region.centers):
            msg = f"the rows of {region.name} lie on no grid, as spots do: there is nothing between cells"
            raise ValueError(msg)
        return cls(region, *between(region.centers, factor))

    def extend(self, xy: Floats) -> Floats:
        """Coordinates of the spots, then of those between them."""
        return np.concatenate([xy, (self.weights[..., None] * xy[self.parents]).sum(axis=1)])

    @property
    def rows(self) -> Ints:
        """A row of the table for each: the spot itself, then the nearest one."""
        nearest = self.parents[np.arange(len(self.parents)), self.weights.argmax(axis=1)]
        return np.concatenate([self.region.rows, self.region.rows[nearest]])


def _table(sections: Sections, parts: list[Part]) -> AnnData:
    """All spots of all regions, with patches where the spots have some."""
    table = sections.table
    rows = np.concatenate([part.rows for part in parts])
    is_new = np.concatenate([np.arange(len(part.rows)) >= len(part.region.rows) for part in parts])
    obs = cast("pd.DataFrame", table.obs[_constant_columns(table, parts)]).iloc[rows].copy()
    names = table.obs_names.to_numpy(dtype=object)[rows]
    names[is_new] = [f"between{number}" for number in range(is_new.sum())]
    obs.index = pd.Index(names.astype(str))
    obs[keys.BETWEEN] = is_new
    out = AnnData(obs=obs)
    out.obsm[keys.SPATIAL] = np.concatenate([part.extend(part.region.centers) for part in parts])
    if "spatial" in table.uns:
        out.uns["spatial"] = table.uns["spatial"]
    _lay_patches(out, table, parts)
    return out


def _constant_columns(table: AnnData, parts: list[Part]) -> list[str]:
    """Columns that say the same of all rows of a region, and so of what lies between them."""
    attrs = table.uns.get("spatialdata_attrs", {})
    own = {attrs.get("region_key"), attrs.get("instance_key"), keys.INSIDE, keys.BETWEEN}
    frames = [table.obs.iloc[part.region.rows] for part in parts]
    return [
        str(name)
        for name in table.obs
        if name not in own and all(frame[name].nunique(dropna=False) == 1 for frame in frames)
    ]


def _lay_patches(out: AnnData, table: AnnData, parts: list[Part]) -> None:
    """Patches of the size of the spots' ones, where these are known and so is the image."""
    recorded = keys.read_provenance(table, keys.PATCHES)
    size_um = recorded.get("size_um")
    if keys.PATCHES not in table.obsm or size_um is None:
        return
    if any(part.region.image is None or part.region.mpp is None for part in parts):
        return
    windows, inside = [], []
    for part in parts:
        size_px = size_um / float(part.region.mpp)  # type: ignore[arg-type]
        windows.append(geometry.square_windows(part.extend(part.region.centers), size_px))
        inside.append(geometry.windows_inside(windows[-1], part.region.image.shape))  # type: ignore[union-attr]
    out.obsm[keys.PATCHES] = np.concatenate(windows)
    out.obs[keys.INSIDE] = np.concatenate(inside)
    named = {name: value for name, value in recorded.items() if name == "library_key" and value in out.obs}
    keys.write_provenance(out, keys.PATCHES, size_um=size_um, **named)
    copy_files(table, out)


def _shapes(data: SpatialData, sections: Sections, part: Part) -> gpd.GeoDataFrame:
    """Circles of the size of the spots, in the coordinate systems of theirs."""
    from spatialdata.models import ShapesModel

    name, attrs = part.region.name, sections.table.uns["spatialdata_attrs"]
    if name not in data.shapes:
        msg = f"shapes {name!r}, which the table annotates, not found; available: {listing(data.shapes)}"
        raise MissingKeyError(msg)
    spots = data.shapes[name].loc[sections.table.obs[attrs["instance_key"]].to_numpy()[part.region.rows]]
    if "radius" not in spots:
        msg = f"{name!r} are tiles, not spots; a denser grid of these is hc.pp.tiles(data, overlap=0.5)"
        raise ValueError(msg)
    xy = part.extend(np.column_stack([spots.geometry.x, spots.geometry.y]))
    radius = np.concatenate([spots["radius"], np.full(len(part.parents), float(spots["radius"].median()))])
    return ShapesModel.parse(xy, geometry=0, radius=radius, transformations=dict(transformations(data.shapes[name])))


def _annotating(table: AnnData, sections: Sections, parts: list[Part], names: list[str]) -> AnnData:
    """The table, linked to the shapes."""
    from spatialdata.models import TableModel

    attrs = sections.table.uns["spatialdata_attrs"]
    sizes = [len(part.rows) for part in parts]
    table.obs[attrs["region_key"]] = pd.Categorical(np.repeat(names, sizes), categories=names)
    table.obs[attrs["instance_key"]] = np.concatenate([np.arange(size) for size in sizes])
    return TableModel.parse(table, region=names, region_key=attrs["region_key"], instance_key=attrs["instance_key"])
