from __future__ import annotations

import gzip
import logging
import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.sparse import issparse

import histocell as hc
from histocell.images.slide_image import open_image
from histocell.io._counts import read_counts
from histocell.io.positions import grid_mpp

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import UserSees

PITCH_PX = 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A section of 6 x 5 spots, 5 um per px, one of them without counts, one counted beside the tissue."""
    folder = tmp_path / "Q1"
    folder.mkdir()
    grid = [(x, y) for x in range(3, 9) for y in range(2, 7)]
    spots = pd.DataFrame(grid, columns=["x", "y"])
    spots["pixel_x"] = spots["x"] * PITCH_PX + 1.5
    spots["pixel_y"] = spots["y"] * PITCH_PX - 0.5
    spots["selected"] = (spots["x"] < 8).astype(int)
    spots.to_csv(folder / "selection.tsv", sep="\t", index=False)
    names = [f"{x}x{y}" for x, y in grid if (x, y) != (4, 4)][::-1]
    counts = np.random.default_rng(0).poisson(0.7, (len(names), 12)) * 13
    frame = pd.DataFrame(counts, index=names, columns=[f"g{i}" for i in range(11)] + ["g0"])
    with gzip.open(folder / "counts.tsv.gz", "wt") as file:
        frame.to_csv(file, sep="\t")
    Image.fromarray(np.full((300, 350, 3), 200, dtype=np.uint8)).save(folder / "he.png")
    return folder


def test_st(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="histocell"):
        sdata = hc.io.st(folder, patient="Q")
    assert "1 selected spots without counts and 5 counted" in caplog.text
    assert set(sdata.images) == {"he"}
    assert set(sdata.shapes) == {"spots"}
    table = sdata["table"]
    assert table.n_obs == 24
    assert "4x4" not in table.obs_names
    assert issparse(table.X)
    assert table.X.dtype == np.float32
    frame = pd.read_csv(folder / "counts.tsv.gz", sep="\t", index_col=0)
    np.testing.assert_array_equal(table.X.toarray(), frame.loc[table.obs_names].to_numpy())
    assert table.var_names.is_unique
    assert table.obs["section"].unique().tolist() == ["Q1"]
    assert table.obs["patient"].unique().tolist() == ["Q"]
    np.testing.assert_allclose(table.obs["mpp"], 200 / PITCH_PX)
    column, row = (int(part) for part in table.obs_names[3].split("x"))
    assert table.obsm["spatial"][3].tolist() == [column * PITCH_PX + 1.5, row * PITCH_PX - 0.5]
    assert sdata["spots"].loc["5x5"].geometry.coords[0] == (5 * PITCH_PX + 1.5, 5 * PITCH_PX - 0.5)
    assert sdata["spots"]["radius"].iloc[0] == pytest.approx(PITCH_PX / 4)
    assert open_image(sdata["he"]).mpp == pytest.approx(5)
    assert set(sdata.coordinate_systems) == {"global", "um"}


def test_layout_of_the_repository(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in ("ST-cnts", "ST-spotfiles", "ST-imgs/Q/Q1"):
        (data / name).mkdir(parents=True)
    (folder / "counts.tsv.gz").rename(data / "ST-cnts" / "Q1.tsv.gz")
    (folder / "selection.tsv").rename(data / "ST-spotfiles" / "Q1_selection.tsv")
    Image.open(folder / "he.png").save(data / "ST-imgs" / "Q" / "Q1" / "scan.jpg")
    sdata = hc.io.st(data, section="Q1")
    assert sdata["table"].n_obs == 24
    assert sdata["he"].shape == (3, 300, 350)


def test_no_image(folder: Path) -> None:
    (folder / "he.png").unlink()
    with pytest.warns(UserWarning, match="Q1 has no image"):
        sdata = hc.io.st(folder)
    assert not sdata.images
    np.testing.assert_allclose(sdata["table"].obs["mpp"], 5)


def test_missing_tables(folder: Path) -> None:
    (folder / "selection.tsv").rename(folder / "spots.txt")
    with pytest.raises(FileNotFoundError, match=r"no table of spots \(selection\.tsv\).*spots\.txt"):
        hc.io.st(folder)
    with pytest.raises(FileNotFoundError, match="not a folder"):
        hc.io.st(folder / "he.png")


def test_tables_that_do_not_fit(folder: Path) -> None:
    selection = pd.read_csv(folder / "selection.tsv", sep="\t")
    selection.assign(x=selection["x"] + 100).to_csv(folder / "selection.tsv", sep="\t", index=False)
    with pytest.raises(ValueError, match="both are named XxY"):
        hc.io.st(folder)
    selection.drop(columns="pixel_x").to_csv(folder / "selection.tsv", sep="\t", index=False)
    with pytest.raises(ValueError, match="no column pixel_x"):
        hc.io.st(folder)
    pd.concat([selection, selection]).to_csv(folder / "selection.tsv", sep="\t", index=False)
    with pytest.raises(ValueError, match="twice"):
        hc.io.st(folder)


@pytest.mark.parametrize("column", ["x", "pixel_y"])
@pytest.mark.parametrize("value", ["a", "", "nan", "inf"])
def test_a_position_that_is_no_number(folder: Path, column: str, value: str) -> None:
    selection = pd.read_csv(folder / "selection.tsv", sep="\t", dtype=str)
    selection.loc[3, column] = value
    selection.to_csv(folder / "selection.tsv", sep="\t", index=False)
    with pytest.raises(ValueError, match=rf"selection\.tsv: {column} of spot .* not a number"):
        hc.io.st(folder)


def test_what_the_user_sees_of_bad_positions(folder: Path, user_sees: UserSees) -> None:
    selection = pd.read_csv(folder / "selection.tsv", sep="\t", dtype={"pixel_x": str})
    selection.loc[3, "pixel_x"] = "12O.5"
    selection.to_csv(folder / "selection.tsv", sep="\t", index=False)
    with user_sees("Tables", "a table of spots with a word in place of a number", ValueError, match="12O"):
        hc.io.st(folder)
    selection.assign(pixel_x=selection["x"] * PITCH_PX, x=selection["x"] + 0.5).to_csv(
        folder / "selection.tsv", sep="\t", index=False
    )
    with pytest.raises(ValueError, match="must be whole numbers"):
        hc.io.st(folder)


def test_a_spot_far_from_its_place(folder: Path, user_sees: UserSees) -> None:
    """One digit lost in the table: the spot lies in the image, but under other tissue."""
    selection = pd.read_csv(folder / "selection.tsv", sep="\t")
    selection.loc[3, "pixel_x"] += 2 * PITCH_PX
    selection.to_csv(folder / "selection.tsv", sep="\t", index=False)
    with user_sees("Tables", "a spot that lies far from its place in the printed grid", UserWarning, match="1 of 24"):
        hc.io.st(folder)


def test_real_spots_lie_in_their_places(data_dir: Path, recwarn: pytest.WarningsRecorder) -> None:
    files = sorted((data_dir / "her2st").glob("*/selection.tsv"))
    assert files
    for file in files:
        spots = pd.read_csv(file, sep="\t").query("selected == 1")
        grid_mpp(spots[["pixel_x", "pixel_y"]].to_numpy(), spots[["x", "y"]].to_numpy() * 200.0, file.parent.name)
    assert not list(recwarn)


@pytest.mark.parametrize("name", ["selection.tsv", "counts.tsv.gz"])
def test_bytes_that_are_no_text(folder: Path, name: str) -> None:
    path = folder / name
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    text = text[:40] + b"\xff" + text[40:]
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    with pytest.raises((OSError, ValueError), match=re.escape(str(path))):
        hc.io.st(folder)


def test_many_spots_without_counts_are_a_warning(folder: Path) -> None:
    frame = pd.read_csv(folder / "counts.tsv.gz", sep="\t", index_col=0)
    frame.iloc[:20].to_csv(folder / "counts.tsv", sep="\t")
    (folder / "counts.tsv.gz").unlink()
    with pytest.warns(UserWarning, match="selected spots without counts"):
        hc.io.st(folder)


def test_truncated_counts(folder: Path) -> None:
    data = (folder / "counts.tsv.gz").read_bytes()
    (folder / "counts.tsv.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(OSError, match=r"counts\.tsv\.gz.*truncated"):
        hc.io.st(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\tg1\tg2\na\t1\t2\nb\t1", "1 values where the first line has 2"),
        ("\tg1\tg2\na\t1\tx", "not a number"),
        ("\tg1\tg2\na\t1\t-3", "from 0 up"),
        ("\tg1\tg2\n", "no counts"),
    ],
)
def test_bad_counts(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "counts.tsv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_counts(tmp_path / "counts.tsv")


def test_counts_of_every_form(tmp_path: Path) -> None:
    (tmp_path / "counts.tsv").write_bytes(b"g1\tg2\tg3\r\n1x2\t0\t105\t7\r\n1x3\t1.0\t2e2\t0\r\n")
    spots, genes, counts = read_counts(tmp_path / "counts.tsv")
    assert (spots, genes) == (["1x2", "1x3"], ["g1", "g2", "g3"])
    assert counts.toarray().tolist() == [[0, 105, 7], [1, 200, 0]]


def test_counts_of_a_real_section(data_dir: Path) -> None:
    path = data_dir / "her2st" / "C2" / "counts.tsv.gz"
    spots, genes, counts = read_counts(path)
    frame = pd.read_csv(path, sep="\t", index_col=0)
    assert spots == frame.index.tolist()
    assert genes == frame.columns.tolist()
    assert (counts.toarray() == frame.to_numpy()).all()
