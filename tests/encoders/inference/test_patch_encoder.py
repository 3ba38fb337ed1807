from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import histocell as hc
from histocell.encoders.inference import preprocessing
from histocell.encoders.inference.preprocessing import Preprocessing, fit_to_input
from histocell.encoders.spec import EncoderSpec
from histocell.images.slide_image import open_image

RNG = np.random.default_rng(0)
CPU = torch.device("cpu")


def spec(**facts) -> EncoderSpec:
    return EncoderSpec(**{"name": "test", "library": "timm", "input_px": 32, **facts})


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize("edge", [32, 45, 100])
def test_resizing_is_that_of_pillow(mode, edge):
    facts = spec(interpolation=mode)
    patches = RNG.integers(0, 255, (2, edge, edge, 3), dtype=np.uint8)
    found = Preprocessing(facts, CPU, torch.float32)(torch.from_numpy(patches))
    how = Image.Resampling[mode.upper()]
    expected = np.stack([np.asarray(Image.fromarray(patch).resize((32, 32), how)) for patch in patches])
    mean, std = np.array(facts.mean), np.array(facts.std)
    back = (found.permute(0, 2, 3, 1).numpy() * std + mean) * 255
    assert np.abs(back - expected).max() <= 1.01  # one grey level of rounding
    assert (fit_to_input(patches, facts) == expected).all()


def test_other_shapes_are_cut_in_the_middle():
    wide = np.zeros((1, 64, 128, 3), np.uint8)
    wide[:, :, 32:96] = 200
    assert (fit_to_input(wide, spec(interpolation="bilinear"))[:, :, 1:-1] == 200).all()


def test_precision_follows_the_encoder_and_the_processor(monkeypatch):
    for has in (True, False):
        monkeypatch.setattr(preprocessing, "processor_has_bf16", lambda has=has: has)
        assert preprocessing.pick_precision("auto", "fp16", CPU) == ("bf16" if has else "fp32")
        assert preprocessing.pick_precision("auto", "fp32", CPU) == "fp32"
        assert preprocessing.pick_precision("fp16", "fp32", CPU) == "fp16"
    with pytest.raises(ValueError, match="bf16"):
        preprocessing.pick_precision("half", "fp32", CPU)


def test_half_precision_agrees():
    images = RNG.integers(0, 255, (4, 224, 224, 3), dtype=np.uint8)
    full, half = (
        hc.encoders.encode(hc.encoders.load("timm/vit_tiny_patch16_224", weights="random", precision=name), images)
        for name in ("fp32", "bf16")
    )
    cosine = (full * half).sum(axis=1) / np.linalg.norm(full, axis=1) / np.linalg.norm(half, axis=1)
    assert cosine.min() > 0.999
    assert half.dtype == np.float32


def test_the_trial_of_batches_ends_where_memory_does():
    class Hungry(torch.nn.Module):
        def forward(self, images):
            if len(images) > 64:
                raise torch.OutOfMemoryError
            return images.mean(dim=(2, 3))

    encoder = hc.encoders.load(Hungry(), device="cpu")
    assert encoder._executor.find_batch_size(8) in {32, 64}


def test_a_chunk_does_not_depend_on_the_others():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 5), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1))
    encoder = hc.encoders.load(torch.nn.Sequential(network, torch.nn.Flatten()), batch_size=8, device="cpu")
    image = open_image(RNG.integers(0, 255, (500, 500, 3), dtype=np.uint8))
    chunks = [RNG.uniform(50, 450, (n, 2)) for n in (13, 0, 40, 8)]
    together = list(encoder.embed_chunks(image, chunks, mpp=0.5, size_um=20))
    for chunk, found in zip(chunks, together, strict=True):
        assert (encoder.embed(image, chunk, mpp=0.5, size_um=20) == found).all()


def test_encoders_say_what_they_are():
    encoder = hc.encoders.load("timm/vit_tiny_patch16_224", weights="random", pool="cls_mean", precision="bf16")
    assert encoder.dim == 384
    for word in ("vit_tiny", "384", "cls_mean", "bf16", "cpu" if not torch.cuda.is_available() else "cuda"):
        assert word in repr(encoder)
