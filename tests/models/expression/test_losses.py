"""Losses of images and expression against those of the original implementations, with their gradients."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy import stats

from histocell.models.expression import losses
from histocell.models.finetuning import settings


@pytest.fixture(scope="module")
def arrays(parity_dir):
    with np.load(parity_dir / "seal_losses" / "inputs_and_arrays.npz") as file:
        return {name: torch.tensor(file[name]) for name in file.files}


@pytest.fixture(scope="module")
def values(parity_dir):
    return json.loads((parity_dir / "seal_losses" / "values.json").read_text())


def gradients(value, *of):
    return torch.autograd.grad(value, of)


def assert_gradient(found, expected):
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
def test_info_nce(arrays, values, temperature):
    loss = losses.symmetric_info_nce(arrays["z_img"], arrays["z_gene"], temperature=temperature)
    assert loss.item() == pytest.approx(values[f"infonce_T{temperature}"]["symmetric_mean"], abs=1e-10)


def test_gradient_of_info_nce(arrays):
    image, genes = arrays["z_img"].clone().requires_grad_(), arrays["z_gene"].clone().requires_grad_()
    found = gradients(losses.symmetric_info_nce(image, genes), image, genes)
    assert_gradient(found[0], arrays["grad_infonce_T0.05_img"])
    assert_gradient(found[1], arrays["grad_infonce_T0.05_gene"])


def test_bleep(arrays, values):
    image, spots = arrays["bleep_img"].clone().requires_grad_(), arrays["bleep_spot"].clone().requires_grad_()
    loss = losses.bleep(image, spots)
    assert loss.item() == pytest.approx(values["bleep_T1.0"], abs=1e-10)
    found = gradients(loss, image, spots)
    assert_gradient(found[0], arrays["grad_bleep_T1.0_img"])
    assert_gradient(found[1], arrays["grad_bleep_T1.0_spot"])
    halved = losses.bleep(image, spots, temperature=0.5)
    assert halved.item() == pytest.approx(values["bleep_T0.5_CLIPModel_divides"], abs=1e-10)


@pytest.mark.parametrize("case", ["plain", "tricky"])
def test_losses_of_genes(arrays, values, case):
    predicted, true, expected = arrays[f"{case}_pred"], arrays[f"{case}_target"], values[case]
    np.testing.assert_allclose(losses.gene_correlation(predicted, true), arrays[f"{case}_rho_gene"], atol=1e-5)
    barlow = float(losses.barlow_diagonal(predicted, true))
    assert barlow == pytest.approx(expected["barlow_std_mse"]["barlow_part"], rel=1e-5)
    assert float(losses.pcc(predicted, true)) == pytest.approx(expected["pcc"]["raw"], rel=1e-5)


def test_reconstruction(arrays, values):
    predicted = arrays["plain_pred"].clone().requires_grad_()
    true, std = arrays["plain_target"], arrays["plain_gene_std"]
    squares = losses.standardized_mse(predicted, true, std)
    assert squares.item() == pytest.approx(values["plain"]["standardized_mse"]["raw"], rel=1e-5)
    assert_gradient(gradients(squares, predicted)[0], arrays["grad_standardized_mse_pred"])
    loss = losses.reconstruction(predicted, true, std)
    assert loss.item() == pytest.approx(values["plain"]["barlow_std_mse"]["scaled"], rel=1e-5)
    assert_gradient(gradients(10 * loss, predicted)[0], arrays["grad_barlow_std_mse_pred"])
    assert_gradient(gradients(losses.pcc(predicted, true), predicted)[0], arrays["grad_pcc_pred"])


@pytest.mark.parametrize("case", ["plain", "tricky"])
@pytest.mark.parametrize("name", settings.LOSSES)
def test_losses_by_name(arrays, values, case, name):
    predicted, true, std = (arrays[f"{case}_{what}"] for what in ("pred", "target", "gene_std"))
    found = losses.RECONSTRUCTIONS[name](predicted, true, std)
    if case == "tricky" and name in ("seal", "standardized_mse"):
        assert found < 1e3  # the original divides by 1e-8 for gene 11: 9e11
        return
    original = {"seal": "barlow_std_mse", "negative_binomial": "negbin"}.get(name, name)
    assert float(found) == pytest.approx(values[case][original]["scaled"], rel=1e-5)


def test_predictions_below_0_have_a_likelihood():
    predicted = torch.full((4, 3), -2.0, requires_grad=True)
    loss = losses.negative_binomial(predicted, torch.zeros(4, 3))
    assert loss.item() == pytest.approx(0, abs=1e-6)  # no count where none is expected
    assert torch.isfinite(gradients(loss, predicted)[0]).all()


def test_the_negative_binomial_is_that_of_scipy():
    rng = np.random.default_rng(0)
    counts, mean = rng.integers(0, 20, (30, 4)), rng.uniform(0.5, 20, (30, 4))
    expected = -stats.nbinom.logpmf(counts, 0.1, 0.1 / (0.1 + mean)).mean()
    found = losses.negative_binomial(torch.tensor(np.log1p(mean)), torch.tensor(np.log1p(counts)))
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_sum_of_both(arrays, values):
    contrast = losses.symmetric_info_nce(arrays["z_img"], arrays["z_gene"])
    rest = losses.reconstruction(arrays["plain_pred"], arrays["plain_target"], arrays["plain_gene_std"])
    assert float(contrast + rest) == pytest.approx(values["total_example"]["value"], rel=1e-5)


def test_genes_that_do_not_vary_have_no_weight(arrays):
    """Gene 11 has no deviation in training: the original divides by 1e-8 there."""
    predicted, true, std = (arrays[f"tricky_{name}"] for name in ("pred", "target", "gene_std"))
    others = [gene for gene in range(60) if gene != 11]
    expected = losses.standardized_mse(predicted[:, others], true[:, others], std[others])
    assert float(losses.standardized_mse(predicted, true, std)) == pytest.approx(float(expected), rel=1e-6)
    assert losses.standardized_mse(predicted, true, torch.zeros(60)) == 0


def test_constant_genes_give_finite_gradients():
    predicted = torch.ones(8, 3, requires_grad=True)
    loss = losses.reconstruction(predicted, torch.zeros(8, 3), torch.zeros(3)) + losses.pcc(
        predicted, torch.zeros(8, 3)
    )
    assert torch.isfinite(gradients(loss, predicted)[0]).all()
