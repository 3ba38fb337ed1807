from __future__ import annotations

import json
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pandas as pd
import pytest
import shapely
import spatialdata as sd
import spatialdata_io
import tifffile

import histocell as hc

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import UserSees

HE, ALIGNMENT = "synthetic_he_image.ome.tif", "synthetic_he_imagealignment.csv"


def matrix_of(folder: Path) -> np.ndarray:
    return np.loadtxt(folder / ALIGNMENT, delimiter=",")


def corners(polygons) -> np.ndarray:
    return shapely.get_coordinates(np.asarray(polygons))


def to_integers(folder: Path) -> None:
    """The bundle as Xenium 1.0 writes it: cells are integers, no label_id, no cells.zarr.zip."""
    names = pd.read_parquet(folder / "cells.parquet")["cell_id"]
    number = dict(zip(names, range(1, len(names) + 1), strict=True))
    for file in folder.glob("*.parquet"):
        table = pd.read_parquet(file)
        table["cell_id"] = table["cell_id"].map(number).astype(np.int32)
        table.drop(columns="label_id", errors="ignore").to_parquet(file, index=False)
    with h5py.File(folder / "cell_feature_matrix.h5", "a") as file:
        del file["matrix/barcodes"]
        file["matrix/barcodes"] = np.array([str(i) for i in number.values()], dtype="S")
    (folder / "cells.zarr.zip").unlink()


def to_csv(folder: Path) -> None:
    """The bundle as it is often deposited: text files and counts."""
    for file in [*folder.glob("*.parquet"), folder / "cells.zarr.zip"]:
        file.unlink()


def test_agrees_with_spatialdata_io(xenium: Path) -> None:
    """Counts, columns and, through the two registrations, polygons."""
    ours, theirs = hc.io.xenium(xenium, section="S1", patient="P1"), spatialdata_io.xenium(xenium)
    table, other = ours["table"], theirs["table"]
    assert table.obs_names.tolist() == other.obs_names.tolist()
    assert table.var_names.tolist() == other.var_names.tolist()
    assert (table.X != other.X).nnz == 0
    assert table.X.dtype == np.float32
    pd.testing.assert_series_equal(table.obs["cell_area"], other.obs["cell_area"])
    to_px = np.linalg.inv(matrix_of(xenium))
    for name, of in {"cells": "cell_boundaries", "nuclei": "nucleus_boundaries"}.items():
        moved = corners(theirs[of].geometry) / 0.2125 @ to_px[:2, :2].T + to_px[:2, 2]
        np.testing.assert_allclose(corners(ours[name].geometry), moved, atol=1e-6)
        assert ours[name].index.tolist() == other.obs_names.tolist()
    centers = other.obsm["spatial"] / 0.2125 @ to_px[:2, :2].T + to_px[:2, 2]
    np.testing.assert_allclose(table.obsm["spatial"], centers, atol=1e-6)
    assert set(table.obs["section"]) == {"S1"}
    assert set(table.obs["patient"]) == {"P1"}
    np.testing.assert_allclose(table.obs["mpp"], 0.5, rtol=1e-6)
    facts = hc.get.provenance(ours, "registration")
    assert facts["source"].endswith(ALIGNMENT)


def test_nuclei_lie_on_the_nuclei_of_the_image(xenium: Path) -> None:
    """The image is darker under the nuclei than under copies that are shifted by 6 um, so the direction is right."""
    sdata = hc.io.xenium(xenium)
    red = np.asarray(sdata["he"].sel(c="r").data).astype(float)

    def brightness(shift: float) -> float:
        xy = corners(shapely.centroid(sdata["nuclei"].geometry.to_numpy())) + shift
        x, y = xy[((xy > 0) & (xy < 499)).all(axis=1)].astype(int).T
        return float(red[y, x].mean())

    assert brightness(0) < min(brightness(12), brightness(-12)) - 20


def test_elements(xenium: Path, tmp_path: Path) -> None:
    sdata = hc.io.xenium(xenium)
    assert set(sdata.images) == {"he"}
    assert set(sdata.shapes) == {"cells", "nuclei"}
    for name in ("cells", "nuclei"):
        polygons = sdata[name].geometry.to_numpy()
        assert shapely.is_valid(polygons).all()
        assert (shapely.get_type_id(polygons) == 3).all()
    assert sdata["nuclei"]["cell_id"].tolist() == sdata["nuclei"].index.tolist()
    hc.pp.patches(sdata, size_um=32)
    assert sdata["table"].obs["patch_inside"].mean() > 0.8
    sdata.write(tmp_path / "s.zarr")
    back = sd.read_zarr(tmp_path / "s.zarr")
    np.testing.assert_array_equal(corners(back["nuclei"].geometry), corners(sdata["nuclei"].geometry))
    two = sd.concatenate({"a": sdata, "b": hc.io.xenium(xenium)}, concatenate_tables=True)
    assert set(two.shapes) == {"cells-a", "cells-b", "nuclei-a", "nuclei-b"}


