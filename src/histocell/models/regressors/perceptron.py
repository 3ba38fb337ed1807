"""The net of the MLP and its loss: squared error, absolute error and correlation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
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


def pearson_loss(predicted: Tensor, target: Tensor, *, per: str = "type", eps: float = 1e-8) -> Tensor:
    r"""Negative Pearson correlation, averaged.

    .. math:: -\frac{1}{C} \sum_c \frac{\mathrm{cov}(\hat y_c, y_c)}{\sqrt{\mathrm{var}(\hat y_c)\,\mathrm{var}(y_c) + \epsilon}}

    A column (or spot) that is constant contributes 0 and a finite gradient.

    Parameters
    ----------
    predicted, target
        Shape ``(n, n_types)``.
    per
        ``"type"``: across the spots of the batch for each type. ``"spot"``: across the types of each spot.
    eps
        Keeps the denominator and its gradient finite.
    """
    if per not in {"type", "spot"}:
        msg = f"per must be 'type' or 'spot', not {per!r}"
        raise ValueError(msg)
    dim = 0 if per == "type" else 1
    x = predicted - predicted.mean(dim, keepdim=True)
    y = target - target.mean(dim, keepdim=True)
    denominator = torch.sqrt((x * x).mean(dim) * (y * y).mean(dim) + eps)
    return -((x * y).mean(dim) / denominator).mean()


def composite_loss(
    predicted: Tensor, target: Tensor, *, l1: float = 0.5, l2: float = 0.5, per: str = "type", eps: float = 1e-8
) -> Tensor:
    r"""MSE + ``l1`` * MAE + ``l2`` * negative Pearson correlation.

    Parameters
    ----------
    predicted, target
        Shape ``(n, n_types)``.
    l1, l2
        Weights :math:`\lambda_1` of the absolute error and :math:`\lambda_2` of the correlation.
    per, eps
        As in `pearson_loss`.

    References
    ----------
    arXiv 2507.07013, the loss of the CONCH + UNI abundance model.
    """
    error = predicted - target
    loss = (error * error).mean()
    if l1:
        loss = loss + l1 * error.abs().mean()
    if l2 and predicted.shape[0 if per == "type" else 1] > 1:
        loss = loss + l2 * pearson_loss(predicted, target, per=per, eps=eps)
    return loss
