"""Reader of CosMx: the flat files of one slide, and its H&E image by landmarks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import shapely
from anndata import AnnData
from scipy.sparse import csr_matrix, vstack

from histocell._core import keys
from histocell._core.errors import listing, reading, warn
from histocell._core.geometry import check_mpp
from histocell.io._cells.alignment import read_alignment
from histocell.io._cells.polygons import cell_polygons, rings, single_polygons
from histocell.io._cells.registered import Cells, on_image
from histocell.io.positions import numbers

if TYPE_CHECKING:
    from os import PathLike

    from spatialdata import SpatialData

    from histocell.images.slide_image import ImageSource
    from histocell.io._cells.alignment import AlignmentSource

_COUNTS, _FACTS, _POLYGONS = "exprMat_file", "metadata_file", "polygons"
_CENTERS, _VERTICES = ["CenterX_global_px", "CenterY_global_px"], ["x_global_px", "y_global_px"]
_CONTROLS = ("NegPrb", "Negative", "SystemControl", "FalseCode", "BLANK", "Custom_")
_ROWS = 20_000  # of a table of counts in memory at once


def cosmx(
    path: str | PathLike[str],
    *,
    image: ImageSource | None = None,
    alignment: AlignmentSource | None = None,
    pixel_um: float | None = None,
    section: str | None = None,
    patient: str | None = None,
) -> SpatialData:
    """Read the flat files of a CosMx slide: its cells, on an H&E image where one is registered.

    Parameters
    ----------
    path
        Folder with ``*exprMat_file.csv``, ``*metadata_file.csv`` and, if there, ``*polygons.csv``, plain or gzipped.
    image, alignment
        An H&E image of the section, and its registration, from px of the image to global px of CosMx: all that
        `histocell.io.alignment` reads. CosMx itself gives none; set landmarks.
    pixel_um
        um per global px: 0.12028 of most instruments, 0.18 of the first ones. By default by the columns ``Area`` and ``Area.um2`` of the metadata.
    section, patient
        Labels for ``obs["section"]`` (by default the name of the folder) and ``obs["patient"]``.

    Returns
    -------
    SpatialData as of `histocell.io.xenium`: image ``he``, shapes ``cells`` and ``table``, but no nuclei, which CosMx does
    not write. Cells are called ``<fov>_<cell_ID>``. Without an H&E image all is in global px of CosMx.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If files are not of one slide, the size of a px is unknown, or cells do not lie in the image.

    Notes
    -----
    The y axis of CosMx may point up, so that the image is mirrored against it; a map of model ``"affine"`` undoes it.
    Columns of negative probes and system controls are left out.

    References
    ----------
    S. He et al., Nature Biotechnology 40, 1794 (2022).

    Examples
    --------
    >>> import histocell as hc
    >>> landmarks = hc.io.alignment("landmarks.csv")  # doctest: +SKIP
    >>> sdata = hc.io.cosmx("Lung5_Rep1", image="he.ome.tif", alignment=landmarks)  # doctest: +SKIP
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        msg = f"{folder} is not a folder; hc.io.cosmx reads the flat files of a slide"
        raise FileNotFoundError(msg)
    if (image is None) != (alignment is None):
        given, wanted = ("image", "alignment") if alignment is None else ("alignment", "image")
        msg = f"{given}= is given without {wanted}=: cells are placed on an image by both together"
        raise ValueError(msg)
    cells = _read(folder, pixel_um)
    section = folder.resolve().name if section is None else str(section)
    if image is None or alignment is None:
        warn(
            f"no H&E image of {section}: cells are in global px of CosMx, {cells.pixel_um:g} um. Give image= and alignment="
        )
        return on_image(cells, section=section, patient=patient)
    source = folder / image if isinstance(image, str | Path) and (folder / image).is_file() else image
    if isinstance(alignment, str | Path) and (folder / alignment).is_file():
        alignment = folder / alignment
    found = read_alignment(alignment, target_mpp=cells.pixel_um)
    return on_image(cells, source, found, section=section, patient=patient)


def _file(folder: Path, ending: str) -> Path | None:
    """The one file of a kind; an error where there are several."""
    found = sorted(file for kind in ("csv", "csv.gz") for file in folder.glob(f"*{ending}.{kind}"))
    if len(found) > 1:
        msg = f"{folder} holds several files *{ending}.csv: {listing(file.name for file in found)}; keep those of one slide"
        raise ValueError(msg)
    return found[0] if found else None


def _needed(folder: Path, ending: str) -> Path:
    file = _file(folder, ending)
    if file is None:
        there = listing(sorted(entry.name for entry in folder.iterdir()))
        msg = f"{folder} holds no *{ending}.csv, nor .csv.gz; it holds: {there}"
        raise FileNotFoundError(msg)
    return file


