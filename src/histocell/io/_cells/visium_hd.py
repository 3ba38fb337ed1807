"""Reader of Visium HD: square bins, or the cells that Space Ranger segmented."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import shapely
from spatialdata.models import ShapesModel

from histocell._core import keys
from histocell._core.errors import listing, reading, warn
from histocell._core.geometry import check_mpp
from histocell.images.slide_image import open_image
from histocell.images.transformations import transformations
from histocell.io._cells.counts import read_counts_h5
from histocell.io._cells.polygons import single_polygons
from histocell.io._geojson.features import read_features
from histocell.io.build import build, place, set_label, warn_of_hires
from histocell.io.positions import grid_mpp, numbers

if TYPE_CHECKING:
    from os import PathLike

    import geopandas as gpd
    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from histocell.images.slide_image import ImageSource
    from histocell.io.build import Placed

_BINNED, _SEGMENTED, _MICROSCOPE = "binned_outputs", "segmented_outputs", "microscope_image"
_BIN_COUNTS, _CELL_COUNTS = "filtered_feature_bc_matrix.h5", "filtered_feature_cell_matrix.h5"
_POSITIONS, _SCALES = "tissue_positions.parquet", "scalefactors_json.json"
_XY, _GRID = ["pxl_col_in_fullres", "pxl_row_in_fullres"], ["array_col", "array_row"]
_SAME = 0.02  # resolutions that differ by less agree
type Bin = int | Literal["cells"]


def visium_hd(
    path: str | PathLike[str],
    *,
    image: ImageSource | None = None,
    bin_um: Bin = 8,
    mpp: float | None = None,
    section: str | None = None,
    patient: str | None = None,
) -> SpatialData:
    """Read a Visium HD section from the ``outs`` folder of Space Ranger.

    Parameters
    ----------
    path
        The folder, with ``binned_outputs/`` or, of Space Ranger 4 and later, ``segmented_outputs/``.
    image
        The full-resolution H&E image that was given to Space Ranger: a path, absolute or inside of `path`, or an array; by
        default the file in ``microscope_image/``. Without one the section has the downscaled ``hires`` image, with a warning.
    bin_um
        Edge of the bins: 2, 8 or 16; or ``"cells"`` for the cells that Space Ranger segmented.
    mpp
        um per full-resolution px; else as Space Ranger states it (``microns_per_pixel``).
    section, patient
        Labels for ``obs["section"]`` (by default the name of the folder) and ``obs["patient"]``.

    Returns
    -------
    SpatialData: image ``he``, shapes ``bins`` (squares, turned as the grid is) or ``cells`` and ``nuclei`` (valid polygons
    under the same names), all in px of ``he``, and ``table``: counts of genes (CSR, float32), ``obs["section"]``,
    ``obs["mpp"]``, ``obsm["spatial"]`` (x, y in px of ``he``) and, of bins, ``obs["array_row"]``, ``obs["array_col"]``.

    Raises
    ------
    FileNotFoundError
        If the folder lacks a file; the message names those that are there.
    ValueError
        If `bin_um` is not there, files are not of one run, or rows do not lie in the image.

    References
    ----------
    10x Genomics, Space Ranger, Visium HD outputs.

    Examples
    --------
    >>> import histocell as hc
    >>> import tempfile
    >>> folder = hc.datasets.synthetic_visium_hd(tempfile.mkdtemp(), size_px=400)
    >>> hc.io.visium_hd(folder, bin_um="cells")["cells"].index[0]
    'cellid_000000001-1'
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        msg = f"{folder} is not a folder; hc.io.visium_hd reads the outs folder of Space Ranger"
        raise FileNotFoundError(msg)
    inner = _inner(folder, bin_um)
    section = folder.resolve().name if section is None else str(section)
    stated = _scales(inner)
    source, scale = _image(folder, inner, image, stated)
    nuclei, pitch_mpp = None, None
    if bin_um == "cells":
        table, polygons, nuclei = _cells(inner)
        xy, kind, instance = shapely.get_coordinates(shapely.centroid(polygons)), keys.CELLS, keys.CELL_ID
    else:
        table, xy, grid_um = _bins(inner, int(bin_um))
        kind, instance, pitch_mpp = keys.BINS, "bin_id", grid_mpp(xy, grid_um, section)
        polygons = _squares(xy, grid_um, int(bin_um), pitch_mpp)
    given, mpp_source = (stated.get("microns_per_pixel"), _SCALES) if mpp is None else (mpp, "argument")
    set_label(table, keys.SECTION, section)
    set_label(table, keys.PATIENT, patient)
    placed = place(
        xy * scale,
        name=section,
        image=source,
        mpp=None if given is None else check_mpp(given, source=f"the mpp of {section} ({mpp_source})") / scale,
        mpp_source=mpp_source,
        pitch_mpp=None if pitch_mpp is None else pitch_mpp / scale,
        kind=kind,
        polygons=_scaled(polygons, scale),
    )
    _compare(placed, section)
    sdata = build(table, [placed], instance=instance)
    if nuclei is not None:
        nuclei = nuclei.set_geometry(_scaled(nuclei.geometry.to_numpy(), scale))
        systems = dict(transformations(sdata.shapes[keys.CELLS]))
        sdata.shapes[keys.NUCLEI] = ShapesModel.parse(nuclei, transformations=systems)
    return sdata