@pytest.mark.parametrize("change", [to_integers, to_csv])
def test_other_versions_are_read_alike(xenium: Path, change) -> None:
    before = hc.io.xenium(xenium)
    change(xenium)
    after = hc.io.xenium(xenium)
    assert (before["table"].X != after["table"].X).nnz == 0
    np.testing.assert_allclose(corners(after["cells"].geometry), corners(before["cells"].geometry), atol=1e-3)
    np.testing.assert_allclose(corners(after["nuclei"].geometry), corners(before["nuclei"].geometry), atol=1e-3)
    assert after["table"].obs["cell_id"].iloc[0] == after["nuclei"].index[0]
    assert isinstance(after["nuclei"].index[0], str)


def test_bytes_as_names(xenium: Path) -> None:
    for name in ("cells", "cell_boundaries", "nucleus_boundaries"):
        table = pd.read_parquet(xenium / f"{name}.parquet")
        table["cell_id"] = table["cell_id"].str.encode("utf-8")
        table.to_parquet(xenium / f"{name}.parquet", index=False)
    assert hc.io.xenium(xenium)["nuclei"].index[0].endswith("-1")


@pytest.mark.parametrize("labels", [True, False])
def test_a_cell_with_two_nuclei(xenium: Path, labels) -> None:
    """Both are there, the larger one under the name of the cell; without label_id rings tell them apart."""
    file = xenium / "nucleus_boundaries.parquet"
    table = pd.read_parquet(file)
    name = table["cell_id"].iloc[0]
    own = table[table["cell_id"] == name]
    small = own.assign(
        vertex_x=own["vertex_x"].mean() + (own["vertex_x"] - own["vertex_x"].mean()) / 2,
        vertex_y=own["vertex_y"].mean() + (own["vertex_y"] - own["vertex_y"].mean()) / 2,
        label_id=10**6,
    )
    table = pd.concat([small, table])
    (table if labels else table.drop(columns="label_id")).to_parquet(file, index=False)
    sdata = hc.io.xenium(xenium)
    nuclei = sdata["nuclei"]
    assert nuclei.index[:2].tolist() == [name, f"{name}.2"]
    assert nuclei["cell_id"].iloc[:2].tolist() == [name, name]
    assert nuclei.area.iloc[0] == pytest.approx(4 * nuclei.area.iloc[1], rel=1e-3)
    assert len(nuclei) == len(sdata["cells"]) + 1


def test_polygons_that_are_wrong(xenium: Path, user_sees: UserSees) -> None:
    file = xenium / "nucleus_boundaries.parquet"
    table = pd.read_parquet(file)
    names = table["cell_id"].unique()
    bow_tie = pd.DataFrame({"cell_id": names[0], "vertex_x": [50, 70, 70, 50, 50], "vertex_y": [50, 66, 50, 64, 50]})
    line = pd.DataFrame({"cell_id": names[1], "vertex_x": [50, 70, 90, 50], "vertex_y": [50, 50, 50, 50]})
    point = pd.DataFrame({"cell_id": names[2], "vertex_x": [50.0], "vertex_y": [50.0]})
    rest = table[~table["cell_id"].isin(names[:3])]
    wrong = [part.assign(label_id=number) for number, part in enumerate((bow_tie, line, point), start=1)]
    pd.concat([*wrong, rest]).astype({"vertex_x": "float32", "vertex_y": "float32"}).to_parquet(file, index=False)
    with user_sees(
        "Cells", "outlines that cross themselves, and some without area", UserWarning, match="were repaired"
    ):
        sdata = hc.io.xenium(xenium)
    assert shapely.is_valid(sdata["nuclei"].geometry.to_numpy()).all()
    assert len(sdata["nuclei"]) == len(names) - 2
    assert names[0] in sdata["nuclei"].index


def test_an_inverted_matrix(xenium: Path, user_sees: UserSees) -> None:
    np.savetxt(xenium / ALIGNMENT, np.linalg.inv(matrix_of(xenium)), delimiter=",")
    with user_sees("Cells", "an alignment matrix that is inverted", ValueError, match="looks inverted"):
        hc.io.xenium(xenium)


