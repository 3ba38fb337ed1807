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


def pearson_loss(
    predicted: Tensor, target: Tensor, *, per: str = "type", eps: float = 1e-8, rows: Tensor | None = None
) -> Tensor:
    r"""Negative Pearson correlation, averaged.

    .. math:: -\frac{1}{C} \sum_c \frac{\mathrm{cov}(\hat y_c, y_c)}{\sqrt{\mathrm{var}(\hat y_c)\,\mathrm{var}(y_c) + \epsilon}}

    A column (or spot) that is constant contributes 0 and a finite gradient.

    Parameters
    ----------
    predicted, target
        Shape ``(n, n_types)``, or ``(n_nets, n, n_types)`` for one loss per net.
    per
        ``"type"``: across the spots of the batch for each type. ``"spot"``: across the types of each spot.
    eps
        Keeps the denominator and its gradient finite.
    rows
        Which rows count, 1 or 0, shape ``(n_nets, n)``; all by default.
    """
    if per not in {"type", "spot"}:
        msg = f"per must be 'type' or 'spot', not {per!r}"
        raise ValueError(msg)
    over_types = per == "spot"
    x, y = (
        each - _mean(each, rows, types=over_types).unsqueeze(-1 if over_types else -2) for each in (predicted, target)
    )
    variance = _mean(x * x, rows, types=over_types) * _mean(y * y, rows, types=over_types)
    correlation = _mean(x * y, rows, types=over_types) / torch.sqrt(variance + eps)
    return -(_mean(correlation.unsqueeze(-1), rows).mean(-1) if over_types else correlation.mean(-1))


def composite_loss(
    predicted: Tensor,
    target: Tensor,
    *,
    l1: float = 0.5,
    l2: float = 0.5,
    per: str = "type",
    eps: float = 1e-8,
    rows: Tensor | None = None,
) -> Tensor:
    r"""MSE + ``l1`` * MAE + ``l2`` * negative Pearson correlation.

    Parameters
    ----------
    predicted, target
        Shape ``(n, n_types)``, or ``(n_nets, n, n_types)`` for one loss per net.
    l1, l2
        Weights :math:`\lambda_1` of the absolute error and :math:`\lambda_2` of the correlation.
    per, eps, rows
        As in `pearson_loss`.

    References
    ----------
    arXiv 2507.07013, the loss of the CONCH + UNI abundance model.
    """
    error = predicted - target
    loss = _mean(error * error, rows).mean(-1)
    if l1:
        loss = loss + l1 * _mean(error.abs(), rows).mean(-1)
    if l2:  # 0 for a single row or type
        loss = loss + l2 * pearson_loss(predicted, target, per=per, eps=eps, rows=rows)
    return loss


def _mean(values: Tensor, rows: Tensor | None, *, types: bool = False) -> Tensor:
    """Mean over the types, or over the rows that count."""
    if types:
        return values.mean(-1)
    if rows is None:
        return values.mean(-2)
    return (values * rows.unsqueeze(-1)).sum(-2) / rows.sum(-1, keepdim=True)
