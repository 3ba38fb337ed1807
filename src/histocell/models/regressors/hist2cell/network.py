"""The network of Hist2Cell, on features of patches or, with its ResNet18, on patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from histocell.models.regressors.hist2cell.layers import Block, GATv2, GraphLayerNorm, TwoLayers

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

WIDTH, N_HEADS, N_BLOCKS = 256, 8, 3
TRUNK = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


class Stages(NamedTuple):
    """What the network computes on its way, each with one row per node.

    Attributes
    ----------
    gat, local
        Graph attention, before and after its normalisation.
    tokens
        After the transformer.
    spot
        Of the node alone.
    fused
        Mean of `spot`, `local` and `tokens`.
    heads
        Predictions from `spot`, `local`, `tokens` (not below 0) and `fused`, ``(4, n, n_targets)``.
    """

    gat: Tensor
    local: Tensor
    tokens: Tensor
    spot: Tensor
    fused: Tensor
    heads: Tensor


class Transformer(nn.Module):
    """Blocks over the nodes without positions, and a head."""

    def __init__(self, n_targets: int, *, width: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, n_heads=N_HEADS, dropout=dropout) for _ in range(N_BLOCKS))
        self.norm = nn.LayerNorm(width)
        self.head = TwoLayers(width, width // 2, n_targets)

    def forward(self, x: Tensor, parts: list[Tensor] | None) -> Tensor:
        """Tokens of the nodes; nodes of different `parts` do not attend to each other."""
        if parts is None:
            return self._encode(x)
        out = torch.empty_like(x)
        for part in parts:
            out[part] = self._encode(x[part])
        return out

    def _encode(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Hist2CellNet(nn.Module):
    """Hist2Cell: what a spot shows, its neighbours by graph attention, and all spots by a transformer.

    The names of the parameters are those of the original.

    Parameters
    ----------
    n_features
        Width of the features of a node; 512 are those of ResNet18.
    n_targets
        Number of outputs.
    node_norm
        Whether the output of the graph attention is normalised within each node, or over all of them as in the original.
    nonnegative
        Whether outputs end in a ReLU, as in the original.
    dropout
        In the transformer, while it trains.
    width
        Width of the hidden features, a multiple of 8.

    References
    ----------
    Zhao et al.: Hist2Cell: deciphering fine-grained cellular architectures from histology images (bioRxiv 2024,
    doi:10.1101/2024.02.17.580852).
    """

    def __init__(
        self,
        n_features: int,
        n_targets: int,
        *,
        node_norm: bool = False,
        nonnegative: bool = True,
        dropout: float = 0.3,
        width: int = WIDTH,
    ) -> None:
        super().__init__()
        self.nonnegative = nonnegative
        self.conv1 = GATv2(n_features, width, n_heads=N_HEADS)
        self.norm1 = nn.LayerNorm(width) if node_norm else GraphLayerNorm(width)
        self.cell_transformer = Transformer(n_targets, width=width, dropout=dropout)
        self.spot_fc = nn.Linear(n_features, width)
        self.spot_head, self.local_head, self.fused_head = (TwoLayers(width, 4 * width, n_targets) for _ in range(3))

    def stages(self, x: Tensor, pairs: Tensor, parts: list[Tensor] | None = None) -> Stages:
        """Every stage for nodes with features `x`, ``(n, n_features)``, and neighbours `pairs`, ``(2, n_pairs)``.

        `parts` are the nodes that the transformer sees together; by default all are one sequence, as in the original.
        """
        gat = self.conv1(x, pairs)
        local = self.norm1(gat)
        tokens = self.cell_transformer(local, parts)
        spot = self.spot_fc(x)
        fused = (spot + local + tokens) / 3
        overall = self.cell_transformer.head(tokens)
        heads = [self.spot_head(spot), self.local_head(local), overall, self.fused_head(fused)]
        if self.nonnegative:
            heads[2] = heads[2].relu()
        return Stages(gat, local, tokens, spot, fused, torch.stack(heads))

    def forward(self, x: Tensor, pairs: Tensor, parts: list[Tensor] | None = None) -> Tensor:
        """Predictions, ``(n, n_targets)``: the mean of the four heads."""
        mean = self.stages(x, pairs, parts).heads.mean(dim=0)
        return mean.relu() if self.nonnegative else mean


class Hist2CellImageNet(nn.Module):
    """Hist2Cell from patches on: ResNet18, whose features go to `Hist2CellNet`; the whole can be trained.

    Parameters
    ----------
    n_targets
        Number of outputs.
    trunk_weights
        A file of weights of ResNet18, ``.safetensors`` or ``.pth``, with names as in timm and torchvision or as in the
        original; random where it is not given. Nothing is downloaded.

    Examples
    --------
    >>> import torch
    >>> from histocell.models.regressors.hist2cell.network import Hist2CellImageNet
    >>> net = Hist2CellImageNet(80).eval()
    >>> sum(weight.numel() for weight in net.parameters())
    14232064
    >>> with torch.no_grad():
    ...     net(torch.rand(3, 3, 64, 64), torch.tensor([[0, 1], [1, 0]])).shape
    torch.Size([3, 80])
    """

    def __init__(self, n_targets: int, *, trunk_weights: str | Path | None = None) -> None:
        super().__init__()
        import timm

        self.trunk = timm.create_model("resnet18", pretrained=False, num_classes=0)
        self.net = Hist2CellNet(512, n_targets)
        if trunk_weights is not None:
            self.trunk.load_state_dict(read_trunk(trunk_weights))

    def forward(self, patches: Tensor, pairs: Tensor) -> Tensor:
        """Predictions for patches ``(n, 3, height, width)``, normalised as ImageNet is; see `Hist2CellNet`."""
        return self.net(self.trunk(patches), pairs)


def read_trunk(path: str | Path) -> dict[str, Tensor]:
    """Weights of ResNet18 without its classifier, under the names of timm."""
    if str(path).endswith(".safetensors"):
        from safetensors.torch import load_file

        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    state = {name: value for name, value in state.items() if not name.startswith("fc.")}
    return original_names(state) if any(name.startswith("resnet18.") for name in state) else state


def original_names[T](state: Mapping[str, T]) -> dict[str, T]:
    """The entries of the ResNet18 of the original under the names of timm, without its other entries."""
    parts = [(name.split("."), value) for name, value in state.items()]
    return {".".join([TRUNK[name[1]], *name[2:]]): value for name, value in parts if name[0] == "resnet18"}
