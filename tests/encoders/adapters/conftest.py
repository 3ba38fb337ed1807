from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import histocell as hc
from histocell.encoders import adapters, registry
from histocell.encoders.networks.build import network_of_spec

SPEC = hc.encoders.EncoderSpec(
    name="tiny",
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


def network(spec=SPEC, weights="random", rng=0):
    return network_of_spec(spec, weights, rng)[0]


def tuned(*, seed=1, rng=0, **options):
    """An adapter whose updates are as if trained."""
    net, report = adapters.add_lora(network(rng=rng), SPEC, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02, generator=generator)
    return net.eval(), report


@pytest.fixture
def tiny():
    """A small transformer: its spec, its network, and an adapter of it as if trained."""
    return SimpleNamespace(spec=SPEC, network=network, tuned=tuned)


@pytest.fixture
def images():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A saved adapter of a base with random weights, and its network."""
    monkeypatch.setattr(registry, "_REGISTRY", {})
    net, report = tuned()
    path = tmp_path / "tiny-breast"
    adapters.save_adapter(path, net, spec=SPEC, version="random-0", metadata={"genes": ["A", "B"], "epochs": 2})
    return SimpleNamespace(path=path, network=net, report=report)
