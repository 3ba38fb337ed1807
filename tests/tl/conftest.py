from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from histocell._core import keys

TYPES = ["T-cells CD4+", "Plasma Cells", "α_β", "rare"]


def make_table(*, n_patients=4, n_sections=2, n_rows=40, types=TYPES, seed=0) -> AnnData:
    """Spots of several patients; abundances are above 0 and follow the embedding."""
    rng = np.random.default_rng(seed)
    n = n_patients * n_sections * n_rows
    X = rng.normal(size=(n, 10)).astype(np.float32)
    Y = np.exp(0.5 * X @ rng.normal(size=(10, len(types))) + 0.2 * rng.normal(size=(n, len(types))))
    patient = np.repeat([f"P{i}" for i in range(n_patients)], n_sections * n_rows)
    section = np.repeat([f"P{i}s{j}" for i in range(n_patients) for j in range(n_sections)], n_rows)
    names = [f"spot{i}" for i in rng.permutation(n)]
    table = AnnData(
        np.ones((n, 2), dtype=np.float32),
        obs=pd.DataFrame({"patient": pd.Categorical(patient), "section": pd.Categorical(section)}, index=names),
    )
    table.obsm["spatial"] = rng.uniform(0, 5000, size=(n, 2))
    table.obsm["X_toy"] = X
    table.obsm["cell_abundance"] = pd.DataFrame(Y, index=table.obs_names, columns=types)
    keys.write_provenance(table, "X_toy", encoder="toy", revision="1", size_um=112.0, mpp=0.5, stain="none", dim=10)
    table.obs["split"] = pd.Categorical(np.where(patient == "P0", "test", np.where(patient == "P1", "val", "train")))
    return table


@pytest.fixture
def table() -> AnnData:
    return make_table()


@pytest.fixture
def make():
    return make_table
