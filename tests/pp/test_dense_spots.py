from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from PIL import Image
from scipy.spatial import cKDTree

import histocell as hc
from histocell._core.geometry import is_grid
from histocell.pp._grids.lattice import between


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def grid(kind, n=6, pitch=10.0, jitter=0.0, angle=0.3):
    """A turned grid of n x n points."""
    i, j = (each.ravel().astype(float) for each in np.meshgrid(np.arange(n), np.arange(n)))
    xy = np.column_stack([i + (j % 2) / 2, j * np.sqrt(3) / 2]) if kind == "hexagonal" else np.column_stack([i, j])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return pitch * (xy @ turn + np.random.default_rng(0).normal(0, jitter, xy.shape))


def new_points(xy, factor):
    parents, weights = between(xy, factor)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    return (weights[..., None] * xy[parents]).sum(axis=1)


class TestBetween:
    @pytest.mark.parametrize("factor", [2, 3, 4])
    def test_square_grid(self, factor):
        xy = grid("square", angle=0)
        dense = np.vstack([xy, new_points(xy, factor)])
        side = np.arange(5 * factor + 1) / factor * 10
        expected = {(round(x, 6), round(y, 6)) for x in side for y in side}
        assert {(round(x, 6), round(y, 6)) for x, y in dense} == expected
        assert len(dense) == len(expected), "a point twice"

    @pytest.mark.parametrize("factor", [2, 3, 4])
    def test_hexagonal_grid(self, factor):
        """All distances to the nearest are the pitch over the factor, and inner points have six of them."""
        xy = grid("hexagonal")
        dense = np.vstack([xy, new_points(xy, factor)])
        distance = cKDTree(dense).query(dense, k=7)[0]
        np.testing.assert_allclose(distance[:, 1], 10 / factor)
        inner = (np.abs(dense - dense.mean(axis=0)) < 12).all(axis=1)
        np.testing.assert_allclose(distance[inner], np.tile([0] + [10 / factor] * 6, (inner.sum(), 1)), atol=1e-9)

    @pytest.mark.parametrize("kind", ["square", "hexagonal"])
    def test_jitter_changes_no_neighbour(self, kind):
        number = len(new_points(grid(kind), 2))
        assert len(new_points(grid(kind, jitter=0.03), 2)) == number

    def test_gaps_stay_empty(self):
        """Without one inner spot of a square grid, nothing lies at its place; beside it, there is still something."""
        xy = grid("square", angle=0)
        hole = np.array([20.0, 20.0])
        new = new_points(xy[(xy != hole).any(axis=1)], 2)
        distance = np.hypot(*(new - hole).T)
        assert distance.min() == pytest.approx(np.hypot(5, 5))
        assert (distance < 8).sum() == 4

    def test_two_parts_stay_apart(self):
        xy = np.vstack([grid("square", angle=0), grid("square", angle=0) + [100, 0]])
        assert len(new_points(xy, 2)) == 2 * len(new_points(grid("square", angle=0), 2))

    def test_spots_in_a_line(self):
        xy = np.column_stack([np.arange(4) * 10.0, np.zeros(4)])
        np.testing.assert_allclose(np.sort(new_points(xy, 2)[:, 0]), [5, 15, 25])
        assert len(new_points(xy[:2], 3)) == 2

    def test_two_rows_at_one_place(self):
        xy = grid("square", angle=0)
        assert len(new_points(np.vstack([xy, xy[:1]]), 2)) >= len(new_points(xy, 2))
        assert np.hypot(*(new_points(np.vstack([xy, xy[:1]]), 2) - xy[0]).T).min() == pytest.approx(5)


def test_what_is_a_grid():
    assert is_grid(grid("hexagonal", jitter=0.05))
    assert is_grid(grid("square"))
    assert not is_grid(np.random.default_rng(0).random((500, 2)))
    assert not is_grid(np.zeros((1, 2)))


