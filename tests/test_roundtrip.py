"""Every slot that is written survives h5ad, zarr and SpatialData files, nasty names included."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd

import histocell as hc

NASTY = ["T-cells CD4+", "Plasma Cells", "α/β", "Tumor/Stroma", "CD3+ (all)", "x.y_z"]


@pytest.fixture(scope="module")
def worked():
    """A cohort that went the whole way, its six cell types renamed."""
    sdata = hc.datasets.synthetic_tissue(3, n_patients=3, size_px=700, spot_pitch_um=50, spot_diameter_um=50, rng=3)
    table = sdata["table"]
    table.obsm["cell_abundance"].columns = NASTY
    hc.pp.patches(sdata)
    hc.pp.patch_qc(sdata)
    hc.pp.embed_image(sdata)
    hc.pp.split(sdata, by="patient", test=["P3"], rng=0)
    with pytest.warns(UserWarning, match="'/' cannot be written"):
        hc.tl.fit_abundance(sdata, "X_morphology", model="ridge", standardize_by="section", rng=0)
    hc.tl.predict_abundance(sdata)
    hc.tl.evaluate_abundance(sdata, n_bootstrap=20, rng=0)
    table.obsm["cell_abundance"].columns = table.obsm["predicted_abundance"].columns
    return sdata


def h5ad(sdata, path):
    sdata["table"].write_h5ad(path / "a.h5ad")
    return ad.read_h5ad(path / "a.h5ad")


def zarr(sdata, path):
    sdata["table"].write_zarr(path / "a.zarr")
    return ad.read_zarr(path / "a.zarr")


def spatialdata(sdata, path):
    sdata.write(path / "s.zarr")
    return sd.read_zarr(path / "s.zarr")["table"]


@pytest.mark.filterwarnings("ignore::UserWarning:zarr")
@pytest.mark.filterwarnings("ignore:The codec|.*Zarr format 3:UserWarning")
@pytest.mark.parametrize("through", [h5ad, zarr, spatialdata])
def test_slots_survive(worked, through, tmp_path):
    table = worked["table"]
    back = through(worked, tmp_path)
    assert set(back.obsm) == set(table.obsm)
    for key, value in table.obsm.items():
        assert type(back.obsm[key]) is type(value), key
        assert np.array_equal(np.asarray(back.obsm[key]), np.asarray(value), equal_nan=True), key
        if isinstance(value, pd.DataFrame):
            assert list(back.obsm[key].columns) == list(value.columns)
    assert set(back.obs) == set(table.obs)
    for column in table.obs:
        assert (back.obs[column].astype(str) == table.obs[column].astype(str)).all(), column
    for slot in table.uns["histocell"]:
        assert hc.get.provenance(back, slot) == hc.get.provenance(table, slot)
    pd.testing.assert_frame_equal(hc.get.scores(back), hc.get.scores(table), check_dtype=False, check_categorical=False)
    again = hc.tl.predict_abundance(back, inplace=False)["predicted_abundance"]
    assert (again.to_numpy() == table.obsm["predicted_abundance"].to_numpy()).all()


def test_original_names_are_kept(worked):
    text = str(hc.get.provenance(worked, "predicted_abundance"))
    assert "α/β" in text
    assert list(hc.get.abundance(worked).columns) == [name.replace("/", "_") for name in NASTY]


def test_truncated_file_is_an_error(worked, tmp_path):
    path = tmp_path / "a.h5ad"
    worked["table"].write_h5ad(path)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(OSError, match="truncated"):
        ad.read_h5ad(path)


def test_concatenated_sections_are_found_again(worked, tmp_path):
    """anndata.concat drops uns and the regions; what is in obs and obsm is enough to fit, predict and score."""
    table = worked["table"]
    parts = [table[table.obs["section"] == name].copy() for name in table.obs["section"].cat.categories]
    joined = ad.concat(parts)
    hc.tl.fit_abundance(joined, "X_morphology", model="ridge", standardize_by="section", rng=0)
    hc.tl.predict_abundance(joined)
    same = hc.get.abundance(joined).loc[table.obs_names]
    assert np.allclose(same, hc.get.abundance(table))
    images = {f"P{i}S1": np.moveaxis(worked[f"he-P{i}S1"].to_numpy(), 0, -1) for i in (1, 2, 3)}
    hc.pp.embed_image(joined, "morphology", image=images, key_added="X_again")
    assert np.allclose(joined.obsm["X_again"], joined.obsm["X_morphology"], atol=1e-4)
