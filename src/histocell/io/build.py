"""Assembly of a SpatialData from a table, coordinates and images, as every reader does it last."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from spatialdata import SpatialData, concatenate
from spatialdata.models import ShapesModel, TableModel

from histocell._core import keys
from histocell._core.arguments import check_positive
from histocell._core.errors import listing, warn
from histocell._core.geometry import check_inside, check_mpp, spot_pitch
from histocell.images.slide_image import open_image
from histocell.io._counts import stack_counts
from histocell.io.elements import coordinate_systems, image_element

if TYPE_CHECKING:
    import geopandas as gpd
    from anndata import AnnData
    from numpy.typing import NDArray

    from histocell.images.slide_image import ImageSource


@dataclass(frozen=True)
class Placed:
    """The spots of one section and the image under them.

    Attributes
    ----------
    rows
        Positions of its spots in the table.
    xy
        Their centres (k, 2): x, y in px of the image.
    mpp, mpp_source
        Micrometres per px and what says so.
    diameter_px
        Diameter of a spot.
    image
        What `histocell.images.slide_image.open_image` opens, or `None`.
    suffix
        End of the names of its elements, such as ``-C2``; empty for the only section.
    kind
        Name of its shapes without the suffix, and of its rows in messages: ``spots``, ``bins`` or ``cells``.
    polygons
        Outlines of the rows (k,) in px of the image, instead of circles.
    """

    rows: NDArray[np.intp]
    xy: NDArray[np.float64]
    mpp: float
    mpp_source: str
    diameter_px: float
    image: ImageSource | None = None
    suffix: str = ""
    kind: str = keys.SPOTS
    polygons: NDArray[np.object_] | None = None

    @property
    def region(self) -> str:
        """Name of its shapes."""
        return self.kind + self.suffix

    def shapes(self, names: pd.Index) -> gpd.GeoDataFrame:
        """Its rows as shapes, called `names`."""
        import geopandas as gpd

        systems = coordinate_systems(self.mpp, self.suffix)
        if self.polygons is not None:
            return ShapesModel.parse(gpd.GeoDataFrame(geometry=self.polygons, index=names), transformations=systems)
        return ShapesModel.parse(self.xy, geometry=0, radius=self.diameter_px / 2, index=names, transformations=systems)


def place(
    xy: NDArray[np.float64],
    *,
    name: str,
    rows: NDArray[np.intp] | None = None,
    image: ImageSource | None = None,
    mpp: float | None = None,
    mpp_source: str = "argument",
    pitch_mpp: float | None = None,
    diameter_um: float | None = None,
    diameter_px: float | None = None,
    suffix: str = "",
    kind: str = keys.SPOTS,
    polygons: NDArray[np.object_] | None = None,
) -> Placed:
    """Find the resolution of a section and check that its spots lie in its image.

    Parameters
    ----------
    xy
        Centres (k, 2): x, y in px of the image.
    name
        What the section is called in messages.
    rows
        Positions of its spots in the table, all by default.
    image
        What `histocell.images.slide_image.open_image` opens, or `None`.
    mpp, mpp_source
        Micrometres per px, which wins over what the image says, which wins over the pitch; and what says so.
    pitch_mpp
        Micrometres per px by the known distance between spots.
    diameter_um, diameter_px
        Diameter of a spot; half a pitch where neither is given.
    suffix
        End of the names of the elements.
    kind, polygons
        Name of the shapes without the suffix; outlines of the rows in px of the image, in place of circles.
    """
    rows = np.arange(len(xy)) if rows is None else rows
    opened = None if image is None else open_image(image)
    if opened is not None:
        inside = check_inside(xy, opened.shape, name, least=0.5)
        if not inside.all():
            warn(f"{(~inside).sum()} of {len(xy)} {kind} of {name} lie outside of its image; their rows are kept")
    if mpp is not None:
        mpp = check_mpp(mpp)
    elif opened is not None and opened.mpp is not None:
        mpp, mpp_source = opened.mpp, opened.mpp_source
    elif pitch_mpp is not None:
        mpp, mpp_source = pitch_mpp, "spot pitch"
    else:
        msg = (
            f"the resolution of {name} is unknown: neither its image nor an argument says it. Give mpp= (um per "
            "full-resolution px), or spot_pitch_um= (200 for legacy ST, 100 for Visium) to compute it from the spots"
        )
        raise ValueError(msg)
    if pitch_mpp is not None and not 0.9 < mpp / pitch_mpp < 1.1:
        warn(
            f"{name}: {mpp:.3g} um per px by the {mpp_source}, but {pitch_mpp:.3g} by the distance between spots; "
            f"going on with {mpp:.3g}. Give mpp= where this is wrong."
        )
    if diameter_um is not None:
        diameter_px = check_positive(diameter_um, "spot_diameter_um") / mpp
    elif diameter_px is None:
        diameter_px = spot_pitch(xy) / 2 if len(xy) > 1 and polygons is None else 100 / mpp
    return Placed(rows, xy, mpp, mpp_source, diameter_px, image, suffix, kind, polygons)


def warn_of_hires(scale: float, subject: str = "") -> None:
    """Say that the image is the downscaled one, with `scale` of its px per full-resolution px."""
    warn(
        f"no full-resolution image{subject}: using the downscaled hires image, one of its px is {1 / scale:.3g} "
        "full-resolution px, too coarse to see nuclei. Coordinates are in its px. Give image= for the full-resolution one."
    )


def build(table: AnnData, sections: list[Placed], *, instance: str = keys.INSTANCE) -> SpatialData:
    """Assemble images, shapes and table.

    Parameters
    ----------
    table
        Becomes the table of the result, changed in place: ``obsm["spatial"]``, ``obs["mpp"]``, the region and the
        instance of each row and ``uns["histocell"]["mpp"]`` are written.
    sections
        Where its rows lie; every row in one of them.
    instance
        Column of ``obs`` for the name of the shape of each row.
    """
    for section in sections:
        names = table.obs_names[section.rows]
        if not names.is_unique:
            msg = (
                f"{int(names.duplicated().sum())} rows of {section.region} have the name of another "
                f"({listing(names[names.duplicated()].unique(), 4)}), and rows are joined with their shapes by name: call "
                "adata.obs_names_make_unique() first"
            )
            raise ValueError(msg)
    xy, mpp = np.full((table.n_obs, 2), np.nan), np.full(table.n_obs, np.nan)
    region = np.empty(table.n_obs, dtype=object)
    for section in sections:
        xy[section.rows], mpp[section.rows] = section.xy, section.mpp
        region[section.rows] = section.region
    table.obsm[keys.SPATIAL] = xy
    table.obs[keys.MPP] = mpp
    region_key, instance_key = (_free_column(table, name) for name in (keys.REGION, instance))
    table.obs[region_key] = pd.Categorical(region)
    table.obs[instance_key] = table.obs_names.to_numpy()
    images, shapes, ranges = {}, {}, {}
    for section in sections:
        if section.image is not None:
            name = keys.IMAGE + section.suffix
            images[name] = image_element(section.image, mpp=section.mpp, suffix=section.suffix)
            if isinstance(section.image, str | PathLike) and (values := open_image(images[name]).intensity_range):
                ranges[name] = list(values)
        shapes[section.region] = section.shapes(pd.Index(table.obs_names[section.rows]))
    table.uns.pop(TableModel.ATTRS_KEY, None)
    regions = [section.region for section in sections]
    table = TableModel.parse(
        table, region=regions if len(regions) > 1 else regions[0], region_key=region_key, instance_key=instance_key
    )
    facts = {section.region: [section.mpp, section.mpp_source] for section in sections}
    keys.write_provenance(table, keys.MPP, **facts)
    attrs = {keys.PROVENANCE: {keys.INTENSITY_RANGE: ranges}} if ranges else {}
    return SpatialData(images=images, shapes=shapes, tables={keys.TABLE: table}, attrs=attrs)


def concatenate_sections(sections: dict[str, SpatialData]) -> SpatialData:
    """Several sections, each built by `build`, in one SpatialData with one table.

    Elements and coordinate systems get the name of their section as suffix, as `spatialdata.concatenate` does; genes that
    a section lacks are 0. The tables of `sections` are used up: their counts move into the result, because
    `spatialdata.concatenate` copies all counts anew with every section.
    """
    tables = [sdata.tables[keys.TABLE] for sdata in sections.values()]
    counts, genes = [table.X for table in tables], [table.var_names for table in tables]
    for table in tables:
        table.X = None
    merged = concatenate(
        sections, concatenate_tables=True, modify_tables_inplace=True, join="outer", fill_value=0, uns_merge="first"
    )
    merged.tables[keys.TABLE].X = stack_counts(counts, genes, merged.tables[keys.TABLE].var_names)
    facts = {
        f"{region}-{name}": fact
        for name, sdata in sections.items()
        for region, fact in keys.read_provenance(sdata.tables[keys.TABLE], keys.MPP).items()
        if isinstance(fact, list)
    }
    keys.write_provenance(merged.tables[keys.TABLE], keys.MPP, **facts)
    return merged


def _free_column(table: AnnData, name: str) -> str:
    """`name`, or a name beside a column of the user's that is called so."""
    attrs = table.uns.get(TableModel.ATTRS_KEY, {})
    ours = {attrs.get("region_key"), attrs.get("instance_key")}
    return name if name not in table.obs or name in ours else f"histocell_{name}"


def set_label(table: AnnData, column: str, value: str | None) -> None:
    """Write a label of the whole table as a category, if there is one."""
    if value is not None:
        table.obs[column] = pd.Categorical([str(value)] * table.n_obs)