def _inner(folder: Path, bin_um: Bin) -> Path:
    """The folder of one size of bins, or of the segmented cells."""
    if bin_um == "cells":
        inner = folder / _SEGMENTED
        if not inner.is_dir():
            msg = (
                f"{folder} holds no {_SEGMENTED}/, which Space Ranger 4 and later write; it holds: {_names(folder)}. Read bins "
                "with bin_um=8"
            )
            raise FileNotFoundError(msg)
        return inner
    if isinstance(bin_um, bool) or not isinstance(bin_um, int):
        msg = f'bin_um must be 2, 8, 16 or "cells", not {bin_um!r}'
        raise TypeError(msg)
    binned = folder / _BINNED if (folder / _BINNED).is_dir() else folder
    inner = binned / f"square_{bin_um:03d}um"
    if not inner.is_dir():
        there = listing(sorted(entry.name for entry in binned.glob("square_*um")))
        msg = f"{binned} holds no bins of {bin_um} um ({inner.name}/); bins there: {there}"
        raise FileNotFoundError(msg) if there == "none" else ValueError(msg)
    return inner


def _names(folder: Path) -> str:
    return listing(sorted(entry.name for entry in folder.iterdir()))


def _file(folder: Path, name: str) -> Path:
    """A file that must be there."""
    if not (folder / name).is_file():
        msg = f"{folder} holds no {name}; it holds: {_names(folder) if folder.is_dir() else 'no such folder'}"
        raise FileNotFoundError(msg)
    return folder / name


def _scales(inner: Path) -> dict[str, float]:
    file = _file(inner / "spatial", _SCALES)
    with reading(file):
        return {name: float(value) for name, value in json.loads(file.read_text(encoding="utf-8")).items()}


def _image(
    folder: Path, inner: Path, image: ImageSource | None, scales: dict[str, float]
) -> tuple[ImageSource | None, float]:
    """The image, and the size of a full-resolution px in its px."""
    if isinstance(image, str | Path):
        inside = folder / image
        return (inside if inside.is_file() else Path(image).expanduser()), 1.0
    if image is not None:
        return image, 1.0
    microscope = folder / _MICROSCOPE
    found = sorted(file for file in microscope.iterdir() if file.is_file()) if microscope.is_dir() else []
    if len(found) > 1:
        msg = f"{microscope} holds several files, choose with image=: {listing(file.name for file in found)}"
        raise ValueError(msg)
    if found:
        return found[0], 1.0
    hires, scale = inner / "spatial" / "tissue_hires_image.png", scales.get("tissue_hires_scalef")
    if not hires.is_file() or scale is None:
        warn("no image: give image= with the full-resolution H&E image")
        return None, 1.0
    warn_of_hires(scale)
    return open_image(hires).read(0, 0, *open_image(hires).shape), scale