def test_an_inverted_matrix_that_keeps_cells_in_the_image(xenium: Path) -> None:
    """Only the resolution that the image states tells it."""
    image = np.zeros((4000, 4000, 3), dtype=np.uint8)
    tifffile.imwrite(
        xenium / "big.ome.tif",
        image,
        photometric="rgb",
        ome=True,
        metadata={"axes": "YXS", "PhysicalSizeX": 0.2738, "PhysicalSizeY": 0.2738},
    )
    right = np.diag([0.2738 / 0.2125, 0.2738 / 0.2125, 1.0])
    sdata = hc.io.xenium(xenium, image="big.ome.tif", alignment=right)
    assert sdata["table"].obs["mpp"].iloc[0] == pytest.approx(0.2738)
    with pytest.raises(ValueError, match="looks inverted.* states 0.2738 um per px"):
        hc.io.xenium(xenium, image="big.ome.tif", alignment=np.linalg.inv(right))


def test_another_image(xenium: Path, user_sees: UserSees) -> None:
    right = matrix_of(xenium)
    with pytest.raises(ValueError, match="x and y look swapped"):
        hc.io.xenium(
            xenium,
            image=np.zeros((520, 2000, 3), np.uint8),
            alignment=right
            @ np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]])
            @ np.array([[1, 0, 0], [0, 1, -900], [0, 0, 1]]),
        )
    with user_sees(
        "Cells", "an alignment that takes cells off the image", ValueError, match="none of the .* lie in the image"
    ):
        hc.io.xenium(
            xenium,
            image=np.zeros((500, 500, 3), np.uint8),
            alignment=right @ np.array([[1, 0, 9000], [0, 1, 9000], [0, 0, 1]]),
        )
    with user_sees(
        "Cells", "an H&E image of another resolution than its alignment", UserWarning, match="but 0.5 by the image"
    ):
        hc.io.xenium(xenium, alignment=right @ np.diag([1.05, 1.05, 1]))
    with pytest.warns(UserWarning, match="stretches the image by 3"):
        hc.io.xenium(xenium, image=np.zeros((500, 500, 3), np.uint8), alignment=right @ np.diag([1.01, 1.04, 1]))


def test_registration_must_be_known(xenium: Path, user_sees: UserSees) -> None:
    matrix = matrix_of(xenium)
    (xenium / ALIGNMENT).rename(xenium / "other_alignment.csv")
    with user_sees("Cells", "an H&E image without its alignment", ValueError, match="registration .* is unknown"):
        hc.io.xenium(xenium)
    sdata = hc.io.xenium(xenium, alignment="other_alignment.csv")
    assert sdata["table"].obs["mpp"].iloc[0] == pytest.approx(0.5)
    points = np.random.default_rng(0).uniform(0, 500, (6, 2))
    target = points @ matrix[:2, :2].T + matrix[:2, 2]
    landmarks = pd.DataFrame(np.hstack([points, target]), columns=["image_x", "image_y", "target_x", "target_y"])
    by_landmarks = hc.io.xenium(xenium, alignment=landmarks)
    np.testing.assert_allclose(by_landmarks["table"].obsm["spatial"], sdata["table"].obsm["spatial"], atol=1e-6)
    assert hc.get.provenance(by_landmarks, "registration")["landmarks"] == 6


def test_without_an_image(xenium: Path) -> None:
    (xenium / HE).unlink()
    with pytest.warns(UserWarning, match=r"no H&E image .*px of the morphology image, 0\.2125 um"):
        sdata = hc.io.xenium(xenium)
    cells = pd.read_parquet(xenium / "cells.parquet")
    np.testing.assert_allclose(sdata["table"].obsm["spatial"] * 0.2125, cells[["x_centroid", "y_centroid"]], rtol=1e-9)
    assert set(sdata["table"].obs["mpp"]) == {0.2125}
    assert not sdata.images
    with pytest.raises(ValueError, match="alignment= is given, but"):
        hc.io.xenium(xenium, alignment=np.eye(3))


@pytest.mark.parametrize(
    ("absent", "message"),
    [
        (["experiment.xenium"], "holds no experiment.xenium, so it is no output folder of Xenium"),
        (["cell_feature_matrix.h5"], "holds no cell_feature_matrix.h5"),
        (["cells.parquet", "cells.csv.gz"], "holds no cells.parquet, nor cells.csv.gz"),
    ],
)
def test_a_missing_file_is_named(xenium: Path, absent, message) -> None:
    for name in absent:
        (xenium / name).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        hc.io.xenium(xenium)


