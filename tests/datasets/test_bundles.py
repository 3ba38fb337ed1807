from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import shapely
import spatialdata_io
from scipy import ndimage as ndi
from spatialdata.transformations import get_transformation

import histocell as hc
from histocell.datasets._bundles.section import draw_section, nucleus_points
from histocell.images.slide_image import open_image

if TYPE_CHECKING:
    from pathlib import Path


def test_spatialdata_io_reads_xenium(xenium_bundle: Path) -> None:
    sdata = spatialdata_io.xenium(xenium_bundle)
    assert set(sdata.images) == {"he_image", "morphology_focus"}
    assert set(sdata.labels) == {"cell_labels", "nucleus_labels"}
    table = sdata["table"]
    assert table.n_obs == len(sdata["cell_boundaries"]) == len(sdata["nucleus_boundaries"])
    assert len(sdata["transcripts"]) == table.X.sum()
    assert table.obs["transcript_counts"].tolist() == table.X.sum(axis=1).A1.astype(int).tolist()
    # labels lie under the polygons of their cells
    labels = np.asarray(sdata["nucleus_labels"]["scale0"]["image"])
    for label, polygon in sdata["nucleus_boundaries"].geometry.iloc[::25].items():
        x, y = shapely.get_coordinates(shapely.point_on_surface(polygon))[0] / 0.2125
        assert labels[int(y), int(x)] == label
    matrix = get_transformation(sdata["he_image"]).to_affine_matrix(("x", "y"), ("x", "y"))
    scale = np.sqrt(np.linalg.det(matrix[:2, :2]))
    assert scale == pytest.approx(0.5 / 0.2125)
    assert np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0])) == pytest.approx(4)


@pytest.mark.filterwarnings("ignore")  # of spatialdata-io
def test_spatialdata_io_reads_visium_hd(visium_hd_bundle: Path) -> None:
    sdata = spatialdata_io.visium_hd(visium_hd_bundle, load_segmentations_only=False)
    assert set(sdata.tables) == {"square_008um", "square_016um", "cell_segmentations"}
    assert len(sdata["_cell_segmentations"]) == sdata["cell_segmentations"].n_obs
    molecules = {name: table.X.sum() for name, table in sdata.tables.items()}
    assert 0.97 < molecules["square_008um"] / molecules["cell_segmentations"] <= 1
    widths = shapely.bounds(sdata["_square_008um"].geometry.to_numpy())
    np.testing.assert_allclose(widths[:, 2] - widths[:, 0], 16)  # 8 um at 0.5 um per px


def test_nuclei_lie_where_they_are_drawn() -> None:
    """The image is darker in haematoxylin inside of the outlines than just outside, for nearly all of them."""
    section = draw_section(size_px=700, mpp=0.25, n_genes=20, rng=np.random.default_rng(2))
    density = ndi.gaussian_filter(-np.log((section.image[..., 0] + 1.0) / 255), 1)  # red: what haematoxylin absorbs
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)

    def mean(depth: float) -> np.ndarray:
        points = nucleus_points(section.cells, angle, depth) / section.mpp - 0.5
        return (
            ndi.map_coordinates(density, points[..., ::-1].reshape(-1, 2).T, order=1).reshape(len(points), -1).mean(1)
        )

    margin = 12
    xy = section.cells[["x", "y"]].to_numpy()
    inner = ((xy > margin) & (xy < 700 * 0.25 - margin)).all(axis=1)
    step = mean(0.85) - mean(1.35)
    assert (step[inner] > 0).mean() > 0.95


def test_cells_hold_their_nuclei() -> None:
    section = draw_section(size_px=500, mpp=0.5, n_genes=20, rng=np.random.default_rng(1))
    assert shapely.is_valid(section.outlines).all()
    assert (shapely.get_type_id(section.outlines) == 3).all()
    shared = shapely.area(shapely.intersection(section.outlines, section.nuclei)) / shapely.area(section.nuclei)
    assert np.median(shared) > 0.99
    assert shared.min() > 0.8
    overlap = shapely.area(section.outlines).sum() / shapely.area(shapely.union_all(section.outlines))
    assert overlap < 1.05


def test_a_registration_error_is_written(tmp_path: Path) -> None:
    folders = [
        hc.datasets.synthetic_xenium(tmp_path / name, size_px=300, registration_error_um=error)
        for name, error in {"right": (0, 0), "wrong": (21.25, -4.25)}.items()
    ]
    right, wrong = (np.loadtxt(folder / "synthetic_he_imagealignment.csv", delimiter=",") for folder in folders)
    np.testing.assert_allclose(wrong - right, [[0, 0, 100], [0, 0, -20], [0, 0, 0]], atol=1e-9)
    tables = [pd.read_parquet(folder / "cells.parquet") for folder in folders]
    pd.testing.assert_frame_equal(*tables)


def test_the_same_seed_gives_the_same_bundle(tmp_path: Path) -> None:
    first, again, other = (
        pd.read_parquet(hc.datasets.synthetic_xenium(tmp_path / name, size_px=300, rng=rng) / "cells.parquet")
        for name, rng in {"a": 3, "b": 3, "c": 4}.items()
    )
    pd.testing.assert_frame_equal(first, again)
    assert not first["cell_id"].equals(other["cell_id"])


def test_the_image_states_its_resolution(xenium_bundle: Path) -> None:
    image = open_image(xenium_bundle / "synthetic_he_image.ome.tif")
    assert image.mpp == pytest.approx(0.5)
    assert image.shape == (500, 500)
    assert json.loads((xenium_bundle / "experiment.xenium").read_text())["pixel_size"] == 0.2125


@pytest.mark.parametrize("write", [hc.datasets.synthetic_xenium, hc.datasets.synthetic_visium_hd])
def test_nothing_is_overwritten(write, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not an empty folder"):
        write(tmp_path)
    with pytest.raises(FileExistsError, match="is not an empty folder"):
        write(tmp_path / "mine.txt")
    with pytest.raises(ValueError, match="size_px must be at least 200"):
        write(tmp_path / "small", size_px=50)
    assert not (tmp_path / "small").exists()
