"""Vision towers that pool their tokens by attention: CONCH, CONCH v1.5, the image side of OmiCLIP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from histocell.encoders.networks.backbone import TransformerBackbone

if TYPE_CHECKING:
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer
    from torch import Tensor

_HEADS = 8


class AttentionalPooler(nn.Module):
    """Learnt queries that attend to all tokens.

    Parameters
    ----------
    dim
        Width of the queries and of the output.
    context_dim
        Width of the tokens.
    n_queries
        Number of queries.
    """

    def __init__(self, dim: int, context_dim: int, n_queries: int = 1) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(n_queries, dim) * dim**-0.5)
        self.attn = nn.MultiheadAttention(dim, _HEADS, kdim=context_dim, vdim=context_dim, batch_first=True)
        self.ln_q = nn.LayerNorm(dim)
        self.ln_k = nn.LayerNorm(context_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens, shape ``(n, length, context_dim)``, to ``(n, n_queries, dim)``."""
        context = self.ln_k(tokens)
        query = self.ln_q(self.query).expand(len(tokens), -1, -1)
        return self.attn(query, context, context, need_weights=False)[0]


class CocaVision(TransformerBackbone):
    """A vision transformer, an attentional pooler with one query, a LayerNorm and a projection into the space of texts.

    The names of its parts are those of the checkpoints of CONCH, below ``visual.``.

    Parameters
    ----------
    trunk
        A vision transformer of timm.
    dim
        Width of the embedding.
    projected
        Whether there is a projection.
    pooling
        The definition of its authors: ``"attention"``, before the projection, or ``"projected"``, after it (the length
        is left as it is).
    """

    def __init__(
        self, trunk: VisionTransformer | Eva, dim: int, *, projected: bool = True, pooling: str = "attention"
    ) -> None:
        super().__init__(trunk, pooling)
        self.attn_pool_contrast = AttentionalPooler(dim, trunk.embed_dim)
        self.ln_contrast = nn.LayerNorm(dim)
        self.proj_contrast = nn.Parameter(torch.randn(dim, dim) * dim**-0.5) if projected else None
        own = ("attention", "projected") if projected else ("attention",)
        self.poolings = (pooling, *(other for other in (*own, *self.poolings) if other != pooling))

    def forward(self, images: Tensor, *, pool: str | None = None) -> Tensor:
        """Embeddings, shape ``(n, dim)``."""
        pool = self.check_pool(pool)
        features = self.features(images)
        if pool not in ("attention", "projected"):
            return self.pool_tokens(features, pool)
        pooled = self.ln_contrast(self.attn_pool_contrast(features)[:, 0])
        return pooled if pool == "attention" or self.proj_contrast is None else pooled @ self.proj_contrast
