"""Layers that an adapter tunes, of every encoder of the catalogue and of networks with other names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import histocell as hc
from histocell.encoders.adapters import add_lora, lora_targets
from histocell.encoders.catalog import CATALOG
from histocell.encoders.networks.backbone import Backbone
from histocell.encoders.networks.build import build

pytest.importorskip("peft")
SPECS = [spec for spec in CATALOG if spec.library != "builtin"]
# published with the method for rank 8 on the last block
PUBLISHED = {"conch": 98_304, "uni2-h": 196_608}


def on_meta(spec) -> Backbone:
    with torch.device("meta"):
        return build(spec)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_every_encoder_tunes_attention_and_mlp_of_its_last_block_or_says_what_it_has(spec):
    network = on_meta(spec)
    if spec.patch_px is None:
        with pytest.raises(ValueError, match="no blocks of attention and MLP that histocell knows by name"):
            add_lora(network, spec)
        return
    last = network.trunk.blocks[-1]
    # by hand: rank 8 adds 8 (rows + columns) for each matrix of the block that is no gate and no norm
    linears = [module for module in last.modules() if isinstance(module, nn.Linear)]
    by_hand = sum(8 * (module.in_features + module.out_features) for module in linears)
    tuned, report = add_lora(network, spec)
    assert report.trainable == by_hand == PUBLISHED.get(spec.name, by_hand)
    assert len(report.targets) == len(linears) == 4
    assert all(name.startswith(f"trunk.blocks.{network.n_blocks - 1}.") for name in report.targets)
    assert not any("pool" in name for name, parameter in tuned.named_parameters() if parameter.requires_grad)


def test_more_blocks(user_sees):
    spec = hc.encoders.get_spec("kaiko-s16")
    names = lora_targets(on_meta(spec), spec, blocks=12)
    assert len(names) == 48
    with user_sees("Adapters", "more blocks than there are", ValueError, match="'kaiko-s16' has 12 blocks, not 13"):
        lora_targets(on_meta(spec), spec, blocks=13)
    with pytest.raises(ValueError, match="blocks must be"):
        lora_targets(on_meta(spec), spec, blocks=0)


@pytest.mark.parametrize("kind", ["Dinov2", "Dinov2WithRegisters", "ViT"])
def test_attention_of_transformers_is_not_missed(kind):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    model = getattr(transformers, f"{kind}Model")(
        getattr(transformers, f"{kind}Config")(**sizes, intermediate_size=128)
    )

    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images):
            return self.model(images).last_hidden_state[:, 0]

    spec = hc.encoders.EncoderSpec(name="hf", library="module", input_px=28)
    network = Backbone(First())
    block = [m for name, m in network.named_modules() if name.endswith(".1") and hasattr(m, "attention")][-1]
    n_linear = sum(isinstance(module, nn.Linear) for module in block.modules())
    _, report = add_lora(network, spec)
    assert len(report.targets) == n_linear == 6
    assert sum("attention" in name for name in report.targets) == 4


def test_a_block_with_a_part_of_another_name_is_an_error():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = nn.ModuleDict({"qkv": nn.Linear(8, 24), "proj": nn.Linear(8, 8)})
            self.ffn = nn.ModuleDict({"up": nn.Linear(8, 16)})

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([Block()])

        def forward(self, images):
            flat = images.mean(dim=(2, 3)) @ torch.ones(3, 8)
            return self.blocks[0].attn["proj"](flat)

    spec = hc.encoders.EncoderSpec(name="ours", library="module")
    with pytest.raises(ValueError, match=r"no linear layer that is the input of the MLP .* of this block: .*ffn\.up"):
        add_lora(Net(), spec)
    with pytest.raises(ValueError, match="does not call its layers blocks.0.attn.qkv"):
        add_lora(Net(), spec, targets=["blocks.0.attn.qkv", "blocks.0.attn.proj"])
    with pytest.raises(ValueError, match=r"targets blocks\.0\.norm are no linear layers of 'ours'"):
        add_lora(Net(), spec, targets=["blocks.0.norm"])
    _, report = add_lora(Net(), spec, targets=["blocks.0.attn.proj"], rank=2)
    assert report.trainable == 2 * 16
