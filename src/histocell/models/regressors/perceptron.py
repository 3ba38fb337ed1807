"""The net of the MLP."""

from __future__ import annotations

import torch
from torch import nn

from histocell.models import training


class Perceptron(nn.Module):
    """Linear layers with SiLU between them; initialised and dropped out by generators of its own.

    Parameters
    ----------
    n_features, n_targets
        Input and output width.
    hidden
        Widths of the hidden layers.
    layer_norm, dropout
        Layer normalisation before, dropout after each SiLU.
    seed
        Of the initial weights and of the dropout.
    """

    def __init__(
        self, n_features: int, n_targets: int, *, hidden: tuple[int, ...], layer_norm: bool, dropout: float, seed: int
    ) -> None:
        super().__init__()
        widths = [n_features, *hidden]
        source = training.generator(seed)
        self.layers = nn.ModuleList(_linear(a, b, source) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.norms = nn.ModuleList(nn.LayerNorm(width) if layer_norm else nn.Identity() for width in hidden)
        self.dropout = Dropout(dropout, seed)
        self.output = _linear(widths[-1], n_targets, source)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Predicted targets, shape ``(n, n_targets)``."""
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = self.dropout(nn.functional.silu(norm(layer(x))))
        return self.output(x)


class Dropout(nn.Module):
    """Dropout that leaves the global random numbers alone."""

    def __init__(self, p: float, seed: int) -> None:
        super().__init__()
        if not 0 <= p < 1:
            msg = f"dropout must lie in [0, 1), not {p}"
            raise ValueError(msg)
        self.p, self.seed = p, seed
        self.source: torch.Generator | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Zero a share of the values in training, scale the others up."""
        if not self.training or self.p == 0:
            return x
        if self.source is None or self.source.device != x.device:
            self.source = training.generator(self.seed, x.device)
        keep = torch.rand(x.shape, generator=self.source, device=x.device) >= self.p
        return x * keep / (1 - self.p)


def _linear(n_in: int, n_out: int, source: torch.Generator) -> nn.Linear:
    """A linear layer with torch's own initial distribution, drawn from `source`."""
    layer = nn.utils.skip_init(nn.Linear, n_in, n_out)
    bound = n_in**-0.5
    nn.init.uniform_(layer.weight, -bound, bound, generator=source)
    nn.init.uniform_(layer.bias, -bound, bound, generator=source)
    return layer
