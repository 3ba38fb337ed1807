"""An autoencoder of gene expression whose code has the width of an image embedding, and the decoder of images."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

WIDTHS = (1024, 512)
_MAX_LOG_VARIANCE = 10.0


class Coded(NamedTuple):
    """What the autoencoder makes of a batch.

    Attributes
    ----------
    code
        Shape ``(n, dim)``: the mean at inference, a sample of it in training where there is a divergence to pay for.
    expression
        Decoded, shape ``(n, genes)``.
    divergence
        Of the distribution of the codes from a standard normal one, mean over rows; 0 without `sample`.
    """

    code: Tensor
    expression: Tensor
    divergence: Tensor


class PlanarFlow(nn.Module):
    """z + u tanh(w z + b), with u bent so that the map can be inverted.

    References
    ----------
    Rezende and Mohamed 2015, ICML, arXiv:1505.05770.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.randn(dim) * 0.01)
        self.w = nn.Parameter(torch.randn(dim) * 0.01)
        self.b = nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The image of z, shape ``(n, dim)``, and the logarithm of the change of volume, shape ``(n,)``."""
        product = self.w @ self.u
        u = self.u + (nn.functional.softplus(product) - 1 - product) * self.w / (self.w @ self.w + 1e-12)
        slope = torch.tanh(z @ self.w + self.b)
        volume = torch.log((1 + (1 - slope.square()) * (self.w @ u)).abs() + 1e-8)
        return z + slope[:, None] * u, volume


class ExpressionAutoencoder(nn.Module):
    """Genes - 1024 - 512 - dim and back, with a batch normalisation after each hidden layer of the encoder.

    Parameters
    ----------
    n_genes
        Number of genes.
    dim
        Width of the code, that of the image embedding.
    n_flows
        Planar flows after the code.
    sample
        Whether the codes of training are drawn around their means, and `Coded.divergence` says what they deviate from
        normal ones. At inference the code is the mean, always the same.
    widths
        Hidden layers.
    mean
        Mean of each gene over the training rows, where the decoder starts from.

    References
    ----------
    SEAL, arXiv:2602.14177; Kingma and Welling 2014, arXiv:1312.6114.
    """

    def __init__(
        self,
        n_genes: int,
        dim: int,
        *,
        n_flows: int = 0,
        sample: bool = False,
        widths: Sequence[int] = WIDTHS,
        mean: Tensor | None = None,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for wide, narrow in zip((n_genes, *widths), widths, strict=False):
            layers += [nn.Linear(wide, narrow), nn.BatchNorm1d(narrow), nn.ReLU()]
        self.encoder = nn.Sequential(*layers)
        self.to_mean = nn.Linear(widths[-1], dim)
        self.to_log_variance = nn.Linear(widths[-1], dim) if sample else None
        self.flows = nn.ModuleList(PlanarFlow(dim) for _ in range(n_flows))
        self.decoder = _decoder((dim, *reversed(widths), n_genes), mean)

    def forward(self, expression: Tensor) -> Coded:
        """Code, decoded expression and divergence of expression, shape ``(n, genes)``."""
        hidden = self.encoder(expression)
        code, divergence = self.to_mean(hidden), expression.new_zeros(())
        if self.training and self.to_log_variance is not None:
            mean, log_variance = code, self.to_log_variance(hidden).clamp(-_MAX_LOG_VARIANCE, _MAX_LOG_VARIANCE)
            code = mean + torch.randn_like(mean) * (log_variance / 2).exp()
            divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1).mean()
        for flow in self.flows:
            code, volume = flow(code)
            divergence = divergence - volume.mean() if self.to_log_variance is not None else divergence
        return Coded(code, self.decoder(code), divergence)

    def encode(self, expression: Tensor) -> Tensor:
        """The codes of expression, without sampling where the module is in evaluation."""
        return self(expression).code


class ImageDecoder(nn.Sequential):
    """Image embedding - 512 - genes, not below 0: expression under a patch.

    Parameters
    ----------
    dim
        Width of the embedding.
    n_genes
        Number of genes.
    mean
        Mean of each gene over the training rows. The decoder starts from it, since a gene that is below 0 in all rows has
        no gradient and would stay there.
    """

    def __init__(self, dim: int, n_genes: int, *, mean: Tensor | None = None) -> None:
        super().__init__(*_decoder((dim, WIDTHS[-1], n_genes), mean), nn.ReLU())


def _decoder(widths: Sequence[int], mean: Tensor | None) -> nn.Sequential:
    """Linear layers with ReLU between them; the last bias is the mean of the genes."""
    layers: list[nn.Module] = []
    for narrow, wide in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(narrow, wide), nn.ReLU()]
    last = layers[-2]
    if mean is not None and isinstance(last, nn.Linear):
        with torch.no_grad():
            last.bias.copy_(mean)
    return nn.Sequential(*layers[:-1])