@pytest.fixture(scope="module")
def fitted():
    sdata = hc.datasets.synthetic_tissue(4, n_patients=4, size_px=1200, spot_pitch_um=100, rng=3)
    hc.pp.patches(sdata)
    hc.pp.embed_image(sdata, "morphology")
    hc.pp.split(sdata, by="patient", test=["P4"])
    hc.tl.fit_abundance(sdata, model="ridge")
    hc.tl.predict_abundance(sdata)
    hc.pp.dense_spots(sdata)
    hc.pp.embed_image(sdata, "morphology", table_key="dense_table")
    hc.tl.predict_abundance(sdata, model=sdata, table_key="dense_table")
    return sdata


def true_cells(sdata, section):
    """Cells of each type in a spot around each row of the dense table, counted from the cells themselves."""
    dense, cells = sdata["dense_table"], sdata["cell_table"]
    cells = cells[cells.obs["section"] == section]
    xy = dense.obsm["spatial"][dense.obs["section"] == section]
    inside = cKDTree(cells.obsm["spatial"]).query_ball_point(xy, 100.0)  # 50 um
    types = sdata["table"].obsm["cell_abundance"].columns
    is_type = np.stack([(cells.obs["cell_type"] == name).to_numpy() for name in types], axis=1)
    return np.array([is_type[each].sum(axis=0) for each in inside])


