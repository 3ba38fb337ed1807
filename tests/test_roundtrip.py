"""Every slot that is written survives h5ad, zarr and SpatialData files, nasty names included."""

from __future__ import annotations

import warnings

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


@pytest.fixture(scope="module")
def worked_cells():
    """Cells that went the whole way, their types renamed: measured, annotated, typed, aligned, in niches."""
    sdata = hc.datasets.synthetic_tissue(3, n_patients=3, size_px=500, rng=3)
    of_cells, cells = {"table_key": "cell_table", "rng": 0}, sdata["cell_table"]
    cells.obs["cell_type"] = cells.obs["cell_type"].cat.rename_categories(NASTY[: cells.obs["cell_type"].nunique()])
    cells.obs.loc[cells.obs_names[:5], "cell_type"] = np.nan
    markers = {name: [gene] for name, gene in zip(NASTY, ("EPCAM", "COL1A1", "CD3D", "JCHAIN"), strict=False)}
    hc.pp.annotate_cells(sdata, "markers", markers, key_added="by_markers", table_key="cell_table")
    hc.pp.patches(sdata, size_um=30, table_key="cell_table")
    hc.pp.embed_image(sdata, "morphology", table_key="cell_table")
    hc.pp.embed_genes(sdata, "pca", n_dims=10, table_key="cell_table")
    hc.pp.split(sdata, by="section", val="P2S1", test="P3S1", table_key="cell_table")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        tiny = {"width": 8, "feedforward": 8, "max_epochs": 1}
        hc.tl.fit_cell_types(sdata, "X_pca_genes", "X_morphology", config=tiny, **of_cells)
        hc.tl.predict_cell_types(sdata, abstain=0.1, table_key="cell_table")
        hc.tl.evaluate_cell_types(sdata, n_bootstrap=10, **of_cells)
        hc.tl.fit_alignment(
            sdata, "X_pca_genes", "X_morphology", config={"hidden": 8, "dim": 4, "max_epochs": 1}, **of_cells
        )
        hc.tl.align(sdata, table_key="cell_table")
        hc.tl.evaluate_alignment(sdata, block_um=100, n_bootstrap=10, **of_cells)
        settings = {"method": "kmeans", "n_niches": 3, "n_seeds": 2, "n_permutations": 9}
        hc.tl.niches(sdata, "X_aligned_image", cell_type_key="cell_type", **settings, **of_cells)
    return sdata


@pytest.fixture(scope="module")
def worked_nuclei():
    """A section whose nuclei were found, measured and brought to the spots."""
    sdata = hc.datasets.synthetic_tissue(size_px=500, rng=3)
    hc.pp.check_alignment(sdata)
    hc.pp.measure_nuclei(sdata, "cells")
    hc.pp.aggregate_nuclei(sdata, labels_key="cell_type")
    hc.pp.segment_nuclei(sdata)
    return sdata


@pytest.fixture(scope="module")
def worked_slides():
    """Slides, and their tiles, that went the whole way: outcomes, attention, scanners compared, tiles searched."""
    tiles = hc.datasets.synthetic_slides(12, n_tiles=20, n_features=4, rng=3)
    shares = np.random.default_rng(0).dirichlet(np.ones(len(NASTY)), size=12)
    shares[0] = np.nan  # slide S1, which is for testing
    summary = pd.DataFrame(shares, index=[f"S{i}" for i in range(1, 13)], columns=NASTY)
    slides = hc.io.slide_table(tiles, summary=summary)
    hc.pp.split(slides, by="patient", test=["P1", "P2", "P3", "P4"])
    hc.tl.fit_slides(slides, tiles, config={"hidden": 8, "attention": 4, "max_epochs": 1})
    with pytest.warns(UserWarning, match="1 of 12 rows have no finite features"):
        hc.tl.predict_slides(slides, tiles, attention=True)
    with pytest.warns(UserWarning, match="composition 3"):
        hc.tl.evaluate_slides(slides, n_bootstrap=10)
    tiles.obs["scanner"] = np.where(np.arange(tiles.n_obs) % 2, "A", "B")
    settings = {"clustering": "kmeans", "n_seeds": 1}
    hc.tl.batch_effect(tiles, "X_tiles", batch_key="scanner", biology_key="label", **settings)
    hc.tl.retrieve(tiles, "X_tiles", rows=tiles.obs_names[0], k=3)
    return sd.SpatialData(tables={"table": slides, "tiles": tiles})


def h5ad(sdata, path, table="table"):
    sdata[table].write_h5ad(path / "a.h5ad")
    return ad.read_h5ad(path / "a.h5ad")


def zarr(sdata, path, table="table"):
    sdata[table].write_zarr(path / "a.zarr")
    return ad.read_zarr(path / "a.zarr")


def spatialdata(sdata, path, table="table"):
    sdata.write(path / "s.zarr")
    return sd.read_zarr(path / "s.zarr")[table]


def check_slots(back, table):
    """What is in obs, obsm and the provenance is there again, of the same types."""
    assert set(back.obsm) == set(table.obsm)
    for key, value in table.obsm.items():
        assert type(back.obsm[key]) is type(value), key
        assert np.array_equal(np.asarray(back.obsm[key]), np.asarray(value), equal_nan=True), key
        if isinstance(value, pd.DataFrame):
            assert list(back.obsm[key].columns) == list(value.columns)
    assert set(back.obs) == set(table.obs)
    for column in table.obs:
        one, other = (each.obs[column].astype(str).fillna("missing") for each in (back, table))
        assert (one == other).all(), column
    assert set(back.uns) == set(table.uns)
    for slot in table.uns["histocell"]:
        assert hc.get.provenance(back, slot) == hc.get.provenance(table, slot)