def test_missing_outlines(xenium: Path, user_sees: UserSees) -> None:
    kept = [(file, file.read_bytes()) for file in xenium.glob("nucleus_boundaries*")]
    for file, _ in kept:
        file.unlink()
    with user_sees("Cells", "a Xenium bundle without outlines of nuclei", UserWarning, match="nuclei are left out"):
        sdata = hc.io.xenium(xenium)
    assert set(sdata.shapes) == {"cells"}
    for file, content in kept:
        file.write_bytes(content)
    table = pd.read_parquet(xenium / "cell_boundaries.parquet")
    table[table["cell_id"] != table["cell_id"].iloc[0]].to_parquet(xenium / "cell_boundaries.parquet", index=False)
    with pytest.warns(UserWarning, match="cells .* have no outline; they are circles of their area"):
        sdata = hc.io.xenium(xenium)
    area = pd.read_parquet(xenium / "cells.parquet")["cell_area"].iloc[0]
    assert sdata["cells"].area.iloc[0] * 0.25 == pytest.approx(area, rel=0.02)


def test_counts_that_cannot_be_true(xenium: Path, user_sees) -> None:
    path = xenium / "cell_feature_matrix.h5"
    with h5py.File(path, "r+") as file:
        file["matrix/data"][0] = -3
    with user_sees("Cells", "a negative count", ValueError, match="1 of the counts are negative"):
        hc.io.xenium(xenium)
    with h5py.File(path, "r+") as file:
        file["matrix/indices"][5] = 10**6
    with user_sees("Cells", "counts of genes that are not there", OSError, match="indices must be <"):
        hc.io.xenium(xenium)


@pytest.mark.parametrize(
    "name", ["experiment.xenium", "cell_feature_matrix.h5", "cells.parquet", "cell_boundaries.parquet"]
)
def test_a_damaged_file_is_named(xenium: Path, name: str) -> None:
    data = (xenium / name).read_bytes()
    (xenium / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(OSError, match=rf"{name}: the file is damaged or truncated"):
        hc.io.xenium(xenium)


def test_files_of_two_runs(xenium: Path, user_sees: UserSees) -> None:
    cells = pd.read_parquet(xenium / "cells.parquet")
    cells.iloc[5:].to_parquet(xenium / "cells.parquet", index=False)
    with user_sees("Cells", "Xenium files of two runs", ValueError, match="not of one run"):
        hc.io.xenium(xenium)
    pd.concat([cells, cells.iloc[:1]]).to_parquet(xenium / "cells.parquet", index=False)
    with pytest.raises(ValueError, match="named more than once"):
        hc.io.xenium(xenium)
    cells.assign(x_centroid=np.nan).to_parquet(xenium / "cells.parquet", index=False)
    with pytest.raises(ValueError, match="x_centroid of cell .* is nan"):
        hc.io.xenium(xenium)
    cells.drop(columns="x_centroid").to_parquet(xenium / "cells.parquet", index=False)
    with pytest.raises(ValueError, match="lacks x_centroid"):
        hc.io.xenium(xenium)
    cells.to_parquet(xenium / "cells.parquet", index=False)
    other = pd.read_parquet(xenium / "cell_boundaries.parquet").assign(cell_id="zzzzzzzz-1")
    other.to_parquet(xenium / "cell_boundaries.parquet", index=False)
    with pytest.raises(ValueError, match="none of its cells"):
        hc.io.xenium(xenium)


def test_other_bad_input(xenium: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        hc.io.xenium(tmp_path / "none")
    (xenium / "b_he_image.ome.tif").write_bytes((xenium / HE).read_bytes())
    with pytest.raises(ValueError, match="several H&E images, choose with image="):
        hc.io.xenium(xenium)
    facts = json.loads((xenium / "experiment.xenium").read_text())
    (xenium / "experiment.xenium").write_text(json.dumps(facts | {"pixel_size": 212.5}))
    with pytest.raises(ValueError, match=r"pixel_size is 212\.5 um"):
        hc.io.xenium(xenium, image=HE, alignment=ALIGNMENT)


def test_order_of_files_does_not_matter(xenium: Path) -> None:
    before = hc.io.xenium(xenium)
    cells = pd.read_parquet(xenium / "cells.parquet")
    cells.sample(frac=1, random_state=0).to_parquet(xenium / "cells.parquet", index=False)
    vertices = pd.read_parquet(xenium / "cell_boundaries.parquet")
    parts = [part for _, part in vertices.groupby("label_id")]
    pd.concat(parts[::-1]).to_parquet(xenium / "cell_boundaries.parquet", index=False)
    after = hc.io.xenium(xenium)
    np.testing.assert_array_equal(after["table"].obsm["spatial"], before["table"].obsm["spatial"])
    np.testing.assert_array_equal(corners(after["cells"].geometry), corners(before["cells"].geometry))
