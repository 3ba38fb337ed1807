"""Cell types on tables: what is written, what is scored, and what is said of bad input."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData

import histocell as hc
from histocell._core import keys
from histocell.tl._cell_types.task import CELL_TYPES, CellTypeWriter, match_classes
from histocell.tl.engine.task import Values

TYPES = ["B/T cell", "stroma", "tumour"]
TINY = {"width": 16, "feedforward": 16, "max_epochs": 12, "batch_size": 64}


def make_cells(n=600, seed=0) -> AnnData:
    """Cells of one section: a gene tells tumour cells, a feature of the image tells stroma."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(TYPES, p=[0.5, 0.3, 0.2], size=n)
    table = AnnData(
        obs=pd.DataFrame({"cell_type": labels, "section": "S", "mpp": 0.5}, index=[f"c{i}" for i in range(n)])
    )
    table.obsm["spatial"] = rng.uniform(0, 4000, (n, 2))
    genes, image = rng.normal(size=(n, 6)), rng.normal(size=(n, 5))
    genes[:, 0] += 4.0 * (labels == "tumour")
    image[:, 0] += 4.0 * (labels == "stroma")
    table.obsm["X_pca_genes"], table.obsm["X_toy"] = genes.astype(np.float32), image.astype(np.float32)
    table.obs["split"] = np.where(table.obsm["spatial"][:, 0] > 3000, "test", "train")
    keys.write_provenance(table, "X_toy", encoder="toy", size_um=20.0, field_um=20.0)
    return table


@pytest.fixture
def cells() -> AnnData:
    return make_cells()


def fit(table, *args, model="logistic", **options):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*(one group|left out of the fit)")
        return hc.tl.fit_cell_types(table, *(args or ("X_pca_genes", "X_toy")), model=model, **options)


def scores(table, **options):
    found = hc.tl.evaluate_cell_types(table, inplace=False, n_bootstrap=50, **options)
    return found.set_index(["model", "metric", "cell_type"]).sort_index()


