"""Reader of Xenium: cells and nuclei on the H&E image of the same section."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely
from spatialdata.models import ShapesModel

from histocell._core import keys
from histocell._core.errors import listing, warn
from histocell._core.geometry import check_mpp
from histocell._core.settings import logger
from histocell.images.slide_image import open_image
from histocell.images.transformations import transform_points, transformations
from histocell.io._cells.alignment import Alignment, read_alignment
from histocell.io._cells.bundle import Bundle, read_bundle
from histocell.io.build import build, place, set_label

if TYPE_CHECKING:
    from os import PathLike

    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from histocell.images.slide_image import ImageSource
    from histocell.io._cells.alignment import AlignmentSource

_HE = "he_image.ome.tif"
_ALIGNMENT = "alignment.csv"
_SAME = 0.02  # resolutions that differ by less agree
_DIFFERENT = 0.1


def xenium(
    path: str | PathLike[str],
    *,
    image: ImageSource | None = None,
    alignment: AlignmentSource | None = None,
    section: str | None = None,
    patient: str | None = None,
) -> SpatialData:
    """Read a Xenium section: its cells on its H&E image.

    Parameters
    ----------
    path
        The output folder, with ``experiment.xenium``, ``cells.parquet`` (or ``cells.csv.gz``), ``cell_feature_matrix.h5``,
        ``cell_boundaries.parquet`` and ``nucleus_boundaries.parquet`` (or ``.csv.gz``).
    image
        The H&E image of the section: a path, absolute or inside of `path`, or an array; by default ``*_he_image.ome.tif``
        of the folder.
    alignment
        Its registration, from px of the H&E image to px of the morphology image: all that `histocell.io.alignment` reads,
        such as ``*_imagealignment.csv``, key points of Xenium Explorer, a matrix or a transformation. By default the file
        ``<image>alignment.csv`` beside the image. ``numpy.eye(3)`` says that both images have the same px.
    section, patient
        Labels for ``obs["section"]`` (by default the name of the folder) and ``obs["patient"]``.

    Returns
    -------
    SpatialData: image ``he``, shapes ``cells`` and ``nuclei``, valid polygons in px of the H&E image, and ``table``, which
    annotates the cells: counts of genes (CSR, float32), ``obs["cell_id"]``, columns of ``cells.parquet``,
    ``obs["section"]``, ``obs["mpp"]`` and ``obsm["spatial"]`` (x, y in px of ``he``). Nuclei are called like their cell;
    further nuclei of a cell ``<cell_id>.2`` and so on, smaller ones later, and their column ``cell_id`` names it.

    Raises
    ------
    FileNotFoundError
        If a file is missing; the message names it.
    ValueError
        If files are not of one run, no registration is known, or cells do not lie in the image, as with an inverted matrix.

    Warns
    -----
    UserWarning
        If there is no H&E image, outlines are missing, or the image states another resolution than the registration.

    Notes
    -----
    The matrix of Xenium goes from px of the H&E image to px of the morphology image, whose px are 0.2125 um. Cells, which are in um, take the opposite way. The
    resolution of the H&E image is that of the registration.

    Without an H&E image all is in px of the morphology image, which is not read: it is fluorescence.

    A cell without an outline is a circle of its area.

    References
    ----------
    10x Genomics, Xenium Onboard Analysis, understanding outputs.

    Examples
    --------
    >>> import histocell as hc
    >>> import tempfile
    >>> sdata = hc.io.xenium(hc.datasets.synthetic_xenium(tempfile.mkdtemp(), size_px=400), section="S1")
    >>> sdata["nuclei"].index.equals(sdata["cells"].index)
    True
    """
    folder = Path(path).expanduser()
    bundle = read_bundle(folder)
    source = _image(folder, image)
    found = None if source is None else _alignment(folder, source, alignment, bundle.pixel_um)
    if source is None and alignment is not None:
        msg = f"alignment= is given, but {folder} holds no *{_HE}; give image= with the H&E image that it belongs to"
        raise ValueError(msg)
    section = folder.resolve().name if section is None else str(section)
    if source is None or found is None:
        warn(
            f"no H&E image in {folder} (*{_HE}): cells are in px of the morphology image, {bundle.pixel_um:g} um. Give image= "
            "and alignment= to place them on one"
        )
        matrix, mpp, mpp_source = np.eye(3), bundle.pixel_um, "experiment.xenium"
    else:
        matrix, mpp, mpp_source = np.linalg.inv(found.matrix), bundle.pixel_um * found.scale, "alignment"
        _check(bundle, found, source, section)
    to_px = matrix @ np.diag([1 / bundle.pixel_um, 1 / bundle.pixel_um, 1.0])
    return _assemble(bundle, to_px, source, (mpp, mpp_source), found, section, patient)


def _assemble(
    bundle: Bundle,
    to_px: NDArray[np.float64],
    source: ImageSource | None,
    resolution: tuple[float, str],
    found: Alignment | None,
    section: str,
    patient: str | None,
) -> SpatialData:
    """The SpatialData, with cells and nuclei in px."""
    table = bundle.table
    set_label(table, keys.SECTION, section)
    set_label(table, keys.PATIENT, patient)
    mpp, mpp_source = resolution
    placed = place(
        transform_points(bundle.centers_um, to_px),
        name=section,
        image=source,
        mpp=mpp,
        mpp_source=mpp_source,
        kind=keys.CELLS,
        polygons=_moved(bundle.cells, to_px),
    )
    sdata = build(table, [placed], instance=keys.CELL_ID)
    if bundle.nuclei is not None:
        nuclei = bundle.nuclei.set_geometry(_moved(bundle.nuclei.geometry.to_numpy(), to_px))
        systems = dict(transformations(sdata.shapes[keys.CELLS]))
        sdata.shapes[keys.NUCLEI] = ShapesModel.parse(nuclei, transformations=systems)
    if found is not None:
        facts = {"source": found.source, "image_to_morphology_px": found.matrix.tolist(), "pixel_um": bundle.pixel_um}
        residual = {} if found.residual_um is None else {"residual_um": found.residual_um}
        keys.write_provenance(
            sdata.tables[keys.TABLE], "registration", **facts, **residual, n_landmarks=found.n_landmarks
        )
    return sdata


def _moved(polygons: NDArray[np.object_], matrix: NDArray[np.float64]) -> NDArray[np.object_]:
    return shapely.transform(polygons, lambda xy: transform_points(xy, matrix))


def _image(folder: Path, image: ImageSource | None) -> ImageSource | None:
    """The H&E image that was given, or that of the folder."""
    if isinstance(image, str | Path):
        inside = folder / image
        return inside if inside.is_file() else Path(image).expanduser()
    if image is not None:
        return image
    found = sorted(folder.glob(f"*{_HE}"))
    if len(found) > 1:
        msg = f"{folder} holds several H&E images, choose with image=: {listing(file.name for file in found)}"
        raise ValueError(msg)
    return found[0] if found else None


def _alignment(folder: Path, image: ImageSource, alignment: AlignmentSource | None, pixel_um: float) -> Alignment:
    """The registration that was given, or the file beside the image."""
    if isinstance(alignment, str | Path) and (folder / alignment).is_file():
        alignment = folder / alignment
    if alignment is None and isinstance(image, Path):
        beside = image.with_name(image.name.removesuffix(".ome.tif").removesuffix(image.suffix) + _ALIGNMENT)
        alignment = beside if beside.is_file() else None
    if alignment is None:
        names = listing(sorted(file.name for file in folder.glob(f"*{_ALIGNMENT}")))
        msg = (
            "the registration of the H&E image is unknown: give alignment= (a file *imagealignment.csv, key points of Xenium "
            f"Explorer, a 3 x 3 matrix, ... see hc.io.alignment). Files *{_ALIGNMENT} in {folder}: {names}"
        )
        raise ValueError(msg)
    return read_alignment(alignment, target_mpp=pixel_um)


def _check(bundle: Bundle, found: Alignment, source: ImageSource, section: str) -> None:
    """An error where the matrix looks inverted; a warning where the image contradicts its scale."""
    opened = open_image(source)
    mpp, inverted_mpp = bundle.pixel_um * found.scale, bundle.pixel_um / found.scale
    px = bundle.centers_um / bundle.pixel_um
    limit = np.array([opened.shape[1], opened.shape[0]])
    inside, if_inverted = (
        ((xy >= 0) & (xy < limit)).all(axis=1).mean()
        for xy in (transform_points(px, np.linalg.inv(found.matrix)), transform_points(px, found.matrix))
    )
    stated = opened.mpp
    fits = stated is None or abs(mpp / stated - 1) < _DIFFERENT
    scale_says_so = not fits and stated is not None and abs(inverted_mpp / stated - 1) < _SAME
    if if_inverted > 0.5 and (inside < 0.5 or scale_says_so):
        scales = "" if stated is None else f", and the image states {stated:.4g} um per px where the matrix gives {mpp:.4g}"
        msg = (
            f"the alignment of {section} looks inverted: {inside:.0%} of the cells lie in the image, {if_inverted:.0%} would with "
            f"its inverse{scales}. It must go from px of the H&E image to px of the morphology image; give "
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
