"""The method with a small network: planted and real nuclei, passes in windows, blocks, bad input."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import shapely
import torch
from PIL import Image
from scipy import ndimage

import histocell as hc
from histocell.images.stain.estimate import REFERENCE
from histocell.metrics import segmentation_scores
from histocell.nuclei import network
from histocell.nuclei.methods import load_method
from histocell.nuclei.network import MARGIN_PX, WEIGHTS, load_network, nuclear_fields

MPP = 0.25


def tissue(side: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Ellipses of haematoxylin on textured eosin: image and labels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    labels = np.zeros((side, side), np.int32)
    for k, (a, b) in enumerate((a, b) for a in range(25, side - 20, 50) for b in range(25, side - 20, 50)):
        angle, long, short = rng.uniform(0, np.pi), rng.uniform(14, 18), rng.uniform(9, 13)
        u, v = (y - a) * np.cos(angle) + (x - b) * np.sin(angle), (x - b) * np.cos(angle) - (y - a) * np.sin(angle)
        labels[(u / long) ** 2 + (v / short) ** 2 < 1] = k + 1
    amounts = np.stack([0.12 + 0.7 * (labels > 0), np.full(labels.shape, 0.35)], axis=-1)
    amounts[..., 0] += 0.6 * ndimage.gaussian_filter(rng.normal(size=labels.shape), 6)
    image = 245 * 10 ** -(ndimage.gaussian_filter(amounts, (1.2, 1.2, 0)) @ REFERENCE)
    return np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8), labels


@pytest.fixture(scope="module")
def unet():
    return load_method("unet", device="cpu")


def maps(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0.3, 0.4, (4, height, width)).astype(np.float32)


def test_an_output_depends_on_pixels_within_the_margin_alone():
    seen = torch.from_numpy(maps(256, 256))[None].requires_grad_()
    load_network()(seen)[0, :, 128:136, 128:136].sum().backward()
    rows = torch.nonzero(seen.grad.abs().sum(dim=(0, 1, 3))).ravel()
    assert 128 - MARGIN_PX <= int(rows.min()) < 128 - 16
    assert 136 + 16 < int(rows.max()) < 136 + MARGIN_PX


@pytest.mark.parametrize("mpp", [0.5, 0.25])
def test_windows_give_what_one_pass_gives(mpp, monkeypatch):
    seen = maps(300, 413)
    whole = nuclear_fields(load_network(), seen, mpp)
    monkeypatch.setattr(network, "WINDOW_PX", 64)
    np.testing.assert_allclose(nuclear_fields(load_network(), seen, mpp), whole, atol=1e-4)
    assert whole.shape == (2, 300, 413)


@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_a_label_depends_on_pixels_within_the_halo_alone(unet, mpp):
    image, _ = tissue(1200, seed=3)
    context = unet.context([image], mpp)
    halo = int(np.ceil(unet.halo_um / mpp / 16) * 16)
    start = 1200 - 16 - (2 * halo if mpp == 0.5 else halo + 400)
    start -= start % 16
    cut = max(start, 0)
    whole, part = unet(image, mpp, context), unet(image[cut:], mpp, context)[halo:]
    same = whole[cut + halo :]
    assert ((part > 0) == (same > 0)).mean() > 0.9999


def test_blocks_give_the_same_nuclei():
    section = hc.datasets.synthetic_tissue(size_px=900, rng=2)
    whole, parts = (
        hc.pp.segment_nuclei(section, method="unet", inplace=False, measure=False, block_px=block_px)["nuclei"]
        for block_px in (2048, 256)
    )
    same = set(shapely.to_wkb(whole.geometry)) & set(shapely.to_wkb(parts.geometry))
    assert len(same) >= 0.995 * max(len(whole), len(parts)) > 100


def test_what_it_cannot_see_is_refused(unet):
    with pytest.raises(ValueError, match='"unet" sees at most 0.75 um/px, and the image has 0.9; "watershed"'):
        unet(tissue(120)[0], 0.9)
    with pytest.raises(ValueError, match="not known"):
        hc.pp.segment_nuclei(hc.datasets.synthetic_tissue(size_px=400), method="unet", device="abacus")


def test_the_weights_are_small():
    assert WEIGHTS.stat().st_size < 3e6


def test_real_nuclei_are_outlined_better_than_by_haematoxylin_alone(data_dir, unet):
    """On glioblastoma, which the network never saw; figures in docs/nuclei.md."""
    truths, founds = [], []
    for file in sorted((data_dir / "gbm_nuclei").glob("*_inst.png")):
        image = np.asarray(Image.open(str(file).replace("_inst", "")).convert("RGB"))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = unet(image, 0.25)
        for labels, out in ((np.asarray(Image.open(file)).astype(int), truths), (found, founds)):
            out.append(np.where(labels > 0, labels + 1000 * len(out), 0).ravel())
    total = segmentation_scores(np.concatenate(truths), np.concatenate(founds))
    assert total["f1"] > 0.915
    assert total["pq"] > 0.735
