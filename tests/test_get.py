from __future__ import annotations

import importlib
import types

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import histocell as hc
from histocell._core import keys


@pytest.fixture
def adata():
    data = ad.AnnData(obs=pd.DataFrame(index=["b", "a", "c"]))
    data.obsm["X_uni"] = np.arange(6, dtype=np.float32).reshape(3, 2)
    keys.write_provenance(data, "X_uni", encoder="uni", size_um=112.0, feature_names=["f", "g"])
    data.obsm["predicted_abundance"] = pd.DataFrame({"T": [1.0, 2, 3], "B": [0.0, 0, 1]}, index=data.obs_names)
    data.uns["abundance_evaluation"] = pd.DataFrame({"model": ["ridge"], "value": [0.5]})
    return data


def test_embedding(adata):
    frame = hc.get.embedding(adata, "X_uni")
    assert list(frame.columns) == ["f", "g"]
    assert list(frame.index) == ["b", "a", "c"]
    np.testing.assert_array_equal(frame, adata.obsm["X_uni"])
    pd.testing.assert_frame_equal(hc.get.embedding(adata, "uni"), frame)
    frame.iloc[:] = -1
    assert adata.obsm["X_uni"].min() == 0, "a copy"
    adata.obsm["X_other"] = sparse.csr_array(np.eye(3))
    assert list(hc.get.embedding(adata, "X_other").columns) == ["0", "1", "2"]
    with pytest.raises(KeyError, match=r'obsm\["conch"\] not found; available: .*X_uni.*embed_image\(data, "conch"\)'):
        hc.get.embedding(adata, "conch")


def test_names_that_do_not_fit_are_not_used(adata):
    adata.obsm["X_uni"] = adata.obsm["X_uni"][:, :1]
    assert list(hc.get.embedding(adata, "X_uni").columns) == ["0"]


def test_abundance(adata):
    frame = hc.get.abundance(adata)
    pd.testing.assert_frame_equal(frame, adata.obsm["predicted_abundance"])
    frame.iloc[:] = -1
    assert adata.obsm["predicted_abundance"].min().min() == 0, "a copy"
    with pytest.raises(KeyError, match="one column per cell type"):
        hc.get.abundance(adata, "cell_abundance")
    with pytest.raises(KeyError, match=r"fitted with interval=0\.9"):
        hc.get.abundance(adata, "predicted_abundance_lower")
    adata.obsm["array"] = np.ones((3, 2))
    assert hc.get.abundance(adata, "array").shape == (3, 2)


def test_scores(adata):
    frame = hc.get.scores(adata)
    frame["value"] = 0
    assert adata.uns["abundance_evaluation"]["value"].tolist() == [0.5]
    with pytest.raises(KeyError, match=r"hc\.tl\.evaluate_abundance"):
        hc.get.scores(adata, "other")


def test_provenance(adata):
    assert hc.get.provenance(adata, "X_uni")["size_um"] == 112.0
    with pytest.raises(KeyError, match=r'uns\["histocell"\]\["patches"\] not found; available: X_uni.*hc\.pp\.patches'):
        hc.get.provenance(adata, "patches")


def test_provenance_of_a_fit_and_its_scores(cohort):
    hc.pp.split(cohort, by="patient", test="P4")
    hc.tl.fit_abundance(cohort, model="ridge")
    hc.tl.predict_abundance(cohort)
    hc.tl.evaluate_abundance(cohort, n_bootstrap=10)
    model = hc.get.provenance(cohort, "abundance_model")
    assert (model["n_train"], model["group_key"]) == ((cohort["table"].obs["split"] == "train").sum(), "patient")
    scores = hc.get.provenance(cohort, "abundance_evaluation")
    assert (scores["target"], scores["unit"]) == ("cell_abundance", "cells per spot")
    for ending in ("_lower", "_upper", "_mean"):
        written = hc.get.provenance(cohort, f"predicted_abundance{ending}")
        assert written == hc.get.provenance(cohort, "predicted_abundance")
    cohort["table"].uns["abundance_model"] = {}
    del cohort["table"].uns["histocell"]
    with pytest.raises(KeyError, match="It is there, but without its provenance"):
        hc.get.provenance(cohort, "abundance_model")
    with pytest.raises(KeyError, match=r"available: none\.$"):
        hc.get.provenance(cohort, "absent")


def test_only_public_names_are_listed():
    """``dir`` of each public module, which completion in notebooks shows, is what the page of the API lists."""
    for name in ["", *(f".{each}" for each in dir(hc) if isinstance(getattr(hc, each), types.ModuleType))]:
        module = importlib.import_module(f"histocell{name}")
        assert dir(module) == sorted(module.__all__), name
        assert not [each for each in dir(module) if each in {"np", "pd", "Any"} or each.startswith("_")]
        assert all(hasattr(module, each) for each in module.__all__)


def test_tables_of_a_spatialdata(adata):
    from spatialdata import SpatialData
    from spatialdata.models import TableModel

    sdata = SpatialData(tables={"first": TableModel.parse(adata), "second": TableModel.parse(adata[:2].copy())})
    assert len(hc.get.abundance(sdata, table_key="second")) == 2
    with pytest.raises(KeyError, match="available: first, second.*table_key="):
        hc.get.abundance(sdata)


def test_nuclei(tissue):
    with pytest.raises(KeyError, match="measure_nuclei"):
        hc.get.nuclei(tissue)
    hc.pp.measure_nuclei(tissue, "cells")
    frame = hc.get.nuclei(tissue)
    cells = tissue["cell_table"]
    assert list(frame.columns[:3]) == ["section", "x_um", "y_um"]
    assert frame.columns[-1] == "cell_type"
    assert set(frame["section"]) == {"P1S1"}
    np.testing.assert_allclose(frame[["x_um", "y_um"]], cells.obsm["spatial"] * 0.5)
    alone = hc.get.nuclei(cells)  # the table alone says it, too
    pd.testing.assert_frame_equal(alone, frame)
    frame.iloc[:, 3] = 0
    assert (cells.obsm["nucleus_measurements"].iloc[:, 0] > 0).all()


def test_scores_of_another_evaluation_are_named(adata):
    adata.uns = {"expression_evaluation": pd.DataFrame({"model": ["ridge"]})}
    with pytest.raises(KeyError, match=r'hc\.get\.scores\(data, "expression_evaluation"\) gives those that are there'):
        hc.get.scores(adata)
