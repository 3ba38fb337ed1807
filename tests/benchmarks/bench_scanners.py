"""Robustness to scanners: the same synthetic tissue as five scanners show it, with stain normalisation off and on.

``python tests/benchmarks/bench_scanners.py``; encoders that know colour alone, or nothing, stand beside. ``--tune folder`` makes an
adapter first, by the expression of other specimens, and shows its base without and with it.
"""

from __future__ import annotations

import argparse

import anndata as ad
import numpy as np
import timm
import torch

import histocell as hc
from histocell.datasets.scanners import SCANNERS

SPEC = hc.encoders.EncoderSpec(
    name="scanner-vit",
    library="timm",
    arch="vit_tiny_patch16_224",
    arch_kwargs={"img_size": 64, "patch_size": 8, "depth": 2, "embed_dim": 64, "num_heads": 4},
    input_px=64,
    pooling="cls",
)
SETTINGS = {
    **{"method": "seal", "weights": "random", "rng": 0, "genes": 30, "blocks": 2, "dropout": 0.0, "lr": 3e-3},
    **{"batch_size": 64, "micro_batch": 64, "warmup_epochs": 5, "max_epochs": 10},
    "config": {"head_lr": 1e-3, "autoencoder_lr": 1e-3, "weight_decay": 0.01},
}


def random_vit() -> hc.encoders.PatchEncoder:
    """A small ViT without training, the same each time."""
    torch.manual_seed(0)
    network = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, img_size=64)
    return network.eval()


def tune(folder: str, n_specimens: int, size_px: int) -> None:
    """Tune the small ViT by the expression of specimens that are not those of the comparison, on one scanner."""
    specimens = []
    for number in range(100, 100 + n_specimens):
        specimen = hc.datasets.synthetic_tissue(size_px=size_px, spot_pitch_um=25, rng=number)
        hc.pp.patches(specimen, size_um=64)
        table = specimen["table"]
        table.obs["section"] = table.obs["patient"] = f"T{number}"
        table.obs["split"] = "val" if number == 100 else "train"
        specimens.append(specimen)
    print(hc.tl.finetune_encoder(specimens, SPEC.name, out=folder, **SETTINGS), flush=True)


def color(sdata) -> np.ndarray:
    """Mean colour of each patch: what an encoder that looks at colour alone would give."""
    table, image = sdata["table"], np.asarray(sdata["he"].data)
    windows = np.clip(table.obsm["patches"], 0, None)
    return np.array([image[:, y0:y1, x0:x1].mean(axis=(1, 2)) for y0, x0, y1, x1 in windows], dtype=np.float32)


def cohort(n_specimens: int, size_px: int, adapter: str | None) -> ad.AnnData:
    tables = []
    for number in range(n_specimens):
        specimen = hc.datasets.synthetic_tissue(size_px=size_px, spot_pitch_um=50, rng=number)
        table = specimen["table"]
        table.obs["section"] = table.obs["patient"] = f"S{number}"
        for scanner in SCANNERS:
            shown = hc.datasets.rescan(specimen, scanner)
            hc.pp.patches(shown, size_um=64)
            hc.pp.embed_image(shown, "morphology")
            encoders = {"vit": random_vit()}
            if adapter is not None:
                encoders |= {"base": hc.encoders.load(SPEC.name, weights="random"), "tuned": adapter}
            for name, encoder in encoders.items():
                for stain in (None, "macenko"):
                    key = f"X_{name}_{stain or 'raw'}"
                    hc.pp.embed_image(shown, encoder, stain=stain, key_added=key)
            own = shown["table"]
            own.obsm["X_colour"], own.obsm["X_constant"] = color(shown), np.ones((own.n_obs, 8), dtype=np.float32)
            own.obs["tissue"] = own.obsm["cell_abundance"].columns[own.obsm["cell_abundance"].to_numpy().argmax(axis=1)]
            tables.append(own)
    return ad.concat(tables, index_unique="-", keys=[str(number) for number in range(len(tables))])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--specimens", type=int, default=8)
    parser.add_argument("--size-px", type=int, default=1000)
    parser.add_argument("--tune", help="folder for an adapter of hc.tl.finetune_encoder, which is then compared")
    arguments = parser.parse_args()
    adapter = None
    if arguments.tune:
        hc.encoders.register(SPEC, overwrite=True)
        tune(arguments.tune, arguments.specimens, arguments.size_px)
        adapter = hc.encoders.register_adapter(arguments.tune, overwrite=True)
    data = cohort(arguments.specimens, arguments.size_px, adapter)
    embeddings = [key for key in data.obsm if key.startswith("X_")]
    print(f"{data.n_obs:,} patches of {arguments.specimens} specimens, each by {len(SCANNERS)} scanners")
    found = hc.tl.batch_effect(data, embeddings, batch_key="scanner", biology_key="tissue", group_key="patient")
    scores = data.uns["batch_effect"]["scores"] if found is None else found["scores"]
    shown = scores[scores["metric"].isin(["ari", "neighbors", "robustness_index"])].copy()
    shown["score"] = [
        f"{value:.3f}" if not np.isfinite(low) else f"{value:.3f} [{low:.3f}, {high:.3f}]"
        for value, low, high in zip(shown["value"], shown["low"], shown["high"], strict=True)
    ]
    shown["what"] = shown["metric"] + " " + shown["clusters"] + " " + shown["against"]
    print(shown.pivot(index="what", columns="embedding", values="score").to_string())
    print("\nless the first, paired over specimens:")
    less = data.uns["batch_effect"]["differences"].query(
        "metric in ['ari', 'neighbors'] and against == 'biology - batch'"
    )
    print(less[["embedding", "metric", "clusters", "value", "low", "high"]].round(3).to_string(index=False))
