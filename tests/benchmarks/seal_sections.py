"""A vision transformer of random weights, frozen and tuned by the expression of her2st sections, on sections it has not seen."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import anndata as ad
import expression_sections
import pandas as pd

import histocell as hc

NAME = "small-vit"
LINES = {
    "C2, C3 -> C4": (["C2", "C3"], ["C4"]),
    "C2-C4 -> B4": (["C2", "C3", "C4"], ["B4"]),
    "B4 -> C2-C4": (["B4"], ["C2", "C3", "C4"]),
}
METHODS = ("recon", "seal")


def tuned(methods: tuple[str, ...] = METHODS) -> pd.DataFrame:
    """One row for each line, number of genes, encoder and model: PCC per gene and section, and its interval over spots."""
    spec = hc.encoders.EncoderSpec(
        name=NAME,
        library="timm",
        arch="vit_tiny_patch16_224",
        arch_kwargs={"img_size": 112},
        input_px=112,
        pooling="cls",
        dim=192,
        license="Apache-2.0",
        commercial=True,
        summary="ViT-Ti/16 of random weights, at 112 px",
    )
    hc.encoders.register(spec)
    names = sorted({name for line in LINES.values() for part in line for name in part})
    sections = {name: hc.datasets.her2st(name) for name in names}
    for sdata in sections.values():
        hc.pp.patches(sdata, size_um=112)
    rows = []
    for line, (train, test) in LINES.items():
        for encoder in ("frozen", *methods):
            table = _embedded(sections, train, test, encoder)
            for n_genes in expression_sections.N_GENES:
                for model in ("RidgeCV", "component_ridge"):
                    parts = list(expression_sections._predicted(table, train, test, "X_vit", n_genes, model))
                    value, low, high = expression_sections._score(parts)
                    row = {"line": line, "genes": n_genes, "features": encoder, "model": model}
                    rows.append(row | {"pcc": value, "low": low, "high": high})
    return pd.DataFrame(rows)


def _embedded(sections: dict, train: list[str], test: list[str], method: str) -> ad.AnnData:
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore", UserWarning)
        encoder = hc.encoders.load(NAME, weights="random")
        if method != "frozen":
            some = [sections[name] for name in train]
            for sdata in some:
                sdata["table"].obs["split"] = "train"
            out = Path(folder) / f"{method}-{'-'.join(train)}"
            settings = {"genes": 1000, "blocks": 12, "batch_size": 128, "max_epochs": 20, "lr": 1e-3}
            hc.tl.finetune_encoder(some, NAME, out=out, method=method, weights="random", **settings)
            name = hc.encoders.register_adapter(out, overwrite=True)
            encoder = hc.encoders.load(name, weights="random")
        parts = []
        for name in [*train, *test]:
            hc.pp.embed_image(sections[name], encoder, key_added="X_vit")
            parts.append(sections[name]["table"])
        return ad.concat(parts, join="outer", fill_value=0, index_unique="-")
