from __future__ import annotations

import numpy as np
import pytest
import torch

import histocell as hc
from histocell.encoders import registry
from histocell.encoders.catalog import CATALOG


def test_catalogue_is_complete_and_listed():
    frame = hc.encoders.list_encoders()
    assert set(frame.index) >= {spec.name for spec in CATALOG}
    for spec in CATALOG:
        assert spec.library in {"builtin", "timm"}
        assert spec.license
        assert spec.commercial is not None
        assert spec.summary


def test_register(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", {})
    mine = hc.encoders.EncoderSpec(name="mine", library="timm", arch="resnet18")
    hc.encoders.register(mine)
    assert hc.encoders.get_spec("mine") is mine
    with pytest.raises(ValueError, match="overwrite=True"):
        hc.encoders.register(mine)
    hc.encoders.register(mine, overwrite=True)


def test_random_weights_are_seeded_and_leave_the_global_state_alone():
    before = torch.random.get_rng_state()
    images = np.random.default_rng(0).integers(0, 255, (2, 224, 224, 3), dtype=np.uint8)
    first, again, other = (
        hc.encoders.encode(hc.encoders.load("timm/resnet18", weights="random", rng=seed), images) for seed in (0, 0, 1)
    )
    assert (first == again).all()
    assert not np.allclose(first, other)
    assert (torch.random.get_rng_state() == before).all()


def test_encode_checks_its_input():
    encoder = hc.encoders.load(torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()))
    assert hc.encoders.encode(encoder, np.zeros((0, 224, 224, 3), np.uint8)).shape == (0, 3)
    with pytest.raises(ValueError, match="uint8"):
        hc.encoders.encode(encoder, np.zeros((1, 224, 224, 3)))
    with pytest.raises(TypeError, match="surroundings"):
        hc.encoders.encode(hc.encoders.load("morphology"), np.zeros((1, 224, 224, 3), np.uint8))


def test_weights_out_of_reach_say_what_to_do(monkeypatch):
    import timm

    def offline(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(OSError, match="weights="):
        hc.encoders.load("resnet50")
