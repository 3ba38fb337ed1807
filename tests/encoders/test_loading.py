from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from torchvision.transforms import v2

import histocell as hc

CPU = {"device": "cpu", "precision": "fp32"}
SIZES = {"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0}


def pictures(edge, n=2):
    return np.random.default_rng(0).integers(0, 256, (n, edge, edge, 3), dtype=np.uint8)


def normalised(images, mean, std):
    images = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    return (images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def test_random_weights_are_seeded_and_leave_the_global_state_alone():
    before = torch.random.get_rng_state()
    images = pictures(224, 1)
    first, again, other = (
        hc.encoders.encode(hc.encoders.load("timm/resnet18", weights="random", rng=seed, **CPU), images)
        for seed in (0, 0, 1)
    )
    assert (first == again).all()
    assert not np.allclose(first, other)
    assert (torch.random.get_rng_state() == before).all()
    assert hc.encoders.load("timm/resnet18", weights="random", rng=1, **CPU).version == "random-1"


@torch.no_grad()
def test_truncated_resnet_is_the_mean_of_its_third_stage(tmp_path):
    torch.manual_seed(0)
    whole = timm.create_model("resnet50", num_classes=10).eval()
    torch.save(whole.state_dict(), tmp_path / "w.pt")
    images = pictures(64)
    inputs = normalised(images, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    stage = whole.layer3(whole.layer2(whole.layer1(whole.maxpool(whole.act1(whole.bn1(whole.conv1(inputs)))))))
    from histocell.encoders.networks.build import build
    from histocell.encoders.networks.checkpoints import load_checkpoint

    for name, expected in (
        ("resnet50-layer3", stage.mean((2, 3))),
        ("resnet50", whole.forward_head(whole.layer4(stage), pre_logits=True)),
    ):
        spec = hc.encoders.get_spec(name)
        with torch.device("meta"):
            backbone = build(spec)
        load_checkpoint(backbone, torch.load(tmp_path / "w.pt", weights_only=True), spec, "w.pt")
        torch.testing.assert_close(backbone.eval()(inputs), expected, atol=1e-5, rtol=1e-5)


def test_pooling_is_chosen_among_those_of_the_network():
    module = timm.create_model("vit_tiny_patch16_224", **SIZES)
    images = pictures(32)
    cls, mean, both = (
        hc.encoders.encode(hc.encoders.load(module, pool=pool, **CPU), images) for pool in ("cls", "mean", "cls_mean")
    )
    np.testing.assert_allclose(np.concatenate([cls, mean], 1), both, atol=1e-6)
    with pytest.raises(ValueError, match="cannot pool by 'projected'; it can by cls, mean, cls_mean"):
        hc.encoders.load(module, pool="projected", **CPU)


@torch.no_grad()
def test_a_module_of_timm_is_fed_as_it_was_trained():
    module = timm.create_model("vit_tiny_patch16_224", **SIZES).eval()  # its weights on the hub want 0.5 and 0.5
    encoder = hc.encoders.load(module, **CPU)
    images = pictures(32)
    expected = module(normalised(images, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
    np.testing.assert_allclose(hc.encoders.encode(encoder, images), expected, atol=1e-5)
    assert (encoder.spec.input_px, encoder.spec.grid, encoder.name) == (32, (2, 2), "VisionTransformer")


def test_the_version_of_a_module_is_that_of_its_state():
    module = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2))
    first, again = (hc.encoders.load(module, **CPU).version for _ in range(2))
    module[2].bias.data += 1
    assert first == again != hc.encoders.load(module, **CPU).version
    with pytest.raises(ValueError, match="a module has its weights already"):
        hc.encoders.load(module, weights="random", **CPU)


def test_any_model_of_timm_with_a_file(tmp_path):
    torch.manual_seed(0)
    module = timm.create_model("convnext_atto", num_classes=4).eval()
    torch.save(module.state_dict(), tmp_path / "w.pt")
    encoder = hc.encoders.load("timm/convnext_atto", weights=tmp_path / "w.pt", **CPU)
    module.reset_classifier(0)
    images = pictures(224, 1)
    with torch.no_grad():
        expected = module(normalised(images, encoder.spec.mean, encoder.spec.std))
    np.testing.assert_allclose(hc.encoders.encode(encoder, images), expected, atol=1e-5)
    swin = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0)  # buffers that no file holds
    torch.save(swin.state_dict(), tmp_path / "w.pt")
    encoder = hc.encoders.load("timm/swin_tiny_patch4_window7_224", weights=tmp_path / "w.pt", **CPU)
    with torch.no_grad():
        expected = swin.eval()(normalised(images, encoder.spec.mean, encoder.spec.std))
    np.testing.assert_allclose(hc.encoders.encode(encoder, images), expected, atol=1e-5)


def test_a_config_of_timm_sets_the_sizes(parity_dir, tmp_path):
    kwargs = json.loads((parity_dir / "vit_tokens" / "kwargs.json").read_text())["kwargs"]
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_giant_patch14_224", "model_args": kwargs}))
    (tmp_path / "model.safetensors").symlink_to(parity_dir / "vit_tokens" / "model.safetensors")
    expected = np.load(parity_dir / "vit_tokens" / "expected.npz")
    images = np.load(parity_dir / "vit_tokens" / "images.npz")["images"]
    for pool in ("cls", "cls_mean"):
        encoder = hc.encoders.load("uni2-h", weights=tmp_path, pool=pool, **CPU)
        np.testing.assert_allclose(hc.encoders.encode(encoder, images), expected[pool], atol=2e-5)


def test_weights_out_of_reach_say_what_to_do(monkeypatch):
    def offline(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(OSError, match="weights="):
        hc.encoders.load("timm/resnet18")


def test_the_built_in_encoder_takes_no_weights():
    for arguments in ({"weights": "random"}, {"pool": "cls"}):
        with pytest.raises(ValueError, match="no weights and no tokens"):
            hc.encoders.load("morphology", **arguments)


class Card:
    license = ["MIT", "CC0"]
    commercial = True
    is_gated = False
    encode_dim = 4
    description = "A model"

    def __init__(self, model_path=None):
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 4))

    def get_transform(self):
        return v2.Compose(
            [v2.ToImage(), v2.Resize(16), v2.CenterCrop(16), v2.Normalize((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))]
        )

    def encode_image(self, image):
        return self.model(image)


class NoTransform(Card):
    def get_transform(self):
        return None


@pytest.fixture
def lazyslide_models(monkeypatch):
    module = ModuleType("lazyslide_models")
    module.MODEL_REGISTRY = {"card": Card, "odd": NoTransform, "segmenter": SimpleNamespace}
    module.__version__ = "9.9"
    monkeypatch.setitem(sys.modules, "lazyslide_models", module)


@torch.no_grad()
def test_models_of_lazyslide(lazyslide_models):
    encoder = hc.encoders.load("lazyslide:card", **CPU)
    images = pictures(16)
    expected = Card().encode_image(normalised(images, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))
    np.testing.assert_allclose(hc.encoders.encode(encoder, images), expected, atol=1e-5)
    assert (encoder.name, encoder.version) == ("lazyslide-card", "lazyslide-models 9.9")
    assert (encoder.spec.license, encoder.spec.input_px, encoder.spec.interpolation) == ("MIT, CC0", 16, "bilinear")
    with pytest.raises(KeyError, match="has no model 'kard'; it has card, odd"):
        hc.encoders.load("lazyslide:kard")
    with pytest.raises(ValueError, match="not a resize and a normalisation"):
        hc.encoders.load("lazyslide:odd", **CPU)
    with pytest.raises(ValueError, match="comes with its weights"):
        hc.encoders.load("lazyslide:card", weights="random", **CPU)


def test_lazyslide_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "lazyslide_models", None)
    with pytest.raises(ImportError, match=r"histocell\[wsi\]"):
        hc.encoders.load("lazyslide:uni")


def test_the_installed_lazyslide_knows_its_models():
    pytest.importorskip("lazyslide_models")
    spec = hc.encoders.get_spec("lazyslide:chief")
    assert (spec.name, spec.dim, spec.commercial) == ("lazyslide-chief", 768, False)


def test_encode_checks_its_input():
    encoder = hc.encoders.load(torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()), **CPU)
    assert hc.encoders.encode(encoder, np.zeros((0, 224, 224, 3), np.uint8)).shape == (0, 3)
    with pytest.raises(ValueError, match="uint8"):
        hc.encoders.encode(encoder, np.zeros((1, 224, 224, 3)))
    with pytest.raises(TypeError, match="surroundings"):
        hc.encoders.encode(hc.encoders.load("morphology"), np.zeros((1, 224, 224, 3), np.uint8))