class TestJourney:
    def test_from_labels_to_scores(self, cells):
        fit(cells, model="cell_transformer", config=TINY)
        hc.tl.predict_cell_types(cells)
        probability = cells.obsm["predicted_cell_type_probability"]
        assert list(probability.columns) == ["B_T cell", "stroma", "tumour"]  # what can be written
        label, confidence = cells.obs["predicted_cell_type"], cells.obs["predicted_cell_type_confidence"]
        assert list(label.cat.categories) == TYPES  # as the user calls them
        np.testing.assert_array_equal(np.array(TYPES)[probability.to_numpy().argmax(axis=1)], label)
        np.testing.assert_allclose(confidence, probability.max(axis=1))
        found = scores(cells)
        assert set(found.index.levels[0]) == {"cell_transformer", "majority", "knn", "logistic"}
        test = cells.obs["split"] == "test"
        truth = np.stack([cells.obs["cell_type"][test] == name for name in TYPES], 1).astype(float)
        expected = hc.metrics.f1(truth, probability[test].to_numpy())
        of_model = found.loc[("cell_transformer", "f1")]["value"]
        np.testing.assert_allclose(of_model[[*probability.columns, "mean"]], [*expected, expected.mean()])
        assert expected.mean() > 0.85
        right = (label[test] == cells.obs["cell_type"][test]).mean()
        assert found.loc[("cell_transformer", "accuracy", "mean"), "value"] == pytest.approx(right)
        assert found.loc[("cell_transformer", "called", "mean"), "value"] == 1
        assert (found["n_training"] == 0).all()
        assert set(found["interval"]) == {"95 % over 32 blocks"} | ({"none"} & set(found["interval"]))

    def test_blocks_of_the_split_are_drawn(self, cells):
        del cells.obs["split"]
        with pytest.warns(UserWarning, match="3 rows dropped"):
            hc.pp.split(cells, block_um=250, rng=0)
        fit(cells)
        hc.tl.predict_cell_types(cells)
        test = cells.obs["split"] == "test"
        n = len(np.unique(np.floor(cells.obsm["spatial"][test] * 0.5 / 250), axis=0))
        assert scores(cells).loc[("logistic", "f1", "mean"), "interval"] == f"95 % over {n} blocks"

    def test_abstains(self, cells):
        fit(cells)
        hc.tl.predict_cell_types(cells)
        before = scores(cells).loc["logistic"]["value"]
        hc.tl.predict_cell_types(cells, abstain=0.2)
        unsure = cells.obs["predicted_cell_type"] == "unsure"
        assert unsure.sum() == 120
        confidence = cells.obs["predicted_cell_type_confidence"]
        assert confidence[unsure].max() <= confidence[~unsure].min()
        after = scores(cells).loc["logistic"]["value"]
        test = cells.obs["split"] == "test"
        assert after["called", "mean"] == pytest.approx(1 - unsure[test].mean())
        assert after["accuracy", "mean"] > before["accuracy", "mean"]
        hc.tl.predict_cell_types(cells, min_probability=0.8)
        assert ((cells.obs["predicted_cell_type"] == "unsure") == (confidence < 0.8)).all()
        assert hc.get.provenance(cells, "predicted_cell_type")["min_probability"] == 0.8
        with pytest.raises(ValueError, match="abstain must be a number from 0 to 1"):
            hc.tl.predict_cell_types(cells, abstain=10)

    def test_a_slide_without_expression(self, cells, user_sees):
        fit(cells, model="cell_transformer", config=TINY | {"max_epochs": 25})
        other = make_cells(seed=1)
        del other.obsm["X_pca_genes"], other.obs["split"]
        with user_sees("Cell types", "a slide without expression", UserWarning, match="predicted from X_toy alone"):
            hc.tl.predict_cell_types(other, model=cells)
        stroma = other.obs["cell_type"] == "stroma"
        assert (other.obs["predicted_cell_type"][stroma] == "stroma").mean() > 0.7
        fit(cells, model="cell_transformer", config=TINY | {"max_epochs": 1, "modality_dropout": 0.0})
        with pytest.raises(KeyError, match="Run hc.pp.embed_genes"):
            hc.tl.predict_cell_types(other, model=cells)

    def test_coordinates_and_neighbours(self, cells):
        config = TINY | {"max_epochs": 1, "n_neighbors": 3, "radius_um": 60.0}
        fit(cells, architecture="multi_input", model="cell_transformer", config=config)
        hc.tl.predict_cell_types(cells)
        assert cells.obs["predicted_cell_type"].notna().all()
        model = hc.models.load(cells, model_key="cell_type_model")
        assert model.reach_um() == 60
        x = cells.obsm["spatial"][:, 0] * 0.5
        beside = ((x > 1500 - 2 * 60 - 20) & (x <= 1500)).sum()  # reach on both sides, and the field of view
        assert (cells.obs["split"] == "train").sum() - model.facts["n_train"] <= beside
        assert model.facts["n_train"] < (cells.obs["split"] == "train").sum()

    def test_attention_by_predicted_type(self, cells, tmp_path, user_sees):
        import anndata as ad

        fit(cells, model="cell_transformer", config=TINY | {"max_epochs": 2})
        hc.tl.predict_cell_types(cells)
        assert "predicted_cell_type_attention" not in cells.uns
        cells.obsm["X_toy"][:20] = np.nan
        text = r"mean over the 580 of 600 predicted cells that have genes and image"
        with user_sees("Cell types", "attention where cells lack the image", UserWarning, match=text):
            hc.tl.predict_cell_types(cells, attention=True, abstain=0.1)
        frame = cells.uns["predicted_cell_type_attention"]
        assert list(frame) == ["cell_type", "layer", "from", "to", "attention", "n_cells"]
        np.testing.assert_allclose(frame.groupby(["cell_type", "layer", "from"])["attention"].sum(), 1)
        both = cells[20:]
        counts = both.obs["predicted_cell_type"].value_counts()
        assert frame.groupby("cell_type")["n_cells"].first().to_dict() == counts.to_dict()
        assert "unsure" in counts
        model = hc.models.load(cells, model_key="cell_type_model")
        one = (cells.obs["predicted_cell_type"] == "tumour").to_numpy()
        X = np.hstack([cells.obsm["X_pca_genes"], cells.obsm["X_toy"]])[one]
        mean = model.attention(X, np.zeros(len(X), int)).mean[0]
        shown = frame[frame["cell_type"] == "tumour"].set_index(["layer", "from", "to"])["attention"]
        for layer, of, to in np.ndindex(mean.shape):
            names = (layer + 1, ["genes", "image"][of], ["genes", "image"][to])
            assert shown[names] == pytest.approx(mean[layer, of, to], abs=1e-6)
        cells.write_h5ad(tmp_path / "c.h5ad")
        again = ad.read_h5ad(tmp_path / "c.h5ad")
        pd.testing.assert_frame_equal(again.uns["predicted_cell_type_attention"], frame, check_dtype=False)
        hc.tl.predict_cell_types(cells)  # that of an earlier prediction goes
        assert "predicted_cell_type_attention" not in cells.uns

    def test_attention_of_models_and_cells_without_two_modalities(self, cells, user_sees):
        fit(cells)
        with user_sees(
            "Cell types", "attention of a model that has none", ValueError, match="logistic has no attention"
        ):
            hc.tl.predict_cell_types(cells, attention=True)
        fit(cells, "X_pca_genes", model="cell_transformer", config=TINY | {"max_epochs": 1})
        with pytest.raises(ValueError, match="tokens of genes alone"):
            hc.tl.predict_cell_types(cells, attention=True)
        assert "predicted_cell_type" not in cells.obs
        fit(cells, model="cell_transformer", config=TINY | {"max_epochs": 1})
        del cells.obsm["X_toy"]
        with (
            pytest.warns(UserWarning, match="predicted from X_pca_genes alone"),
            user_sees(
                "Cell types", "attention on a slide without images", ValueError, match="no cell has genes and image"
            ),
        ):
            hc.tl.predict_cell_types(cells, attention=True)

    def test_round_trip(self, cells, tmp_path):
        import anndata as ad

        fit(cells, model="cell_transformer", config=TINY | {"max_epochs": 1})
        hc.tl.predict_cell_types(cells, abstain=0.1)
        hc.tl.evaluate_cell_types(cells, n_bootstrap=10)
        cells.write_h5ad(tmp_path / "c.h5ad")
        again = ad.read_h5ad(tmp_path / "c.h5ad")
        before = cells.obsm["predicted_cell_type_probability"].to_numpy()
        hc.tl.predict_cell_types(again)
        np.testing.assert_array_equal(again.obsm["predicted_cell_type_probability"].to_numpy(), before)


