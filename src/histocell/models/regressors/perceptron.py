"""The net of the MLP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


class Perceptron(nn.Module):
    """Linear layers with SiLU between them.

    Parameters
    ----------
    n_features, n_targets
        Input and output width.
    hidden
        Widths of the hidden layers.
    layer_norm, dropout
        Layer normalisation before, dropout after each SiLU.
    """

    def __init__(
        self, n_features: int, n_targets: int, *, hidden: tuple[int, ...], layer_norm: bool, dropout: float
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            msg = f"dropout must lie in [0, 1), not {dropout}"
            raise ValueError(msg)
        widths = [n_features, *hidden]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.norms = nn.ModuleList(nn.LayerNorm(width) if layer_norm else nn.Identity() for width in hidden)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(widths[-1], n_targets)

    def forward(self, x: Tensor) -> Tensor:
        """Predicted targets, shape ``(n, n_targets)``."""
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = self.dropout(nn.functional.silu(norm(layer(x))))
        return self.output(x)
