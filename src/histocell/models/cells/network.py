"""Networks of the cell transformers: tokens of modalities, of the place and of neighbours, and attention among them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

_MM = 1000.0  # coordinates are in um; their waves in mm
_NEAR_UM = 10.0  # distances are told apart from about so many um on


class Batch(NamedTuple):
    """Cells as the network sees them.

    Attributes
    ----------
    x
        Features of each cell, and of its neighbours after it: ``(n, 1 + n_neighbors, n_features)``.
    there
        Which modality of these there is: ``(n, 1 + n_neighbors, n_modalities)``.
    xy
        Coordinates of these in um from the middle of the section, ``(n, 1 + n_neighbors, 2)``; `None` where they do not
        matter.
    """

    x: Tensor
    there: Tensor
    xy: Tensor | None


class CellNet(nn.Module):
    """A transformer over the tokens of a cell; the mean of its own tokens tells the class.

    Parameters
    ----------
    widths
        Number of features of each modality.
    n_classes
        Number of classes.
    width, n_layers, n_heads, feedforward, dropout
        Of the transformer.
    tags
        Whether tokens carry a learnt tag of their modality.
    place
        Whether there is a token of the coordinates.
    relative
        Whether attention has a bias for each pair of kinds of tokens, and one for the distance of neighbours.
    """

    def __init__(
        self,
        widths: list[int],
        n_classes: int,
        *,
        width: int,
        n_layers: int,
        n_heads: int,
        feedforward: int,
        dropout: float,
        tags: bool,
        place: bool,
        relative: bool,
    ) -> None:
        super().__init__()
        self.widths, self.n_heads = widths, n_heads
        self.inputs = nn.ModuleList([nn.Linear(each, width) for each in widths])
        self.place = nn.Linear(width, width) if place else None
        n_kinds = 2 * len(widths) + 1  # its own modalities, those of neighbours, the place
        self.tags = nn.Parameter(torch.randn(n_kinds, width) * 0.02) if tags else None
        self.layers = nn.ModuleList([Layer(width, n_heads, feedforward, dropout) for _ in range(n_layers)])
        self.bias = nn.Parameter(torch.zeros(n_layers, n_heads, n_kinds, n_kinds)) if relative else None
        self.slope = nn.Parameter(torch.zeros(n_layers, n_heads)) if relative else None
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, n_classes)

    def forward(self, batch: Batch) -> Tensor:
        """Logits, ``(n, n_classes)``."""
        tokens, kinds, there, xy = self._tokens(batch)
        for layer, mask in zip(self.layers, self._masks(kinds, there, xy, tokens.dtype), strict=True):
            tokens = layer(tokens, mask)
        n_own = len(self.widths)
        own = torch.cat([there[:, :n_own], there[:, len(kinds) - 1 :]], 1) if self.place else there[:, :n_own]
        values = torch.cat([tokens[:, :n_own], tokens[:, -1:]], 1) if self.place else tokens[:, :n_own]
        pooled = (values * own[..., None]).sum(1) / own.sum(1, keepdim=True)
        return self.head(self.norm(pooled))

    def attention(self, batch: Batch) -> Tensor:
        """Attention from the tokens of a cell to each kind of tokens, ``(n, n_layers, n_own, n_kinds)``, the mean over heads.

        The last of its own tokens, and the last kind, are those of the place where there is one; attention to kinds that a cell
        does not have is 0. From a token that a cell does not have it means nothing.
        """
        tokens, kinds, there, xy = self._tokens(batch)
        to_kind = F.one_hot(kinds, 2 * len(self.widths) + 1).to(tokens.dtype)
        own = [*range(len(self.widths)), *([len(kinds) - 1] if self.place is not None else [])]
        found = []
        for layer, mask in zip(self.layers, self._masks(kinds, there, xy, tokens.dtype), strict=True):
            found.append(cast("Layer", layer).weights(tokens, mask).mean(dim=1)[:, own] @ to_kind)
            tokens = layer(tokens, mask)
        return torch.stack(found, dim=1)

    def _masks(self, kinds: Tensor, there: Tensor, xy: Tensor | None, dtype: torch.dtype) -> Iterator[Tensor]:
        """What each layer adds to the attention: minus infinity where there is no token, and what it learnt of kinds and distances."""
        hidden = ~there[:, None, None, :]  # of keys
        masked = torch.zeros_like(hidden, dtype=dtype).masked_fill(hidden, -torch.inf)
        for index in range(len(self.layers)):
            mask = masked
            if self.bias is not None and self.slope is not None:
                mask = mask + self.bias[index][:, kinds][:, :, kinds]
                if xy is not None:
                    apart = torch.log1p((xy[:, :, None] - xy[:, None]).norm(dim=-1) / _NEAR_UM)
                    mask = mask + self.slope[index][:, None, None] * apart[:, None]
            yield mask

    def _tokens(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Tokens of the cell, of its neighbours and of its place; their kinds, which there are, and where they lie."""
        parts = batch.x.split(self.widths, dim=-1)
        n_kinds, n_around = len(self.widths), batch.x.shape[1] - 1
        # (n, 1 + n_neighbors, n_modalities, width), the cell first
        each = torch.stack([layer(part) for layer, part in zip(self.inputs, parts, strict=True)], dim=2)
        tokens, there = each.flatten(1, 2), batch.there.flatten(1, 2)
        kinds = torch.arange(n_kinds, device=tokens.device).repeat(1 + n_around)
        kinds[n_kinds:] += n_kinds
        xy = None if batch.xy is None or not n_around else batch.xy.repeat_interleave(n_kinds, dim=1)
        if self.place is not None and batch.xy is not None:
            own = batch.xy[:, :1]
            tokens = torch.cat([tokens, self.place(waves(own, tokens.shape[-1]))], dim=1)
            there = torch.cat([there, torch.ones_like(there[:, :1])], dim=1)
            kinds = torch.cat([kinds, kinds.new_tensor([2 * n_kinds])])
            xy = None if xy is None else torch.cat([xy, own], dim=1)
        if self.tags is not None:
            tokens = tokens + self.tags[kinds]
        return tokens, kinds, there, xy


