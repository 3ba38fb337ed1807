from __future__ import annotations

import numpy as np
import pytest
import torch

import histocell as hc
from histocell.encoders import registry
from histocell.encoders.catalog import ALIASES, CATALOG
from histocell.encoders.networks.build import build

# Width of the embedding, edge of the token grid, tokens before it, millions of parameters: from the publications, model
# cards and checkpoints, not from the catalogue.
PUBLISHED = {
    "conch": (512, 28, 1, 86.25 + 1.316 + 0.001 + 0.262),
    "conch-v1.5": (768, 28, 1, None),
    "uni": (1024, 14, 1, 303.4),
    "uni2-h": (1536, 16, 9, 681.4),
    "virchow": (2560, 16, 1, 631.2),
    "virchow2": (2560, 16, 5, 631.2),
    "h-optimus-0": (1536, 16, 5, 1134.8),
    "h-optimus-1": (1536, 16, 5, 1134.8),
    "h0-mini": (1536, 16, 5, 85.7),
    "phikon": (768, 14, 1, 85.8),
    "phikon-v2": (1024, 14, 1, 303.4),
    "gigapath": (1536, 14, 1, 1135.0),
    "hibou-b": (768, 16, 5, 85.7),
    "hibou-l": (1024, 16, 5, 303.7),
    "kaiko-s16": (384, 14, 1, 21.7),
    "kaiko-s8": (384, 28, 1, 21.7),
    "kaiko-b16": (768, 14, 1, 85.8),
    "kaiko-b8": (768, 28, 1, 85.8),
    "kaiko-l14": (1024, 16, 5, 304.4),
    "midnight": (3072, 16, 1, None),
    "gpfm": (1024, 16, 1, 303.2),
    "lunit-s8": (384, 28, 1, 21.7),
    "omiclip": (768, 16, 1, None),
    "resnet50": (2048, None, 0, None),
    "resnet50-layer3": (1024, None, 0, 8.5),
}
NETWORKS = [spec for spec in CATALOG if spec.library != "builtin"]


@pytest.mark.parametrize("spec", NETWORKS, ids=lambda spec: spec.name)
def test_networks_are_what_was_published(spec):
    with torch.device("meta"):
        backbone = build(spec)
    images = torch.zeros(1, 3, spec.input_px, spec.input_px, device="meta")
    millions = sum(parameter.numel() for parameter in backbone.parameters()) / 1e6
    grid = None if backbone.patch_px is None else backbone.tokens(images).shape[1] ** 0.5
    prefix = getattr(backbone, "prefix_tokens", 0)
    assert spec.dim == backbone(images).shape[1]
    assert spec.params == pytest.approx(millions, abs=0.06)
    assert spec.grid == (None if grid is None else (grid, grid))
    assert (spec.patch_px, spec.prefix_tokens) == (backbone.patch_px, prefix)
    assert backbone.poolings[0] == spec.pooling
    assert backbone.patch_px is None or {"cls", "mean", "cls_mean"} <= set(backbone.poolings)
    if spec.name in PUBLISHED:
        dim, edge, before, size = PUBLISHED[spec.name]
        assert (spec.dim, grid, prefix) == (dim, edge, before)
        assert size is None or millions == pytest.approx(size, abs=0.1)


def test_every_encoder_of_the_issue_is_there():
    assert set(PUBLISHED) | {"morphology"} <= {spec.name for spec in CATALOG}


@pytest.mark.parametrize("spec", CATALOG, ids=lambda spec: spec.name)
def test_rows_are_complete(spec):
    assert spec.name == spec.name.lower()
    assert spec.license
    assert spec.summary.endswith(".")
    assert spec.commercial is not None
    assert not spec.revision or spec.library == "builtin" or len(spec.revision) == 40
    if spec.library != "builtin":
        assert spec.hub_id.count("/") == 1
        assert spec.citation
        assert all(0 < value < 1 for value in (*spec.mean, *spec.std))


def test_names_are_unique_and_aliases_lead_to_them():
    names = [spec.name for spec in CATALOG]
    assert len(set(names)) == len(names)
    assert not set(ALIASES) & set(names)
    assert set(ALIASES.values()) <= set(names)
    assert hc.encoders.get_spec("UNI2").name == "uni2-h"
    assert hc.encoders.get_spec("H_optimus_0").name == "h-optimus-0"


def test_table_of_encoders():
    table = hc.encoders.list_encoders()
    assert list(table.index) == [spec.name for spec in CATALOG]
    assert table.loc["uni2-h", "grid"] == (16, 16)
    assert table.loc["virchow", "commercial"]
    assert not table.loc["uni", "commercial"]
    assert set(table.query("commercial and not gated").index) >= {"morphology", "h-optimus-0", "dinov2-b"}


def test_unknown_names_are_answered_with_near_ones():
    with pytest.raises(KeyError, match=r"did you mean .*conch"):
        hc.encoders.get_spec("konch")
    with pytest.raises(KeyError, match="timm has no model"):
        hc.encoders.get_spec("timm/vit_enormous")


def test_register(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", {})
    mine = hc.encoders.EncoderSpec(name="mine", library="timm", arch="resnet18")
    hc.encoders.register(mine)
    assert hc.encoders.get_spec("mine") is mine
    assert "mine" in hc.encoders.list_encoders().index
    with pytest.raises(ValueError, match="overwrite=True"):
        hc.encoders.register(mine)
    hc.encoders.register(mine, overwrite=True)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"library": "keras"}, "library of encoder 'mine' must be one of builtin, timm, .*, not 'keras'"),
        ({"pooling": "max"}, "pooling of encoder 'mine' must be one of cls, mean, .*, not 'max'"),
        ({"interpolation": "lanczos"}, "interpolation of encoder 'mine' must be one of bicubic, bilinear"),
        ({"precision": "int8"}, "precision of encoder 'mine' must be one of fp32"),
        ({"mpp": 0.0}, "mpp of encoder 'mine' gives 0 um per px"),
        ({"input_px": 0}, "input_px of encoder 'mine' must be at least 1"),
        ({"mean": (0.5,)}, "mean of encoder 'mine' must be three numbers"),
    ],
)
def test_spec_of_no_encoder(facts, message):
    with pytest.raises(ValueError, match=message):
        hc.encoders.EncoderSpec(**{"name": "mine", "library": "timm", **facts})


def test_encode_takes_what_load_takes():
    import timm
    import torch

    torch.manual_seed(0)
    module = timm.create_model("resnet18", pretrained=False, num_classes=0).eval()
    images = np.random.default_rng(0).integers(0, 255, (2, 224, 224, 3), dtype=np.uint8)
    loaded = hc.encoders.load(module, device="cpu")
    np.testing.assert_allclose(hc.encoders.encode(module, images), hc.encoders.encode(loaded, images), atol=1e-5)
    with pytest.raises(TypeError, match="'morphology' needs the surroundings of a patch"):
        hc.encoders.encode("morphology", images)
    with pytest.raises(KeyError, match="timm has no model 'resnet81'"):
        hc.encoders.encode("timm/resnet81", images)
    with pytest.raises(TypeError, match="encoder must be a name, a torch module or what"):
        hc.encoders.encode(3, images)


def test_encode_loads_a_name(monkeypatch):
    from histocell.encoders import loading

    load = loading.load
    monkeypatch.setattr(loading, "load", lambda name: load(name, weights="random", device="cpu"))
    images = np.zeros((1, 224, 224, 3), np.uint8)
    assert hc.encoders.encode("timm/resnet18", images).shape == (1, 512)
