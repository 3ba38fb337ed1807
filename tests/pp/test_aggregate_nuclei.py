from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import histocell as hc

KEY = "nucleus_measurements"


@pytest.fixture
def nuclei(tissue):
    hc.pp.measure_nuclei(tissue, "cells")
    return tissue


def test_numbers_are_those_that_were_drawn(nuclei):
    hc.pp.aggregate_nuclei(nuclei, labels_key="cell_type")
    table = nuclei["table"]
    truth = table.obsm["cell_abundance"]
    names = hc.get.provenance(nuclei, "X_nuclei", table_key="table")["feature_names"]
    features = pd.DataFrame(table.obsm["X_nuclei"], columns=names, index=table.obs_names)
    np.testing.assert_array_equal(table.obs["n_nuclei"], truth.sum(axis=1))
    np.testing.assert_array_equal(features[[f"n_{name}" for name in truth]], truth)
    assert table.obs["n_nuclei"].dtype == np.int64


def test_means_are_those_of_a_loop(nuclei):
    hc.pp.patches(nuclei, size_um=40)
    cells = nuclei["cell_table"]
    values = cells.obsm[KEY]
    values.iloc[::7, 3] = np.nan
    windows = nuclei["table"].obsm["patches"]
    found = hc.pp.aggregate_nuclei(nuclei, within="patches", inplace=False)
    frame, (x, y) = found["X_nuclei"], cells.obsm["spatial"].T
    for row, (y0, x0, y1, x1) in enumerate(windows):
        inside = values[(y >= y0) & (y < y1) & (x >= x0) & (x < x1)]
        assert found["n_nuclei"].iloc[row] == len(inside)
        expected = pd.concat([inside.mean(), inside.std(ddof=0)], keys=["mean", "sd"]).fillna(0)
        got = [frame.iloc[row][f"{what}_{name}"] for what, name in expected.index]
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


def test_tiles_hold_each_nucleus_once(nuclei):
    hc.pp.tiles(nuclei, size_um=50, min_tissue=0)
    hc.pp.aggregate_nuclei(nuclei, table_key="tile_table", key=None)
    assert nuclei["tile_table"].obs["n_nuclei"].sum() == nuclei["cell_table"].n_obs
    assert nuclei["tile_table"].obsm["X_nuclei"].shape[1] == 1


def test_features_can_be_fitted():
    sdata = hc.datasets.synthetic_tissue(3, n_patients=3, size_px=700, spot_pitch_um=50, spot_diameter_um=50, rng=0)
    hc.pp.measure_nuclei(sdata, "cells")
    hc.pp.aggregate_nuclei(sdata)
    hc.pp.split(sdata, by="patient", test=["P3"])
    hc.tl.fit_abundance(sdata, "X_nuclei", model="ridge")
    hc.tl.predict_abundance(sdata)
    test = (sdata["table"].obs["split"] == "test").to_numpy()
    predicted, truth = (sdata["table"].obsm[key][test] for key in ("predicted_abundance", "cell_abundance"))
    assert np.corrcoef(predicted["tumour"], truth["tumour"])[0, 1] > 0.8


def test_section_without_nuclei_is_unknown(user_sees):
    sdata = hc.datasets.synthetic_tissue(2, size_px=400, spot_pitch_um=50, spot_diameter_um=50)
    cells = sdata["cell_table"][(sdata["cell_table"].obs["section"] == "P1S1").to_numpy()].copy()
    cells.uns["spatialdata_attrs"] = cells.uns["spatialdata_attrs"] | {"region": ["cells-P1S1"]}
    del sdata.tables["cell_table"]
    sdata.tables["cell_table"] = cells
    with user_sees("Nuclei", "a section without nuclei, counted", UserWarning, match="no nuclei on the image of P2S1"):
        hc.pp.aggregate_nuclei(sdata, key=None, nucleus_table_key="cell_table")
    known = sdata["table"].obs["n_nuclei"].notna()
    np.testing.assert_array_equal(known, sdata["table"].obs["section"] == "P1S1")


def test_what_is_not_there(tissue, user_sees):
    with user_sees("Nuclei", "nuclei that were not measured, averaged", KeyError, match="there is no table of nuclei"):
        hc.pp.aggregate_nuclei(tissue)
    with pytest.raises(KeyError, match="measure_nuclei"):
        hc.pp.aggregate_nuclei(tissue, nucleus_table_key="cell_table")
    with pytest.raises(ValueError, match="nuclei themselves"):
        hc.pp.aggregate_nuclei(tissue, nucleus_table_key="cell_table", table_key="cell_table", key=None)
    with pytest.raises(ValueError, match='within must be "spots" or "patches"'):
        hc.pp.aggregate_nuclei(tissue, within="tiles")


def test_numbers_of_nuclei_scale_a_deconvolution(tissue, user_sees):
    hc.pp.aggregate_nuclei(tissue, key=None, nucleus_table_key="cell_table")
    cells = tissue["cell_table"]
    hc.pp.deconvolve(
        tissue, cells, labels_key="cell_type", key_added="a", n_cells_per_spot="n_nuclei", table_key="table"
    )
    mean = float(tissue["table"].obs["n_nuclei"].mean())
    hc.pp.deconvolve(tissue, cells, labels_key="cell_type", key_added="b", n_cells_per_spot=mean, table_key="table")
    pd.testing.assert_frame_equal(tissue["table"].obsm["a"], tissue["table"].obsm["b"])
    facts = hc.get.provenance(tissue, "a", table_key="table")
    assert (facts["n_cells_column"], facts["n_cells_per_spot"]) == ("n_nuclei", mean)
    assert facts["unit"] == "cells per spot"
    tissue["table"].obs["n_nuclei"] = -1
    with user_sees("Nuclei", "numbers of cells below 0", ValueError, match="numbers of cells, from 0 up"):
        hc.pp.deconvolve(tissue, cells, labels_key="cell_type", n_cells_per_spot="n_nuclei", table_key="table")
    with pytest.raises(KeyError, match="aggregate_nuclei"):
        hc.pp.deconvolve(tissue, cells, labels_key="cell_type", n_cells_per_spot="cells", table_key="table")