class Layer(nn.Module):
    """A layer of a transformer, normalised before attention and before the perceptron."""

    def __init__(self, width: int, n_heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.n_heads, self.dropout = n_heads, nn.Dropout(dropout)
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, feedforward), nn.Linear(feedforward, width)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Tokens ``(n, n_tokens, width)``; `mask` is added to the attention."""
        n, n_tokens, width = tokens.shape
        query, key, value = self._parts(tokens)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask.expand(n, self.n_heads, -1, n_tokens))
        tokens = tokens + self.dropout(self.out(mixed.transpose(1, 2).reshape(n, n_tokens, width)))
        inner = self.dropout(F.gelu(self.up(self.between(tokens))))
        return tokens + self.dropout(self.down(inner))

    def weights(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Attention of each token, a line, to each, ``(n, n_heads, n_tokens, n_tokens)``; lines sum to 1."""
        query, key, _ = self._parts(tokens)
        return (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5 + mask).softmax(dim=-1)

    def _parts(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of each head, ``(n, n_heads, n_tokens, width / n_heads)``."""
        n, n_tokens, width = tokens.shape
        parts = self.attention(self.before(tokens)).view(n, n_tokens, 3, self.n_heads, width // self.n_heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        return query, key, value


def waves(xy_um: Tensor, width: int) -> Tensor:
    """Coordinates in um as sines and cosines, ``(..., width)``: x in the first half, y in the second."""
    n_waves = width // 4
    frequency = 10_000.0 ** (-torch.arange(n_waves, device=xy_um.device, dtype=torch.float32) / n_waves)
    phase = (xy_um.float() / _MM)[..., None] * frequency
    return torch.cat([phase.sin(), phase.cos()], dim=-1).flatten(-2)
