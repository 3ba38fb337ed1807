"""Reader of Xenium: cells and nuclei on the H&E image of the same section."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from histocell._core.errors import listing, warn
from histocell.io._cells.alignment import read_alignment
from histocell.io._cells.registered import on_image
from histocell.io._cells.xenium_files import read_xenium

if TYPE_CHECKING:
    from os import PathLike

    from spatialdata import SpatialData

    from histocell.images.slide_image import ImageSource
    from histocell.io._cells.alignment import Alignment, AlignmentSource

_HE = "he_image.ome.tif"
_ALIGNMENT = "alignment.csv"


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
    cells = read_xenium(folder)
    source = _image(folder, image)
    if source is None and alignment is not None:
        msg = f"alignment= is given, but {folder} holds no *{_HE}; give image= with the H&E image that it belongs to"
        raise ValueError(msg)
    section = folder.resolve().name if section is None else str(section)
    if source is None:
        warn(
            f"no H&E image in {folder} (*{_HE}): cells are in px of the morphology image, {cells.pixel_um:g} um. Give image= and "
            "alignment= to place them on one"
        )
        return on_image(cells, section=section, patient=patient)
    found = _alignment(folder, source, alignment, cells.pixel_um)
    return on_image(cells, source, found, section=section, patient=patient)


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