def check_same(one, other, name):
    """Nested mappings of data frames, arrays and numbers."""
    if isinstance(other, dict):
        assert set(one) == set(other), name
        for key in other:
            check_same(one[key], other[key], f"{name}/{key}")
    elif isinstance(other, pd.DataFrame):
        loose = dict.fromkeys(("check_dtype", "check_categorical", "check_index_type", "check_column_type"), False)
        pd.testing.assert_frame_equal(one, other, **loose)
    elif isinstance(other, np.ndarray):
        np.testing.assert_array_equal(one, other, err_msg=name)
    else:
        assert one == other or (one != one and other != other), name


@pytest.mark.filterwarnings("ignore::UserWarning:zarr")
@pytest.mark.filterwarnings("ignore:The codec|.*Zarr format 3:UserWarning")
@pytest.mark.parametrize("through", [h5ad, zarr, spatialdata])
def test_slots_survive(worked, through, tmp_path):
    table = worked["table"]
    back = through(worked, tmp_path)
    check_slots(back, table)
    pd.testing.assert_frame_equal(hc.get.scores(back), hc.get.scores(table), check_dtype=False, check_categorical=False)
    again = hc.tl.predict_abundance(back, inplace=False)["predicted_abundance"]
    assert (again.to_numpy() == table.obsm["predicted_abundance"].to_numpy()).all()


@pytest.mark.filterwarnings("ignore::UserWarning:zarr")
@pytest.mark.filterwarnings("ignore:The codec|.*Zarr format 3:UserWarning")
@pytest.mark.parametrize("through", [h5ad, zarr, spatialdata])
def test_slots_of_cells_survive(worked_cells, through, tmp_path):
    written = {
        "obs": {"cell_type_margin", "by_markers", "predicted_cell_type", "predicted_cell_type_confidence", "niche"},
        "obsm": {"predicted_cell_type_probability", "X_aligned_image", "X_aligned_genes"},
        "uns": {"cell_type_model", "cell_type_evaluation", "alignment_model", "alignment_evaluation", "niches"},
    }
    table = worked_cells["cell_table"]
    back = through(worked_cells, tmp_path, "cell_table")
    for container, names in written.items():
        absent = [name for name in names if name not in getattr(table, container)]
        assert absent in ([], ["cell_type_margin"]), absent  # under the name of the labels
    check_slots(back, table)
    for name in written["uns"]:
        check_same(back.uns[name], table.uns[name], name)
    for column in ("predicted_cell_type", "niche", "by_markers"):
        assert list(back.obs[column].cat.categories) == list(table.obs[column].cat.categories)
    assert hc.get.cell_types(back).equals(hc.get.cell_types(table))
    again = hc.tl.predict_cell_types(back, inplace=False)["predicted_cell_type_probability"]
    assert (again.to_numpy() == table.obsm["predicted_cell_type_probability"].to_numpy()).all()
    views = hc.tl.align(back, inplace=False)
    assert (views["X_aligned_image"] == table.obsm["X_aligned_image"]).all()


@pytest.mark.filterwarnings("ignore::UserWarning:zarr")
@pytest.mark.filterwarnings("ignore:The codec|.*Zarr format 3:UserWarning")
def test_slots_of_nuclei_survive(worked_nuclei, tmp_path):
    """Checks of the alignment, nuclei that were found, measured and counted in spots."""
    written = {
        "cell_table": {"nucleus_measurements"},
        "nucleus_table": {"spatial"},
        "table": {"X_nuclei", "cell_abundance"},
    }
    spatialdata(worked_nuclei, tmp_path)
    back = sd.read_zarr(tmp_path / "s.zarr")
    for name, slots in written.items():
        assert slots <= set(worked_nuclei[name].obsm)
        check_slots(back[name], worked_nuclei[name])
    assert (back["nucleus_table"].obs["nucleus_id"] == worked_nuclei["nucleus_table"].obs["nucleus_id"]).all()
    holder = next(name for name in written if "alignment" in worked_nuclei[name].uns)
    check_same(back[holder].uns["alignment"], worked_nuclei[holder].uns["alignment"], "alignment")


@pytest.mark.filterwarnings("ignore::UserWarning:zarr")
@pytest.mark.filterwarnings("ignore:The codec|.*Zarr format 3:UserWarning")
@pytest.mark.parametrize("through", [h5ad, zarr, spatialdata])
def test_slots_of_slides_survive(worked_slides, through, tmp_path):
    slides, tiles = worked_slides["table"], worked_slides["tiles"]
    back = through(worked_slides, tmp_path)
    assert {"composition", "predicted_slide_probability", "predicted_slide_composition_probability"} <= set(slides.obsm)
    check_slots(back, slides)
    for name in ("slide_model", "slide_evaluation"):
        check_same(back.uns[name], slides.uns[name], name)
    assert hc.get.coefficients(back).equals(hc.get.coefficients(slides))
    of_tiles = ad.AnnData(obs=tiles.obs.copy(), obsm=dict(tiles.obsm))
    with pytest.warns(UserWarning, match="1 of 12 rows have no finite features"):
        again = hc.tl.predict_slides(back, of_tiles, inplace=False)
    for name in ("predicted_slide_probability", "predicted_slide_composition_probability"):
        assert np.array_equal(again[name], slides.obsm[name], equal_nan=True), name
    (tmp_path / "tiles").mkdir()
    found = through(sd.SpatialData(tables={"tiles": tiles}), tmp_path / "tiles", "tiles")
    assert "attention" in found.obs
    check_slots(found, tiles)
    for name in ("batch_effect", "retrieval"):
        check_same(found.uns[name], tiles.uns[name], name)


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
