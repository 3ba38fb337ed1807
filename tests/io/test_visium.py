from __future__ import annotations

import json
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.sparse import csc_matrix

import histocell as hc
from histocell.images.slide_image import open_image

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import UserSees

PITCH_PX = 40
MPP = 100 / PITCH_PX


@pytest.fixture
def outs(tmp_path: Path) -> Path:
    """What Space Ranger writes, with a hexagonal grid of 5 x 6 spots, 2.5 um per px."""
    outs = tmp_path / "outs"
    (outs / "spatial").mkdir(parents=True)
    barcodes, lines = [], []
    for row in range(5):
        for column in range(row % 2, 12, 2):
            barcode = f"ACGT{row:02d}{column:02d}-1"
            x, y = 40 + column * PITCH_PX / 2, 50 + row * PITCH_PX * np.sqrt(3) / 2
            lines.append(f"{barcode},1,{row},{column},{round(y)},{round(x)}")
            barcodes.append(barcode)
    (outs / "spatial" / "tissue_positions_list.csv").write_text("\n".join(lines) + "\n")
    factors = {
        "tissue_hires_scalef": 0.5,
        "tissue_lowres_scalef": 0.1,
        "spot_diameter_fullres": 26.0,
        "fiducial_diameter_fullres": 40.0,
    }
    (outs / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors))
    for name, shape in (("hires", (140, 170)), ("lowres", (28, 34))):
        Image.fromarray(np.full((*shape, 3), 90, np.uint8)).save(outs / "spatial" / f"tissue_{name}_image.png")
    Image.fromarray(np.full((280, 340, 3), 77, np.uint8)).save(outs / "he.png")
    counts = csc_matrix(np.random.default_rng(0).poisson(1, (4, len(barcodes))).astype(np.int32))
    with h5py.File(outs / "filtered_feature_bc_matrix.h5", "w") as file:
        file.attrs["library_ids"] = np.array([b"lib"])
        file.attrs["chemistry_description"] = b"Spatial 3' v1"
        group = file.create_group("matrix")
        group["barcodes"] = np.array(barcodes, dtype="S")
        for name, value in (("data", counts.data), ("indices", counts.indices), ("indptr", counts.indptr)):
            group[name] = value
        group["shape"] = np.array(counts.shape)
        features = group.create_group("features")
        features["id"] = np.array([f"ENSG{i}" for i in range(4)], dtype="S")
        features["name"] = np.array(["A", "B", "B", "C"], dtype="S")
        features["feature_type"] = np.array(["Gene Expression"] * 4, dtype="S")
        features["genome"] = np.array(["GRCh38"] * 4, dtype="S")
        features["_all_tag_keys"] = np.array([b"genome"])
    return outs


pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword:DeprecationWarning")  # in spatialdata-io


def test_visium(outs: Path) -> None:
    sdata = hc.io.visium(outs, image="he.png", section="V1", patient="P")
    assert set(sdata.images) == {"he"}
    assert set(sdata.shapes) == {"spots"}
    table = sdata["table"]
    assert table.n_obs == 30
    assert table.var_names.is_unique
    assert table.obs["section"].unique().tolist() == ["V1"]
    assert table.obs["patient"].unique().tolist() == ["P"]
    np.testing.assert_allclose(table.obs["mpp"], MPP, rtol=0.01)
    row = table.obs.loc["ACGT0204-1"]
    x, y = table.obsm["spatial"][table.obs_names.get_loc(row.name)]
    assert abs(x - (40 + row["array_col"] * PITCH_PX / 2)) <= 0.5
    assert abs(y - (50 + row["array_row"] * PITCH_PX * np.sqrt(3) / 2)) <= 0.5
    he = open_image(sdata["he"])
    assert he.shape == (280, 340)
    assert he.read(0, 0, 2, 2).max() == 77
    assert he.mpp == pytest.approx(MPP, rel=0.01)
    assert sdata["spots"]["radius"].iloc[0] == pytest.approx(27.5 / MPP, rel=0.01)
    assert table.uns["spatialdata_attrs"]["instance_key"] == "spot_id"


def test_hires_image_instead(outs: Path) -> None:
    with pytest.warns(UserWarning, match="one of its px is 2 full-resolution px"):
        sdata = hc.io.visium(outs)
    assert open_image(sdata["he"]).shape == (140, 170)
    np.testing.assert_allclose(sdata["table"].obs["mpp"], 2 * MPP, rtol=0.01)
    assert sdata["table"].obsm["spatial"].max() < 170
    assert sdata["table"].obs["section"].iloc[0] == "outs"


def test_mpp_of_the_user_wins(outs: Path) -> None:
    sdata = hc.io.visium(outs, image=np.zeros((280, 340, 3), np.uint8), mpp=2.4)
    assert sdata["table"].obs["mpp"].iloc[0] == 2.4


def test_missing_files(outs: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.png does not exist"):
        hc.io.visium(outs, image="nothing.png")
    with pytest.raises(FileNotFoundError, match=r"holds no filtered_feature_bc_matrix\.h5; it holds: scalefactors"):
        hc.io.visium(outs / "spatial")
    with pytest.raises(FileNotFoundError, match="not a folder"):
        hc.io.visium(outs / "elsewhere")


def test_barcodes_without_a_position(outs: Path, user_sees: UserSees) -> None:
    file = outs / "spatial" / "tissue_positions_list.csv"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-2]))
    with user_sees("Tables", "barcodes that Space Ranger gives no position", ValueError, match="2 of 30 barcodes"):
        hc.io.visium(outs, image="he.png")


def test_a_position_that_is_no_number(outs: Path) -> None:
    file = outs / "spatial" / "tissue_positions_list.csv"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:4], lines[4].rpartition(",")[0] + ",1x0", *lines[5:]]))
    with pytest.raises(ValueError, match=r"tissue_positions_list\.csv: x in px of spot ACGT0008-1 is 1x0"):
        hc.io.visium(outs, image="he.png")


@pytest.mark.parametrize(
    "name",
    ["spatial/scalefactors_json.json", "spatial/tissue_lowres_image.png", "filtered_feature_bc_matrix.h5"],
)
def test_a_damaged_file_is_named(outs: Path, name: str) -> None:
    data = (outs / name).read_bytes()
    (outs / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(OSError, match=rf"{name.rpartition('/')[2]}: the file is damaged or truncated"):
        hc.io.visium(outs, image="he.png")


@pytest.mark.parametrize("name", ["tissue_hires_scalef", "spot_diameter_fullres"])
def test_a_missing_scale_is_named(outs: Path, name: str) -> None:
    file = outs / "spatial" / "scalefactors_json.json"
    file.write_text(json.dumps({key: value for key, value in json.loads(file.read_text()).items() if key != name}))
    with pytest.raises(OSError, match=rf"scalefactors_json\.json: the file is damaged.*{name}"):
        hc.io.visium(outs, image="he.png")
