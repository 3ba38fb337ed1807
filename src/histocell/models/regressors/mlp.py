"""A multilayer perceptron on patch embeddings, alone (preset ``paper``) or as an ensemble (preset ``robust``)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np
import torch

from histocell._core.device import pick_device
from histocell._core.rng import draw_seed
from histocell._core.settings import logger
from histocell.models import training
from histocell.models.folds import Fold
from histocell.models.regressors.base import Regressor, RegressorConfig
from histocell.models.regressors.perceptron import Perceptron, composite_loss
from histocell.models.regressors.ridge import Ridge
from histocell.models.settings import limited

if TYPE_CHECKING:
    from torch import Tensor

    from histocell._core.types import Arrays, Floats
    from histocell.models.folds import FitRows


DEFAULT_PRESET = "robust"


@dataclass(frozen=True)
class MLPConfig(training.Schedule, RegressorConfig):
    """Settings of `MLP`; those of the training are in `histocell.models.training.Schedule`.

    Attributes
    ----------
    preset
        The preset that the other settings started from.
    hidden
        Widths of the hidden layers; with the linear output that makes seven layers.
    layer_norm, dropout
        Layer normalisation and dropout after each hidden layer.
    l1, l2, pearson_per
        Weights of the absolute error and of the correlation in the loss, and whether the correlation is taken per
        ``"type"`` over the batch or per ``"spot"``.
    n_members
        Number of nets; their mean is the prediction.
    max_folds
        Groups are held out in at most this many folds to stop the training and to calibrate the interval.
    refit
        Whether the nets are trained again on all training rows, for the number of epochs that was best on the groups
        held out. Rows given as ``validation`` are never fitted.
    ridge_share
        Share of a ridge regression in the prediction, from 0 to 1. Nets bend to the patients they saw, the ridge
        carries over to others; half and half did best on patients and on sections of the same patient together.
    """

    preset: str = limited(DEFAULT_PRESET, choices=("robust", "paper"))
    hidden: tuple[int, ...] = limited((256, 256, 256, 128, 128, 128), least=1)
    layer_norm: bool = True
    dropout: float = limited(0.2, least=0, below=1)
    l1: float = limited(0.5, least=0)
    l2: float = limited(0.5, least=0)
    pearson_per: str = limited("type", choices=("type", "spot"))
    n_members: int = limited(3, least=1)
    max_folds: int = limited(3, least=2)
    refit: bool = True
    ridge_share: float = limited(0.5, least=0, most=1)


PRESETS: dict[str, dict[str, object]] = {
    "robust": {"target_transform": "standard"},
    "paper": {
        "hidden": (1024, 1024, 512, 512, 256, 256),
        "layer_norm": False,
        "dropout": 0.0,
        "lr": 1e-4,
        "weight_decay": 1e-4,
        "batch_size": 256,
        "max_epochs": 100,
        "patience": 10,
        "clip_norm": 0.0,
        "n_members": 1,
        "max_folds": 8,
        "refit": False,
        "ridge_share": 0.0,
    },
}


class MLP(Regressor):
    """Seven-layer perceptron with SiLU, trained on MSE + l1 * MAE + l2 * negative Pearson correlation.

    Parameters
    ----------
    preset
        ``"paper"``: one plain net as in the publication, where it says so, and stopped on one held-out fold of groups.
        ``"robust"``: the mean of a ridge regression and of an ensemble of smaller nets with layer normalisation and
        dropout, refitted on all training rows.
    config
        Settings of `MLPConfig` that replace those of the preset.

    References
    ----------
    arXiv 2507.07013: cell abundances from CONCH and UNI embeddings by a seven-layer MLP. What it leaves open (widths,
    learning rate, stopping) is set here and can be changed.

    Examples
    --------
    >>> import numpy as np
    >>> import histocell as hc
    >>> X = np.random.default_rng(0).normal(size=(60, 4))
    >>> model = hc.models.MLP(max_epochs=2, n_members=2).fit(
    ...     X, X[:, :2] + 5, groups=np.repeat(["a", "b", "c"], 20), rng=0
    ... )
    >>> model.predict(X).shape
    (60, 2)
    """

    name = "mlp"
    summary = (
        'Seven-layer perceptron; preset "paper": one plain net, as published; "robust" (default): three smaller nets, '
        "normalised and averaged with a ridge regression."
    )
    limits = "looks at each row by itself; needs several groups to choose the number of epochs"
    cost = 'a GPU helps; with 1,536 features and 30 targets 3.6 ("paper") or 1.8 ("robust") million weights'
    reference = "Sun, Zhu and Qiu 2025, arXiv:2507.07013"
    config_class = MLPConfig
    config: MLPConfig
    _output = "output.bias"

    def __init__(self, preset: str | None = None, **config: object) -> None:
        preset = preset or DEFAULT_PRESET
        if not isinstance(preset, str) or preset not in PRESETS:
            msg = f"unknown preset {preset!r}; there are: {', '.join(PRESETS)}"
            raise ValueError(msg)
        super().__init__(**{**PRESETS[preset], **config, "preset": preset})

    def _fit_scaled(self, X: Floats, Y: Floats, rows: FitRows, rng: np.random.Generator, device: str | None) -> Floats:
        chosen = pick_device(device)
        features = torch.as_tensor(X, dtype=torch.float32, device=chosen)
        targets = torch.as_tensor(Y, dtype=torch.float32, device=chosen)
        folds = self._folds(rows, rng)
        nets, searches = self._train(features, targets, folds, rng, "net")
        held = _held_out(nets, folds, features, Y.shape)
        refits: list[training.History] = []
        if self.config.refit and rows.train.all():
            epochs = int(np.median([history.best_epoch for history in searches])) + 1
            everything = Fold(np.flatnonzero(rows.train), np.empty(0, dtype=np.intp))
            nets, refits = self._train(features, targets, [everything] * self.config.n_members, rng, "refit", epochs)
        self.weights |= _stack(nets)
        self.history = _history(searches, refits)
        logger.info("mlp: %d nets, best epochs %s", len(nets), [history.best_epoch + 1 for history in searches])
        share = self.config.ridge_share
        if not share:
            return held
        ridge = Ridge()
        ridge_held = ridge._fit_scaled(X, Y, rows, rng, device)
        self.weights |= {f"ridge.{name}": ridge.weights[name] for name in ("coefficients", "intercept")}
        return share * ridge_held + (1 - share) * held

    def _predict(self, X: Floats, device: str | None) -> Floats:
        chosen = pick_device(device)
        features = torch.as_tensor(X, dtype=torch.float32, device=chosen)
        n_members, n_targets = self.weights["output.weight"].shape[:2]
        with torch.device("meta"):  # draws no weights
            net = self._build(X.shape[1], n_targets).eval()
        names = net.state_dict().keys()
        total = np.zeros((len(X), n_targets))
        for index in range(n_members):
            member = {name: torch.tensor(self.weights[name][index], device=chosen) for name in names}
            with torch.no_grad():
                total += torch.func.functional_call(net, member, (features,)).cpu().numpy()
        nets, share = total / n_members, self.config.ridge_share
        if not share:
            return nets
        return share * (X @ self.weights["ridge.coefficients"] + self.weights["ridge.intercept"]) + (1 - share) * nets

    def _shapes(self, n_features: int, n_targets: int) -> dict[str, tuple[int, ...]]:
        with torch.device("meta"):
            net = self._build(n_features, n_targets)
        shapes = {name: (self.config.n_members, *weight.shape) for name, weight in net.state_dict().items()}
        if self.config.ridge_share:
            shapes |= {"ridge.coefficients": (n_features, n_targets), "ridge.intercept": (n_targets,)}
        return shapes

    def _folds(self, rows: FitRows, rng: np.random.Generator) -> list[Fold]:
        """What each member fits on and is stopped on."""
        if held_apart := rows.validation_fold():
            return held_apart * self.config.n_members
        folds = rows.folds(max_folds=self.config.max_folds)
        order = rng.permutation(len(folds))
        return [folds[order[index % len(folds)]] for index in range(self.config.n_members)]

    def _train(
        self, X: Tensor, Y: Tensor, folds: list[Fold], rng: np.random.Generator, desc: str, epochs: int | None = None
    ) -> tuple[list[Perceptron], list[training.History]]:
        """One net per fold, stopped on the rows that are held out or after `epochs`."""
        config = self.config
        loss = partial(composite_loss, l1=config.l1, l2=config.l2, per=config.pearson_per)
        nets, histories = [], []
        for index, (fold, child) in enumerate(zip(folds, rng.spawn(len(folds)), strict=True)):
            with training.seeded(draw_seed(child), X.device):
                nets.append(self._build(X.shape[1], Y.shape[1]).to(X.device))
                history = training.train(
                    nets[-1],
                    loss,
                    (X[fold.fit], Y[fold.fit]),
                    schedule=config,
                    validation=(X[fold.held], Y[fold.held]) if len(fold.held) else None,
                    stop_after=epochs,
                    desc=f"{desc} {index + 1}",
                )
            histories.append(history)
        return nets, histories

    def _build(self, n_features: int, n_targets: int) -> Perceptron:
        config = self.config
        return Perceptron(
            n_features, n_targets, hidden=config.hidden, layer_norm=config.layer_norm, dropout=config.dropout
        )


def _held_out(nets: list[Perceptron], folds: list[Fold], X: Tensor, shape: tuple[int, ...]) -> Floats:
    """Mean prediction of the nets that did not fit a row, NaN where every net did."""
    total, count = np.zeros(shape), np.zeros((shape[0], 1))
    for net, fold in zip(nets, folds, strict=True):
        with torch.no_grad():
            total[fold.held] += net(X[fold.held]).cpu().numpy()
        count[fold.held] += 1
    return np.divide(total, count, out=np.full(shape, np.nan), where=count > 0)


def _stack(nets: list[Perceptron]) -> Arrays:
    """Weights of all nets, the net along the first axis."""
    states = [net.state_dict() for net in nets]
    return {name: np.stack([state[name].cpu().numpy() for state in states]) for name in states[0]}


def _history(searches: list[training.History], refits: list[training.History]) -> Arrays:
    """Curves of the nets as rows, NaN after their end."""
    curves = {
        "train_loss": [history.train_loss for history in searches],
        "val_loss": [history.val_loss for history in searches],
        "refit_loss": [history.train_loss for history in refits],
    }
    padded = {name: np.array([*zip_longest(*rows, fillvalue=np.nan)]).T for name, rows in curves.items() if rows}
    return padded | {"best_epoch": np.array([history.best_epoch for history in searches])}
