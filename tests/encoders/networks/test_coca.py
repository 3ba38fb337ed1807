"""Towers with an attentional pooler, against what the original programs give."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import histocell as hc
from histocell.encoders.networks.build import build, spec_from_config
from histocell.encoders.networks.checkpoints import load_checkpoint
from histocell.encoders.networks.weights import local_weights, read_tensors

if TYPE_CHECKING:
    from pathlib import Path

CPU = {"device": "cpu", "precision": "fp32"}


@pytest.fixture
def folder(parity_dir: Path) -> Path:
    return parity_dir / "conch_tiny"


@pytest.fixture
def expected(folder):
    return np.load(folder / "expected.npz")


def tower(folder, image_size=None):
    config = json.loads((folder / "config.json").read_text())
    if image_size:
        config["vision_cfg"]["image_size"] = image_size
    spec = spec_from_config(hc.encoders.get_spec("conch"), config)
    with torch.device("meta"):
        backbone = build(spec)
    load_checkpoint(backbone, read_tensors(local_weights(folder, spec)), spec, "conch_tiny")
    return backbone.eval()


def test_embeddings_of_the_official_package(folder, expected):
    images = np.load(folder / "images.npy")
    encoder = hc.encoders.load("conch", weights=str(folder), **CPU)
    assert (encoder.dim, encoder.spec.grid, encoder.spec.params) == (32, (4, 4), None)
    assert encoder.version.startswith("conch_tiny-")
    np.testing.assert_allclose(hc.encoders.encode(encoder, images), expected["embed_noproj"], atol=1e-5)
    projected = hc.encoders.encode(hc.encoders.load("conch", weights=folder, pool="projected", **CPU), images)
    np.testing.assert_allclose(projected, expected["embed_proj"], atol=1e-5)
    unit = projected / np.linalg.norm(projected, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, expected["embed_proj_l2"], atol=2e-6)


@torch.no_grad()
def test_every_stage(folder, expected):
    backbone = tower(folder)
    images = torch.from_numpy(expected["preprocessed"])
    features = backbone.features(images)
    stages = {
        "trunk_tokens": features,
        "patch_tokens": backbone.tokens(images),
        "cls_token": backbone(images, pool="cls"),
        "pooled_before_ln": backbone.attn_pool_contrast(features)[:, 0],
        "embed_noproj": backbone(images),
        "embed_noproj_l2": torch.nn.functional.normalize(backbone(images)),
        "embed_proj": backbone(images, pool="projected"),
    }
    for name, value in stages.items():
        np.testing.assert_allclose(value, expected[name], atol=1e-5, err_msg=name)
    one = torch.from_numpy(expected["img80x100_preprocessed"])
    np.testing.assert_allclose(backbone(one), expected["img80x100_embed_noproj"], atol=1e-5)


@torch.no_grad()
def test_two_rules_for_other_input_sizes(folder, expected):
    mean, std = (
        torch.tensor(getattr(hc.encoders.get_spec("conch"), name)).view(1, 3, 1, 1) for name in ("mean", "std")
    )
    images = (torch.from_numpy(np.load(folder / "images_96.npy")).permute(0, 3, 1, 2) / 255 - mean) / std
    at_run_time, at_loading = tower(folder), tower(folder, image_size=96)
    for rule, backbone in (("dynamic", at_run_time), ("forced", at_loading)):
        np.testing.assert_allclose(backbone(images), expected[f"img96_{rule}_embed_noproj"], atol=1e-5)
        np.testing.assert_allclose(backbone.tokens(images), expected[f"img96_{rule}_patch_tokens"], atol=2e-5)
    np.testing.assert_allclose(at_loading.trunk.pos_embed, expected["img96_forced_pos_embed"], atol=1e-6)


def test_checkpoints_with_and_without_captions_and_wrappers(folder, expected, tmp_path):
    shutil.copy(folder / "config.json", tmp_path)
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    kept = {f"module.{name}": value for name, value in state.items() if "caption" not in name and "text" not in name}
    torch.save({"state_dict": kept, "epoch": 3}, tmp_path / "pytorch_model.bin")
    encoder = hc.encoders.load("conch", weights=tmp_path, **CPU)
    out = hc.encoders.encode(encoder, np.load(folder / "images.npy"))
    np.testing.assert_allclose(out, expected["embed_noproj"], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("visual.proj_contrast"), "missing: proj_contrast"),
        (lambda state: state.update({"visual.extra": torch.zeros(1)}), "unexpected: extra"),
        (
            lambda state: state.update({"visual.ln_contrast.bias": torch.zeros(5)}),
            r"ln_contrast.bias \(5,\) instead of \(32,\)",
        ),
    ],
)
def test_checkpoints_that_do_not_fit(folder, tmp_path, change, message):
    shutil.copy(folder / "config.json", tmp_path)
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    change(state)
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=message):
        hc.encoders.load("conch", weights=tmp_path, **CPU)


@torch.no_grad()
def test_pooler_of_conch_1_5_has_no_biases():
    torch.manual_seed(0)
    spec = hc.encoders.EncoderSpec(
        name="tiny",
        library="coca",
        arch="vit_tiny_patch16_224",
        arch_kwargs={
            "img_size": 64,
            "embed_dim": 24,
            "depth": 1,
            "num_heads": 2,
            "init_values": 1.0,
            "projected": False,
        },
        pooling="attention",
        dim=16,
    )
    backbone = build(spec)
    trunk = {f"trunk.{name}": value for name, value in backbone.trunk.state_dict().items()}
    shapes = {"query": (1, 16), "to_q.weight": (16, 16), "to_kv.weight": (32, 24), "to_out.weight": (16, 16)}
    pooler = {name: torch.randn(shape) for name, shape in shapes.items()}
    for norm, width in (("ln_q", 16), ("ln_k", 24)):
        pooler |= {f"{norm}.weight": torch.randn(width), f"{norm}.bias": torch.randn(width)}
    final = {"ln_contrast.weight": torch.randn(16), "ln_contrast.bias": torch.randn(16)}
    load_checkpoint(
        backbone, {**trunk, **{f"attn_pool_contrast.{k}": v for k, v in pooler.items()}, **final}, spec, "tiny"
    )
    images = torch.randn(2, 3, 64, 64)

    norm = torch.nn.functional.layer_norm
    tokens = norm(backbone.trunk.forward_features(images), (24,), pooler["ln_k.weight"], pooler["ln_k.bias"])
    query = norm(pooler["query"], (16,), pooler["ln_q.weight"], pooler["ln_q.bias"]) @ pooler["to_q.weight"].T
    pooled = torch.zeros(2, 16)
    for image in range(2):
        keys, values = (tokens[image] @ half.T for half in (pooler["to_kv.weight"][:16], pooler["to_kv.weight"][16:]))
        for head in range(8):
            part = slice(2 * head, 2 * head + 2)
            weights = torch.softmax(keys[:, part] @ query[0, part] / 2**0.5, 0)
            pooled[image, part] = weights @ values[:, part]
    expected = norm(pooled @ pooler["to_out.weight"].T, (16,), final["ln_contrast.weight"], final["ln_contrast.bias"])
    torch.testing.assert_close(backbone.eval()(images), expected, atol=1e-5, rtol=0)
    assert backbone.poolings == ("attention", "cls", "mean", "cls_mean")


@pytest.mark.parametrize("width", [48, 32], ids=["other width", "width of the embedding"])
@torch.no_grad()
def test_image_side_of_open_clip(width, tmp_path):
    transformer = pytest.importorskip("open_clip.transformer")
    torch.manual_seed(0)
    original = transformer.VisionTransformer(
        image_size=28, patch_size=7, width=width, layers=2, heads=width // 16, mlp_ratio=4, output_dim=32,
        attentional_pool=True, attn_pooler_queries=5, output_tokens=True,
    ).eval()  # fmt: skip
    for parameter in original.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    state = {f"visual.{name}": value for name, value in original.state_dict().items()}
    state |= {"logit_scale": torch.ones(()), "text.cls_emb": torch.ones(4), "text_decoder.ln_final.bias": torch.ones(4)}
    torch.save(
        {"epoch": 1, "state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "w.pt"
    )
    (tmp_path / "w.pt").rename(tmp_path / "checkpoint.pt")
    sizes = {"image_size": 28, "patch_size": 7, "width": width, "layers": 2, "head_width": 16}
    (tmp_path / "config.json").write_text(json.dumps({"embed_dim": 32, "vision_cfg": sizes}))
    encoder = hc.encoders.load("omiclip", weights=tmp_path, **CPU)
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 3), dtype=np.uint8)
    spec = encoder.spec
    inputs = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    inputs = (inputs - torch.tensor(spec.mean)[:, None, None]) / torch.tensor(spec.std)[:, None, None]
    pooled, _ = original(inputs)
    np.testing.assert_allclose(hc.encoders.encode(encoder, images), pooled, atol=1e-5)
