from __future__ import annotations

import json
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

GENES = [f"G{i}" for i in range(5)]


def write_sample(task, name, rng, *, n=60, constant=()):
    """Patches, expression with more spots in another order, and embeddings of one sample."""
    barcodes = [f"{name}-{i}" for i in range(n)]
    X = rng.normal(size=(n, 30)).astype(np.float32) + rng.normal(size=30).astype(np.float32)
    counts = rng.poisson(np.exp(0.5 + 0.5 * X[:, :7] - 0.5 * X[:, :7].mean(axis=0)))
    counts[:, list(constant)] = 2
    with h5py.File(task / "patches" / f"{name}.h5", "w") as file:
        file["img"] = rng.integers(0, 255, (n, 32, 32, 3), dtype=np.uint8)
        file["barcode"] = np.array(barcodes, dtype="S20")[:, None]
        file["coords"] = rng.integers(0, 5000, (n, 2))
    order = rng.permutation(n)
    shuffled = AnnData(
        np.vstack([counts[order], np.zeros((3, 7))]).astype(np.float32),
        obs=pd.DataFrame(index=[barcodes[i] for i in order] + [f"off-{i}" for i in range(3)]),
        var=pd.DataFrame(index=[*GENES[::-1], "EXTRA", "OTHER"]),
    )
    shuffled.write_h5ad(task / "adata" / f"{name}.h5ad")
    folder = task.parent.parent / "embeddings" / task.name
    folder.mkdir(parents=True, exist_ok=True)
    backwards = rng.permutation(n)
    with h5py.File(folder / f"{name}.h5", "w") as file:
        file["embeddings"], file["barcodes"] = X[backwards], np.array(barcodes, dtype="S20")[backwards]
    return X, np.log1p(counts[:, 4::-1].astype(float))


def write_splits(task, folds):
    for i, sides in enumerate(folds):
        for side, names in zip(("train", "test"), sides, strict=True):
            rows = {"sample_id": names, "patches_path": [f"patches/{name}.h5" for name in names]}
            rows["expr_path"] = [f"adata/{name}.h5ad" for name in names]
            pd.DataFrame(rows).to_csv(task / "splits" / f"{side}_{i}.csv", index=False)


@pytest.fixture
def hest(tmp_path):
    """A folder like HEST-Bench's with two tasks, and the arrays of the first."""
    arrays = {}
    for number, (name, n) in enumerate((("IDC", 3), ("SKCM", 2))):
        task = tmp_path / "bench" / name
        for folder in ("splits", "patches", "adata"):
            (task / folder).mkdir(parents=True)
        (task / "var_50genes.json").write_text(json.dumps({"genes": GENES}))
        rng = np.random.default_rng(number)
        samples = [f"{name}{i}" for i in range(n)]
        found = {each: write_sample(task, each, rng, n=40 + 20 * i) for i, each in enumerate(samples)}
        write_splits(task, [([other for other in samples if other != each], [each]) for each in samples])
        arrays = arrays or found
    bench, embeddings = tmp_path / "bench", tmp_path / "embeddings"
    return SimpleNamespace(
        bench=bench, given={"given": embeddings}, arrays=arrays, write_sample=write_sample, write_splits=write_splits
    )
