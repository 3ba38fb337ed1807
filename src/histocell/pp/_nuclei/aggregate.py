"""Nuclei brought to spots and tiles: their number, and mean and spread of their measurements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from histocell._core import keys
from histocell._core.errors import listing, missing_key, warn
from histocell.images.transformations import matrix_to_image
from histocell.pp._nuclei.membership import in_shapes, in_windows
from histocell.tables.access import get_obsm, row_labels
from histocell.tables.nuclei import table_of_nuclei, with_shapes
from histocell.tables.sections import Sections
from histocell.tables.slides import source_key
from histocell.tables.windows import RECORD, check_patches, patches_record

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_array
    from spatialdata import SpatialData

    from histocell._core.types import Floats
    from histocell.tables.regions import Region

    type Within = Literal["spots", "patches"]


def aggregate_nuclei(
    data: SpatialData,
    *,
    within: Within = "spots",
    key: str | None = keys.MEASUREMENTS,
    labels_key: str | None = None,
    nucleus_table_key: str | None = None,
    table_key: str | None = None,
    key_added: str = "X_nuclei",
    count_key: str = keys.N_NUCLEI,
    inplace: bool = True,
) -> dict[str, pd.DataFrame | pd.Series] | None:
    """Count the nuclei of each spot or tile, and average what was measured on them.

    Parameters
    ----------
    data
        SpatialData with a table of spots or tiles, and one of nuclei on the same image.
    within
        ``"spots"``: the shapes of the rows, circles of spots, squares of tiles; ``"patches"``: the windows of
        ``obsm["patches"]``. A nucleus counts where its centre lies, in several rows where these overlap.
    key
        Slot of ``obsm`` of the nuclei with numbers to average, such as those of :func:`histocell.pp.measure_nuclei`; `None`
        counts only.
    labels_key
        Column of ``obs`` of the nuclei with their types: their numbers are features, too.
    nucleus_table_key
        The table of the nuclei; by default the one that holds `key`, else ``"nucleus_table"``.
    table_key
        The table of the spots or tiles, where there are several.
    key_added
        Slot of ``obsm`` for the features.
    count_key
        Column of ``obs`` for the number of nuclei.
    inplace
        Whether to write the result; else it is returned.

    Returns
    -------
    `None`, or with ``inplace=False`` the features and the numbers as pandas objects, by key. Writes:

    ``obsm["X_nuclei"]`` : float32 (n, features)
        ``n_nuclei``; ``n_<type>`` of each type; ``mean_<name>`` and ``sd_<name>`` of each measurement over the nuclei of
        which it is known. 0 where a row holds no nucleus (as features of ``morphology`` tend to 0 where there are few), NaN
        in rows whose image has no nuclei in the table. :func:`histocell.tl.fit_abundance` takes it as any embedding.
    ``obs["n_nuclei"]`` : int64, float64 with NaN where it is not known
        Number of nuclei; ``hc.pp.deconvolve(..., n_cells_per_spot="n_nuclei")`` takes it.
    ``uns["histocell"]["X_nuclei"]`` : str
        As JSON the names of the features, `within`, and the tables.

    Raises
    ------
    KeyError
        When a table, slot or column is not there.
    TypeError
        When `data` is no SpatialData, or measurements are not numbers.
    ValueError
        When no row lies on an image that has nuclei.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600)
    >>> hc.pp.measure_nuclei(sdata, "cells")
    >>> hc.pp.aggregate_nuclei(sdata, labels_key="cell_type")
    >>> counted = sdata["table"].obsm["cell_abundance"].sum(axis=1)
    >>> bool((sdata["table"].obs["n_nuclei"] == counted).all())
    True
    """
    sdata = with_shapes(data, "hc.pp.aggregate_nuclei")
    if within not in {"spots", "patches"}:
        msg = f'within must be "spots" or "patches", not {within!r}'
        raise ValueError(msg)
    spots = Sections(sdata, table_key=table_key)
    nuclei_key = table_of_nuclei(sdata, nucleus_table_key, key or keys.MEASUREMENTS)
    nuclei = Sections(sdata, table_key=nuclei_key)
    if nuclei.table is spots.table:
        msg = f"table {nuclei_key!r} is that of the nuclei themselves; name the one of spots or tiles with table_key="
        raise ValueError(msg)
    values = _values(nuclei.table, key)
    types = _types(nuclei.table, labels_key)
    names = [keys.N_NUCLEI, *types.columns, *(f"{what}_{name}" for name in values for what in ("mean", "sd"))]
    places = {source_key(sdata, region.key): region for region in nuclei.regions() if region.key is not None}
    features = np.full((spots.table.n_obs, len(names)), np.nan)
    regions = spots.regions()
    if within == "patches":
        get_obsm(spots.table, keys.PATCHES, "Run hc.pp.patches(data) first.")
        check_patches(spots.table, regions)
    without = []
    for region in regions:
        there = places.get(source_key(sdata, str(region.key)))
        if there is None:
            without.append(region.section)
            continue
        members, rows = _members(sdata, spots.table, region, there, within)
        features[region.rows] = _features(members, types.to_numpy()[rows], values.to_numpy()[rows])
    _report(without, regions, nuclei_key)
    frame = pd.DataFrame(features, index=spots.table.obs_names, columns=names)
    number = frame[keys.N_NUCLEI] if without else frame[keys.N_NUCLEI].astype(np.int64)
    if not inplace:
        return {key_added: frame.astype(np.float32), count_key: number.rename(count_key)}
    spots.table.obsm[key_added] = np.ascontiguousarray(features, dtype=np.float32)
    spots.table.obs[count_key] = number
    _record(spots.table, key_added, names, within, nuclei_key=nuclei_key, key=key, labels_key=labels_key)
    return None


def _values(nuclei: AnnData, key: str | None) -> pd.DataFrame:
    """What is averaged, a column each."""
    if key is None:
        return pd.DataFrame(index=nuclei.obs_names)
    hint = "Run hc.pp.measure_nuclei(data) first; key=None counts only."
    values = get_obsm(nuclei, key, hint)
    frame = values if isinstance(values, pd.DataFrame) else pd.DataFrame(np.asarray(values), index=nuclei.obs_names)
    if text := [name for name, dtype in frame.dtypes.items() if not pd.api.types.is_numeric_dtype(dtype)]:
        msg = f'obsm["{key}"] of the nuclei holds no numbers in: {listing(text)}'
        raise TypeError(msg)
    return frame.astype(np.float64)


def _types(nuclei: AnnData, labels_key: str | None) -> pd.DataFrame:
    """A column of 0 and 1 for each type."""
    if labels_key is None:
        return pd.DataFrame(index=nuclei.obs_names)
    if labels_key not in nuclei.obs:
        raise missing_key("obs", labels_key, nuclei.obs.columns, "labels_key= names the types of the nuclei.")
    unknown = int(nuclei.obs[labels_key].isna().sum())
    if unknown:
        warn(f'obs["{labels_key}"] is missing in {unknown} of {nuclei.n_obs} nuclei; they count in n_nuclei alone')
        labels = pd.Series(nuclei.obs[labels_key]).astype(object)
    else:
        labels = pd.Series(row_labels(nuclei, labels_key), index=nuclei.obs_names)
    return pd.get_dummies(labels, prefix="n", dtype=np.float64)


def _members(
    sdata: SpatialData, table: AnnData, region: Region, nuclei: Region, within: Within
) -> tuple[csr_array, NDArray[np.intp]]:
    """Which nuclei lie in which rows of a region, and the rows of these nuclei in their table."""
    known = np.isfinite(nuclei.centers).all(axis=1)
    points, rows = nuclei.centers[known], nuclei.rows[known]
    if within == "patches":
        return in_windows(points, np.asarray(table.obsm[keys.PATCHES])[region.rows]), rows
    if region.name not in sdata.shapes:
        msg = f'region {region.name!r} has no shapes to count in; within="patches" takes the windows of obsm["patches"]'
        raise ValueError(msg)
    instances = table.obs[table.uns["spatialdata_attrs"]["instance_key"]].to_numpy()[region.rows]
    shapes = sdata.shapes[region.name]
    matrix = matrix_to_image(shapes, sdata.images[str(region.key)])
    if matrix is None:  # the centres of the rows would have been refused before
        msg = f"shapes {region.name!r} share no coordinate system with image {region.key!r}"
        raise ValueError(msg)
    return in_shapes(points, shapes.loc[instances], matrix), rows


def _features(members: csr_array, types: Floats, values: Floats) -> Floats:
    """Numbers, then mean and standard deviation of each column over the members of which it is known; 0 where none."""
    known = np.isfinite(values)
    number = members @ known.astype(np.float64)
    middle = np.where(known, values, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    centred = np.where(known, values - middle, 0)  # squares of large numbers would lose what differs
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = members @ centred / number
        sd = np.sqrt(np.maximum(members @ centred**2 / number - mean**2, 0))
    pairs = np.stack([mean + middle, sd], axis=2).reshape(members.shape[0], 2 * values.shape[1])
    return np.column_stack([members.sum(axis=1), members @ types, np.nan_to_num(pairs, nan=0.0)])


def _report(without: list[str], regions: list[Region], nuclei_key: str) -> None:
    if len(without) == len(regions):
        msg = (
            f"no row lies on an image that has nuclei in table {nuclei_key!r}; run hc.pp.segment_nuclei(data) on the image of "
            f"{listing(without, 5)}, or name another table with nucleus_table_key="
        )
        raise ValueError(msg)
    if without:
        warn(f"no nuclei on the image of {listing(without, 5)} in table {nuclei_key!r}: rows there are NaN")


def _record(
    table: AnnData,
    key_added: str,
    names: list[str],
    within: Within,
    *,
    nuclei_key: str,
    key: str | None,
    labels_key: str | None,
) -> None:
    facts = {"encoder": "nuclei", "pool": f"mean and sd over nuclei in {within}", "dim": len(names)}
    if within == "patches":
        size_um = keys.read_provenance(table, keys.PATCHES).get("size_um")
        facts |= {"size_um": size_um, RECORD: patches_record(table)}
    keys.write_provenance(
        table, key_added, **facts, nuclei=nuclei_key, measured=key, labels_key=labels_key, feature_names=names
    )
