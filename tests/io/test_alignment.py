from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from spatialdata.transformations import Affine, Scale, Sequence, Translation

import histocell as hc
from histocell.io._cells.alignment import read_alignment

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import UserSees

MATRIX = np.array([[2.3, -0.2, 350.0], [0.2, 2.3, 140.0], [0, 0, 1]])
SHEARED = np.array([[2.0, 0.3, 10.0], [-0.1, 1.7, 20.0], [0, 0, 1]])


def landmarks(matrix: np.ndarray, n: int = 8, noise: float = 0.0, rng: int = 0) -> pd.DataFrame:
    draw = np.random.default_rng(rng)
    image = draw.uniform(0, 20_000, (n, 2))
    target = image @ matrix[:2, :2].T + matrix[:2, 2] + draw.normal(0, noise, (n, 2))
    return pd.DataFrame(np.hstack([image, target]), columns=["image_x", "image_y", "target_x", "target_y"])


def test_a_matrix_file(tmp_path: Path) -> None:
    file = tmp_path / "a_imagealignment.csv"
    np.savetxt(file, MATRIX, delimiter=",")
    np.testing.assert_allclose(hc.io.alignment(file).matrix, MATRIX)
    np.savetxt(file, MATRIX)  # spaces
    np.testing.assert_allclose(hc.io.alignment(str(file)).matrix, MATRIX)


@pytest.mark.parametrize(("matrix", "model"), [(SHEARED, "affine"), (MATRIX, "affine"), (MATRIX, "similarity")])
def test_landmarks_give_the_map_that_made_them(matrix, model) -> None:
    np.testing.assert_allclose(hc.io.alignment(landmarks(matrix), model=model).matrix, matrix, rtol=1e-9, atol=1e-6)


def test_affine_landmarks_are_least_squares() -> None:
    table = landmarks(SHEARED, 30, noise=5.0)
    found = hc.io.alignment(table).matrix
    design = np.column_stack([table[["image_x", "image_y"]], np.ones(30)])
    wanted = np.linalg.lstsq(design, table[["target_x", "target_y"]].to_numpy(), rcond=None)[0].T
    np.testing.assert_allclose(found[:2], wanted, rtol=1e-7)


def test_similarity_landmarks_are_least_squares() -> None:
    """No turn, scale and shift nearby has a smaller error."""
    table = landmarks(MATRIX, 12, noise=20.0)
    image, target = table[["image_x", "image_y"]].to_numpy(), table[["target_x", "target_y"]].to_numpy()
    found = hc.io.alignment(table, model="similarity").matrix

    def error(a: float, b: float, x: float, y: float) -> float:
        return float(((image @ np.array([[a, -b], [b, a]]).T + [x, y] - target) ** 2).sum())

    best = np.array([found[0, 0], found[1, 0], found[0, 2], found[1, 2]])
    np.testing.assert_allclose(found[0, 0], found[1, 1])
    for step in np.vstack([np.eye(4), -np.eye(4)]) * [1e-4, 1e-4, 1.0, 1.0]:
        assert error(*(best + step)) > error(*best)


def test_the_residual_is_that_of_new_points() -> None:
    """Root mean square distance of the noise, whatever the number of landmarks."""
    for n, model in ((5, "affine"), (6, "similarity"), (60, "affine")):
        squares = [
            read_alignment(landmarks(MATRIX, n, noise=10, rng=rng), model=model, target_mpp=0.1).residual_um ** 2
            for rng in range(300)
        ]
        assert np.sqrt(np.mean(squares)) == pytest.approx(np.sqrt(2) * 10 * 0.1, rel=0.1)


def test_key_points_of_xenium_explorer(tmp_path: Path) -> None:
    table = landmarks(MATRIX).rename(
        columns={"image_x": "alignmentX", "image_y": "alignmentY", "target_x": "fixedX", "target_y": "fixedY"}
    )
    file = tmp_path / "keypoints.csv"
    table.to_csv(file, index=False)
    np.testing.assert_allclose(hc.io.alignment(file).matrix, MATRIX, atol=1e-6)
    archive = tmp_path / "alignment.zip"
    with zipfile.ZipFile(archive, "w") as out:
        out.write(file, "export/keypoints.csv")
    np.testing.assert_allclose(hc.io.alignment(archive).matrix, MATRIX, atol=1e-6)
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("notes.txt", "nothing")
    with pytest.raises(OSError, match=r"holds notes\.txt; expected matrix\.csv or keypoints\.csv"):
        hc.io.alignment(archive)


