"""A synthetic section as the output folder of Space Ranger for Visium HD, with bins and segmented cells."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pandas as pd
import shapely
from PIL import Image
from scipy.sparse import csr_matrix

from histocell._core.arguments import check_count
from histocell._core.geometry import check_mpp
from histocell._core.rng import as_rng
from histocell.datasets._bundles.files import new_folder, write_counts, write_he
from histocell.datasets._bundles.section import Section, draw_molecules, draw_section
from histocell.datasets._tissue.fields import sample

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    from numpy.typing import NDArray

    from histocell._core.rng import RNGLike, SeedLike

_BINS_UM = (8, 16)
_HIRES_PX, _LOWRES_PX = 600, 60


def synthetic_visium_hd(
    path: str | PathLike[str],
    *,
    size_px: int = 1000,
    mpp: float = 0.5,
    rotation_deg: float = 1.5,
    n_genes: int = 100,
    rng: SeedLike | RNGLike | None = 0,
) -> Path:
    """Write a synthetic section as Space Ranger writes one of Visium HD.

    Parameters
    ----------
    path
        Folder to create, or an empty one.
    size_px
        Side of the square H&E image, px.
    mpp
        um per px of it.
    rotation_deg
        Angle between the grid of bins and the axes of the image.
    n_genes
        Number of genes, at least 6.
    rng
        Seed or generator; `None` for other tissue each time.

    Returns
    -------
    The folder. It holds, in the formats of Space Ranger 4: ``binned_outputs/square_008um`` and ``square_016um`` (counts,
    positions, scale factors, images), ``segmented_outputs`` (counts of cells, ``cell_segmentations.geojson``,
    ``nucleus_segmentations.geojson``), ``feature_slice.h5`` with the layout, ``microscope_image/he.ome.tif``, and
    ``cell_types.csv`` with the true type of each segmented cell. Bins and cells count the same molecules.

    Raises
    ------
    FileExistsError
        If something is in the folder already.
    ValueError
        If a parameter is out of range.

    See Also
    --------
    histocell.io.visium_hd : Reads it.

    References
    ----------
    10x Genomics, Space Ranger, Visium HD outputs.

    Examples
    --------
    >>> import histocell as hc
    >>> import tempfile
    >>> folder = hc.datasets.synthetic_visium_hd(tempfile.mkdtemp(), size_px=400)
    >>> sdata = hc.io.visium_hd(folder, bin_um=16)
    >>> sorted(sdata.shapes)
    ['bins']
    """
    check_count(size_px, "size_px", least=200)
    check_count(n_genes, "n_genes", least=6)
    check_mpp(mpp)
    folder = new_folder(path)
    draw, scatter = as_rng(rng).spawn(2)
    section = draw_section(size_px=size_px, mpp=mpp, n_genes=n_genes, rng=draw)
    molecules = draw_molecules(section, scatter)
    angle = np.deg2rad(rotation_deg)
    axes = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])  # of columns and of rows, um
    for size_um in _BINS_UM:
        _write_bins(folder / "binned_outputs" / f"square_{size_um:03d}um", section, molecules, size_um, axes)
    _write_cells(folder / "segmented_outputs", section)
    _write_layout(folder / "feature_slice.h5", mpp, axes)
    (folder / "microscope_image").mkdir()
    write_he(folder / "microscope_image" / "he.ome.tif", section.image, mpp)
    names = _cell_names(len(section.cells))
    pd.DataFrame({"cell_id": names, "group": section.types}).to_csv(folder / "cell_types.csv", index=False)
    return folder


def _write_bins(
    folder: Path, section: Section, molecules: pd.DataFrame, size_um: int, axes: NDArray[np.float64]
) -> None:
    """Counts, positions and images of bins of one size; the grid turns around the centre of the image."""
    side = section.anatomy.side_um
    n = int(np.ceil(side / size_um)) + 2
    row, column = (each.ravel() for each in np.indices((n, n)))
    centre = np.array([side / 2, side / 2])
    steps = np.column_stack([column, row]) - (n - 1) / 2
    xy = centre + size_um * steps @ axes
    names = np.array([f"s_{size_um:03d}um_{r:05d}_{c:05d}-1" for r, c in zip(row, column, strict=True)])
    inside = ((xy > 0) & (xy < side)).all(axis=1)
    place = np.clip(xy, 0.5, side - 0.5)
    in_tissue = inside & (sample(section.anatomy.tissue, place[:, 0], place[:, 1]) > 0)
    table = {
        "barcode": names,
        "in_tissue": in_tissue.astype(np.int64),
        "array_row": row,
        "array_col": column,
        "pxl_row_in_fullres": xy[:, 1] / section.mpp,
        "pxl_col_in_fullres": xy[:, 0] / section.mpp,
    }
    _write_spatial(folder / "spatial", section, size_um)
    pd.DataFrame(table).to_parquet(folder / "spatial" / "tissue_positions.parquet", index=False)
    grid = (molecules[["x", "y"]].to_numpy() - centre) @ axes.T / size_um + (n - 1) / 2
    of_column, of_row = np.clip(np.rint(grid).astype(int), 0, n - 1).T
    ones = np.ones(len(molecules), dtype=np.int32)
    counts = csr_matrix((ones, (of_row * n + of_column, molecules["gene"])), shape=(n * n, len(section.genes)))
    kept = np.flatnonzero(in_tissue)
    write_counts(folder / "filtered_feature_bc_matrix.h5", names[kept].tolist(), section.genes, counts[kept])


def _write_spatial(folder: Path, section: Section, size_um: int | None) -> None:
    """Scale factors, and the small images that they belong to."""
    folder.mkdir(parents=True)
    side = section.image.shape[0]
    factors = {
        "spot_diameter_fullres": (size_um or 8) / section.mpp,
        "microns_per_pixel": section.mpp,
        "tissue_hires_scalef": _HIRES_PX / side,
        "tissue_lowres_scalef": _LOWRES_PX / side,
        "fiducial_diameter_fullres": 1000 / section.mpp,
        "regist_target_img_scalef": _HIRES_PX / side,
    }
    if size_um is not None:
        factors["bin_size_um"] = float(size_um)
    (folder / "scalefactors_json.json").write_text(json.dumps(factors), encoding="utf-8")
    for name, length in (("hires", _HIRES_PX), ("lowres", _LOWRES_PX)):
        small = Image.fromarray(section.image).resize((length, length), Image.Resampling.BOX)
        small.save(folder / f"tissue_{name}_image.png")


def _cell_names(n: int) -> list[str]:
    return [f"cellid_{number:09d}-1" for number in range(1, n + 1)]


def _write_cells(folder: Path, section: Section) -> None:
    """Counts and outlines of the cells as Space Ranger segments them."""
    _write_spatial(folder / "spatial", section, None)
    names = _cell_names(len(section.cells))
    write_counts(folder / "filtered_feature_cell_matrix.h5", names, section.genes, section.counts)
    for name, polygons in (("cell", section.outlines), ("nucleus", section.nuclei)):
        features = [
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [np.round(xy / section.mpp, 3).tolist()]},
                "properties": {"cell_id": number},
            }
            for number, xy in enumerate(map(shapely.get_coordinates, polygons), start=1)
        ]
        text = json.dumps({"type": "FeatureCollection", "features": features})
        (folder / f"{name}_segmentations.geojson").write_text(text, encoding="utf-8")


def _write_layout(path: Path, mpp: float, axes: NDArray[np.float64]) -> None:
    """The metadata of ``feature_slice.h5``: layout of the slide, and matrices between its coordinates."""
    to_px = np.eye(3)
    to_px[:2, :2] = 2 * axes.T / mpp  # bins of 2 um
    matrices = {
        "cytassist_colrow_to_spot_colrow": np.eye(3),
        "spot_colrow_to_cytassist_colrow": np.eye(3),
        "microscope_colrow_to_spot_colrow": np.linalg.inv(to_px),
        "spot_colrow_to_microscope_colrow": to_px,
    }
    metadata = {
        "hd_layout_json": json.dumps({"file_format": "1.0", "transform": np.eye(3).ravel().tolist()}),
        "transform_matrices": {name: matrix.ravel().tolist() for name, matrix in matrices.items()},
    }
    with h5py.File(path, "w") as file:
        file.attrs["metadata_json"] = json.dumps(metadata)
