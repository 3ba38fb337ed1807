"""The network of attention over the tiles of a slide, and its passage over slides of any size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from histocell._core.types import Floats
    from histocell.models.slides.bags import Bag


class AttentionNet(nn.Module):
    """Gated attention: the weighted mean of the tiles tells the outcome of the slide.

    Parameters
    ----------
    dim, n_out
        Numbers of features and of outputs.
    hidden, attention
        Widths of a tile, and of the two branches that weigh it.
    dropout
        Share of the numbers that are hidden while it learns.
    """

    def __init__(self, dim: int, n_out: int, *, hidden: int, attention: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Linear(dim, hidden)
        self.branch, self.gate = nn.Linear(hidden, attention), nn.Linear(hidden, attention)
        self.score, self.head = nn.Linear(attention, 1), nn.Linear(hidden, n_out)
        self.dropout = nn.Dropout(dropout)

    def tiles(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Each tile, ``(n, hidden)``, and the logarithm of its weight, up to a constant, ``(n,)``."""
        h = self.dropout(torch.relu(self.embed(x)))
        gated = self.dropout(torch.tanh(self.branch(h))) * self.dropout(torch.sigmoid(self.gate(h)))
        return h, self.score(gated)[:, 0]

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of the slide with tiles `x`, ``(n_out,)``."""
        h, score = self.tiles(x)
        return self.head(torch.softmax(score, dim=0) @ h)


def over_blocks(net: AttentionNet, bag: Bag, mean: Tensor, scale: Tensor) -> tuple[Floats, Floats]:
    """Outputs of a slide and the attention of its tiles, read a block at a time.

    The attention sums to 1; tiles without finite features have NaN. All is NaN where none has any.
    """
    scores = np.full(len(bag), np.nan)
    pooled, total, most = torch.zeros(net.embed.out_features, device=mean.device), 0.0, -np.inf
    with torch.no_grad():
        for start, tiles in bag.blocks():
            known = np.flatnonzero(np.isfinite(tiles).all(axis=1))
            if not len(known):
                continue
            part = tiles if len(known) == len(tiles) else tiles[known]
            h, score = net.tiles((torch.as_tensor(part, device=mean.device) - mean) * scale)
            scores[start + known] = score.cpu().numpy()
            higher = max(most, float(score.max()))
            weights = torch.exp(score - higher)
            shrunk = float(np.exp(most - higher))
            pooled, total = pooled * shrunk + weights @ h, total * shrunk + float(weights.sum())
            most = higher
        if not total:
            return np.full(net.head.out_features, np.nan), scores
        return net.head(pooled / total).double().cpu().numpy(), np.exp(scores - most) / total