def _read(folder: Path, pixel_um: float | None) -> Cells:
    counts_file, facts_file = _needed(folder, _COUNTS), _needed(folder, _FACTS)
    with reading(facts_file):
        facts = pd.read_csv(facts_file, low_memory=False)
    facts = facts.set_index(_names(facts, facts_file))
    table = _counts(counts_file)
    absent = table.obs_names.difference(facts.index)
    if len(absent):
        msg = (
            f"{facts_file.name} lacks {len(absent)} of {table.n_obs} cells of {counts_file.name} ({listing(absent, 3)}); the "
            "files are not of one slide"
        )
        raise ValueError(msg)
    facts = facts.loc[table.obs_names]
    missing = [name for name in _CENTERS if name not in facts]
    if missing:
        msg = f"{facts_file} lacks {listing(missing)}; columns: {listing(facts.columns)}"
        raise ValueError(msg)
    pixel_um, source = _pixel_size(facts, facts_file) if pixel_um is None else (check_mpp(pixel_um), "argument")
    centers = numbers(facts, _CENTERS, facts_file, "cell") * pixel_um
    area = facts["Area"] * pixel_um**2 if "Area" in facts else None
    facts = facts.drop(columns=[*_CENTERS, "cell_ID"])
    words = facts.select_dtypes(["object", "string"]).columns
    table.obs = facts.astype(dict.fromkeys(words, "category"))
    outlines = _outlines(folder, table.obs_names, pixel_um)
    return Cells(pixel_um, source, table, centers, cell_polygons(outlines, table.obs_names, area, centers, folder))


def _names(table: pd.DataFrame, file: Path) -> pd.Index:
    """``<fov>_<cell_ID>`` of each row."""
    cell = next((name for name in ("cell_ID", "cellID") if name in table), None)
    if cell is None or "fov" not in table:
        msg = f"{file} lacks fov or cell_ID; columns: {listing(table.columns)}"
        raise ValueError(msg)
    return pd.Index(table["fov"].astype(str) + "_" + table[cell].astype(str))


def _counts(file: Path) -> AnnData:
    """Counts of genes of all cells; row 0 of a field of view is what lies in none."""
    names, parts, genes = [], [], pd.Index([])
    with reading(file):
        for chunk in pd.read_csv(file, chunksize=_ROWS):
            chunk = chunk[chunk["cell_ID"] != 0]
            names += _names(chunk, file).tolist()
            genes = pd.Index(
                [
                    name
                    for name in chunk.columns
                    if name not in {"fov", "cell_ID", "cell"} and not name.startswith(_CONTROLS)
                ]
            )
            parts.append(csr_matrix(chunk[genes].to_numpy(dtype=np.float32)))
    if not names:
        msg = f"{file} holds no cell"
        raise ValueError(msg)
    table = AnnData(vstack(parts, format="csr"), obs=pd.DataFrame(index=pd.Index(names)), var=pd.DataFrame(index=genes))
    if not table.obs_names.is_unique:
        msg = f"{file}: cells are named more than once: {listing(table.obs_names[table.obs_names.duplicated()], 3)}"
        raise ValueError(msg)
    return table


def _pixel_size(facts: pd.DataFrame, file: Path) -> tuple[float, str]:
    """Micrometres per px by the areas of cells, which are given in both units."""
    if not {"Area", "Area.um2"} <= set(facts):
        msg = f"{file} does not say the size of a px (no Area.um2): give pixel_um=, 0.12028 of most instruments, 0.18 of the first"
        raise ValueError(msg)
    ratio = float(np.sqrt(np.nanmedian(facts["Area.um2"] / facts["Area"])))
    return check_mpp(ratio, source=f"Area.um2 of {file.name}"), file.name


def _outlines(folder: Path, cells: pd.Index, pixel_um: float) -> pd.DataFrame | None:
    """Valid polygons of cells in um; `None` where there is no file."""
    file = _file(folder, _POLYGONS)
    if file is None:
        warn(f"{folder} holds no *{_POLYGONS}.csv; going on without, cells are circles of their area")
        return None
    with reading(file):
        vertices = pd.read_csv(file)
    missing = [name for name in _VERTICES if name not in vertices]
    if missing:
        msg = f"{file} lacks {listing(missing)}; columns: {listing(vertices.columns)}"
        raise ValueError(msg)
    names = _names(vertices, file).to_numpy()
    first, polygons = rings(names, numbers(vertices, _VERTICES, file, "vertex") * pixel_um)
    polygons, repaired = single_polygons(polygons)
    kept = ~shapely.is_missing(polygons) & np.isin(names[first], cells)
    if repaired.any():
        warn(f"{file.name}: {repaired.sum()} of {len(polygons)} outlines cross themselves and were repaired")
    return pd.DataFrame({keys.CELL_ID: names[first][kept], "polygon": polygons[kept]})
