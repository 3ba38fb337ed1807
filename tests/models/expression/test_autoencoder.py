"""The autoencoder of expression: its layers, its determinism, and flows against numerical determinants."""

from __future__ import annotations

import pytest
import torch

from histocell.models.expression.autoencoder import ExpressionAutoencoder, ImageDecoder, PlanarFlow
from histocell.models.training import seeded


def test_layers():
    net = ExpressionAutoencoder(2000, 384)
    shapes = [tuple(layer.weight.shape) for layer in net.modules() if isinstance(layer, torch.nn.Linear)]
    assert shapes == [(1024, 2000), (512, 1024), (384, 512), (512, 384), (1024, 512), (2000, 1024)]
    assert sum(isinstance(layer, torch.nn.BatchNorm1d) for layer in net.modules()) == 2


def test_codes_are_the_same_at_each_call():
    with seeded(0, torch.device("cpu")):
        net = ExpressionAutoencoder(20, 8, n_flows=3, sample=True, widths=(16, 12))
        expression = torch.rand(30, 20)
        first, second = net(expression), net(expression)
        assert not torch.equal(first.code, second.code)  # sampled in training
        assert first.divergence > 0
        net.eval()
        assert torch.equal(net.encode(expression), net.encode(expression))


def test_flow_says_the_change_of_volume():
    with seeded(1, torch.device("cpu")):
        flow = PlanarFlow(4).double()
        for parameter in flow.parameters():
            torch.nn.init.normal_(parameter)
        z = torch.randn(1, 4, dtype=torch.float64)
    matrix = torch.autograd.functional.jacobian(lambda x: flow(x)[0], z)[0, :, 0]
    assert flow(z)[1].item() == pytest.approx(float(torch.linalg.slogdet(matrix).logabsdet), abs=1e-6)


def test_decoders_start_from_the_means():
    mean = torch.linspace(0, 2, 20)
    decoder = ImageDecoder(8, 20, mean=mean)
    assert torch.allclose(decoder(torch.zeros(3, 8)).mean(dim=0), mean, atol=0.5)
    assert (decoder(torch.randn(50, 8) * 10) >= 0).all()
