from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import shapely
import spatialdata as sd
import spatialdata_io

import histocell as hc

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import UserSees


def corners(polygons) -> np.ndarray:
    return shapely.get_coordinates(np.asarray(polygons))


@pytest.mark.filterwarnings("ignore:No full resolution image:UserWarning")
@pytest.mark.filterwarnings("ignore:Variable names:UserWarning")
def test_agrees_with_spatialdata_io(visium_hd: Path) -> None:
    theirs = spatialdata_io.visium_hd(visium_hd, load_segmentations_only=False)
    for bin_um, name in {8: "square_008um", 16: "square_016um", "cells": "cell_segmentations"}.items():
        ours, other = hc.io.visium_hd(visium_hd, bin_um=bin_um, section="S1"), theirs[name]
        table = ours["table"]
        assert table.obs_names.tolist() == other.obs_names.tolist()
        assert (table.X != other.X).nnz == 0
        assert set(table.obs["section"]) == {"S1"}
        assert set(table.obs["mpp"]) == {0.5}
        shapes = theirs[f"_{name}"]
        if bin_um == "cells":
            np.testing.assert_array_equal(corners(ours["cells"].geometry), corners(shapes.geometry))
        else:
            np.testing.assert_array_equal(table.obsm["spatial"], other.obsm["spatial"])
            middle = shapely.get_coordinates(shapely.centroid(ours["bins"].geometry.to_numpy()))
            np.testing.assert_allclose(middle, corners(shapely.centroid(shapes.geometry.to_numpy())), atol=1e-6)


def test_bins_are_turned_squares_side_by_side(visium_hd: Path) -> None:
    bins = hc.io.visium_hd(visium_hd, bin_um=8)["bins"].geometry.to_numpy()
    np.testing.assert_allclose(shapely.area(bins), 16**2, rtol=1e-6)
    edge = np.diff(shapely.get_coordinates(bins[0]), axis=0)
    np.testing.assert_allclose(np.linalg.norm(edge, axis=1), 16, rtol=1e-6)
    assert np.degrees(np.arctan2(edge[0, 1], edge[0, 0])) == pytest.approx(1.5, abs=1e-3)
    assert shapely.area(shapely.union_all(bins)) == pytest.approx(shapely.area(bins).sum(), rel=1e-4)


def test_cells_and_bins_lie_on_one_image(visium_hd: Path, tmp_path: Path) -> None:
    cells, bins = hc.io.visium_hd(visium_hd, bin_um="cells"), hc.io.visium_hd(visium_hd, bin_um=16)
    assert set(cells.shapes) == {"cells", "nuclei"}
    assert cells["nuclei"].index.equals(cells["cells"].index)
    # molecules of a bin are those of the cells in it
    of_cell = shapely.STRtree(bins["bins"].geometry.to_numpy()).query(
        shapely.points(cells["table"].obsm["spatial"]), predicate="within"
    )
    counts = np.zeros(bins["table"].n_obs)
    np.add.at(counts, of_cell[1], cells["table"].X.sum(axis=1).A1[of_cell[0]])
    assert np.corrcoef(counts, bins["table"].X.sum(axis=1).A1)[0, 1] > 0.8
    hc.pp.patches(bins, size_um=56)
    cells.write(tmp_path / "c.zarr")
    assert len(sd.read_zarr(tmp_path / "c.zarr")["nuclei"]) == len(cells["nuclei"])


def test_without_the_image(visium_hd: Path) -> None:
    (visium_hd / "microscope_image" / "he.ome.tif").unlink()
    full = pd.read_parquet(visium_hd / "binned_outputs/square_016um/spatial/tissue_positions.parquet").set_index(
        "barcode"
    )
    for bin_um in (16, "cells"):
        with pytest.warns(UserWarning, match="downscaled hires image"):
            sdata = hc.io.visium_hd(visium_hd, bin_um=bin_um)
        table = sdata["table"]
        np.testing.assert_allclose(table.obs["mpp"], 0.5 * 500 / 600, rtol=1e-6)
    with pytest.warns(UserWarning, match="downscaled hires image"):
        bins = hc.io.visium_hd(visium_hd, bin_um=16)
    names = bins["table"].obs_names
    wanted = full.loc[names, ["pxl_col_in_fullres", "pxl_row_in_fullres"]] * 600 / 500
    np.testing.assert_allclose(bins["table"].obsm["spatial"], wanted)
    np.testing.assert_allclose(shapely.area(bins["bins"].geometry.to_numpy()), (32 * 600 / 500) ** 2, rtol=1e-6)


def test_missing_files_are_named(visium_hd: Path, tmp_path: Path, user_sees: UserSees) -> None:
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        hc.io.visium_hd(tmp_path / "none")
    with user_sees(
        "Cells", "bins of Visium HD of a size that is not there", ValueError, match="bins there: square_008um"
    ):
        hc.io.visium_hd(visium_hd, bin_um=2)
    with pytest.raises(TypeError, match="bin_um must be 2, 8, 16"):
        hc.io.visium_hd(visium_hd, bin_um="8")
    inner = visium_hd / "binned_outputs" / "square_008um"
    (inner / "spatial" / "tissue_positions.parquet").rename(inner / "kept.parquet")
    with pytest.raises(FileNotFoundError, match="spatial holds no tissue_positions.parquet"):
        hc.io.visium_hd(visium_hd)
    positions = pd.read_parquet(inner / "kept.parquet")
    positions.iloc[: len(positions) // 2].to_parquet(inner / "spatial" / "tissue_positions.parquet", index=False)
    with pytest.raises(ValueError, match="not of one run, or damaged"):
        hc.io.visium_hd(visium_hd)
    (inner / "filtered_feature_bc_matrix.h5").unlink()
    with pytest.raises(FileNotFoundError, match="holds no filtered_feature_bc_matrix.h5"):
        hc.io.visium_hd(visium_hd)
    segmented = visium_hd / "segmented_outputs"
    (segmented / "nucleus_segmentations.geojson").unlink()
    with pytest.warns(UserWarning, match="going on without nuclei"):
        assert set(hc.io.visium_hd(visium_hd, bin_um="cells").shapes) == {"cells"}
    text = json.loads((segmented / "cell_segmentations.geojson").read_text())
    text["features"] = text["features"][1:]
    (segmented / "cell_segmentations.geojson").write_text(json.dumps(text))
    with pytest.raises(ValueError, match="lacks 1 of .* cells"):
        hc.io.visium_hd(visium_hd, bin_um="cells")
    text["features"][0]["properties"] = {}
    (segmented / "cell_segmentations.geojson").write_text(json.dumps(text))
    with pytest.raises(ValueError, match=r"without a number properties\.cell_id"):
        hc.io.visium_hd(visium_hd, bin_um="cells")
    segmented.rename(visium_hd / "elsewhere")
    with user_sees("Cells", "segmented cells of Space Ranger 3", FileNotFoundError, match="which Space Ranger 4"):
        hc.io.visium_hd(visium_hd, bin_um="cells")


def test_another_image(visium_hd: Path) -> None:
    with pytest.raises(ValueError, match="lie in the image"):
        hc.io.visium_hd(visium_hd, bin_um=16, image=np.zeros((100, 100, 3), np.uint8))
    with pytest.warns(UserWarning, match="by the distance between spots"):
        hc.io.visium_hd(visium_hd, bin_um=16, mpp=0.25, image=np.zeros((500, 500, 3), np.uint8))
    with pytest.warns(UserWarning, match=r"0\.53 um per px by the argument, but 0\.5 by the image"):
        hc.io.visium_hd(visium_hd, bin_um=16, mpp=0.53)
