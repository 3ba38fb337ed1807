"""A synthetic section as the output folder of Xenium, with an H&E image whose registration is known."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import shapely
import tifffile
import zarr
from scipy import ndimage as ndi
from skimage.draw import polygon2mask

from histocell._core.arguments import check_count
from histocell._core.geometry import check_mpp
from histocell._core.rng import as_rng
from histocell.datasets._bundles.files import new_folder, write_counts, write_he
from histocell.datasets._bundles.section import Section, draw_molecules, draw_section

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    from numpy.typing import NDArray

    from histocell._core.rng import RNGLike, SeedLike

PIXEL_UM = 0.2125  # of the morphology image
_MARGIN_UM = 10.0
_SUFFIX = 1  # of the names of the cells


def synthetic_xenium(
    path: str | PathLike[str],
    *,
    size_px: int = 1000,
    mpp: float = 0.5,
    rotation_deg: float = 4.0,
    offset_um: tuple[float, float] = (30.0, 20.0),
    registration_error_um: tuple[float, float] = (0.0, 0.0),
    n_genes: int = 100,
    rng: SeedLike | RNGLike | None = 0,
) -> Path:
    """Write a synthetic section as Xenium writes one, with an H&E image and its registration.

    Parameters
    ----------
    path
        Folder to create, or an empty one.
    size_px
        Side of the square H&E image, px.
    mpp
        um per px of it.
    rotation_deg
        Angle by which the H&E image is turned against the coordinates of the cells.
    offset_um
        Place (x, y) of its upper left corner in these coordinates, beside a margin that keeps all cells positive.
    registration_error_um
        Shift (x, y) that is added to the registration that is written, in the coordinates of the cells: (0, 0) writes the
        true one. With (20, 0), cells that are read through it lie 20 um beside their nuclei.
    n_genes
        Number of genes, at least 6.
    rng
        Seed or generator; `None` for other tissue each time.

    Returns
    -------
    The folder. It holds, in the formats of Xenium Onboard Analysis 3: ``experiment.xenium``, ``cells.parquet``,
    ``cells.csv.gz``, ``cells.zarr.zip``, ``cell_boundaries.parquet``, ``nucleus_boundaries.parquet`` and the same as
    ``.csv.gz``, ``cell_feature_matrix.h5``, ``transcripts.parquet``, ``morphology_focus/morphology_focus_0000.ome.tif``,
    ``synthetic_he_image.ome.tif`` with ``synthetic_he_imagealignment.csv``, and ``cell_groups.csv`` with the true type of
    each cell. Outlines of nuclei are those that are drawn in the image.

    Raises
    ------
    FileExistsError
        If something is in the folder already.
    ValueError
        If a parameter is out of range.

    See Also
    --------
    histocell.io.xenium : Reads it.

    References
    ----------
    10x Genomics, Xenium Onboard Analysis, understanding outputs.

    Examples
    --------
    >>> import histocell as hc
    >>> import tempfile
    >>> folder = hc.datasets.synthetic_xenium(tempfile.mkdtemp(), size_px=400)
    >>> sdata = hc.io.xenium(folder)
    >>> sorted(sdata.shapes)
    ['cells', 'nuclei']
    """
    check_count(size_px, "size_px", least=200)
    check_count(n_genes, "n_genes", least=6)
    check_mpp(mpp)
    folder = new_folder(path)
    draw, scatter = as_rng(rng).spawn(2)
    section = draw_section(size_px=size_px, mpp=mpp, n_genes=n_genes, rng=draw)
    to_um = _place(size_px * mpp, np.deg2rad(rotation_deg), offset_um)
    names = _cell_names(len(section.cells), scatter)
    nuclei, cells = (_moved(polygons, to_um) for polygons in (section.nuclei, section.outlines))
    _write_experiment(folder, section)
    _write_cells(folder, section, names, nuclei, cells)
    for name, polygons in (("nucleus", nuclei), ("cell", cells)):
        _write_boundaries(folder, name, names, polygons)
    write_counts(folder / "cell_feature_matrix.h5", names, section.genes, section.counts, controls=True)
    _write_transcripts(folder, section, names, to_um, scatter)
    _write_rasters(folder, names, nuclei, cells)
    pd.DataFrame({"cell_id": names, "group": section.types}).to_csv(folder / "cell_groups.csv", index=False)
    write_he(folder / "synthetic_he_image.ome.tif", section.image, mpp)
    error = np.eye(3)
    error[:2, 2] = registration_error_um
    to_px = np.diag([1 / PIXEL_UM, 1 / PIXEL_UM, 1.0]) @ error @ to_um @ np.diag([mpp, mpp, 1.0])
    np.savetxt(folder / "synthetic_he_imagealignment.csv", to_px, delimiter=",", fmt="%.12g")
    return folder


def _place(side_um: float, angle: float, offset_um: tuple[float, float]) -> NDArray[np.float64]:
    """Matrix (3, 3) from um of the H&E image to um of the cells, where all of the image is positive."""
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    corners = np.array([[0, 0], [side_um, 0], [0, side_um], [side_um, side_um]]) @ matrix[:2, :2].T
    matrix[:2, 2] = np.maximum(0, -corners.min(axis=0)) + _MARGIN_UM + np.asarray(offset_um, dtype=float)
    return matrix


def _moved(polygons: NDArray[np.object_], matrix: NDArray[np.float64]) -> NDArray[np.object_]:
    return shapely.transform(polygons, lambda xy: xy @ matrix[:2, :2].T + matrix[:2, 2])


def _cell_names(n: int, rng: np.random.Generator) -> list[str]:
    """Names as Xenium gives them: eight letters from a to p, which are hexadecimal digits, and a number."""
    numbers = np.sort(rng.choice(2**32, n, replace=False))
    letters = str.maketrans("0123456789abcdef", "abcdefghijklmnop")
    return [f"{number:08x}".translate(letters) + f"-{_SUFFIX}" for number in numbers]


def _write_experiment(folder: Path, section: Section) -> None:
    facts = {
        "major_version": 6,
        "minor_version": 0,
        "run_name": "synthetic",
        "region_name": "Region_1",
        "preservation_method": "FFPE",
        "num_cells": len(section.cells),
        "panel_name": "synthetic",
        "panel_tissue_type": "Breast",
        "panel_num_targets_predesigned": len(section.genes),
        "pixel_size": PIXEL_UM,
        "analysis_sw_version": "xenium-3.1.0.4",
        "xenium_explorer_files": {"cells_zarr_filepath": "cells.zarr.zip"},
    }
    (folder / "experiment.xenium").write_text(json.dumps(facts, indent=2), encoding="utf-8")


def _write_cells(
    folder: Path, section: Section, names: list[str], nuclei: NDArray[np.object_], cells: NDArray[np.object_]
) -> None:
    total = section.counts.sum(axis=1).astype(np.int64)
    centers = shapely.get_coordinates(shapely.centroid(cells))
    table = pd.DataFrame(
        {
            "cell_id": names,
            "x_centroid": centers[:, 0],
            "y_centroid": centers[:, 1],
            "transcript_counts": total,
            "control_probe_counts": 0,
            "genomic_control_counts": 0,
            "control_codeword_counts": 0,
            "unassigned_codeword_counts": 0,
            "deprecated_codeword_counts": 0,
            "total_counts": total,
            "cell_area": shapely.area(cells),
            "nucleus_area": shapely.area(nuclei),
            "nucleus_count": 1,
            "segmentation_method": "Segmented by boundary stain",
        }
    )
    table.to_parquet(folder / "cells.parquet", index=False)
    table.to_csv(folder / "cells.csv.gz", index=False)


def _write_boundaries(folder: Path, name: str, names: list[str], polygons: NDArray[np.object_]) -> None:
    xy, owner = shapely.get_coordinates(polygons, return_index=True)
    columns = {
        "cell_id": np.array(names)[owner],
        "vertex_x": xy[:, 0].astype(np.float32),
        "vertex_y": xy[:, 1].astype(np.float32),
        "label_id": (owner + 1).astype(np.int32),
    }
    vertices = pd.DataFrame(columns)
    vertices.to_parquet(folder / f"{name}_boundaries.parquet", index=False)
    vertices.to_csv(folder / f"{name}_boundaries.csv.gz", index=False)


def _write_transcripts(
    folder: Path, section: Section, names: list[str], to_um: NDArray[np.float64], rng: np.random.Generator
) -> None:
    molecules = draw_molecules(section, rng)
    xy = molecules[["x", "y"]].to_numpy() @ to_um[:2, :2].T + to_um[:2, 2]
    n = len(molecules)
    table = pd.DataFrame(
        {
            "transcript_id": np.arange(n, dtype=np.uint64),
            "cell_id": np.array(names)[molecules["cell"]],
            "overlaps_nucleus": np.ones(n, dtype=np.uint8),
            "feature_name": np.array(section.genes)[molecules["gene"]],
            "x_location": xy[:, 0].astype(np.float32),
            "y_location": xy[:, 1].astype(np.float32),
            "z_location": np.full(n, 10.0, dtype=np.float32),
            "qv": np.full(n, 40.0, dtype=np.float32),
            "nucleus_distance": np.zeros(n, dtype=np.float32),
            "is_gene": np.ones(n, dtype=bool),
        }
    )
    table.to_parquet(folder / "transcripts.parquet", index=False)


def _write_rasters(folder: Path, names: list[str], nuclei: NDArray[np.object_], cells: NDArray[np.object_]) -> None:
    """Labels in ``cells.zarr.zip``, and an image of stained nuclei."""
    width, height = np.ceil(shapely.total_bounds(cells)[2:] / PIXEL_UM + _MARGIN_UM / PIXEL_UM).astype(int)
    masks = [_rasterize(polygons, (height, width)) for polygons in (nuclei, cells)]
    letters = str.maketrans("abcdefghijklmnop", "0123456789abcdef")
    numbers = [int(name.partition("-")[0].translate(letters), 16) for name in names]
    columns = ["cell_centroid_x", "cell_centroid_y", "cell_area", "nucleus_centroid_x", "nucleus_centroid_y"]
    centers = [shapely.get_coordinates(shapely.centroid(polygons)) for polygons in (cells, nuclei)]
    summary = np.column_stack(
        [centers[0], shapely.area(cells), centers[1], shapely.area(nuclei), np.zeros(len(names)), np.ones(len(names))]
    )
    with zarr.storage.ZipStore(folder / "cells.zarr.zip", mode="w") as store:
        root = zarr.create_group(store, zarr_format=2, attributes={"major_version": 6, "number_cells": len(names)})
        root.create_array("cell_id", data=np.column_stack([numbers, np.full(len(names), _SUFFIX)]).astype(np.uint32))
        root.create_array(
            "cell_summary",
            data=summary,
            attributes={"column_names": [*columns, "nucleus_area", "z_level", "nucleus_count"]},
        )
        for number, mask in enumerate(masks):
            root.create_array(f"masks/{number}", data=mask, chunks=(1024, 1024))
            root.create_array(f"polygon_sets/{number}/cell_index", data=np.arange(len(names), dtype=np.uint32))
    stained = ndi.gaussian_filter((masks[0] > 0) * np.float32(3000), 1.5).astype(np.uint16) + np.uint16(100)
    (folder / "morphology_focus").mkdir()
    tifffile.imwrite(
        folder / "morphology_focus" / "morphology_focus_0000.ome.tif",
        stained,
        ome=True,
        tile=(512, 512),
        compression="zlib",
        metadata={"axes": "YX", "PhysicalSizeX": PIXEL_UM, "PhysicalSizeY": PIXEL_UM, "Channel": {"Name": ["DAPI"]}},
    )


def _rasterize(polygons: NDArray[np.object_], shape: tuple[int, int]) -> NDArray[np.uint32]:
    """Labels from 1 of polygons in um, on px of the morphology image."""
    labels = np.zeros(shape, dtype=np.uint32)
    for number, polygon in enumerate(polygons, start=1):
        xy = shapely.get_coordinates(polygon) / PIXEL_UM
        left, top = np.floor(xy.min(axis=0)).astype(int)
        right, bottom = np.ceil(xy.max(axis=0)).astype(int)
        inside = polygon2mask((bottom - top, right - left), xy[:, ::-1] - [top + 0.5, left + 0.5])
        labels[top:bottom, left:right][inside] = number
    return labels
