"""Layers of Hist2Cell: graph attention, layer normalisation over a whole graph, transformer blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor


class GATv2(nn.Module):
    r"""Graph attention with a dynamic score; every node attends to its neighbours and to itself.

    .. math:: e_{ij} = a^\top \mathrm{LeakyReLU}(W_l x_j + W_r x_i), \quad
        h_i = \sum_j \mathrm{softmax}_j(e_{ij})\, W_l x_j + b

    Parameters
    ----------
    n_features
        Input width.
    width
        Output width, of all heads side by side.
    n_heads
        Number of heads.

    References
    ----------
    Brody, Alon, Yahav: How attentive are graph attention networks? (ICLR 2022).
    """

    def __init__(self, n_features: int, width: int, *, n_heads: int) -> None:
        super().__init__()
        self.lin_l = nn.Linear(n_features, width)
        self.lin_r = nn.Linear(n_features, width)
        self.att = nn.Parameter(torch.empty(1, n_heads, width // n_heads))
        self.bias = nn.Parameter(torch.zeros(width))
        for weight in (self.lin_l.weight, self.lin_r.weight, self.att):
            nn.init.xavier_uniform_(weight)
        for linear in (self.lin_l, self.lin_r):
            nn.init.zeros_(linear.bias)

    def attention(self, x: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pairs with a loop at each node, the weight of each pair and head, and the messages of the nodes."""
        n_nodes, (_, n_heads, width) = len(x), self.att.shape
        loops = torch.arange(n_nodes, device=x.device).expand(2, -1)
        source, target = pairs = torch.cat([pairs[:, pairs[0] != pairs[1]], loops], dim=1)
        left, right = (linear(x).view(n_nodes, n_heads, width) for linear in (self.lin_l, self.lin_r))
        score = (F.leaky_relu(left[source] + right[target], 0.2) * self.att).sum(dim=-1)
        # A softmax over the pairs of each target; without its largest score, so that nothing overflows.
        into = target[:, None].expand_as(score)
        largest = torch.full_like(score[:n_nodes], -torch.inf).scatter_reduce(0, into, score, "amax")
        weight = (score - largest[target].detach()).exp()
        return pairs, weight / torch.zeros_like(largest).index_add(0, target, weight)[target], left

    def forward(self, x: Tensor, pairs: Tensor) -> Tensor:
        """New features of the nodes; `pairs` has shape ``(2, n_pairs)``: the neighbour, and the node that sees it."""
        (source, target), weight, left = self.attention(x, pairs)
        out = torch.zeros_like(left).index_add(0, target, weight[..., None] * left[source])
        return out.flatten(1) + self.bias


class GraphLayerNorm(nn.Module):
    """One mean and one standard deviation over all nodes and features of a graph, then a scale and shift of each feature."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalised features; each depends on all nodes."""
        centered = x - x.mean()
        return centered / (centered.square().mean().sqrt() + self.eps) * self.weight + self.bias


class TwoLayers(nn.Module):
    """Two linear layers with GELU between them, and dropout after each."""

    def __init__(self, n_in: int, hidden: int, n_out: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(n_in, hidden), nn.Linear(hidden, n_out)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Shape ``(n, n_out)``."""
        return self.drop(self.fc2(self.drop(F.gelu(self.fc1(x)))))


class Attention(nn.Module):
    """Self-attention of several heads over the nodes, as one sequence."""

    def __init__(self, width: int, *, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Shape ``(n, width)``."""
        query, key, value = self.qkv(x).view(1, len(x), 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return self.drop(self.proj(mixed[0].transpose(0, 1).flatten(1)))


class Block(nn.Module):
    """A transformer block with normalisation before attention and before the two layers."""

    def __init__(self, width: int, *, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, n_heads=n_heads, dropout=dropout)
        self.mlp = TwoLayers(width, 2 * width, width, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Shape ``(n, width)``."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))
