"""Hist2Cell on frozen embeddings: as published (mode ``paper``), or with predictions that hold whatever is beside them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from histocell.models.regressors.hist2cell import fitting
from histocell.models.regressors.hist2cell.network import N_HEADS, Hist2CellNet
from histocell.models.regressors.neighborhood import NeighborhoodConfig, NeighborhoodRegressor
from histocell.models.settings import limited

if TYPE_CHECKING:
    from torch import Tensor, nn

    from histocell.models.folds import Fold
    from histocell.models.places import Places
    from histocell.models.regressors.graph import Graph
    from histocell.models.training import History

DEFAULT_MODE = "fixed"


@dataclass(frozen=True)
class Hist2CellConfig(fitting.Steps, NeighborhoodConfig):
    """Settings of `Hist2Cell`; those of the training are in `histocell.models.regressors.hist2cell.fitting.Steps`.

    Attributes
    ----------
    mode
        ``"fixed"`` or ``"paper"``, which the other settings started from.
    width
        Width of the hidden features, a multiple of 8.
    dropout
        In the transformer.
    """

    mode: str = limited(DEFAULT_MODE, choices=("fixed", "paper"))
    width: int = limited(256, least=8)
    dropout: float = limited(0.3, least=0, below=1)


MODES: dict[str, dict[str, object]] = {
    "fixed": {
        "target_transform": "standard",
        "lr": 1e-3,
        "batch_size": 128,
        "n_steps_around": 1,
        "whole_sections": True,
        "max_epochs": 60,
        "patience": 10,
    },
    "paper": {"n_members": 1, "max_folds": 8},
}


class Hist2Cell(NeighborhoodRegressor):
    """Hist2Cell: a spot, its neighbours by graph attention, and its section by a transformer; the mean of four heads.

    It runs on embeddings, which take the place of the ResNet18 of the original: ``obsm["X_uni"]`` or, nearest to the
    original, the frozen ``timm/resnet18``. To train ResNet18 with it, on the pixels of patches, is not part of
    `histocell.tl.fit_abundance`; `histocell.models.regressors.hist2cell.network.Hist2CellImageNet` is that network.

    Parameters
    ----------
    mode
        ``"fixed"``: spots attend to the spots of their own section, features are normalised within each spot, and
        training ends where groups held out are predicted best. Predictions do not depend on what else is predicted. The
        mean of several nets, refitted on all training rows.
        ``"paper"``: as published. Batches of 16 spots and what lies two steps around them, of all sections together, one
        normalisation and one attention over the whole batch, MSE over all spots of a batch, Adam, 20 epochs. The
        prediction of a spot depends on the other spots of its batch, also on those of other sections. The original keeps
        the epoch that predicts the test data best; this does not, it keeps the last.
    config
        Settings of `Hist2CellConfig` that replace those of the mode.

    References
    ----------
    Zhao et al.: Hist2Cell: deciphering fine-grained cellular architectures from histology images (bioRxiv 2024,
    doi:10.1101/2024.02.17.580852).

    Examples
    --------
    >>> import numpy as np
    >>> import histocell as hc
    >>> X = np.random.default_rng(0).normal(size=(60, 4))
    >>> groups = np.repeat(["a", "b", "c"], 20)
    >>> places = hc.models.Places.of(np.tile(np.argwhere(np.ones((4, 5))) * 100.0, (3, 1)), groups)
    >>> model = hc.models.Hist2Cell(max_epochs=2, n_members=1, width=16)
    >>> model.fit(X, X[:, :2] + 5, groups=groups, places=places, rng=0).predict(X, places=places).shape
    (60, 2)
    """

    name = "hist2cell"
    config_class = Hist2CellConfig
    config: Hist2CellConfig
    _output = "fused_head.fc2.bias"

    def __init__(self, mode: str | None = None, **config: object) -> None:
        mode = mode or DEFAULT_MODE
        if not isinstance(mode, str) or mode not in MODES:
            msg = f"unknown mode {mode!r}; there are: {', '.join(MODES)}"
            raise ValueError(msg)
        super().__init__(**{**MODES[mode], **config, "mode": mode})
        if self.config.width % N_HEADS:
            msg = f"Hist2Cell: width must be a multiple of {N_HEADS}, not {self.config.width}"
            raise ValueError(msg)

    def reach_um(self, places: Places | None = None) -> float:
        """Without limit: a spot attends to its whole section."""
        del places
        return math.inf

    def _build(self, n_features: int, n_targets: int) -> nn.Module:
        config = self.config
        return Hist2CellNet(
            n_features,
            n_targets,
            node_norm=config.mode == "fixed",
            # Standardised targets are negative where they are below their mean.
            nonnegative=config.mode == "paper" and config.nonnegative and config.target_transform != "standard",
            dropout=config.dropout,
            width=config.width,
        )

    def _train(
        self, net: nn.Module, graph: Graph, Y: Tensor, fold: Fold, *, stop_after: int | None, desc: str
    ) -> History:
        fit, held = (torch.as_tensor(rows, device=Y.device) for rows in fold)
        validation = (graph.take(held), Y[held]) if len(held) else None
        part = graph.take(fit)
        return fitting.train(net, part, Y[fit], self.config, validation=validation, stop_after=stop_after, desc=desc)

    def _apply(self, net: nn.Module, graph: Graph) -> Tensor:
        return fitting.predict(net, graph, self.config)
