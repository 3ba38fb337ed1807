"""A synthetic cohort for tuning an encoder by expression: frozen, tuned in three ways, and by expression that says nothing."""

from __future__ import annotations

import shutil
import tempfile
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler

import histocell as hc

SIDE, EDGE = 14, 64  # patches of a row of a section; px of a patch
N_PATIENTS, N_TEST = 11, 3
N_GENES = 40
STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
PENALTIES = np.logspace(-1, 6, 15)
SETTINGS = {
    **{"genes": N_GENES, "blocks": 2, "dropout": 0.0, "lr": 3e-3, "batch_size": 64, "micro_batch": 64},
    **{"warmup_epochs": 5, "max_epochs": 10},
    "config": {"head_lr": 1e-3, "autoencoder_lr": 1e-3, "weight_decay": 0.01},
}


def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A section as optical density of haematoxylin, and the number of three kinds of nuclei in each of its patches.

    Solid, in four fragments, and pale but larger: the three absorb alike, so that the mean colour of a patch says how many
    nuclei there are, which varies for itself, and not of which kind.
    """
    density = np.zeros((SIDE * EDGE, SIDE * EDGE), np.float32)
    counts = np.zeros((SIDE * SIDE, 3))
    y, x = np.mgrid[-14:15, -14:15]
    for patch in range(SIDE * SIDE):
        corner = np.array(divmod(patch, SIDE)) * EDGE
        for kind in rng.choice(3, rng.integers(8, 17), p=rng.dirichlet([0.6] * 3)):
            counts[patch, kind] += 1
            row, column = corner + rng.integers(14, EDGE - 14, 2)
            some, amount = density[row - 14 : row + 15, column - 14 : column + 15], 0.6 * rng.uniform(0.8, 1.2)
            if kind == 1:
                for dy, dx in rng.uniform(-7, 7, (4, 2)):
                    some += amount * (np.hypot(y - dy, x - dx) < 2.25)
            else:
                some += amount * (np.hypot(y, x) < 4.5) if kind == 0 else 0.5 * amount * (np.hypot(y, x) < 6.4)
    return density, counts


def section(name: str, programs: np.ndarray, rng: np.random.Generator):
    """A patient with stains of their own; expression of a patch depends on the shares of the kinds of its nuclei alone."""
    density, counts = draw(rng)
    strength = np.exp(rng.normal(0, 0.2, 2))
    blocks = [
        np.kron(values.reshape(SIDE, SIDE), np.ones((EDGE, EDGE)))
        for values in (np.exp(rng.normal(0, 0.1, SIDE * SIDE)), rng.uniform(0.1, 0.3, SIDE * SIDE))
    ]
    absorbed = (density * blocks[0] * strength[0])[..., None] * STAINS[0] + (blocks[1] * strength[1])[
        ..., None
    ] * STAINS[1]
    pixels = 245 * np.exp(-1.5 * absorbed) + rng.normal(0, 3, absorbed.shape)
    rates = counts / counts.sum(axis=1, keepdims=True) @ programs * 1000 * np.exp(rng.normal(0, 0.3, (len(counts), 1)))
    table = ad.AnnData(rng.poisson(rates).astype(np.float32), var=pd.DataFrame(index=[f"G{i}" for i in range(N_GENES)]))
    table.obs_names = [f"{name}-{i}" for i in range(len(counts))]
    rows, columns = np.divmod(np.arange(len(counts)), SIDE)
    table.obsm["spatial"] = (np.column_stack([columns, rows]) + 0.5) * EDGE
    table.obs["patient"] = name
    sdata = hc.io.from_anndata(
        table, image=pixels.clip(0, 255).astype(np.uint8), mpp=0.5, spot_diameter_um=EDGE / 2, section=name
    )
    hc.pp.patches(sdata, size_um=EDGE / 2)
    return sdata


def cohort(seed: int) -> list:
    """Eleven patients: seven for training, one for validation, three for testing."""
    rng = np.random.default_rng(seed)
    programs = np.exp(rng.normal(0, 0.7, (3, N_GENES)))
    programs /= programs.sum(axis=1, keepdims=True)
    sections = [section(f"P{number}", programs, rng) for number in range(1, N_PATIENTS + 1)]
    for number, sdata in enumerate(sections, start=1):
        part = "test" if number > N_PATIENTS - N_TEST else "val" if number == N_PATIENTS - N_TEST else "train"
        sdata["table"].obs["split"] = pd.Categorical([part] * sdata["table"].n_obs)
    return sections


def ridge_pcc(tables: list, key: str) -> np.ndarray:
    """PCC of a ridge on an embedding, mean over genes, of each test patient; fitted on the training patients."""
    values = [np.log1p(1e4 * table.X / table.X.sum(axis=1, keepdims=True)) for table in tables]
    parts = [table.obs["split"].iloc[0] for table in tables]
    train = [number for number, part in enumerate(parts) if part == "train"]
    scaler = StandardScaler().fit(np.concatenate([tables[number].obsm[key] for number in train]))
    features = [scaler.transform(table.obsm[key]) for table in tables]
    model = RidgeCV(PENALTIES).fit(*(np.concatenate([each[number] for number in train]) for each in (features, values)))
    return np.array([pearson(model.predict(features[n]), values[n]) for n, part in enumerate(parts) if part == "test"])


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over columns."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    return float(np.mean((a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))))


# method, expression and augmentation of what is trained by expression that says nothing of a patch
CONTROLS = {
    "shuffled": ("seal", "shuffled", True),
    "noise": ("seal", "noise", True),
    "noise, recon": ("recon", "noise", True),
    "noise, no augmentation": ("seal", "noise", False),
}


def control(tables: list, kind: str) -> None:
    """Expression of other patches of the patient, or counts that are drawn without looking at the patient."""
    rng = np.random.default_rng(5)
    for number, table in enumerate(tables):
        if kind == "shuffled":
            table.X = np.random.default_rng(number).permutation(table.X)
        elif kind == "noise":
            table.X = rng.poisson(25, table.X.shape).astype(np.float32)


def synthetic(methods=("recon", "contrastive", "seal", *CONTROLS), seed: int = 0) -> pd.DataFrame:
    """PCC of a ridge on each embedding, on patients that nothing was fitted on."""
    warnings.simplefilter("ignore")
    spec = hc.encoders.EncoderSpec(
        name="bench-vit",
        library="timm",
        arch="vit_tiny_patch16_224",
        arch_kwargs={"img_size": EDGE, "patch_size": 8, "depth": 2, "embed_dim": 64, "num_heads": 4},
        input_px=EDGE,
        pooling="cls",
    )
    hc.encoders.register(spec, overwrite=True)
    sections = cohort(seed)
    tables = [sdata["table"] for sdata in sections]
    for sdata in sections:
        hc.pp.embed_image(sdata, "bench-vit", weights="random")
    found, seconds = {"frozen": ridge_pcc(tables, "X_bench-vit")}, {}
    for method in methods:
        folder = Path(tempfile.mkdtemp())
        truth = [table.X.copy() for table in tables]
        how, expression, augment = CONTROLS.get(method, (method, "true", True))
        control(tables, expression)
        settings = SETTINGS | {"config": SETTINGS["config"] | {"augment": augment}}
        start = time.process_time()
        result = hc.tl.finetune_encoder(
            sections, "bench-vit", out=folder, weights="random", method=how, rng=seed, **settings
        )
        seconds[method] = time.process_time() - start
        print(f"{method}: {result}", flush=True)
        name = hc.encoders.register_adapter(folder, name=f"bench-{methods.index(method)}", overwrite=True)
        for table, sdata, counts in zip(tables, sections, truth, strict=True):
            table.X = counts
            hc.pp.embed_image(sdata, name)
        found[method] = ridge_pcc(tables, f"X_{name}")
        shutil.rmtree(folder)
    frame = pd.DataFrame(found).T
    frame.columns = [f"patient {number + 1}" for number in range(frame.shape[1])]
    gain = frame - frame.loc["frozen"]
    frame["mean"], frame["gain"], frame["least gain"] = frame.mean(axis=1), gain.mean(axis=1), gain.min(axis=1)
    return frame.assign(seconds=pd.Series(seconds))
