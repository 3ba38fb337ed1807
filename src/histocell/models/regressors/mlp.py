"""A multilayer perceptron on patch embeddings, alone (preset ``paper``) or as an ensemble (preset ``robust``)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from histocell._core.device import pick_device
from histocell._core.rng import as_rng, draw_seed
from histocell._core.settings import logger
from histocell.models import scaling, training
from histocell.models.folds import Fold
from histocell.models.regressors.base import Regressor, RegressorConfig
from histocell.models.regressors.perceptron import Perceptron, composite_loss
from histocell.models.regressors.ridge import Ridge
from histocell.models.regressors.stack import Job, Shared, Source, train_jobs
from histocell.models.settings import limited

if TYPE_CHECKING:
    from collections.abc import Sequence

    from histocell._core.types import Arrays, Floats
    from histocell.models.folds import FitRows
    from histocell.models.problem import Problem


DEFAULT_PRESET = "robust"
_LEAST_SHARE = 0.5  # of the ridge: few groups say little of how far nets carry over to others


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
        carries over to others. `None`: the share that predicts held-out groups best, at least half, and all of it where
        the nets predict them worse than their mean does.
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
    ridge_share: float | None = limited(None, least=0, most=1)


PRESETS: dict[str, dict[str, object]] = {
    "robust": {"target_transform": "root"},
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
        ``"robust"``: a ridge regression and an ensemble of smaller nets with layer normalisation and dropout, refitted on
        all training rows; at least half of the prediction is the ridge's.
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
        shared = Shared.of(X, np.zeros(X.shape[1]), pick_device(device))
        (held,) = _train([self], [Source.of(shared, np.arange(len(X)), Y)], [rows], [rng])
        return self._blend(X, Y, rows, rng, device, held)

    @classmethod
    def fit_together(
        cls, models: Sequence[Self], problems: Sequence[Problem], *, device: str | None = None
    ) -> list[Self]:
        """Fit models of equal settings, each on rows of its own: all nets of all models train as one batch.

        As `histocell.models.base.Model.fit_together`; each model is, up to rounding, what `fit` alone would make. The
        features are on the device once, however many models there are.
        """
        cls._check_alike(models, problems)
        if not models:
            return []
        usable = [model._begin(problem) for model, problem in zip(models, problems, strict=True)]
        rngs = [as_rng(problem.rng) for problem in problems]
        targets = [
            model._fit_scales(each.features, each.Y, each.rows) for model, each in zip(models, usable, strict=True)
        ]
        shared: dict[int, Shared] = {}
        sources = []
        for model, each, Y in zip(models, usable, targets, strict=True):
            if id(each.X) not in shared:
                shared[id(each.X)] = Shared.of(np.asarray(each.X), model.weights["input_mean"], pick_device(device))
            sources.append(Source.of(shared[id(each.X)], each.index, Y, model.weights))
        helds = _train(models, sources, [each.rows for each in usable], rngs)
        for model, each, Y, rng, held in zip(models, usable, targets, rngs, helds, strict=True):
            X = scaling.apply_input(each.features, model.weights)
            model._fit_errors(each.features, each.Y, each.rows, model._blend(X, Y, each.rows, rng, device, held))
            model._end(each)
        return list(models)

    def _blend(
        self, X: Floats, Y: Floats, rows: FitRows, rng: np.random.Generator, device: str | None, held: Floats
    ) -> Floats:
        """Held-out predictions of the nets with their share of a ridge regression, which is fitted."""
        share = self.config.ridge_share
        if share == 0:
            return held
        ridge = Ridge(n_views=self.config.n_views)
        ridge_held = ridge._fit_scaled(X, Y, rows, rng, device)
        self.weights |= {f"ridge.{name}": ridge.weights[name] for name in ("coefficients", "intercept")}
        if share is None:
            share = _best_share(Y, ridge_held, held)
            self.weights["ridge.share"] = np.array([share])
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
        if share is None:
            share = float(self.weights["ridge.share"][0])
        if share == 0:
            return nets
        return share * (X @ self.weights["ridge.coefficients"] + self.weights["ridge.intercept"]) + (1 - share) * nets

    def _shapes(self, n_features: int, n_targets: int) -> dict[str, tuple[int, ...]]:
        with torch.device("meta"):
            net = self._build(n_features, n_targets)
        shapes = {name: (self.config.n_members, *weight.shape) for name, weight in net.state_dict().items()}
        if self.config.ridge_share != 0:
            shapes |= {"ridge.coefficients": (n_features, n_targets), "ridge.intercept": (n_targets,)}
        if self.config.ridge_share is None:
            shapes |= {"ridge.share": (1,)}
        return shapes

    def _folds(self, rows: FitRows, rng: np.random.Generator) -> list[Fold]:
        """What each member fits on and is stopped on."""
        if held_apart := rows.validation_fold():
            return held_apart * self.config.n_members
        folds = rows.folds(max_folds=self.config.max_folds)
        order = rng.permutation(len(folds))
        return [folds[order[index % len(folds)]] for index in range(self.config.n_members)]

    def _jobs(
        self, source: Source, folds: list[Fold], rng: np.random.Generator, stop_after: int | None = None
    ) -> list[Job]:
        """One net per fold."""
        build = partial(self._build, source.X.shape[1], source.Y.shape[1])
        children = rng.spawn(len(folds))
        return [
            Job.of(build, draw_seed(child), source, fold, stop_after)
            for fold, child in zip(folds, children, strict=True)
        ]

    def _refit_jobs(
        self, source: Source, rows: FitRows, searches: list[training.History], rng: np.random.Generator
    ) -> list[Job]:
        """Nets for all training rows, unless rows are given that are never fitted."""
        if not self.config.refit or not rows.train.all():
            return []
        epochs = int(np.median([history.best_epoch for history in searches])) + 1
        everything = Fold(np.flatnonzero(rows.train), np.empty(0, dtype=np.intp))
        return self._jobs(source, [everything] * self.config.n_members, rng, epochs)

    def _build(self, n_features: int, n_targets: int) -> Perceptron:
        config = self.config
        return Perceptron(
            n_features, n_targets, hidden=config.hidden, layer_norm=config.layer_norm, dropout=config.dropout
        )


def _best_share(Y: Floats, ridge: Floats, nets: Floats) -> float:
    """Share of the ridge with the least squared error over rows that both held out, at least `_LEAST_SHARE`.

    All of it where the nets predict these rows worse than their mean does: they have learnt nothing that carries over.
    """
    rows = np.isfinite(ridge).all(axis=1) & np.isfinite(nets).all(axis=1)
    if ((Y - nets)[rows] ** 2).sum() >= ((Y[rows] - Y[rows].mean(axis=0)) ** 2).sum():
        return 1.0
    apart, missed = (ridge - nets)[rows], (Y - nets)[rows]
    squared = float((apart**2).sum())
    return float(np.clip((apart * missed).sum() / squared, _LEAST_SHARE, 1.0)) if squared > 0 else _LEAST_SHARE


def _train(
    models: Sequence[MLP], sources: Sequence[Source], rows: Sequence[FitRows], rngs: Sequence[np.random.Generator]
) -> list[Floats]:
    """Train the nets of all models, then those that are refitted; returns the predictions of rows held out."""
    together = [*zip(models, sources, rows, rngs, strict=True)]
    jobs = [model._jobs(source, model._folds(each, rng), rng) for model, source, each, rng in together]
    searches = _train_all(models[0].config, jobs, "nets")
    held = [_held_out(some) for some in jobs]
    refits = [
        model._refit_jobs(source, each, histories, rng)
        for (model, source, each, rng), histories in zip(together, searches, strict=True)
    ]
    refitted = _train_all(models[0].config, refits, "refits")
    for index, model in enumerate(models):
        model.weights |= _stack([job.net for job in refits[index] or jobs[index]])
        model.history = _history(searches[index], refitted[index])
        epochs = [history.best_epoch + 1 for history in searches[index]]
        logger.info("mlp: %d nets, best epochs %s", model.config.n_members, epochs)
    return held


def _train_all(config: MLPConfig, jobs: Sequence[list[Job]], desc: str) -> list[list[training.History]]:
    """Histories of the nets of each model, all trained at once."""
    loss = partial(composite_loss, l1=config.l1, l2=config.l2, per=config.pearson_per)
    histories = iter(train_jobs([*chain(*jobs)], loss, schedule=config, desc=desc))
    return [[next(histories) for _ in some] for some in jobs]


def _held_out(jobs: list[Job]) -> Floats:
    """Mean prediction of the nets that did not fit a row, NaN where every net did."""
    shape = tuple(jobs[0].source.Y.shape)
    total, count = np.zeros(shape), np.zeros((shape[0], 1))
    for job in jobs:
        rows = torch.as_tensor(job.fold.held, device=job.source.X.device)
        total[job.fold.held] += job.source.predict(job.net, rows).cpu().numpy()
        count[job.fold.held] += 1
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
