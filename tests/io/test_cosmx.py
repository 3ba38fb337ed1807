from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import shapely
from anndata import read_h5ad
from PIL import Image

import histocell as hc

if TYPE_CHECKING:
    from pathlib import Path

PIXEL_UM = 0.12028


@pytest.fixture
def cosmx(tmp_path: Path) -> Path:
    """The flat files of a slide of two fields of view, with y that points up, and an H&E image of 0.24056 um per px."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "Lung"
    folder.mkdir()
    names = pd.DataFrame({"fov": [1] * 6 + [2] * 5, "cell_ID": [*range(6), *range(5)]})
    counts = rng.poisson(2, (11, 4))
    frame = pd.DataFrame(counts, columns=["A", "B", "NegPrb1", "SystemControl2"])
    pd.concat([names, frame], axis=1).to_csv(folder / "Lung_exprMat_file.csv", index=False)
    cells = names[names["cell_ID"] > 0].reset_index(drop=True)
    xy = rng.uniform(200, 1800, (len(cells), 2))
    facts = cells.assign(CenterX_global_px=xy[:, 0], CenterY_global_px=xy[:, 1], Area=1000, note="x")
    facts["Area.um2"] = facts["Area"] * PIXEL_UM**2
    facts.to_csv(folder / "Lung_metadata_file.csv.gz", index=False)
    square = np.array([[-20, -20], [20, -20], [20, 20], [-20, 20]])
    rows = cells.loc[cells.index.repeat(4)].rename(columns={"cell_ID": "cellID"}).reset_index(drop=True)
    points = (xy[:, None] + square).reshape(-1, 2)
    rows.assign(x_global_px=points[:, 0], y_global_px=points[:, 1]).to_csv(folder / "Lung-polygons.csv", index=False)
    Image.fromarray(np.full((1000, 1000, 3), 200, np.uint8)).save(folder / "he.png")
    return folder


def landmarks() -> pd.DataFrame:
    image = np.array([[0, 0], [1000, 0], [0, 1000], [1000, 1000.0]])
    target = np.column_stack([2 * image[:, 0], 2000 - 2 * image[:, 1]])
    return pd.DataFrame(np.hstack([image, target]), columns=["image_x", "image_y", "target_x", "target_y"])


def test_on_an_image(cosmx: Path, tmp_path: Path) -> None:
    sdata = hc.io.cosmx(cosmx, image="he.png", alignment=landmarks(), patient="P")
    table = sdata["table"]
    assert table.obs_names.tolist()[:2] == ["1_1", "1_2"]
    assert table.n_obs == 9  # row 0 of a field of view is no cell
    assert table.var_names.tolist() == ["A", "B"]
    raw = pd.read_csv(cosmx / "Lung_exprMat_file.csv")
    np.testing.assert_array_equal(table.X.toarray(), raw[raw["cell_ID"] > 0][["A", "B"]])
    facts = pd.read_csv(cosmx / "Lung_metadata_file.csv.gz")
    np.testing.assert_allclose(table.obsm["spatial"][:, 0], facts["CenterX_global_px"] / 2)
    np.testing.assert_allclose(table.obsm["spatial"][:, 1], 1000 - facts["CenterY_global_px"] / 2)
    np.testing.assert_allclose(table.obs["mpp"], 2 * PIXEL_UM)
    assert set(sdata.shapes) == {"cells"}
    np.testing.assert_allclose(shapely.area(sdata["cells"].geometry.to_numpy()), 20**2)
    table.write_h5ad(tmp_path / "a.h5ad")
    assert read_h5ad(tmp_path / "a.h5ad").obs["note"].tolist() == ["x"] * 9


def test_without_an_image(cosmx: Path) -> None:
    with pytest.warns(UserWarning, match="no H&E image of Lung"):
        sdata = hc.io.cosmx(cosmx)
    facts = pd.read_csv(cosmx / "Lung_metadata_file.csv.gz")
    np.testing.assert_allclose(sdata["table"].obsm["spatial"], facts[["CenterX_global_px", "CenterY_global_px"]])
    np.testing.assert_allclose(sdata["table"].obs["mpp"], PIXEL_UM)


def test_bad_input(cosmx: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        hc.io.cosmx(tmp_path / "none")
    with pytest.raises(ValueError, match="alignment= is given without image="):
        hc.io.cosmx(cosmx, alignment=landmarks())
    (cosmx / "Lung-polygons.csv").unlink()
    with pytest.warns(UserWarning, match="cells are circles of their area"):
        sdata = hc.io.cosmx(cosmx, image="he.png", alignment=landmarks())
    np.testing.assert_allclose(shapely.area(sdata["cells"].geometry.to_numpy()), 1000 / 4, rtol=0.02)
    file = cosmx / "Lung_metadata_file.csv.gz"
    facts = pd.read_csv(file)
    facts.drop(columns="Area.um2").to_csv(file, index=False)
    with pytest.raises(ValueError, match="does not say the size of a px"):
        hc.io.cosmx(cosmx, image="he.png", alignment=landmarks())
    facts.iloc[2:].to_csv(file, index=False)
    with pytest.raises(ValueError, match="lacks 2 of 9 cells .* not of one slide"):
        hc.io.cosmx(cosmx, image="he.png", alignment=landmarks())
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no \*metadata_file\.csv"):
        hc.io.cosmx(cosmx, image="he.png", alignment=landmarks())
    for name in ("a", "b"):
        facts.to_csv(cosmx / f"{name}_metadata_file.csv", index=False)
    with pytest.raises(ValueError, match="several files"):
        hc.io.cosmx(cosmx, image="he.png", alignment=landmarks())