class Held:
    """Makes the embeddings of a table other arrays: what a user has who opens large files without reading them."""

    def __init__(self, folder):
        self.folder = folder

    def dask(self, value):
        import dask.array

        return dask.array.from_array(value, chunks=(100, -1))

    def zarr(self, value):
        import zarr

        return zarr.array(value, chunks=(100, value.shape[1]))

    def hdf5(self, value):
        import h5py

        return h5py.File(self.folder / f"{value.shape[1]}.h5", "w").create_dataset("x", data=value)

    def mapped(self, value):
        out = np.memmap(self.folder / f"{value.shape[1]}.bin", value.dtype, "w+", shape=value.shape)
        out[:] = value
        return out


@pytest.mark.filterwarnings("ignore::UserWarning:zarr")
class TestLargeInputs:
    @pytest.mark.parametrize("kind", ["dask", "zarr", "hdf5", "mapped"])
    def test_arrays_that_are_not_in_memory(self, cells, kind, tmp_path):
        lazy = cells.copy()
        for key in ("X_pca_genes", "X_toy"):
            lazy.obsm[key] = getattr(Held(tmp_path), kind)(cells.obsm[key])
        for table in (cells, lazy):
            fit(table)
            hc.tl.predict_cell_types(table)
        one, other = (table.obsm["predicted_cell_type_probability"] for table in (cells, lazy))
        pd.testing.assert_frame_equal(one, other)

    def test_a_table_that_is_backed_by_its_file(self, cells, tmp_path):
        import anndata as ad

        cells.write_h5ad(tmp_path / "cells.h5ad")
        backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
        for table in (cells, backed):
            fit(table)
            hc.tl.predict_cell_types(table)
        one, other = (table.obsm["predicted_cell_type_probability"] for table in (cells, backed))
        np.testing.assert_array_equal(one, other)
        assert set(scores(backed).index.get_level_values("model")) == {"logistic", "majority", "knn"}

    def test_a_table_that_is_read_lazily(self, cells, tmp_path, user_sees):
        import anndata as ad

        cells.write_zarr(tmp_path / "cells.zarr")
        lazy = ad.experimental.read_lazy(tmp_path / "cells.zarr")
        with user_sees("Tables", "a table of anndata's read_lazy", TypeError, match="to_memory"):
            fit(lazy)

    def test_genes_and_image_are_not_copied_side_by_side(self, cells):
        """More than the inputs are never held, in a fit of some cells and the prediction of all."""
        import tracemalloc

        n = 40_000
        rng = np.random.default_rng(0)
        table = AnnData(obs=pd.DataFrame({"cell_type": np.resize(TYPES, n), "mpp": 0.5}, index=map(str, range(n))))
        table.obsm["spatial"] = rng.uniform(0, 4000, (n, 2))
        table.obs["split"] = np.where(np.arange(n) < 2000, "train", "test")
        for key, width in (("X_pca_genes", 100), ("X_toy", 400)):
            table.obsm[key] = rng.normal(size=(n, width)).astype(np.float32)
        size = sum(table.obsm[key].nbytes for key in ("X_pca_genes", "X_toy"))
        tracemalloc.start()
        fit(table)
        hc.tl.predict_cell_types(table, baselines=False)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 0.8 * size


