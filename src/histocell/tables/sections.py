"""Section, replicate, resolution and coordinates of each row of a table."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from histocell._core import keys
from histocell._core.arguments import check_positive
from histocell._core.errors import listing
from histocell.tables.access import coordinates, get_table, is_spatialdata, resolutions, row_labels
from histocell.tables.files import WHOLE_TABLE, image_files
from histocell.tables.regions import by_name, image_elements, open_regions

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from histocell.images.slide_image import ImageSource
    from histocell.tables.access import Data
    from histocell.tables.regions import Region

_SAME_SPREAD = 0.02
ALL = "all"  # the section of every row, where nothing tells sections apart


class Sections:
    """The rows of a table by the section that they lie on: the one place that knows which row belongs where.

    Parameters
    ----------
    data
        AnnData or SpatialData.
    table_key
        Table of a SpatialData that holds several.
    library_key
        Column of ``obs`` that names the section or slide of each row; by default ``section``, else the one that
        `histocell.pp.patches` was given, else the column of the regions of a SpatialData, else all rows are one section.
    group_key
        Column of ``obs`` that names the replicate, which is held out whole; by default ``patient``, else the section.
    mpp
        Micrometres per full-resolution px, for all or by section; wins over what the data say.

    Attributes
    ----------
    table
        The table.
    library_key
        Column that names the sections, `None` where all rows are one.
    group_key
        Column of the replicates that was named, if any.
    labels
        Section of each row, shape ``(n_obs,)``.
    names
        Names of the sections in the order of their first row.

    Raises
    ------
    KeyError
        When a column that was named is not there.
    ValueError
        When the section of a row is missing.
    """

    def __init__(
        self,
        data: Data,
        *,
        table_key: str | None = None,
        library_key: str | None = None,
        group_key: str | None = None,
        mpp: float | Mapping[str, float] | None = None,
    ) -> None:
        self._data = data
        self.table: AnnData = get_table(data, table_key)
        self._key_is_given = library_key is not None
        self.group_key = group_key
        self._mpp = mpp
        region_key = self.table.uns.get("spatialdata_attrs", {}).get("region_key") if is_spatialdata(data) else None
        recorded = keys.read_provenance(self.table, keys.PATCHES).get("library_key")
        known = [key for key in (keys.SECTION, recorded, region_key) if key is not None and key in self.table.obs]
        self.library_key: str | None = library_key or next(iter(known), None)
        self._laid_by = library_key or (recorded if recorded in self.table.obs else self.library_key)
        self.labels: NDArray[np.object_] = (
            np.full(self.table.n_obs, ALL, dtype=object)
            if self.library_key is None
            else row_labels(self.table, self.library_key, "library_key= names the column of sections or slides.")
        )
        self.names: list[str] = [str(name) for name in dict.fromkeys(self.labels)]

    @property
    def given_mpp(self) -> float | None:
        """The resolution that was given for all rows, if one was."""
        return None if self._mpp is None or isinstance(self._mpp, Mapping) else check_positive(self._mpp, "mpp")

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def rows(self) -> list[NDArray[np.intp]]:
        """Positions of the rows of each section."""
        return [np.flatnonzero(self.labels == name) for name in self.names]

    def replicate_key(self, rows: NDArray[np.intp] | NDArray[np.bool_] | slice = slice(None)) -> str | None:
        """Column whose levels are the replicates of `rows`.

        The column that was named; else ``patient``, else the section, whichever has two levels among the rows; `None`
        where neither has.
        """
        if self.group_key is not None:
            row_labels(self.table, self.group_key)
            return self.group_key
        for key in (keys.PATIENT, self.library_key):
            if key is not None and key in self.table.obs and len(set(row_labels(self.table, key)[rows])) > 1:
                return key
        return None

    def groups(self) -> list[str]:
        """The replicate of each section: its patient, else the section itself.

        Raises
        ------
        ValueError
            When a section holds several.
        """
        key = self.group_key or (keys.PATIENT if keys.PATIENT in self.table.obs and self.library_key else None)
        if key is None:
            return self.names
        labels = row_labels(self.table, key)
        return [self.constant(labels, key, name) for name in self.names]

    def constant(self, labels: NDArray[np.object_], key: str, section: str) -> str:
        """The one value that `labels`, of ``obs[key]``, have in a section; an error where they have several."""
        found = np.unique(labels[self.labels == section])
        if len(found) != 1:
            msg = f'section {section!r} of obs["{self.library_key}"] holds {len(found)} levels of obs["{key}"] ({listing(found)}), not one'
            raise ValueError(msg)
        return str(found[0])

    def regions(
        self,
        *,
        image: ImageSource | Mapping[str, ImageSource] | None = None,
        image_key: str | Mapping[str, str] | None = None,
        need_image: bool = True,
        thumbnails: bool = False,
    ) -> list[Region]:
        """The rows by the image that they lie on, and that image, opened.

        Parameters
        ----------
        image
            For AnnData: a path, an array, or a mapping from section to either.
        image_key
            For SpatialData: name of the image element, or a mapping from region to it; found by itself where one image
            shares a coordinate system with the region.
        need_image
            Whether a missing image is an error.
        thumbnails
            Whether a thumbnail will do where the slide is not there; its region is in px of the thumbnail.
        """
        if not is_spatialdata(self._data):
            located = image_files(self.table, self._libraries(image), image, need_image=need_image)
        elif image is None:
            options = {"need_image": need_image, "thumbnails": thumbnails}
            located = image_elements(self._data, self.table, image_key, **options)
        else:
            msg = "image= is for AnnData; a SpatialData holds its images, choose one with image_key="
            raise ValueError(msg)
        return open_regions(self.table, located, self._mpp)

    def _libraries(self, image: object) -> dict[str, NDArray[np.intp]]:
        """Rows of an AnnData by library; all rows are one where one image was given and no column was named.

        Images that are known from before go by the column that `histocell.pp.patches` was given.
        """
        one_image = image is not None and not by_name(image) and not self._key_is_given
        if self.library_key is None or one_image:
            name = self.names[0] if self.library_key and len(self) == 1 else WHOLE_TABLE
            return {name: np.arange(self.table.n_obs)}
        if image is None and self._laid_by is not None:
            labels = row_labels(self.table, self._laid_by)
            return {str(name): np.flatnonzero(labels == name) for name in dict.fromkeys(labels)}
        return dict(zip(self.names, self.rows, strict=True))

    def coordinates_px(self) -> NDArray[np.float64]:
        """Coordinates (x, y) in full-resolution px, shape ``(n_obs, 2)``: ``obsm["spatial"]``, else centres of the shapes.

        Those of the shapes, too, where ``obsm["spatial"]`` is in another unit than the patches, as in the um of a Xenium.

        Raises
        ------
        ValueError
            When it is in another unit, and there are no shapes.
        """
        if keys.SPATIAL in self.table.obsm or not is_spatialdata(self._data):
            xy = coordinates(self.table)
            if self._mpp is not None or not self._differ_from_patches(xy):
                return xy
            if not is_spatialdata(self._data):
                msg = (
                    f'obsm["{keys.SPATIAL}"] is not in the px of obsm["{keys.PATCHES}"] and obs["{keys.MPP}"], so distances in um '
                    "are not known: write (x, y) in px there, or give the SpatialData, whose shapes say where the rows lie"
                )
                raise ValueError(msg)
        xy = np.full((self.table.n_obs, 2), np.nan)
        for region in self.regions(need_image=False):
            xy[region.rows] = region.centers
        return xy

    def _differ_from_patches(self, xy: NDArray[np.float64]) -> bool:
        """Whether the rows of a section are more or less spread than their patches: then `xy` is in another unit."""
        if keys.PATCHES not in self.table.obsm:
            return False
        windows = np.asarray(self.table.obsm[keys.PATCHES], dtype=np.float64)
        centers = (windows[:, [1, 0]] + windows[:, [3, 2]]) / 2
        for rows in self.rows:
            apart, wanted = (np.sqrt(each[rows].var(axis=0).sum()) for each in (xy, centers))
            if abs(apart - wanted) > max(2, _SAME_SPREAD * wanted):  # patches are of whole px
                return True
        return False

    def mpp(self, *, required: bool = True) -> NDArray[np.float64]:
        """Micrometres per full-resolution px of each row, shape ``(n_obs,)``.

        The argument, then ``obs["mpp"]``, then what the images of a SpatialData say. Unknown is NaN, or an error where it
        is `required`.
        """
        out = resolutions(self.table)
        if self._mpp is not None and not isinstance(self._mpp, Mapping):
            out[:] = check_positive(self._mpp, "mpp")
        elif not np.isfinite(out).all() and is_spatialdata(self._data):
            for region in self.regions(need_image=False):
                if region.mpp is not None:
                    out[region.rows] = region.mpp
        unknown = ~np.isfinite(out)
        if required and unknown.any():
            msg = (
                f'the resolution is unknown in {int(unknown.sum())} of {len(out)} rows: obs["mpp"] is not there. Give mpp= '
                '(um per px of obsm["spatial"]; 1 if it is in um already), or build the data with a reader of hc.io'
            )
            raise ValueError(msg)
        return out

    def coordinates_um(self) -> NDArray[np.float64]:
        """Coordinates (x, y) in micrometres, shape ``(n_obs, 2)``."""
        return self.coordinates_px() * self.mpp()[:, None]

    def squares(self, block_um: float) -> NDArray[np.object_]:
        """Name of the square of tissue, of an edge of `block_um`, that each row lies in, within its section."""
        numbers = np.floor(self.coordinates_um() / check_positive(block_um, "block_um")).astype(np.int64)
        names = [f"{section} {x} {y}" for section, (x, y) in zip(self.labels, numbers, strict=True)]
        return np.array(names, dtype=object)
