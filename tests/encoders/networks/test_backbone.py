from __future__ import annotations

import numpy as np
import pytest
import timm
import torch

from histocell.encoders.networks.backbone import Backbone, as_backbone


def tiny(**arguments):
    settings = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 0}
    torch.manual_seed(0)
    network = timm.create_model("vit_tiny_patch16_224", **{**settings, "reg_tokens": 2, **arguments}).eval()
    with torch.no_grad():
        network.cls_token.normal_()
    return network


@pytest.fixture
def images():
    return torch.from_numpy(np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype(np.float32))


@torch.no_grad()
def test_poolings_of_a_transformer(images):
    network = tiny()
    backbone = as_backbone(network)
    features = network.forward_features(images)
    mean = torch.stack([sum(image[token] for token in range(3, 19)) / 16 for image in features])
    assert backbone.poolings == ("cls", "mean", "cls_mean")
    torch.testing.assert_close(backbone(images), network(images))
    torch.testing.assert_close(backbone(images, pool="mean"), mean)
    torch.testing.assert_close(backbone(images, pool="cls_mean"), torch.cat([features[:, 0], mean], 1))
    assert as_backbone(network, "cls_mean").poolings == ("cls_mean", "cls", "mean")


@torch.no_grad()
def test_tokens_of_every_block(images):
    network = tiny(dynamic_img_size=True)
    backbone = as_backbone(network)
    outputs = []
    for block in network.blocks:
        block.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    final = network.forward_features(images)[:, 3:]
    assert (backbone.patch_px, backbone.n_blocks) == (8, 3)
    torch.testing.assert_close(backbone.tokens(images), final)
    for block, whole in enumerate(outputs[:3]):
        torch.testing.assert_close(backbone.tokens(images, block=block), whole[:, 3:])
        if block < 2:
            torch.testing.assert_close(backbone.tokens(images, block=block - 3), whole[:, 3:])
    assert not torch.allclose(backbone.tokens(images, block=2), final)  # -1 is normalised, the last block is not
    with pytest.raises(ValueError, match=r"-3 \.\.\. 2, not 3"):
        backbone.tokens(images, block=3)


@torch.no_grad()
def test_what_a_module_of_timm_returns_is_native_where_it_is_not_the_class_token(images):
    for arguments in ({"num_classes": 5}, {"global_pool": "avg"}):
        network = tiny(**arguments)
        backbone = as_backbone(network)
        assert backbone.poolings == ("native", "cls", "mean", "cls_mean")
        torch.testing.assert_close(backbone(images), network(images))
        assert backbone(images, pool="cls_mean").shape == (3, 48)


def test_other_networks_have_one_definition_and_no_tokens(images):
    backbone = as_backbone(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 4)))
    assert backbone.poolings == ("native",)
    assert backbone(images).shape == (3, 4)
    assert as_backbone(backbone) is backbone
    with pytest.raises(ValueError, match="cannot pool by 'cls'; it can by native"):
        backbone(images, pool="cls")
    with pytest.raises(ValueError, match="Sequential has no grid of tokens"):
        backbone.tokens(images)
    with pytest.raises(ValueError, match=r"must give embeddings of shape \(n, dim\) for 3 images, not shape"):
        Backbone(torch.nn.Identity())(images)
    assert type(as_backbone(timm.create_model("swin_tiny_patch4_window7_224", num_classes=0))) is Backbone