class TestBadInput:
    def test_no_embedding_named(self, cells, user_sees):
        with user_sees("Cell types", "no embedding named", ValueError, match="obsm has: X_pca_genes, X_toy"):
            hc.tl.fit_cell_types(cells)
        with pytest.raises(ValueError, match="cannot be of the genes and of the image at once"):
            hc.tl.fit_cell_types(cells, "X_toy", "X_toy")
        with pytest.raises(KeyError, match="hc.pp.embed_genes"):
            hc.tl.fit_cell_types(cells, "X_scgpt")

    def test_labels(self, cells, user_sees):
        with user_sees("Cell types", "no such column of labels", KeyError, match="annotate_cells"):
            fit(cells, target="nothing")
        cells.obs["score"] = np.linspace(0, 1, 600)
        with user_sees(
            "Cell types", "a column of numbers for labels", ValueError, match="numbers with fractions, not labels"
        ):
            fit(cells, target="score")
        cells.obs["name"] = cells.obs_names
        with user_sees("Cell types", "names of cells for labels", ValueError, match="600 different labels"):
            fit(cells, target="name")

    def test_three_cells_of_a_class_and_one_class(self, cells, user_sees):
        labels = cells.obs["cell_type"].to_numpy(dtype=object).copy()
        train = np.flatnonzero(cells.obs["split"] == "train")
        labels[train[:3]] = "rare"
        labels[np.flatnonzero(cells.obs["split"] == "test")[:4]] = "elsewhere"
        cells.obs["cell_type"] = labels
        with (
            user_sees("Cell types", "a type with three cells", UserWarning, match=r"are hardly learnt: rare \(3\)"),
            user_sees(
                "Cell types",
                "a type without training cells",
                UserWarning,
                match="no training cell is of type elsewhere",
            ),
        ):
            fit(cells)
        cells.obs["cell_type"] = "tumour"
        with user_sees("Cell types", "training cells of one type", ValueError, match=r"of one type \(tumour\)"):
            fit(cells)

    def test_types_that_the_model_does_not_know(self, cells, user_sees):
        fit(cells)
        hc.tl.predict_cell_types(cells)
        labels = cells.obs["cell_type"].to_numpy(dtype=object).copy()
        test = np.flatnonzero(cells.obs["split"] == "test")
        labels[test[:7]] = "mast cell"
        cells.obs["cell_type"] = labels
        with user_sees(
            "Cell types", "labels at the evaluation that the model does not know", UserWarning, match=r"mast cell \(7\)"
        ):
            found = scores(cells)
        assert found.loc[("logistic", "f1", "mean"), "n_spots"] == len(test) - 7

    def test_a_type_that_no_test_cell_has_is_still_predicted(self):
        """Cells taken for it are mistakes; they are not given their next type in silence."""
        truth = Values(np.array([[1.0, 0], [0, 1]]), ["a", "b"])
        matched = match_classes(truth, Values(np.zeros((2, 3)), ["a", "b", "c"]))
        assert matched.names == ["a", "b", "c"]
        probability = np.array([[0.3, 0.1, 0.6], [0.1, 0.9, 0.0]])
        np.testing.assert_array_equal(hc.metrics.recall(matched.array, probability), [0, 1, np.nan])
        with pytest.raises(ValueError, match="share no type"):
            match_classes(truth, Values(np.zeros((2, 1)), ["d"]))

    def test_cells_without_image_or_label(self, cells, user_sees):
        cells.obsm["X_toy"][:50] = np.nan
        cells.obsm["X_toy"][0] = cells.obsm["X_pca_genes"][0] = np.nan
        cells.obs["cell_type"] = cells.obs["cell_type"].where(np.arange(600) % 7 > 0, None)
        with pytest.warns(UserWarning, match="have a target that is not finite"):
            fit(cells)
        with user_sees(
            "Cell types", "a cell without genes and image", UserWarning, match="1 of 600 rows have no finite features"
        ):
            hc.tl.predict_cell_types(cells)
        assert cells.obs["predicted_cell_type"].isna().sum() == 1
        assert np.isnan(cells.obs["predicted_cell_type_confidence"].iloc[0])

    def test_constant_features(self, cells, user_sees):
        cells.obsm["X_toy"][:] = cells.obsm["X_pca_genes"][:] = 1
        with user_sees(
            "Cell types", "features that are the same in all cells", ValueError, match="all features are constant"
        ):
            fit(cells)

    def test_the_same_cell_in_train_and_test(self, cells, user_sees):
        import anndata as ad

        test = cells[cells.obs["split"] == "test"][:20].copy()
        test.obs["split"] = "train"
        test.obs_names = [f"again{i}" for i in range(20)]
        both = ad.concat([cells, test], uns_merge="same")
        with user_sees(
            "Cell types", "cells that are in training and test", UserWarning, match="20 cells of the fit are held-out"
        ):
            fit(both, "X_pca_genes", None)
        model = hc.models.load(both, model_key="cell_type_model")
        assert model.facts["n_train"] == (cells.obs["split"] == "train").sum()

    def test_one_block_only(self, cells):
        """Fewer than five blocks make no interval."""
        fit(cells)
        hc.tl.predict_cell_types(cells)
        keys.write_provenance(cells, "split", block_um=5000.0)
        found = scores(cells)
        assert set(found["interval"]) == {"none"}
        assert found["low"].isna().all()

    def test_cells_divided_by_chance(self, cells, user_sees):
        corner = cells.obsm["spatial"][:, ::-1]
        cells.obsm["patches"] = np.rint(np.hstack([corner - 1500, corner + 1500])).astype(np.int32)
        with user_sees("Cell types", "cells divided by chance", UserWarning, match="divided one by one"):
            hc.pp.split(cells, single_rows=True, rng=0)
        assert "dropped" not in set(cells.obs["split"])
        with pytest.raises(ValueError, match="single_rows divides rows one by one"):
            hc.pp.split(cells, single_rows=True, block_um=100)
        with pytest.raises(ValueError, match="none is left"):
            fit(cells)
        with pytest.warns(UserWarning, match="scores of those flatter"):
            fit(cells, keep_overlapping=True)
        hc.tl.predict_cell_types(cells)
        with pytest.warns(UserWarning, match="field of view that overlaps"):
            scores(cells)

    def test_nothing_of_test_cells_is_learnt(self, cells):
        fit(cells, model="cell_transformer", config=TINY)
        one = hc.models.load(cells, model_key="cell_type_model")
        test = (cells.obs["split"] == "test").to_numpy()
        cells.obsm["X_toy"][test] = 99
        cells.obs["cell_type"] = np.where(test, "tumour", cells.obs["cell_type"])
        fit(cells, model="cell_transformer", config=TINY)
        other = hc.models.load(cells, model_key="cell_type_model")
        for name, array in one.weights.items():
            np.testing.assert_array_equal(array, other.weights[name])


