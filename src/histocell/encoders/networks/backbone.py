"""Networks behind one interface: embeddings, and patch tokens where there are any."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from histocell._core.errors import listing

if TYPE_CHECKING:
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer
    from torch import Tensor

_TOKEN_POOLINGS = ("cls", "mean", "cls_mean")
_POOLER_HEADS = 8


class Backbone(nn.Module):
    """A network that embeds normalised images. This one returns the output as it is and has no tokens.

    Parameters
    ----------
    network
        Maps float images, shape ``(n, 3, h, w)``, to embeddings, shape ``(n, dim)``.

    Attributes
    ----------
    poolings
        Values of `pool`; the first is the definition of the authors.
    patch_px
        Edge of a token in px of the input; `None` for a network without a grid of tokens.
    n_blocks
        Number of transformer blocks; `None` for other networks.
    """

    poolings: tuple[str, ...] = ("native",)
    patch_px: int | None = None
    n_blocks: int | None = None

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.trunk = network

    def forward(self, images: Tensor, *, pool: str | None = None) -> Tensor:
        """Embeddings, shape ``(n, dim)``."""
        self.check_pool(pool)
        out = self.trunk(images)
        if not isinstance(out, torch.Tensor) or out.ndim != 2 or len(out) != len(images):
            got = f"shape {tuple(out.shape)}" if isinstance(out, torch.Tensor) else type(out).__name__
            msg = f"{type(self.trunk).__name__} must give embeddings of shape (n, dim) for {len(images)} images, not {got}"
            raise ValueError(msg)
        return out

    def tokens(self, images: Tensor, *, block: int = -1) -> Tensor:
        """Patch tokens, row by row, shape ``(n, rows * columns, width)``: no class token, no registers.

        Parameters
        ----------
        images
            Normalised, shape ``(n, 3, h, w)``.
        block
            ``-1`` for the tokens after the final normalisation; else the output of this block, not normalised: from 0,
            or counted from the last with ``-2``.
        """
        raise self._no_tokens()

    def compile_blocks(self) -> None:
        """Compile the network: a transformer block by block, as all blocks share one compiled program."""
        self.trunk.compile()

    def check_pool(self, pool: str | None) -> str:
        """`pool`, or the pooling of the authors where it is `None`; `ValueError` for one that the network has not."""
        if pool is None:
            return self.poolings[0]
        if pool not in self.poolings:
            msg = f"{type(self.trunk).__name__} cannot pool by {pool!r}; it can by {listing(self.poolings)}"
            raise ValueError(msg)
        return pool

    def _no_tokens(self) -> ValueError:
        return ValueError(
            f"{type(self.trunk).__name__} has no grid of tokens; use a vision transformer, or another pooling"
        )

    def check_block(self, block: int) -> int | None:
        """The index of a block from 0; `None` for the final, normalised tokens."""
        if self.n_blocks is None:
            raise self._no_tokens()
        if not -self.n_blocks <= block < self.n_blocks:
            msg = f"block must lie in {-self.n_blocks} ... {self.n_blocks - 1}, not {block}"
            raise ValueError(msg)
        return None if block == -1 else block % self.n_blocks


class TransformerBackbone(Backbone):
    """A vision transformer of timm.

    Parameters
    ----------
    network
        The transformer.
    pooling
        The definition of its authors; by default what the module itself returns.
    """

    trunk: VisionTransformer | Eva

    def __init__(self, network: VisionTransformer | Eva, pooling: str = "native") -> None:
        super().__init__(network)
        self.prefix_tokens = int(network.num_prefix_tokens)
        self.patch_px = int(network.patch_embed.patch_size[0])
        self.n_blocks = len(network.blocks)
        has_class = network.cls_token is not None
        headless = isinstance(network.head, nn.Identity) and isinstance(network.fc_norm, nn.Identity)
        if pooling == "native" and network.global_pool == "token" and headless:
            pooling = "cls"  # the same, by its name
        known = _TOKEN_POOLINGS if has_class else ("mean",)
        self.poolings = (pooling, *(other for other in known if other != pooling))

    def forward(self, images: Tensor, *, pool: str | None = None) -> Tensor:
        """Embeddings, shape ``(n, dim)``."""
        pool = self.check_pool(pool)
        features = self.features(images)
        if pool == "native":
            return self.trunk.forward_head(features)
        return self.pool_tokens(features, pool)

    def features(self, images: Tensor) -> Tensor:
        """All tokens after the final normalisation, class token first."""
        return self.trunk.forward_features(images)

    def pool_tokens(self, features: Tensor, pool: str) -> Tensor:
        """``"cls"``, ``"mean"`` or ``"cls_mean"`` of :meth:`features`; registers never enter."""
        if pool == "cls":
            return features[:, 0]
        mean = features[:, self.prefix_tokens :].mean(dim=1)
        return mean if pool == "mean" else torch.cat([features[:, 0], mean], dim=1)

    def tokens(self, images: Tensor, *, block: int = -1) -> Tensor:
        """Patch tokens, row by row, shape ``(n, rows * columns, width)``: as :meth:`Backbone.tokens`."""
        index = self.check_block(block)
        if index is None:
            return self.features(images)[:, self.prefix_tokens :]
        blocks = self.trunk.forward_intermediates(
            images, indices=[index], norm=False, stop_early=True, output_fmt="NLC", intermediates_only=True
        )
        return cast("list[Tensor]", blocks)[0]

    def compile_blocks(self) -> None:
        """Compile the blocks, which share one compiled program."""
        for block in self.trunk.blocks:
            block.compile()


class AttentionalPooler(nn.Module):
    """A learnt query that attends to all tokens.

    Parameters
    ----------
    dim
        Width of the query and of the output.
    context_dim
        Width of the tokens.
    """

    def __init__(self, dim: int, context_dim: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, dim) * dim**-0.5)
        self.attn = nn.MultiheadAttention(dim, _POOLER_HEADS, kdim=context_dim, vdim=context_dim, batch_first=True)
        self.ln_q = nn.LayerNorm(dim)
        self.ln_k = nn.LayerNorm(context_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens, shape ``(n, length, context_dim)``, to ``(n, 1, dim)``."""
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


class AveragedFeatures(Backbone):
    """The last feature map of a network of timm that was made with ``features_only=True``, averaged over its area."""

    def forward(self, images: Tensor, *, pool: str | None = None) -> Tensor:
        """Embeddings, shape ``(n, channels)``."""
        self.check_pool(pool)
        return self.trunk(images)[-1].mean(dim=(2, 3))


def as_backbone(network: nn.Module, pooling: str = "native") -> Backbone:
    """Wrap a network: a vision transformer of timm gives tokens, anything else its output alone.

    Parameters
    ----------
    network
        A module that maps normalised images to embeddings.
    pooling
        The definition of its authors, where it has tokens.
    """
    if isinstance(network, Backbone):
        return network
    if "timm" not in sys.modules:  # then it is none of its networks; importing it takes seconds
        return Backbone(network)
    from timm.layers import PatchEmbed
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    # subclasses order their tokens differently
    if type(network) in (VisionTransformer, Eva) and type(network.patch_embed) is PatchEmbed:
        return TransformerBackbone(cast("VisionTransformer | Eva", network), pooling)
    return Backbone(network)
