"""Small bundles of cells, outlines, gene encoders, adapters and models of cells, and how histocell reads them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import torch
from torch import nn

import histocell as hc
from histocell.encoders import adapters
from histocell.encoders.networks.build import network_of_spec

if TYPE_CHECKING:
    from pathlib import Path

    from spatialdata import SpatialData

SIZE_PX, GENES = 400, [f"G{index}" for index in range(12)]
ENCODER = hc.encoders.EncoderSpec(
    name="small-vit",
    library="timm",
    arch="vit_tiny_patch16_224",
    arch_kwargs={"depth": 2, "img_size": 32, "embed_dim": 48},
    input_px=32,
    pooling="cls",
    dim=48,
    patch_px=16,
    prefix_tokens=1,
    license="MIT",
    commercial=True,
)


def write_xenium(path: Path) -> None:
    hc.datasets.synthetic_xenium(path, size_px=SIZE_PX, n_genes=20, rng=0)


def write_visium_hd(path: Path) -> None:
    hc.datasets.synthetic_visium_hd(path, size_px=SIZE_PX, n_genes=20, rng=0)


def read_xenium(path: Path) -> None:
    check_cells(hc.io.xenium(path))


def read_visium_hd(path: Path) -> None:
    for size in (8, "cells"):
        check_cells(hc.io.visium_hd(path, bin_um=size, mpp=0.5))


def check_cells(sdata: SpatialData) -> None:
    """The pixels around the cells and their counts."""
    for name, table in sdata.tables.items():
        assert table.X.min() >= 0
        assert np.isfinite(table.obsm["spatial"]).all()
        if "he" in sdata.images:
            hc.pp.patches(sdata, size_um=10, table_key=name)
            hc.pp.embed_image(sdata, "morphology", table_key=name)


def write_outlines(path: Path) -> None:
    sdata = hc.datasets.synthetic_tissue(size_px=SIZE_PX, rng=0)
    hc.pp.segment_nuclei(sdata, measure=False)
    hc.io.write_geojson(sdata, path)


def read_outlines(path: Path) -> None:
    outlines = hc.io.geojson(path, mpp=0.5)
    assert np.isfinite(outlines.bounds.to_numpy()).all()


def write_scgpt(path: Path, width: int = 16) -> None:
    """A checkpoint of random weights in the official format."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(width, 2, 24, dropout=0.0, batch_first=True)
    parts = {
        "encoder": nn.ModuleDict({"embedding": nn.Embedding(15, width), "enc_norm": nn.LayerNorm(width)}),
        "value_encoder": nn.ModuleDict(
            {"linear1": nn.Linear(1, width), "linear2": nn.Linear(width, width), "norm": nn.LayerNorm(width)}
        ),
        "transformer_encoder": nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
    }
    path.mkdir()
    args = {"embsize": width, "nheads": 2, "d_hid": 24, "nlayers": 2, "pad_value": -2, "n_bins": 51}
    vocabulary = {name: index for index, name in enumerate([*GENES, "<pad>", "<cls>", "<eoc>"])}
    (path / "args.json").write_text(json.dumps(args))
    (path / "vocab.json").write_text(json.dumps(vocabulary))
    torch.save(nn.ModuleDict(parts).state_dict(), path / "best_model.pt")


def read_scgpt(path: Path) -> None:
    counts = np.random.default_rng(0).poisson(2, (6, len(GENES))).astype(np.float32)
    adata = ad.AnnData(counts)
    adata.var_names = GENES
    hc.pp.embed_genes(adata, "scgpt", checkpoint=path, device="cpu")
    assert np.isfinite(adata.obsm["X_scgpt"]).all()


def write_adapter(path: Path) -> None:
    network, _ = adapters.add_lora(network_of_spec(ENCODER, "random", 0)[0], ENCODER)
    adapters.save_adapter(path, network, spec=ENCODER, version="random-0", metadata={"genes": GENES})


def read_adapter(path: Path) -> None:
    name = hc.encoders.register_adapter(path, overwrite=True)
    hc.encoders.load(name, weights="random", device="cpu", precision="fp32")


def write_cell_model(path: Path) -> None:
    rng = np.random.default_rng(0)
    types = rng.integers(3, size=240)
    adata = ad.AnnData(np.ones((240, 2)))
    adata.obsm["X_small"] = (rng.normal(size=(240, 6)) + 2 * np.eye(6)[types]).astype(np.float32)
    adata.obsm["spatial"] = rng.random((240, 2)) * 500
    adata.obs["cell_type"] = np.array(["a", "b", "c"])[types]
    hc.tl.fit_cell_types(adata, "X_small", preset="robust", config={"max_epochs": 2, "n_layers": 1, "width": 16}, rng=0)
    hc.models.load(adata, model_key="cell_type_model").save(path)


def read_cell_model(path: Path) -> None:
    model = hc.models.load(path)
    probabilities = model.predict(np.random.default_rng(0).normal(size=(5, 6)))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
