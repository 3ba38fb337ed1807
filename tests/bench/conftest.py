from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData


@pytest.fixture
def table() -> AnnData:
    """Three patients of two sections each, 4 types that depend on 6 features, on a grid of 100 um."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(240, 6)).astype(np.float32)
    Y = np.exp(0.4 * X @ rng.normal(size=(6, 4)) + 0.1 * rng.normal(size=(240, 4)))
    patient = np.repeat(["A", "B", "C"], 80)
    table = AnnData(np.ones((240, 1), np.float32), obs=pd.DataFrame({"patient": patient}, index=map(str, range(240))))
    table.obs["section"] = np.repeat([f"{p}{i}" for p in "ABC" for i in (1, 2)], 40)
    table.obs["mpp"] = 1.0
    table.obsm["X_toy"] = X
    table.obsm["spatial"] = np.tile(100.0 * np.stack(np.meshgrid(range(8), range(5)), axis=-1).reshape(-1, 2), (6, 1))
    table.obsm["cell_abundance"] = pd.DataFrame(Y, index=table.obs_names, columns=["a", "b", "c", "d"])
    return table
