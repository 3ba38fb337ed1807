"""Expression of training rows that look alike: BLEEP's contrastive retrieval, and means weighted by similarity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize

from histocell import metrics
from histocell.models.expression.losses import bleep
from histocell.models.expression.nets import NetConfig, NetRegressor
from histocell.models.regressors.base import Regressor, RegressorConfig
from histocell.models.settings import limited

if TYPE_CHECKING:
    from torch import Tensor

    from histocell._core.types import Arrays, Floats
    from histocell.models.folds import FitRows
    from histocell.models.training import Loss

_ROWS = 1024  # compared with all others at once


@dataclass(frozen=True)
class BleepConfig(NetConfig):
    """Settings of `Bleep`.

    Attributes
    ----------
    dim
        Width of the common space.
    dropout
        Within the projections.
    temperature
        Of the loss.
    n_similar
        How many training rows are averaged.
    """

    dim: int = limited(256, least=2)
    dropout: float = limited(0.1, least=0, below=1)
    temperature: float = limited(1.0, above=0)
    n_similar: int = limited(50, least=1)
    lr: float = limited(1e-3, above=0)
    weight_decay: float = limited(1e-3, least=0)
    batch_size: int = limited(256, least=2)
    max_epochs: int = limited(40, least=1)


class Bleep(NetRegressor):
    """BLEEP: image and expression in one space by contrast with soft targets, and the mean of the most similar spots.

    A projection of each view, here of frozen embeddings; a prediction is the mean expression of the training rows whose
    expression lies nearest to the image by cosine.

    References
    ----------
    Xie et al.: Spatially resolved gene expression prediction from histology images via bi-modal contrastive learning
    (NeurIPS 2023), arXiv:2306.01859.

    Examples
    --------
    >>> import numpy as np
    >>> import histocell as hc
    >>> X = np.random.default_rng(0).normal(size=(60, 4))
    >>> model = hc.models.Bleep(max_epochs=3).fit(X, X[:, :2] + 5, groups=np.repeat(["a", "b", "c"], 20), rng=0)
    >>> model.predict(X).shape
    (60, 2)
    """

    name = "bleep"
    summary = (
        "Image and expression in one space by contrast (soft targets); the mean of the most similar training spots."
    )
    limits = "predicts nothing beyond what training spots had; keeps their expression in the model"
    cost = "minutes on a processor; the model holds the expression of all training rows"
    reference = "Xie et al. 2023, arXiv:2306.01859"
    config_class = BleepConfig
    config: BleepConfig
    _output = "expression"

    def _build(self, n_features: int, n_targets: int, mean: Tensor | None = None) -> nn.Module:
        return _TwoViews(n_features, n_targets, self.config.dim, self.config.dropout)

    def _loss(self, net: nn.Module, std: Tensor) -> Loss:
        def loss(image: Tensor, expression: Tensor) -> Tensor:
            return bleep(image, net.genes(expression), temperature=self.config.temperature)  # type: ignore[operator]

        return loss

    def _arrays(self, net: nn.Module, X: Tensor, Y: Tensor) -> Arrays:
        net.eval()
        with torch.no_grad():
            reference = normalize(net.genes(Y), dim=1)  # type: ignore[operator]
        kept = {"reference": reference.cpu().numpy(), "expression": Y.cpu().numpy()}
        return super()._arrays(net, X, Y) | kept

    def _apply(self, arrays: Arrays, X: Tensor) -> Floats:
        image = normalize(self._call(arrays, X, self._n_targets(arrays)), dim=1)
        reference, expression = (torch.as_tensor(arrays[name], device=X.device) for name in ("reference", "expression"))
        k = min(self.config.n_similar, len(reference))
        means = [expression[(part @ reference.T).topk(k, dim=1).indices].mean(dim=1) for part in image.split(_ROWS)]
        return torch.cat(means).cpu().numpy().astype(np.float64)

    def _shapes(self, n_features: int, n_targets: int) -> dict[str, tuple[int, ...]]:
        n_rows = len(self.weights.get("reference", ()))
        kept = {"reference": (n_rows, self.config.dim), "expression": (n_rows, n_targets)}
        return super()._shapes(n_features, n_targets) | kept


class _TwoViews(nn.Module):
    """A projection of images and one of expression; called with images."""

    def __init__(self, n_features: int, n_genes: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.image, self.genes = (_Projection(width, dim, dropout) for width in (n_features, n_genes))

    def forward(self, image: Tensor) -> Tensor:
        """Images in the common space, shape ``(n, dim)``."""
        return self.image(image)


class _Projection(nn.Module):
    """A linear layer, and a second one beside it with GELU before, normalised."""

    def __init__(self, width: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(width, dim)
        self.second = nn.Sequential(nn.GELU(), nn.Linear(dim, dim), nn.Dropout(dropout))
        self.norm = nn.LayerNorm(dim)

    def forward(self, values: Tensor) -> Tensor:
        """Shape ``(n, dim)``."""
        first = self.first(values)
        return self.norm(first + self.second(first))


@dataclass(frozen=True)
class SimilarityConfig(RegressorConfig):
    """Settings of `Similarity`.

    Attributes
    ----------
    temperatures
        The weight of a training row is exp(cosine / temperature); the temperature is chosen on held-out groups.
    max_folds
        Groups are held out in at most this many folds.
    """

    temperatures: tuple[float, ...] = limited((0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0), above=0)
    max_folds: int = limited(5, least=2)


class Similarity(Regressor):
    """The mean expression of all training rows, weighted by how similar their images are.

    As OmiCLIP's Loki predicts expression from images in its space, here in that of the standardised features; the sharpness
    of the weights, which is fixed there, is chosen by the squared error on groups held out.

    References
    ----------
    Chen et al.: A visual-omics foundation model to bridge histopathology with spatial transcriptomics (Nature Methods
    2025).

    Examples
    --------
    >>> import numpy as np
    >>> import histocell as hc
    >>> X = np.random.default_rng(0).normal(size=(60, 4))
    >>> model = hc.models.Similarity().fit(X, X[:, :2] + 5, groups=np.repeat(["a", "b", "c"], 20), rng=0)
    >>> model.predict(X).shape
    (60, 2)
    """

    name = "similarity"
    summary = "The mean expression of all training spots, weighted by the similarity of their images (OmiCLIP, Loki)."
    tasks = ("expression",)
    limits = "predicts nothing beyond what training spots had; keeps their features and expression in the model"
    cost = "none to fit; each row is compared with all training rows"
    reference = "Chen et al. 2025, Nature Methods, doi:10.1038/s41592-025-02707-1"
    config_class = SimilarityConfig
    config: SimilarityConfig
    _output = "expression"

    def _fit_scaled(self, X: Floats, Y: Floats, rows: FitRows, rng: np.random.Generator, device: str | None) -> Floats:
        folds, train = rows.held_out(max_folds=self.config.max_folds), np.flatnonzero(rows.train)
        variance = Y[train].var(axis=0)
        tries = []
        for temperature in self.config.temperatures:
            held = np.full(Y.shape, np.nan)
            for fold in folds:
                held[fold.held] = _weighted_mean(X[fold.held], X[fold.fit], Y[fold.fit], temperature)
            errors = metrics.nan_mean((held - Y) ** 2)
            tries.append(
                (float(np.mean(errors[variance > 0] / variance[variance > 0])) if variance.any() else 0.0, held)
            )
        best = int(np.argmin([error for error, _ in tries]))
        self.weights |= {
            "features": X[train].astype(np.float32),
            "expression": Y[train].astype(np.float32),
            "alpha": np.array([self.config.temperatures[best]]),
        }
        return tries[best][1]

    def _predict(self, X: Floats, device: str | None) -> Floats:
        weights = self.weights
        return _weighted_mean(X, weights["features"], weights["expression"], float(weights["alpha"][0]))

    def _shapes(self, n_features: int, n_targets: int) -> dict[str, tuple[int, ...]]:
        n_rows = len(self.weights.get("features", ()))
        return {"features": (n_rows, n_features), "expression": (n_rows, n_targets), "alpha": (1,)}


def _weighted_mean(X: np.ndarray, features: np.ndarray, expression: np.ndarray, temperature: float) -> Floats:
    """Means over rows with weights exp(cosine / temperature)."""
    known = _unit(features)
    parts = []
    for start in range(0, len(X), _ROWS):
        cosines = _unit(X[start : start + _ROWS]) @ known.T
        weights = np.exp((cosines - cosines.max(axis=1, keepdims=True)) / temperature)
        parts.append(weights @ expression / weights.sum(axis=1, keepdims=True))
    return np.concatenate(parts) if parts else np.empty((0, expression.shape[1]))


def _unit(X: np.ndarray) -> Floats:
    return X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), np.finfo(np.float64).tiny)
