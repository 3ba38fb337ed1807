"""Nuclei of many slides: in turn or on dask, skipped and resumed, errors of one that do not stop the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
import tifffile
from scipy import ndimage

import histocell as hc
from histocell.images.slide_image import open_image

if TYPE_CHECKING:
    from pathlib import Path


def dark(image: np.ndarray, mpp: float) -> np.ndarray:
    return ndimage.label(image[..., 0] < 110)[0]


@pytest.fixture
def paths(tissue, tmp_path) -> list[Path]:
    """Two slides, and one that is blank."""
    pixels = open_image(tissue["he"]).read(0, 0, 700, 700)
    arrays = {"a": pixels, "b": pixels[::-1], "blank": np.full_like(pixels, 240)}
    options = {"photometric": "rgb", "tile": (128, 128), "resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    for name, array in arrays.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", array, **options)
    return [tmp_path / f"{name}.tif" for name in arrays]


def test_slides_in_turn(paths, tmp_path):
    options = {"method": dark, "out": tmp_path / "out"}
    with pytest.warns(UserWarning, match=r"1 of 3 slides failed.*no tissue found"):
        report = hc.pp.segment_cohort(paths, **options)
    assert report["status"].tolist() == ["done", "done", "failed"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.zarr", "b.zarr"]
    sdata = sd.read_zarr(tmp_path / "out" / "a.zarr")
    assert set(sdata.shapes) == {"tissue", "nuclei"}
    assert set(sdata.images) == {"thumbnail"}
    assert len(sdata["nuclei"]) == sdata["nucleus_table"].n_obs == report["n_nuclei"][0]
    assert "nucleus_measurements" in sdata["nucleus_table"].obsm
    assert set(sdata["nucleus_table"].obs["section"]) == {"a"}
    again = hc.pp.segment_cohort(paths[:2], **options)
    assert again["status"].tolist() == ["skipped", "skipped"]
    assert again["n_nuclei"].tolist() == report["n_nuclei"][:2].tolist()
    with pytest.raises(ValueError, match="was made with other settings: halo_um"):
        hc.pp.segment_cohort(paths[:2], halo_um=30, **options)
    anew = hc.pp.segment_cohort(paths[:1], halo_um=30, overwrite=True, **options)
    assert anew["status"].tolist() == ["done"]


def test_a_slide_that_was_not_done_goes_on(paths, tmp_path):
    calls = []

    def fails(image: np.ndarray, mpp: float) -> np.ndarray:
        calls.append(image.shape)
        if len(calls) == 6:
            msg = "the power is gone"
            raise OSError(msg)
        return dark(image, mpp)

    fails.version = "1"
    options = {"method": fails, "block_px": 200, "out": tmp_path / "out"}
    with pytest.warns(UserWarning, match="the power is gone"):
        hc.pp.segment_cohort(paths[:1], **options)
    blocks = list((tmp_path / "out" / "a.store" / "nuclei").glob("block-*.npz"))
    assert len(blocks) >= 3
    calls.clear()
    calls.extend(range(10))
    report = hc.pp.segment_cohort(paths[:1], **options)
    assert report["status"].tolist() == ["done"]
    assert len(calls) < 10 + 16
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.zarr"]


def test_slides_on_dask(paths, tmp_path):
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        report = hc.pp.segment_cohort(paths[:2], method=dark, out=tmp_path / "dask", client=client)
    alone = hc.pp.segment_cohort(paths[:2], method=dark, out=tmp_path / "alone")
    columns = ["path", "status", "n_nuclei"]
    pd.testing.assert_frame_equal(report[columns], alone[columns])


def test_an_error_of_the_method_is_none_of_a_slide(paths, tmp_path):
    with pytest.raises(KeyError, match="stardist"):
        hc.pp.segment_cohort(paths, method="stardist", out=tmp_path / "out")


def test_what_is_not_ours_stays(paths, tmp_path):
    out = tmp_path / "out"
    (out / "a.store").mkdir(parents=True)
    (out / "a.store" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"not made by hc\.pp\.segment_cohort"):
        hc.pp.segment_cohort(paths, method=dark, out=out)
    assert (out / "a.store" / "notes.txt").read_text() == "mine"