def _bins(inner: Path, size_um: int) -> tuple[AnnData, NDArray[np.float64], NDArray[np.float64]]:
    """Counts of bins, their centres in full-resolution px, and their places in the grid in um."""
    table = read_counts_h5(_file(inner, _BIN_COUNTS))
    file = _file(inner / "spatial", _POSITIONS)
    with reading(file):
        positions = pd.read_parquet(file)
    missing = [name for name in ("barcode", *_XY, *_GRID) if name not in positions]
    if missing:
        msg = f"{file} lacks {listing(missing)}; columns: {listing(positions.columns)}"
        raise ValueError(msg)
    positions = positions.set_index("barcode")
    absent = table.obs_names.difference(positions.index)
    if len(absent) or not positions.index.is_unique:
        problem = f"lacks {len(absent)} of {table.n_obs} bins of {_BIN_COUNTS}" if len(absent) else "names bins twice"
        msg = f"{file} {problem} ({listing(absent, 3)}); the two files are not of one run, or damaged"
        raise ValueError(msg)
    positions = positions.loc[table.obs_names]
    xy, grid = numbers(positions, _XY, file, "bin"), numbers(positions, _GRID, file, "bin")
    table.obs = positions[[name for name in ("in_tissue", "array_row", "array_col") if name in positions]].copy()
    return table, xy, grid * size_um


def _squares(
    xy: NDArray[np.float64], grid_um: NDArray[np.float64], size_um: int, pitch_mpp: float
) -> NDArray[np.object_]:
    """Bins as squares, turned as their grid lies in the image."""
    axes = np.eye(2) / pitch_mpp
    centred = grid_um - grid_um.mean(axis=0)
    if np.linalg.matrix_rank(centred) == 2:
        axes = np.linalg.lstsq(centred, xy - xy.mean(axis=0), rcond=None)[0]
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * size_um / 2 @ axes
    return shapely.polygons(xy[:, None] + corners)


def _cells(inner: Path) -> tuple[AnnData, NDArray[np.object_], gpd.GeoDataFrame | None]:
    """Counts of segmented cells, their outlines and those of their nuclei in full-resolution px."""
    import geopandas as gpd

    table = read_counts_h5(_file(inner, _CELL_COUNTS))
    cells = _outlines(_file(inner, "cell_segmentations.geojson"))
    absent = table.obs_names.difference(cells.index)
    if len(absent):
        msg = (
            f"cell_segmentations.geojson lacks {len(absent)} of {table.n_obs} cells of {_CELL_COUNTS} ({listing(absent, 3)}); "
            f"the files of {inner} are not of one run"
        )
        raise ValueError(msg)
    file = inner / "nucleus_segmentations.geojson"
    if not file.is_file():
        warn(f"{inner} holds no {file.name}; going on without nuclei")
        return table, cells.loc[table.obs_names].to_numpy(), None
    nuclei = _outlines(file)
    nuclei = nuclei[nuclei.index.isin(table.obs_names)]
    frame = gpd.GeoDataFrame({keys.CELL_ID: nuclei.index}, geometry=nuclei.to_numpy(), index=nuclei.index)
    return table, cells.loc[table.obs_names].to_numpy(), frame if len(frame) else None


def _outlines(file: Path) -> pd.Series:
    """Valid polygons of a file by the name of the cell, as the counts have it."""
    features = read_features(file)
    numbers_of = [properties.get("cell_id", "") for properties in features.properties]
    if not all(str(number).isdigit() for number in numbers_of):
        msg = f"{file}: features without a number properties.cell_id; expected the outlines that Space Ranger writes"
        raise ValueError(msg)
    names = np.array([f"cellid_{int(number):09d}-1" for number in numbers_of], dtype=object)[features.feature]
    polygons, repaired = single_polygons(features.polygons)
    kept = ~shapely.is_missing(polygons)
    if repaired.any() or not kept.all():
        warn(f"{file.name}: {repaired.sum()} outlines cross themselves and were repaired, {(~kept).sum()} have no area")
    order = np.lexsort((-shapely.area(polygons[kept]), names[kept]))
    found = pd.Series(polygons[kept][order], index=names[kept][order])
    return found[~found.index.duplicated()].sort_index()


def _scaled(polygons: NDArray[np.object_], scale: float) -> NDArray[np.object_]:
    return polygons if scale == 1 else shapely.transform(polygons, lambda xy: xy * scale)


def _compare(placed: Placed, section: str) -> None:
    """Warn where the image states another resolution than Space Ranger, as another image would."""
    stated = None if placed.image is None else open_image(placed.image).mpp
    if stated is not None and abs(placed.mpp / stated - 1) > _SAME:
        warn(
            f"{section}: {placed.mpp:.4g} um per px by the {placed.mpp_source}, but {stated:.4g} by the image; going on with the "
            "former. Is this the image that was given to Space Ranger, in full resolution?"
        )
