"""Cells placed on an H&E image by its registration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely
from spatialdata.models import ShapesModel

from histocell._core import keys
from histocell._core.errors import warn
from histocell._core.geometry import check_mpp
from histocell._core.settings import logger
from histocell.images.slide_image import open_image
from histocell.images.transformations import transform_points, transformations
from histocell.io.build import build, place, set_label

if TYPE_CHECKING:
    import geopandas as gpd
    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from histocell.images.slide_image import ImageSource
    from histocell.io._cells.alignment import Alignment

_SAME = 0.02  # resolutions that differ by less agree
_DIFFERENT = 0.1


@dataclass(frozen=True)
class Cells:
    """Cells of a section, lengths in um of the platform's own coordinates.

    Attributes
    ----------
    pixel_um, pixel_source
        um per px of the image that the platform measured them on, and what says so.
    table
        Counts of genes, and what is known of each cell.
    centers_um
        Centres of the cells (n, 2).
    outlines
        Their polygons (n,).
    nuclei
        Polygons of nuclei, with the cell of each in ``cell_id``; `None` where the platform gives none.
    """

    pixel_um: float
    pixel_source: str
    table: AnnData
    centers_um: NDArray[np.float64]
    outlines: NDArray[np.object_]
    nuclei: gpd.GeoDataFrame | None = None


def on_image(
    cells: Cells,
    source: ImageSource | None = None,
    found: Alignment | None = None,
    *,
    section: str,
    patient: str | None = None,
) -> SpatialData:
    """Cells and nuclei in px of an H&E image; without one in px of the platform's own image.

    Parameters
    ----------
    cells
        The cells. Their table is used up.
    source, found
        The H&E image, and the map from its px to those of the platform's image.
    section, patient
        Labels.
    """
    if source is None or found is None:
        matrix, mpp, mpp_source = np.eye(3), cells.pixel_um, cells.pixel_source
    else:
        _check(cells, found, source, section)
        matrix, mpp, mpp_source = np.linalg.inv(found.matrix), cells.pixel_um * found.scale, "alignment"
    to_px = matrix @ np.diag([1 / cells.pixel_um, 1 / cells.pixel_um, 1.0])
    table = cells.table
    set_label(table, keys.SECTION, section)
    set_label(table, keys.PATIENT, patient)
    placed = place(
        transform_points(cells.centers_um, to_px),
        name=section,
        image=source,
        mpp=mpp,
        mpp_source=mpp_source,
        kind=keys.CELLS,
        polygons=_moved(cells.outlines, to_px),
    )
    sdata = build(table, [placed], instance=keys.CELL_ID)
    if cells.nuclei is not None:
        nuclei = cells.nuclei.set_geometry(_moved(cells.nuclei.geometry.to_numpy(), to_px))
        systems = dict(transformations(sdata.shapes[keys.CELLS]))
        sdata.shapes[keys.NUCLEI] = ShapesModel.parse(nuclei, transformations=systems)
    if found is not None:
        facts = {"source": found.source, "image_to_target_px": found.matrix.tolist(), "target_mpp": cells.pixel_um}
        residual = {} if found.residual_um is None else {"residual_um": found.residual_um}
        keys.write_provenance(
            sdata.tables[keys.TABLE], "registration", **facts, **residual, landmarks=found.n_landmarks
        )
    return sdata


def _moved(polygons: NDArray[np.object_], matrix: NDArray[np.float64]) -> NDArray[np.object_]:
    return shapely.transform(polygons, lambda xy: transform_points(xy, matrix))


def _check(cells: Cells, found: Alignment, source: ImageSource, section: str) -> None:
    """An error where the matrix looks inverted; a warning where the image contradicts its scale."""
    opened = open_image(source)
    mpp, inverted_mpp = cells.pixel_um * found.scale, cells.pixel_um / found.scale
    px = cells.centers_um / cells.pixel_um
    limit = np.array([opened.shape[1], opened.shape[0]])
    inside, if_inverted = (
        ((xy >= 0) & (xy < limit)).all(axis=1).mean()
        for xy in (transform_points(px, np.linalg.inv(found.matrix)), transform_points(px, found.matrix))
    )
    stated = opened.mpp
    fits = stated is None or abs(mpp / stated - 1) < _DIFFERENT
    scale_says_so = not fits and stated is not None and abs(inverted_mpp / stated - 1) < _SAME
    if if_inverted > 0.5 and (inside < 0.5 or scale_says_so):
        scales = (
            "" if stated is None else f", and the image states {stated:.4g} um per px where the matrix gives {mpp:.4g}"
        )
        msg = (
            f"the alignment of {section} looks inverted: {inside:.0%} of the cells lie in the image, {if_inverted:.0%} would with "
            f"its inverse{scales}. It must go from px of the H&E image to px of the image that the cells were measured on; give "
            "alignment=numpy.linalg.inv(matrix)"
        )
        raise ValueError(msg)
    check_mpp(mpp, source=f"the alignment of {section}")
    if stated is not None and abs(mpp / stated - 1) > _SAME:
        warn(
            f"{section}: {mpp:.4g} um per px by the alignment, but {stated:.4g} by the image ({opened.mpp_source}); going on with "
            "the former. Is this the image that was registered, in full resolution?"
        )
    across = np.linalg.svd(found.matrix[:2, :2], compute_uv=False)
    if across[0] / across[1] > 1 + _SAME:
        warn(f"{section}: the alignment stretches the image by {across[0] / across[1] - 1:.1%} along one direction")
    if np.linalg.det(found.matrix[:2, :2]) < 0:
        logger.info("%s: the alignment mirrors the image", section)
