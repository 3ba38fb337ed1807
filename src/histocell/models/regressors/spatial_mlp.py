"""A perceptron on a spot and the set of its neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from histocell.models import training
from histocell.models.regressors.neighborhood import NeighborhoodConfig, NeighborhoodRegressor
from histocell.models.regressors.perceptron import Perceptron, composite_loss
from histocell.models.scaling import TRANSFORMS
from histocell.models.settings import limited

if TYPE_CHECKING:
    from torch import Tensor

    from histocell.models.folds import Fold
    from histocell.models.regressors.graph import Graph

_ROWS = 4096  # predicted at once
_POOLS = {"mean": ("mean",), "max": ("max",), "both": ("mean", "max")}


@dataclass(frozen=True)
class SpatialMLPConfig(training.Schedule, NeighborhoodConfig):
    """Settings of `SpatialMLP`; those of the training are in `histocell.models.training.Schedule`.

    Attributes
    ----------
    width
        Width of what is learnt of the spot, and of each neighbour.
    hidden
        Widths of the layers after both were set side by side.
    pool
        How the neighbours are put together: ``"mean"``, ``"max"`` or ``"both"``.
    dropout
        After each hidden layer.
    l1, l2, pearson_per
        The loss, as in `histocell.models.MLP`.
    """

    target_transform: str = limited("standard", choices=TRANSFORMS)
    ridge_share: float = limited(0.5, least=0, most=1)
    width: int = limited(256, least=1)
    hidden: tuple[int, ...] = limited((256, 128, 128), least=1)
    pool: str = limited("both", choices=tuple(_POOLS))
    dropout: float = limited(0.2, least=0, below=1)
    l1: float = limited(0.5, least=0)
    l2: float = limited(0.5, least=0)
    pearson_per: str = limited("type", choices=("type", "spot"))


class SpatialMLP(NeighborhoodRegressor):
    r"""Perceptron on a spot and its neighbours, whose order does not count, blended with a ridge regression.

    .. math:: \hat y_i = \rho\bigl(\phi(x_i),\ \mathrm{pool}_{j \in N(i)}\, \psi(x_j)\bigr)

    where `pool` is the mean, the maximum, or both. A row without neighbours is predicted from itself.

    References
    ----------
    Zaheer et al.: Deep sets (NeurIPS 2017). Nonchev et al.: DeepSpot: leveraging spatial context for enhanced spatial
    transcriptomics prediction from H&E images (medRxiv 2025), whose way to use the tiles around a spot this is.

    Examples
    --------
    >>> import numpy as np
    >>> import histocell as hc
    >>> X = np.random.default_rng(0).normal(size=(60, 4))
    >>> groups = np.repeat(["a", "b", "c"], 20)
    >>> places = hc.models.Places.of(np.tile(np.argwhere(np.ones((4, 5))) * 100.0, (3, 1)), groups)
    >>> model = hc.models.SpatialMLP(max_epochs=2, n_members=2)
    >>> model.fit(X, X[:, :2] + 5, groups=groups, places=places, rng=0).predict(X, places=places).shape
    (60, 2)
    """

    name = "spatial_mlp"
    config_class = SpatialMLPConfig
    config: SpatialMLPConfig
    _output = "rho.output.bias"

    def _build(self, n_features: int, n_targets: int) -> SetNet:
        config = self.config
        rho = Perceptron(
            config.width * (1 + len(_POOLS[config.pool])),
            n_targets,
            hidden=config.hidden,
            layer_norm=True,
            dropout=config.dropout,
        )
        return SetNet(n_features, config.width, rho, pools=_POOLS[config.pool], dropout=config.dropout)

    def _train(
        self, net: nn.Module, graph: Graph, Y: Tensor, fold: Fold, *, stop_after: int | None, desc: str
    ) -> training.History:
        config = self.config
        fit, held = (torch.as_tensor(rows, device=Y.device) for rows in fold)
        both = graph.take(torch.cat([fit, held]))
        is_held = torch.arange(len(both.x), device=Y.device) >= len(fit)
        same = is_held[both.pairs[0]] == is_held[both.pairs[1]]
        both = both._replace(pairs=both.pairs[:, same])
        rows, targets = torch.arange(len(both.x), device=Y.device), Y[torch.cat([fit, held])]
        return training.train(
            OnGraph(net, both),
            partial(composite_loss, l1=config.l1, l2=config.l2, per=config.pearson_per),
            (rows[~is_held], targets[~is_held]),
            schedule=config,
            validation=(rows[is_held], targets[is_held]) if len(held) else None,
            stop_after=stop_after,
            desc=desc,
        )

    def _apply(self, net: nn.Module, graph: Graph) -> Tensor:
        rows = torch.arange(len(graph.x), device=graph.x.device)
        on_graph = OnGraph(net, graph)
        return torch.cat([on_graph(part) for part in rows.split(_ROWS)])


class SetNet(nn.Module):
    """What a spot shows beside what its neighbours do, whatever their order.

    Parameters
    ----------
    n_features, width
        Input width, and width of what is learnt of each row.
    rho
        The net on both, side by side.
    pools
        ``"mean"`` and ``"max"`` over the neighbours, or one of them.
    dropout
        After each hidden layer.
    """

    def __init__(self, n_features: int, width: int, rho: nn.Module, *, pools: tuple[str, ...], dropout: float) -> None:
        super().__init__()
        self.phi, self.psi = (
            nn.Sequential(nn.Linear(n_features, width), nn.LayerNorm(width), nn.SiLU(), nn.Dropout(dropout))
            for _ in range(2)
        )
        self.rho, self.pools = rho, pools

    def forward(self, x: Tensor, neighbors: Tensor, there: Tensor) -> Tensor:
        """Predictions for rows ``(n, n_features)`` with `neighbors` ``(n, most, n_features)`` that are `there` or not."""
        each, there = self.psi(neighbors), there[..., None]
        parts = [self.phi(x)]
        if "mean" in self.pools:
            parts.append((each * there).sum(dim=1) / there.sum(dim=1).clamp(min=1))
        if "max" in self.pools:
            # Of no neighbours at all it is 0, as is the mean.
            largest = each.masked_fill(~there, -torch.inf).amax(dim=1) if each.shape[1] else torch.zeros_like(parts[0])
            parts.append(torch.where(there.any(dim=1), largest, 0.0))
        return self.rho(torch.cat(parts, dim=1))


class OnGraph(nn.Module):
    """A `SetNet` that takes numbers of rows and finds their features and neighbours itself."""

    def __init__(self, net: nn.Module, graph: Graph) -> None:
        super().__init__()
        self.net, self.graph = net, graph
        self.neighbors, self.there = graph.table()

    def forward(self, rows: Tensor) -> Tensor:
        """Predictions for the rows."""
        x = self.graph.x
        return self.net(x[rows], x[self.neighbors[rows]], self.there[rows])
