"""InfoNCE beside the formula, the parity values and automatic gradients of the plain loss."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from histocell.models.alignment.contrastive import Alike, info_nce


def plain(first, second, scale, same=None):
    logits = scale * first @ second.T
    if same is not None:
        logits = logits.masked_fill(same, -torch.inf)
    own = torch.arange(len(first))
    return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2


def vectors(n, d, seed):
    return torch.as_tensor(np.random.default_rng(seed).normal(size=(n, d)))


@pytest.mark.parametrize("chunk", [1, 7, 24, 2048])
def test_parity(parity_dir, chunk):
    folder = parity_dir / "seal_losses"
    arrays, values = np.load(folder / "inputs_and_arrays.npz"), json.loads((folder / "values.json").read_text())
    for temperature in (0.05, 0.1, 1.0):
        image, genes = (torch.tensor(arrays[name], requires_grad=True) for name in ("z_img", "z_gene"))
        loss = info_nce(normalize(image, dim=1), normalize(genes, dim=1), 1 / temperature, chunk=chunk)
        expected = values[f"infonce_T{temperature}"]["symmetric_mean"]
        assert loss.item() == pytest.approx(expected, abs=1e-10)
        if temperature == 0.05:
            loss.backward()
            for found, name in ((image.grad, "img"), (genes.grad, "gene")):
                known = arrays[f"grad_infonce_T0.05_{name}"]
                np.testing.assert_allclose(found, known, atol=1e-5 * np.abs(known).max())


@pytest.mark.parametrize("chunk", [1, 5, 64])
@pytest.mark.parametrize("above", [None, 0.3])
def test_gradient_is_that_of_the_plain_loss(chunk, above):
    same, alike = None, None
    if above is not None:
        alike = Alike(normalize(vectors(23, 3, 3), dim=1), above)
        same = alike.vectors @ alike.vectors.T >= above
        same.fill_diagonal_(False)
        assert 0.1 < same.double().mean() < 0.6
    found = []
    for loss in (lambda *z: info_nce(*z, alike=alike, chunk=chunk), lambda *z: plain(*z, same)):
        inputs = [vectors(23, 4, 0), vectors(23, 4, 1), torch.tensor(9.0, dtype=torch.float64)]
        for each in inputs:
            each.requires_grad_()
        value = loss(normalize(inputs[0], dim=1), normalize(inputs[1], dim=1), inputs[2])
        (3 * value).backward()
        found.append([value.detach(), *(each.grad for each in inputs)])
    for ours, known in zip(*found, strict=True):
        torch.testing.assert_close(ours, known, rtol=1e-10, atol=1e-12)


def test_a_row_whose_negatives_are_all_left_out():
    ones = torch.ones(4, 2, dtype=torch.float64) / 2**0.5
    assert info_nce(ones, ones, 5.0, alike=Alike(ones, 0.9)).item() == pytest.approx(0)
    assert info_nce(ones, ones, 5.0).item() == pytest.approx(np.log(4))