def test_unsure_cells_are_the_least_sure():
    values = Values(np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [np.nan, np.nan]]), ["a", "b"])
    slots = CellTypeWriter(abstain=0.34).slots("k", values, pd.Index(list("wxyz")))
    assert slots["obs", "k"].astype(object).where(slots["obs", "k"].notna(), None).tolist() == [
        "a",
        "unsure",
        "b",
        None,
    ]
    assert CELL_TYPES.baselines == ("majority", "knn", "logistic")


class TestAxes:
    """Numbers of one name that mean something else, as principal components of other cells do."""

    @staticmethod
    def with_scanpy(seed):
        table = make_cells(seed=seed)
        rng = np.random.default_rng(seed)
        counts = rng.poisson(1 + 9 * np.eye(6)[pd.Categorical(table.obs["cell_type"]).codes], (600, 6)).astype(
            np.float32
        )
        cells = AnnData(
            np.hstack([counts, np.ones((600, 1), np.float32)]), obs=table.obs, obsm={"spatial": table.obsm["spatial"]}
        )
        cells.var["highly_variable"] = np.arange(7) < 6
        sc.pp.log1p(cells)
        sc.pp.pca(cells, n_comps=3)
        return cells

    def test_components_of_scanpy(self):
        cells, others = self.with_scanpy(0), self.with_scanpy(1)
        fit(cells, "X_pca")
        model = hc.models.load(cells, model_key="cell_type_model")
        with pytest.raises(ValueError, match=r"axes is principal components .* as scanpy.tl.ingest does"):
            hc.tl.predict_cell_types(others, model=model)
        hc.tl.predict_cell_types(cells[::2, :6].copy(), model=model)  # without the gene that does not count

    def test_aligned_by_another_model(self):
        cells, others = make_cells(), make_cells(seed=1)
        for each in (cells, others):
            keys.write_provenance(each, "X_pca_genes", n_genes=6)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                hc.tl.fit_alignment(each, "X_pca_genes", "X_toy", model="cca")
            hc.tl.align(each)
        fit(cells, "X_aligned_image")
        model = hc.models.load(cells, model_key="cell_type_model")
        with pytest.raises(ValueError, match="axes is cca "):
            hc.tl.predict_cell_types(others, model=model)
        hc.tl.align(others, model=hc.models.load(cells, model_key="alignment_model"))
        hc.tl.predict_cell_types(others, model=model)
