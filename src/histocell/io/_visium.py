"""Reader of 10x Visium, the output folder of Space Ranger."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histocell._core import keys
from histocell._core.errors import listing, reading, warn
from histocell._core.geometry import check_mpp
from histocell.images.slide_image import open_image
from histocell.images.transformations import affine_matrix
from histocell.io._counts import check_counts_h5
from histocell.io.build import build, place, set_label, warn_of_hires
from histocell.io.positions import grid_mpp, numbers

if TYPE_CHECKING:
    from os import PathLike

    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from histocell.images.slide_image import ImageSource

_PITCH_UM = 100.0
_DIAMETER_UM = 55.0
_COUNTS = "filtered_feature_bc_matrix.h5"
_SCALES = "scalefactors_json.json"


def visium(
    path: str | PathLike[str],
    *,
    image: ImageSource | None = None,
    mpp: float | None = None,
    section: str | None = None,
    patient: str | None = None,
    counts_file: str = _COUNTS,
) -> SpatialData:
    """Read a Visium section from the ``outs`` folder of Space Ranger.

    Parameters
    ----------
    path
        The folder, with the counts and ``spatial/``.
    image
        The full-resolution H&E image that was given to Space Ranger: a path, absolute or inside of `path`, or an array.
        Without it the section has the downscaled ``hires`` image, with a warning.
    mpp
        Micrometres per full-resolution px; else from the image, else from the distance of 100 um between spots.
    section, patient
        Labels for ``obs["section"]`` (by default the library or the name of the folder) and ``obs["patient"]``.
    counts_file
        Name of the table of counts.

    Returns
    -------
    SpatialData: image ``he``, shapes ``spots`` (circles of 55 um), ``table`` with raw counts, ``obs["in_tissue"]``,
    ``obs["array_row"]``, ``obs["array_col"]``, ``obs["mpp"]`` and ``obsm["spatial"]`` (x, y in px of ``he``).

    Raises
    ------
    FileNotFoundError
        If the folder lacks a file.
    ValueError
        If spots do not lie in the image.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.io.visium("V1_Breast/outs", image="he.ome.tif")  # doctest: +SKIP
    >>> hc.pp.patches(sdata, size_um=112)  # doctest: +SKIP
    """
    folder = Path(path).expanduser()
    library = _library(folder, counts_file)
    section = library or folder.resolve().name if section is None else str(section)
    check_counts_h5(next(folder.glob(f"*{counts_file}")))
    read = _read(folder, library, counts_file)
    table = next(iter(read.tables.values())).copy()
    del table.obs["region"], table.obs["spot_id"]
    table.uns.pop("spatialdata_attrs")
    set_label(table, keys.SECTION, section)
    set_label(table, keys.PATIENT, patient)
    xy, places = _positions(folder, table)
    grid = places * [1 / 2, np.sqrt(3) / 2] * _PITCH_UM
    source, scale = _image(folder, read, image)
    placed = place(
        xy * scale,
        name=section,
        image=source,
        mpp=None if mpp is None else check_mpp(mpp) / scale,
        pitch_mpp=grid_mpp(xy * scale, grid, section),
        diameter_um=_DIAMETER_UM,
    )
    return build(table, [placed])


def _library(folder: Path, counts_file: str) -> str | None:
    """Name of the library, if the files start with it; an error where they are not there."""
    if not folder.is_dir():
        msg = f"{folder} is not a folder; hc.io.visium reads the outs folder of Space Ranger"
        raise FileNotFoundError(msg)
    found = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(counts_file))
    if not found or not (folder / "spatial").is_dir():
        absent = "spatial/" if found else counts_file
        there = listing(sorted(entry.name for entry in folder.iterdir()))
        msg = f"{folder} holds no {absent}; it holds: {there}. hc.io.visium reads the outs folder of Space Ranger"
        raise FileNotFoundError(msg)
    return found[0].removesuffix(counts_file).rstrip("_") or None


def _read(folder: Path, library: str | None, counts_file: str) -> SpatialData:
    """What the reader of spatialdata-io makes of the folder, or an error that names the file that it stumbled over."""
    from spatialdata_io import visium as read_visium

    try:
        with warnings.catch_warnings():
            # scanpy warns of gene symbols that occur twice before the reader makes them unique; spatialdata of its own table
            warnings.filterwarnings("ignore", message="Variable names are not unique|Converting `region_key")
            return read_visium(folder, dataset_id=library or "visium", counts_file=counts_file)
    except Exception:
        spatial = folder / "spatial"
        with reading(spatial / _SCALES):
            scales = json.loads((spatial / _SCALES).read_text(encoding="utf-8"))
            _ = [
                float(scales[name]) for name in ("tissue_hires_scalef", "tissue_lowres_scalef", "spot_diameter_fullres")
            ]
        for image in spatial.glob("tissue_*res_image.png"):
            open_image(image).thumbnail(8)
        for file in spatial.glob("tissue_positions*.csv"):
            with reading(file):
                names = ["barcode", "in_tissue", "array_row", "array_col", "y in px", "x in px"]
                lines = pd.read_csv(file, names=names, index_col=0, dtype=str)
            numbers(lines[lines["in_tissue"] != "in_tissue"], names[2:], file)
        with reading(next(folder.glob(f"*{counts_file}"))):
            raise


def _positions(folder: Path, table: AnnData) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres of the spots in full-resolution px, and their columns and rows in the grid."""
    columns = [pd.to_numeric(pd.Series(table.obs[name]), errors="coerce") for name in ("array_col", "array_row")]
    places = np.column_stack(columns).astype(np.float64)
    xy = np.asarray(table.obsm[keys.SPATIAL], dtype=np.float64)
    lost = ~np.isfinite(np.hstack([xy, places])).all(axis=1)
    if lost.any():
        msg = (
            f"{folder}: {lost.sum()} of {len(lost)} barcodes of the counts have no position in spatial/tissue_positions "
            f"({listing(table.obs_names[lost], 3)}); the two files are not of one run, or damaged"
        )
        raise ValueError(msg)
    return xy, places


def _image(folder: Path, read: SpatialData, image: ImageSource | None) -> tuple[ImageSource | None, float]:
    """The image and the size of a full-resolution px in its px."""
    if isinstance(image, str | Path):
        inside = folder / image
        return (inside if inside.is_file() else Path(image).expanduser()), 1.0
    if image is not None:
        return image, 1.0
    hires = next((name for name in read.images if name.endswith("_hires_image")), None)
    if hires is None:
        warn("no image: give image= with the full-resolution H&E image")
        return None, 1.0
    element = read.images[hires]
    system = next(name for name in read.coordinate_systems if not name.endswith(("_hires", "_lowres")))
    scale = 1 / float(affine_matrix(element, system)[0, 0])
    warn_of_hires(scale)
    return np.asarray(element.data), scale