def test_transformations_and_arrays() -> None:
    chain = Sequence([Scale([2.0, 2.0], axes=("x", "y")), Translation([3.0, 4.0], axes=("x", "y"))])
    np.testing.assert_allclose(hc.io.alignment(chain).matrix, [[2, 0, 3], [0, 2, 4], [0, 0, 1]])
    affine = Affine(MATRIX, input_axes=("x", "y"), output_axes=("x", "y"))
    np.testing.assert_allclose(hc.io.alignment(affine).matrix, MATRIX)
    np.testing.assert_allclose(hc.io.alignment(2 * MATRIX).matrix, MATRIX)  # homogeneous


def test_bad_matrices(tmp_path: Path, user_sees: UserSees) -> None:
    file = tmp_path / "a_imagealignment.csv"
    file.write_text("1,0\n0,1\n")
    with pytest.raises(ValueError, match=r"has shape \(2, 2\); expected a 3 x 3 matrix"):
        hc.io.alignment(file)
    file.write_text("1,0,0\n0,1\n0,0,1\n")
    with pytest.raises(ValueError, match="no matrix of numbers"):
        hc.io.alignment(file)
    file.write_text("")
    with pytest.raises(ValueError, match="is empty"):
        hc.io.alignment(file)
    with pytest.raises(FileNotFoundError):
        hc.io.alignment(tmp_path / "none.csv")
    with user_sees("Cells", "an alignment matrix that is transposed", ValueError, match="looks transposed"):
        hc.io.alignment(MATRIX.T)
    with pytest.raises(ValueError, match="so it is no affine map"):
        hc.io.alignment(MATRIX + [[0, 0, 0], [0, 0, 0], [0.01, 0, 0]])
    with pytest.raises(ValueError, match="maps an area to a line"):
        hc.io.alignment(np.array([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]]))
    with pytest.raises(ValueError, match="no numbers"):
        hc.io.alignment(np.full((3, 3), np.nan))
    with pytest.raises(ValueError, match="target_mpp must be a positive number"):
        hc.io.alignment(landmarks(MATRIX), target_mpp=0)
    with pytest.raises(ValueError, match='must be "affine" or "similarity"'):
        hc.io.alignment(MATRIX, model="rigid")


def test_bad_landmarks(user_sees: UserSees) -> None:
    with pytest.raises(ValueError, match="lack target_x"):
        hc.io.alignment(landmarks(MATRIX).drop(columns="target_x"))
    with pytest.raises(ValueError, match="2 different landmarks in the image"):
        hc.io.alignment(landmarks(MATRIX, 2))
    with pytest.raises(ValueError, match="1 of 8 landmarks .* no numbers, the first in row 3"):
        hc.io.alignment(landmarks(MATRIX).astype(object).replace({"image_x": {landmarks(MATRIX)["image_x"][3]: "?"}}))
    line = landmarks(MATRIX)
    line[["image_y", "target_y"]] = line[["image_x", "target_x"]].to_numpy()
    with user_sees("Cells", "landmarks that lie on a line", ValueError, match="lie on a line"):
        hc.io.alignment(line)
    with pytest.warns(UserWarning, match="nothing tells how well it fits"):
        np.testing.assert_allclose(hc.io.alignment(landmarks(SHEARED, 3)).matrix, SHEARED, atol=1e-6)
    mirrored = landmarks(np.diag([-1.0, 1.0, 1.0]) @ MATRIX)
    with user_sees("Cells", "landmarks of a mirrored image", ValueError, match="mirrored"):
        hc.io.alignment(mirrored, model="similarity")
    assert np.linalg.det(hc.io.alignment(mirrored).matrix[:2, :2]) < 0
    wrong = landmarks(MATRIX, 10)
    wrong.loc[4, "target_x"] += 3000
    with user_sees("Cells", "landmarks of which one is wrong", UserWarning, match="worst is in row 4"):
        hc.io.alignment(wrong, target_mpp=0.2125)
