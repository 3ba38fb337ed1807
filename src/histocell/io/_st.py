"""Reader of legacy Spatial Transcriptomics: a table of counts, a table of spots, an image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.utils import make_index_unique

from histocell._core import keys
from histocell._core.arguments import check_positive
from histocell._core.errors import listing, reading, warn
from histocell._core.settings import logger
from histocell.io._counts import read_counts
from histocell.io.build import build, place, set_label
from histocell.io.positions import grid_mpp, numbers

if TYPE_CHECKING:
    from os import PathLike

    from spatialdata import SpatialData

    from histocell.images.slide_image import ImageSource

# a folder per section, then the layout of the repository almaan/her2st
_COUNTS = ("counts.tsv.gz", "counts.tsv", "ST-cnts/{section}.tsv.gz", "ST-cnts/{section}.tsv")
_SPOTS = ("selection.tsv", "selection.tsv.gz", "ST-spotfiles/{section}_selection.tsv")
_IMAGES = ("he.jpg", "he.jpeg", "he.png", "he.ome.tif", "he.tif", "he.tiff", "ST-imgs/*/{section}/*.jpg")
_MANY = 0.05


def st(
    path: str | PathLike[str],
    *,
    image: ImageSource | None = None,
    section: str | None = None,
    patient: str | None = None,
    pitch_um: float = 200.0,
    spot_diameter_um: float = 100.0,
) -> SpatialData:
    """Read a section of legacy Spatial Transcriptomics.

    Parameters
    ----------
    path
        A folder with ``counts.tsv[.gz]`` (spots ``XxY`` by genes), ``selection.tsv`` (columns x, y, pixel_x, pixel_y
        and, if there, selected) and, if there, the image ``he.jpg`` (png, tif). With `section` also a folder laid out as
        ``data`` of the repository almaan/her2st.
    image
        The H&E image that ``pixel_x`` and ``pixel_y`` refer to: a path or an array.
    section
        Label for ``obs["section"]``, by default the name of the folder.
    patient
        Label for ``obs["patient"]``.
    pitch_um, spot_diameter_um
        Distance between neighbouring spots and their diameter; the distance gives the mpp.

    Returns
    -------
    SpatialData: image ``he``, shapes ``spots``, ``table`` with raw counts (CSR, float32), ``obs["array_col"]`` and
    ``obs["array_row"]`` (place in the grid), ``obs["section"]``, ``obs["patient"]`` if given, ``obs["mpp"]``, ``obsm["spatial"]`` (x, y in px). Spots are the rows of the
    counts that are selected; the number of selected spots without counts is logged.

    Raises
    ------
    FileNotFoundError
        If a table is missing.
    ValueError
        If tables do not fit together, or spots do not lie in the image.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.io.st("her2st/C2", patient="C")  # doctest: +SKIP
    >>> sdata["table"].obs["section"].iloc[0]  # doctest: +SKIP
    'C2'
    """
    folder, pitch_um = Path(path).expanduser(), check_positive(pitch_um, "pitch_um")
    section = folder.resolve().name if section is None else str(section)
    spots, genes, counts = read_counts(_find(folder, _COUNTS, section, "table of counts"))
    spots_file = _find(folder, _SPOTS, section, "table of spots")
    selection = _read_selection(spots_file)
    keep = [row for row, spot in enumerate(spots) if spot in selection.index]
    if not keep:
        msg = (
            f"{folder}: no spot of the counts ({listing(spots, 3)}) is in the table of spots ({listing(selection.index, 3)}); "
            "both are named XxY by their place in the grid"
        )
        raise ValueError(msg)
    _report_dropped(section, len(selection), len(spots), len(keep))
    names = pd.Index([spots[row] for row in keep])
    chosen = selection.loc[names]
    obs = pd.DataFrame({"array_col": chosen["x"].to_numpy(), "array_row": chosen["y"].to_numpy()}, index=names)
    table = AnnData(X=counts[keep], obs=obs, var=pd.DataFrame(index=make_index_unique(pd.Index(genes))))
    set_label(table, keys.SECTION, section)
    set_label(table, keys.PATIENT, patient)
    xy = numbers(chosen, ["pixel_x", "pixel_y"], spots_file)
    placed = place(
        xy,
        name=section,
        image=_find_image(folder, section) if image is None else image,
        pitch_mpp=grid_mpp(xy, chosen[["x", "y"]].to_numpy(dtype=np.float64) * pitch_um, section),
        diameter_um=spot_diameter_um,
    )
    return build(table, [placed])


def _find(folder: Path, patterns: tuple[str, ...], section: str, what: str) -> Path:
    if not folder.is_dir():
        msg = f"{folder} is not a folder; hc.io.st reads a folder with {_COUNTS[0]} and {_SPOTS[0]}"
        raise FileNotFoundError(msg)
    for pattern in patterns:
        if (path := folder / pattern.format(section=section)).is_file():
            return path
    there = listing(sorted(entry.name for entry in folder.iterdir()))
    msg = f"{folder} holds no {what} ({patterns[0]}); it holds: {there}"
    raise FileNotFoundError(msg)


def _find_image(folder: Path, section: str) -> Path | None:
    for pattern in _IMAGES:
        if found := sorted(folder.glob(pattern.format(section=section))):
            return found[0]
    warn(f"{section} has no image ({_IMAGES[0]}) in {folder}; give image= to look at its tissue")
    return None


def _read_selection(path: Path) -> pd.DataFrame:
    """Selected spots by name ``XxY``."""
    with reading(path):
        selection = pd.read_csv(path, sep="\t")
    absent = [name for name in ("x", "y", "pixel_x", "pixel_y") if name not in selection]
    if absent:
        msg = f"{path} has no column {listing(absent)}; it has: {listing(selection.columns)}"
        raise ValueError(msg)
    if "selected" in selection:
        selection = selection[selection["selected"] == 1]
    grid = numbers(selection, ["x", "y"], path)
    if (grid % 1).any():
        msg = f"{path}: x and y are places in the printed grid, so they must be whole numbers"
        raise ValueError(msg)
    selection = selection.assign(x=grid[:, 0].astype(int), y=grid[:, 1].astype(int))
    selection.index = pd.Index(selection["x"].astype(str) + "x" + selection["y"].astype(str))
    if not selection.index.is_unique:
        twice = selection.index[selection.index.duplicated()]
        msg = f"{path} lists spots twice: {listing(twice, 5)}"
        raise ValueError(msg)
    return selection


def _report_dropped(section: str, n_selected: int, n_counted: int, n_kept: int) -> None:
    """Say how many spots have no partner: in the log where they are few, as is usual, else as a warning."""
    if n_kept < max(n_selected, n_counted):
        message = (
            f"{section}: {n_kept} spots; {n_selected - n_kept} selected spots without counts and "
            f"{n_counted - n_kept} counted spots that are not selected were dropped"
        )
        if n_kept < (1 - _MANY) * n_selected:
            warn(message)
        else:
            logger.info(message)
