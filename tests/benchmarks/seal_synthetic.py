"""A synthetic cohort for tuning an encoder by expression: frozen, tuned in three ways, and by shuffled expression."""

from __future__ import annotations

import shutil
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler

import histocell as hc

N_PATIENTS, N_TEST = 12, 3
N_GENES = 40
PENALTIES = np.logspace(-1, 6, 15)
SETTINGS = {
    **{"genes": N_GENES, "blocks": 3, "dropout": 0.0, "lr": 3e-3, "batch_size": 128, "micro_batch": 128},
    **{"warmup_epochs": 10, "max_epochs": 15},
    "config": {"head_lr": 1e-3, "autoencoder_lr": 1e-3, "weight_decay": 0.01},
}


def cohort(seed: int):
    """Sections of twelve patients with their own stains, spots of 40 um, and a small ViT that nobody trained."""
    sdata = hc.datasets.synthetic_tissue(
        N_PATIENTS, n_patients=N_PATIENTS, size_px=1200, spot_pitch_um=40, spot_diameter_um=40, n_genes=60, rng=seed
    )
    table = sdata["table"]
    sdata["table"] = table[np.asarray(table.X.sum(axis=1)).ravel() > 0].copy()
    hc.pp.patches(sdata, size_um=40)
    names = [f"P{number}" for number in range(1, N_PATIENTS + 1)]
    hc.pp.split(sdata, by="patient", val=names[-N_TEST - 1], test=names[-N_TEST:])
    spec = hc.encoders.EncoderSpec(
        name="bench-vit",
        library="timm",
        arch="vit_tiny_patch16_224",
        arch_kwargs={"img_size": 64, "patch_size": 8, "depth": 3, "embed_dim": 64, "num_heads": 4},
        input_px=64,
        pooling="cls",
        license="none",
    )
    hc.encoders.register(spec, overwrite=True)
    return sdata


def expression_of(table) -> tuple[np.ndarray, list[str]]:
    """Logarithm of counts per 10,000 of the genes that vary most in the training rows."""
    counts = np.asarray(table.X.todense() if hasattr(table.X, "todense") else table.X, dtype=float)
    values = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    train = (table.obs["split"] == "train").to_numpy()
    best = np.argsort(-values[train].var(axis=0))[:N_GENES]
    return values[:, best], table.var_names[best].tolist()


def ridge_pcc(table, key: str) -> np.ndarray:
    """PCC of a ridge on an embedding, mean over genes, of each test patient; fitted on the training patients."""
    values, _ = expression_of(table)
    train, patients = (table.obs["split"] == "train").to_numpy(), table.obs["patient"].astype(str).to_numpy()
    features = StandardScaler().fit(table.obsm[key][train]).transform(table.obsm[key])
    predicted = RidgeCV(PENALTIES).fit(features[train], values[train]).predict(features)
    tested = sorted(set(patients[(table.obs["split"] == "test").to_numpy()]))
    return np.array([pearson(predicted[patients == name], values[patients == name]) for name in tested])


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over columns."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    return float(np.mean((a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))))


def shuffled(sdata):
    """The same cohort, its training and validation rows with the expression of other rows of their patient."""
    table, rng = sdata["table"], np.random.default_rng(0)
    order = np.arange(table.n_obs)
    for name in table.obs["patient"].cat.categories:
        rows = np.flatnonzero((table.obs["patient"] == name).to_numpy() & (table.obs["split"] != "test").to_numpy())
        order[rows] = rng.permutation(rows)
    counts = table.X.copy()
    table.X = counts[order]
    return counts


def synthetic(methods=("recon", "contrastive", "seal", "shuffled"), seed: int = 0) -> pd.DataFrame:
    """PCC of a ridge on each embedding, on patients that nothing was fitted on."""
    warnings.simplefilter("ignore")
    sdata = cohort(seed)
    table = sdata["table"]
    hc.pp.embed_image(sdata, "bench-vit", weights="random")
    hc.pp.embed_image(sdata, "morphology")
    found = {"frozen": ridge_pcc(table, "X_bench-vit"), "(morphology)": ridge_pcc(table, "X_morphology")}
    seconds = {}
    for method in methods:
        folder = Path(tempfile.mkdtemp())
        counts = shuffled(sdata) if method == "shuffled" else None
        start = time.process_time()
        result = hc.tl.finetune_encoder(
            sdata,
            "bench-vit",
            out=folder,
            weights="random",
            method="seal" if counts is not None else method,
            **SETTINGS,
        )
        seconds[method] = time.process_time() - start
        if counts is not None:
            table.X = counts
        name = hc.encoders.register_adapter(folder, name=f"bench-{method}", overwrite=True)
        hc.pp.embed_image(sdata, name)
        found[method] = ridge_pcc(table, f"X_{name}")
        print(result, f"{seconds[method]:.0f} s of processor time", flush=True)
        shutil.rmtree(folder)
    frame = pd.DataFrame(found).T
    frame.columns = [f"patient {number + 1}" for number in range(frame.shape[1])]
    gain = frame - frame.loc["frozen"]
    frame["mean"], frame["gain"], frame["least gain"] = frame.mean(axis=1), gain.mean(axis=1), gain.min(axis=1)
    return frame.assign(seconds=pd.Series(seconds))
