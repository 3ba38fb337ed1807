"""Checkpoints of other libraries give what those libraries give."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional

import histocell as hc
from histocell.encoders import registry
from histocell.encoders.networks.checkpoints import convert, resample_positions

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 8, "image_size": 32}
MODELS = {
    "phikon": ("ViT", {"intermediate_size": 48, "layer_norm_eps": 1e-6}),
    "phikon-v2": ("Dinov2", {"layerscale_value": 0.7}),
    "midnight": ("Dinov2", {"use_swiglu_ffn": True, "layerscale_value": 0.7}),
    "hibou-b": ("Dinov2WithRegisters", {"use_swiglu_ffn": True, "num_register_tokens": 4}),
}
# The names in the published files, which are older than the names in memory of transformers 5.
OLD_NAMES = (
    (r"^layers\.", "encoder.layer."),
    (r"attention\.q_proj", "attention.attention.query"),
    (r"attention\.k_proj", "attention.attention.key"),
    (r"attention\.v_proj", "attention.attention.value"),
    (r"attention\.o_proj", "attention.output.dense"),
)


def transformers_model(name, **sizes):
    transformers = pytest.importorskip("transformers")
    kind, arguments = MODELS[name]
    torch.manual_seed(1)
    model = getattr(transformers, f"{kind}Model")(
        getattr(transformers, f"{kind}Config")(**{**SIZES, **arguments, **sizes})
    )
    with torch.no_grad():
        for parameter in model.parameters():  # so that every tensor matters
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def old_names(state, *, vit):
    out = {}
    for name, value in state.items():
        for pattern, replacement in OLD_NAMES:
            name = re.sub(pattern, replacement, name)
        if vit:
            name = name.replace("mlp.fc1", "intermediate.dense").replace("mlp.fc2", "output.dense")
        out[name.replace("mlp.down_proj", "mlp.weights_out")] = value
    for name in [name for name in out if "gate_proj" in name]:
        up = out.pop(name.replace("gate_proj", "up_proj"))
        out[name.replace("gate_proj", "weights_in")] = torch.cat([out.pop(name), up])
    return out


@pytest.mark.parametrize("published", [True, False], ids=["published names", "names in memory"])
@pytest.mark.parametrize("name", MODELS)
def test_models_of_transformers(name, published, tmp_path):
    model = transformers_model(name)
    state = model.state_dict()
    if published:
        state = old_names(state, vit=name == "phikon")
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "model.safetensors")
    model.config.save_pretrained(tmp_path)
    encoder = hc.encoders.load(name, weights=tmp_path, device="cpu", precision="fp32")
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    spec = encoder.spec
    inputs = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - torch.tensor(spec.mean)[:, None, None]) / (
        torch.tensor(spec.std)[:, None, None]
    )
    with torch.no_grad():
        hidden = model(inputs).last_hidden_state
    cls, patches = hidden[:, 0], hidden[:, spec.prefix_tokens :]
    expected = torch.cat([cls, patches.mean(1)], 1) if spec.pooling == "cls_mean" else cls
    assert patches.shape[1] == 16
    assert (spec.dim, spec.grid) == (expected.shape[1], (4, 4))
    np.testing.assert_allclose(hc.encoders.encode(encoder, images), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["midnight", "hibou-b"])
def test_positions_for_a_smaller_input_as_transformers_resamples_them(name, tmp_path, monkeypatch):
    model = transformers_model(name, image_size=72)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    model.config.save_pretrained(tmp_path)
    spec = replace(hc.encoders.get_spec(name), input_px=32)
    monkeypatch.setitem(registry._registry(), name, spec)
    encoder = hc.encoders.load(name, weights=tmp_path, device="cpu", precision="fp32", pool="cls")
    images = np.full((1, 32, 32, 3), 255, np.uint8)
    inputs = ((1 - torch.tensor(spec.mean)) / torch.tensor(spec.std))[None, :, None, None].expand(1, 3, 32, 32)
    with torch.no_grad():
        expected = model(inputs).last_hidden_state[:, 0]
    np.testing.assert_allclose(hc.encoders.encode(encoder, images), expected, atol=1e-5)


@pytest.mark.parametrize("registers", [0, 4])
@torch.no_grad()
def test_training_checkpoints_of_dinov2(registers):
    torch.manual_seed(0)
    arch = "vit_small_patch14_reg4_dinov2" if registers else "vit_small_patch14_dinov2"
    sizes = {"img_size": 28, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0}
    gated = {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": "silu", "mlp_ratio": 4}
    network = timm.create_model(arch, **sizes, **gated)
    torch.nn.init.normal_(network.cls_token)
    raw = {}
    position = torch.randn(1, 1, 24)
    for name, value in network.state_dict().items():
        name = name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3").replace("reg_token", "register_tokens")
        if registers and name == "cls_token":
            value = value - position
        if registers and name == "pos_embed":
            value = torch.cat([position, value], 1)
        name = re.sub(r"^blocks\.(\d)", r"blocks.0.\1", name)  # FSDP keeps blocks in chunks
        raw[f"module.backbone.{name}"] = value
    raw["module.backbone.mask_token"] = torch.zeros(1, 24)
    raw["module.dino_head.mlp.0.weight"] = torch.zeros(2, 2)
    state, rule = convert({"teacher": raw, "iteration": 7})
    assert rule == "bicubic-antialias"
    assert state.pop("mask_token") is not None
    other = timm.create_model(arch, **sizes, **gated)
    other.load_state_dict(state, strict=True)
    images = torch.randn(2, 3, 28, 28)
    torch.testing.assert_close(other.eval()(images), network.eval()(images))


def test_what_is_no_checkpoint_is_said():
    with pytest.raises(ValueError, match="but the entries epoch"):
        convert({"epoch": 3})
    with pytest.raises(ValueError, match="but a list"):
        convert({"model": [torch.zeros(1)]})


@pytest.mark.parametrize(
    ("rule", "arguments"),
    [
        ("bicubic", {"mode": "bicubic"}),
        ("bilinear", {"mode": "bilinear"}),
        ("bicubic-antialias", {"mode": "bicubic", "antialias": True}),
    ],
)
def test_rules_of_resampling(rule, arguments):
    positions = torch.randn(1, 1 + 49, 6)
    out = resample_positions(positions, grid=(4, 4), prefix=1, rule=rule)
    body = positions[0, 1:].reshape(7, 7, 6).permute(2, 0, 1)[None]
    torch.testing.assert_close(out[:, :1], positions[:, :1])
    expected = functional.interpolate(body, (4, 4), **arguments)[0].permute(1, 2, 0).reshape(16, 6)
    torch.testing.assert_close(out[0, 1:], expected)
    assert resample_positions(positions, grid=(7, 7), prefix=1, rule=rule) is positions


def test_rule_with_an_offset_samples_at_the_scale_of_the_enlarged_size():
    line = torch.randn(14)
    positions = torch.cat([torch.zeros(1, 1, 1), line.repeat(14, 1).reshape(1, 196, 1)], 1)
    out = resample_positions(positions, grid=(28, 28), prefix=1, rule="bicubic-offset")[0, 1:].reshape(28, 28)

    def kernel(x, a=-0.75):
        x = abs(x)
        near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
        return near if x <= 1 else far if x < 2 else 0.0

    for column in range(28):
        at = (column + 0.5) / (28.1 / 14) - 0.5
        first = int(np.floor(at)) - 1
        value = sum(kernel(at - k) * line[min(max(k, 0), 13)] for k in range(first, first + 4))
        torch.testing.assert_close(out[:, column], value.expand(28), atol=1e-5, rtol=0)