class TestDenseSpots:
    def test_predictions_between_the_spots_are_as_good_as_at_them(self, fitted):
        """Of a patient that the model did not see; the truth is known everywhere."""
        dense, table = fitted["dense_table"], fitted["table"]
        rows = (dense.obs["section"] == "P4S1").to_numpy()
        new = dense.obs["between_spots"].to_numpy()[rows]
        truth, predicted = true_cells(fitted, "P4S1"), dense.obsm["predicted_abundance"].to_numpy()[rows]
        measured = table[table.obs["section"] == "P4S1"].obsm["cell_abundance"]
        np.testing.assert_array_equal(truth[~new], measured)
        at_spots, between_spots = (
            hc.metrics.nan_mean(hc.metrics.pearson(truth[some], predicted[some])) for some in (~new, new)
        )
        assert new.sum() > 2 * (~new).sum()
        assert between_spots > 0.8
        assert between_spots > at_spots - 0.1

    def test_spots_keep_their_names_and_predictions(self, fitted):
        dense, table = fitted["dense_table"], fitted["table"]
        old = dense[~dense.obs["between_spots"].to_numpy()]
        assert list(old.obs_names) == list(table.obs_names)
        np.testing.assert_allclose(old.obsm["spatial"], table.obsm["spatial"])
        np.testing.assert_array_equal(old.obsm["patches"], table.obsm["patches"])
        np.testing.assert_allclose(old.obsm["predicted_abundance"], table.obsm["predicted_abundance"], atol=1e-6)
        assert dense.obs_names.is_unique

    def test_what_is_known_of_a_section_is_known_of_what_lies_in_it(self, fitted):
        dense = fitted["dense_table"]
        assert (dense.obs["section"].str[:2] == dense.obs["patient"].astype(str)).all()
        assert set(dense.obs["split"][dense.obs["patient"] == "P4"]) == {"test"}
        assert (dense.obs["mpp"] == 0.5).all()
        assert "spot_id" in dense.obs
        assert "cell_abundance" not in dense.obsm, "nothing was measured between the spots"

    def test_shapes(self, fitted):
        shapes, dense = fitted["dense_spots-P2S1"], fitted["dense_table"]
        rows = (dense.obs["region"] == "dense_spots-P2S1").to_numpy()
        np.testing.assert_allclose(
            np.column_stack([shapes.geometry.x, shapes.geometry.y]), dense.obsm["spatial"][rows], atol=1e-9
        )
        assert set(shapes["radius"]) == {100.0}
        assert set(shapes.attrs["transform"]) == set(fitted["spots-P2S1"].attrs["transform"])

    def test_they_are_drawn_beside_each_other(self, fitted):
        ax = hc.pl.abundance(fitted, "tumour", section="P4S1", table_key="dense_table")
        (spots,) = ax.collections
        np.testing.assert_allclose(spots.get_widths(), 50, rtol=0.01)  # um, of spots of 100

    def test_survives_the_disk(self, fitted, tmp_path):
        import spatialdata as sd

        fitted.write(tmp_path / "a.zarr")
        read = sd.read_zarr(tmp_path / "a.zarr")
        ax = hc.pl.abundance(read, "tumour", section="P4S1", table_key="dense_table")
        assert len(ax.collections[0].get_array()) == (fitted["dense_table"].obs["section"] == "P4S1").sum()

    def test_returned_as_written(self, tissue):
        hc.pp.patches(tissue)
        returned = hc.pp.dense_spots(tissue, inplace=False)
        assert "dense_table" not in tissue.tables
        hc.pp.dense_spots(tissue)
        pd.testing.assert_frame_equal(returned["dense_table"].obs, tissue["dense_table"].obs)
        np.testing.assert_array_equal(returned["dense_table"].obsm["patches"], tissue["dense_table"].obsm["patches"])
        assert hc.get.provenance(tissue, "spatial", table_key="dense_table")["factor"] == 2

    def test_before_patches(self, tissue):
        hc.pp.dense_spots(tissue, factor=3, key_added="finer_table")
        assert "finer_spots" in tissue.shapes
        assert "patches" not in tissue["finer_table"].obsm
        hc.pp.patches(tissue, table_key="finer_table")
        assert tissue["finer_table"].n_obs > 6 * tissue["table"].n_obs

    def test_nothing_is_replaced_without_a_word(self, tissue):
        hc.pp.dense_spots(tissue)
        with pytest.raises(ValueError, match="'dense_table', 'dense_spots' would be replaced.*overwrite=True"):
            hc.pp.dense_spots(tissue, factor=3)
        n = tissue["dense_table"].n_obs
        hc.pp.dense_spots(tissue, factor=3, overwrite=True)
        assert tissue["dense_table"].n_obs > n
        with pytest.raises(ValueError, match="'table' are the spots themselves"):
            hc.pp.dense_spots(tissue, key_added="table", overwrite=True)

    def test_an_anndata_with_an_image_file(self, tissue, tmp_path):
        path = tmp_path / "he.png"
        Image.fromarray(np.asarray(tissue["he"]).transpose(1, 2, 0)).save(path)
        adata = AnnData(
            obs=tissue["table"].obs[["section", "mpp"]].copy(), obsm={"spatial": tissue["table"].obsm["spatial"]}
        )
        hc.pp.patches(adata, image=path)
        dense = hc.pp.dense_spots(adata, inplace=False)
        hc.pp.embed_image(dense, "morphology")
        hc.pp.dense_spots(tissue)
        hc.pp.patches(tissue, table_key="dense_table")
        hc.pp.embed_image(tissue, "morphology", table_key="dense_table")
        np.testing.assert_allclose(dense.obsm["X_morphology"], tissue["dense_table"].obsm["X_morphology"], atol=1e-5)

    def test_errors_say_what_to_do(self, tissue, user_sees):
        adata = AnnData(obs=pd.DataFrame({"mpp": 0.5}, index=map(str, range(200))))
        adata.obsm["spatial"] = np.random.default_rng(0).random((200, 2)) * 1000
        with pytest.raises(TypeError, match="inplace=False"):
            hc.pp.dense_spots(adata)
        with user_sees("Tables", "cells where a denser grid of spots is laid", ValueError, match="on no grid"):
            hc.pp.dense_spots(tissue, table_key="cell_table")
        with pytest.raises(ValueError, match="factor must be at least 2"):
            hc.pp.dense_spots(tissue, factor=1)
        far = adata[:3].copy()
        far.obsm["spatial"] = np.array([[0, 0], [10, 0], [1e5, 0]])[:1].repeat(3, axis=0)
        with pytest.raises(ValueError, match="no grid|no two rows"):
            hc.pp.dense_spots(far, inplace=False)
        hc.pp.tiles(tissue, size_um=56)
        with pytest.raises(ValueError, match=r"tiles, not spots; .* hc\.pp\.tiles\(data, overlap=0\.5\)"):
            hc.pp.dense_spots(tissue, table_key="tile_table")
