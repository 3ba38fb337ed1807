"""Two perceptrons that bring image and genes into one space, trained by contrast."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize

from histocell._core.device import pick_device
from histocell._core.errors import warn
from histocell._core.rng import draw_seed
from histocell.models import training
from histocell.models.alignment.base import VIEWS, AlignmentConfig, AlignmentModel
from histocell.models.alignment.contrastive import Alike, info_nce
from histocell.models.settings import limited

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from histocell._core.types import Floats, Ints
    from histocell.models.alignment.base import View
    from histocell.models.folds import FitRows

_MOST_SCALE = 100.0  # one over the lowest temperature
_MANY_ALIKE = 0.5


@dataclass(frozen=True)
class ContrastiveConfig(training.Schedule, AlignmentConfig):
    """Settings of `Contrastive`; those of the training are in `histocell.models.training.Schedule`.

    Attributes
    ----------
    hidden
        Width of the hidden layer.
    dropout
        After the hidden layer.
    temperature
        At the start; it is learnt, and never below 0.01.
    learn_temperature
        Whether it is.
    alike
        Cells of a batch are not each other's negatives where the cosine of their gene embeddings, less the mean of the
        training rows, reaches this; `None`: each cell is a negative of each other.
    """

    batch_size: int = limited(1024, least=2)
    max_epochs: int = limited(20, least=1)
    hidden: int = limited(512, least=1)
    dropout: float = limited(0.5, least=0, below=1)
    temperature: float = limited(0.07, least=0.01)
    learn_temperature: bool = True
    alike: float | None = limited(None, above=0, most=1)


class Contrastive(AlignmentModel):
    r"""Two perceptrons, one for each view, trained by symmetric InfoNCE.

    Each view goes through a linear layer, GELU, a linear layer and layer normalisation to a unit vector. Each cell of a
    batch has to find its own other view among those of the batch, both ways (`histocell.models.alignment.contrastive`).

    A random batch holds many cells of one kind, which are negatives of each other though their genes can not tell them
    apart. ``alike=`` leaves such pairs out. Neighbours in space are not left out: of 100,000 cells, hardly any two of a
    batch lie side by side.

    References
    ----------
    CellSymphony: symmetric InfoNCE on batches of cells, 128 dimensions. What it does not state (width, temperature, batch,
    schedule) has the values usual for such nets.

    Examples
    --------
    >>> import numpy as np
    >>> import histocell as hc
    >>> rng = np.random.default_rng(0)
    >>> state = rng.normal(size=(200, 3))
    >>> image, genes = state @ rng.normal(size=(3, 8)), state @ rng.normal(size=(3, 6))
    >>> model = hc.models.Contrastive(dim=16, max_epochs=3, batch_size=80)
    >>> model = model.fit(image, genes, validation=np.arange(200) < 40)
    >>> model.project("image", image).shape
    (200, 16)
    """

    name = "contrastive"
    summary = "Two perceptrons that bring image and genes of a cell into one space, trained by contrast (InfoNCE)."
    limits = "aligns what both views show; of cells of a kind it can not know which is which"
    cost = "minutes for 100,000 cells on a CPU; with 1,536 and 512 features 1.2 million weights"
    reference = "CellSymphony; Radford et al. 2021, arXiv:2103.00020"
    config_class = ContrastiveConfig
    config: ContrastiveConfig

    def _fit(self, X: np.ndarray, Y: Floats, rows: FitRows, rng: np.random.Generator, device: str | None) -> None:
        train, held = np.flatnonzero(rows.train), np.flatnonzero(~rows.train)
        self._fit_scales(X, Y, train, rng)
        if len(train) < self.config.batch_size:
            warn(
                f"{len(train)} training rows are fewer than batch_size={self.config.batch_size}: one batch holds them all"
            )
        if len(held) < 2:
            warn(
                f"{len(held)} validation rows: the training is not stopped early, all {self.config.max_epochs} epochs count"
            )
        chosen = pick_device(device)
        with training.seeded(draw_seed(rng), chosen):
            net = self._build(X.shape[1], Y.shape[1]).to(chosen)
            loss = partial(self._loss, net, X, Y)
            self._warn_of_alike(Y, rng.permutation(train)[: self.config.batch_size])
            history = self._train(net, loss, train, rng.permutation(held))
        self.weights |= {name: value.detach().cpu().numpy() for name, value in net.state_dict().items()}
        curves = {"train_loss": history.train_loss, "val_loss": history.val_loss}
        self.history = {name: np.array(curve)[:, None] for name, curve in curves.items() if curve}
        self.history["best_epoch"] = np.array([history.best_epoch])

    def _train(self, net: Projectors, loss: partial[Tensor], train: Ints, held: Ints) -> training.History:
        def learn(active: Sequence[int], batches: Sequence[Tensor]) -> list[float]:
            del active
            value = loss(train[batches[0].cpu().numpy()])
            value.backward()
            return [value.item()]

        def validate() -> float:
            net.eval()
            parts = np.array_split(held, max(1, round(len(held) / self.config.batch_size)))
            with torch.no_grad():
                return sum(len(part) * float(loss(part)) for part in parts) / len(held)

        run = training.Run(net, len(train), validate if len(held) > 1 else None)
        return training.train_all([run], learn, schedule=self.config, desc="alignment")[0]

    def _loss(self, net: Projectors, X: np.ndarray, Y: np.ndarray, rows: Ints) -> Tensor:
        device = net.log_scale.device
        image, genes = (
            torch.as_tensor(self._scaled(view, values[rows]), device=device)
            for view, values in zip(VIEWS, (X, Y), strict=True)
        )
        return info_nce(net("image", image), net("genes", genes), net.scale, alike=self._alike(Y[rows], device))

    def _alike(self, genes: np.ndarray, device: torch.device) -> Alike | None:
        if self.config.alike is None:
            return None
        centred = torch.as_tensor(genes - self.weights["input_genes_mean"], dtype=torch.float32, device=device)
        return Alike(normalize(centred, dim=1), self.config.alike)

    def _warn_of_alike(self, Y: np.ndarray, rows: Ints) -> None:
        """Tell when hardly a negative is left."""
        alike = self._alike(Y[rows], torch.device("cpu"))
        if alike is None:
            return
        share = float(alike.pairs(0, len(rows)).float().mean())
        if share > _MANY_ALIKE:
            warn(
                f"{share:.0%} of the pairs of a batch count as alike (cosine of their genes from {self.config.alike:g}) and are "
                "no negatives: little is left to learn from; choose a greater alike="
            )

    def _build(self, n_image: int, n_genes: int) -> Projectors:
        config = self.config
        net = Projectors(n_image, n_genes, hidden=config.hidden, dim=config.dim, dropout=config.dropout)
        nn.init.constant_(net.log_scale, math.log(1 / config.temperature))
        net.log_scale.requires_grad_(config.learn_temperature)
        return net

    def _project(self, view: View, values: NDArray[np.float32], device: str | None) -> np.ndarray:
        chosen = pick_device(device)
        widths = self._widths()
        with torch.device("meta"):  # draws no weights
            net = self._build(widths["image"], widths["genes"]).eval()
        weights = {name: torch.tensor(self.weights[name], device=chosen) for name in net.state_dict()}
        with torch.no_grad():
            inputs = torch.as_tensor(values, device=chosen)
            return torch.func.functional_call(net, weights, (view, inputs)).cpu().numpy()

    @property
    def temperature(self) -> float:
        """The temperature that was learnt."""
        self._check_fitted()
        return float(1 / min(np.exp(self.weights["log_scale"][0]), _MOST_SCALE))

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes that weights must have by settings and features."""
        expected = super().weight_shapes()
        sizes = [expected[f"input_{view}_mean"] for view in VIEWS]
        if not all(sizes):
            return expected
        with torch.device("meta"):
            net = self._build(sizes[0][0], sizes[1][0])
        return expected | {name: tuple(value.shape) for name, value in net.state_dict().items()}


class Projectors(nn.Module):
    """One perceptron for each view, and the logarithm of one over the temperature.

    Parameters
    ----------
    n_image, n_genes
        Input widths.
    hidden, dim
        Width of the hidden layer and of the output.
    dropout
        After the hidden layer.
    """

    def __init__(self, n_image: int, n_genes: int, *, hidden: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.image, self.genes = (
            nn.Sequential(
                nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim), nn.LayerNorm(dim)
            )
            for width in (n_image, n_genes)
        )
        self.log_scale = nn.Parameter(torch.zeros(1))

    def forward(self, view: View, values: Tensor) -> Tensor:
        """A view as unit vectors, shape ``(n, dim)``."""
        return normalize((self.image if view == "image" else self.genes)(values), dim=1)

    @property
    def scale(self) -> Tensor:
        """One over the temperature."""
        return self.log_scale.clamp(max=math.log(_MOST_SCALE)).exp()
