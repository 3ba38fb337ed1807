"""Small nets that predict genes from frozen embeddings: a linear layer by SGD, and the image decoder of SEAL."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn.functional import mse_loss

from histocell._core.device import pick_device
from histocell._core.rng import draw_seed
from histocell.models import scaling, training
from histocell.models.expression.autoencoder import ImageDecoder
from histocell.models.expression.losses import reconstruction
from histocell.models.folds import Fold
from histocell.models.regressors.base import Regressor, RegressorConfig
from histocell.models.settings import limited

if TYPE_CHECKING:
    from torch import Tensor

    from histocell._core.types import Arrays, Floats
    from histocell.models.folds import FitRows
    from histocell.models.training import Loss


@dataclass(frozen=True)
class NetConfig(training.Schedule, RegressorConfig):
    """Settings of the nets; those of the training are in `histocell.models.training.Schedule`.

    Attributes
    ----------
    max_folds
        Groups are held out in at most this many folds, to stop the training and to calibrate the interval; the net is then
        trained on all training rows for the median number of epochs.
    """

    max_folds: int = limited(3, least=2)


class NetRegressor(Regressor):
    """A net that is stopped on groups that are held out, and then trained on all rows."""

    tasks = ("expression",)
    config_class = NetConfig
    config: NetConfig

    @abstractmethod
    def _build(self, n_features: int, n_targets: int, mean: Tensor | None = None) -> nn.Module:
        """The net; `mean` is that of the targets."""

    @abstractmethod
    def _loss(self, net: nn.Module, std: Tensor) -> Loss:
        """Of predictions and targets; `std` is that of the targets."""

    def _arrays(self, net: nn.Module, X: Tensor, Y: Tensor) -> Arrays:
        """What a prediction needs, of a net that was trained on some rows."""
        del X, Y
        return {name: value.detach().cpu().numpy() for name, value in net.state_dict().items()}

    def _apply(self, arrays: Arrays, X: Tensor) -> Floats:
        """Predictions from these."""
        return self._call(arrays, X, self._n_targets(arrays)).cpu().numpy().astype(np.float64)

    def _fit_scaled(self, X: Floats, Y: Floats, rows: FitRows, rng: np.random.Generator, device: str | None) -> Floats:
        chosen = pick_device(device)
        x, y = (torch.as_tensor(each, dtype=torch.float32, device=chosen) for each in (X, Y))
        folds = rows.validation_fold() or rows.folds(max_folds=self.config.max_folds)
        histories, held = [], np.full(Y.shape, np.nan)
        for fold in folds:
            arrays, history = self._train(x, y, fold, draw_seed(rng))
            held[fold.held] = self._apply(arrays, x[fold.held])
            histories.append(history)
        self.history = {"best_epoch": np.array([history.best_epoch for history in histories])}
        if rows.train.all():
            everything = Fold(np.flatnonzero(rows.train), np.empty(0, dtype=np.intp))
            n_epochs = int(np.median(self.history["best_epoch"])) + 1
            arrays, history = self._train(x, y, everything, draw_seed(rng), n_epochs)
        self.history["train_loss"] = np.array(history.train_loss)[None]
        self.weights |= arrays
        return held

    def _train(
        self, x: Tensor, y: Tensor, fold: Fold, seed: int, stop_after: int | None = None
    ) -> tuple[Arrays, training.History]:
        fit, held = ((x[rows], y[rows]) for rows in fold)
        with training.seeded(seed, x.device):
            net = self._build(x.shape[1], y.shape[1], fit[1].mean(dim=0)).to(x.device)
            validation = held if len(fold.held) else None
            options = {"schedule": self.config, "validation": validation, "stop_after": stop_after, "desc": self.name}
            history = training.train(net, self._loss(net, fit[1].std(dim=0)), fit, **options)  # type: ignore[arg-type]
        return self._arrays(net, *fit), history

    def _call(self, arrays: Arrays, X: Tensor, n_targets: int) -> Tensor:
        """What the net says of rows."""
        with torch.device("meta"):  # draws no weights
            net = self._build(X.shape[1], n_targets).eval()
        weights = {name: torch.as_tensor(arrays[name], device=X.device) for name in net.state_dict()}
        with torch.no_grad():
            return torch.func.functional_call(net, weights, (X,))

    def _predict(self, X: Floats, device: str | None) -> Floats:
        return self._apply(self.weights, torch.as_tensor(X, dtype=torch.float32, device=pick_device(device)))

    def _n_targets(self, arrays: Arrays) -> int:
        return arrays[self._output].shape[-1]

    def _shapes(self, n_features: int, n_targets: int) -> dict[str, tuple[int, ...]]:
        with torch.device("meta"):
            net = self._build(n_features, n_targets)
        return {name: tuple(value.shape) for name, value in net.state_dict().items()}


@dataclass(frozen=True)
class STNetConfig(NetConfig):
    """Settings of `STNet`, those of `NetConfig` with SGD."""

    optimizer: str = limited("sgd", choices=training.OPTIMIZERS)
    lr: float = limited(1e-2, above=0)
    weight_decay: float = limited(1e-4, least=0)
    batch_size: int = limited(32, least=1)
    max_epochs: int = limited(50, least=1)
    target_transform: str = limited("standard", choices=scaling.TRANSFORMS)


class STNet(NetRegressor):
    """The head of ST-Net: one linear layer, by stochastic gradient descent with momentum on the squared error.

    ST-Net trains a DenseNet-121 with it; here the features are those of an encoder, and frozen.

    References
    ----------
    He et al.: Integrating spatial gene expression and breast tumour morphology via deep learning (Nature Biomedical
    Engineering 2020).

    Examples
    --------
    >>> import numpy as np
    >>> import histocell as hc
    >>> X = np.random.default_rng(0).normal(size=(60, 4))
    >>> model = hc.models.STNet(max_epochs=3).fit(X, X[:, :2] + 5, groups=np.repeat(["a", "b", "c"], 20), rng=0)
    >>> model.predict(X).shape
    (60, 2)
    """

    name = "st_net"
    summary = "The linear head of ST-Net, trained by SGD on frozen features (ST-Net itself trains its DenseNet, too)."
    limits = "linear; stopped early in place of a penalty"
    cost = "seconds to minutes on a processor"
    reference = "He et al. 2020, Nature Biomedical Engineering, doi:10.1038/s41551-020-0578-x"
    config_class = STNetConfig
    config: STNetConfig
    _output = "bias"

    def _build(self, n_features: int, n_targets: int, mean: Tensor | None = None) -> nn.Module:
        net = nn.Linear(n_features, n_targets)
        if mean is not None:
            with torch.no_grad():
                net.bias.copy_(mean)
                net.weight.zero_()
        return net

    def _loss(self, net: nn.Module, std: Tensor) -> Loss:
        return mse_loss


@dataclass(frozen=True)
class SealDecoderConfig(NetConfig):
    """Settings of `SealDecoder`, those of `NetConfig`."""

    lr: float = limited(5e-4, above=0)
    batch_size: int = limited(384, least=2)
    weight_decay: float = limited(0.2, least=0)
    max_epochs: int = limited(60, least=1)


class SealDecoder(NetRegressor):
    """The image decoder of SEAL on frozen embeddings: D - 512 - genes, trained with SEAL's reconstruction loss.

    References
    ----------
    SEAL, arXiv:2602.14177.

    Examples
    --------
    >>> import numpy as np
    >>> import histocell as hc
    >>> X = np.random.default_rng(0).normal(size=(60, 4))
    >>> model = hc.models.SealDecoder(max_epochs=3).fit(X, X[:, :2] + 5, groups=np.repeat(["a", "b", "c"], 20), rng=0)
    >>> model.predict(X).shape
    (60, 2)
    """

    name = "seal_decoder"
    summary = "SEAL's decoder of images, 512 hidden units, with its loss of correlation and standardised error."
    limits = "bends to the patients it saw; needs several groups to choose the number of epochs"
    cost = "seconds to minutes on a processor; with 1,536 features and 2,000 genes 1.8 million weights"
    reference = "SEAL 2026, arXiv:2602.14177"
    config_class = SealDecoderConfig
    config: SealDecoderConfig
    _output = "2.bias"

    def _build(self, n_features: int, n_targets: int, mean: Tensor | None = None) -> nn.Module:
        return ImageDecoder(n_features, n_targets, mean=mean)

    def _loss(self, net: nn.Module, std: Tensor) -> Loss:
        return partial(reconstruction, std=std)
