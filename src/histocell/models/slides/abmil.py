"""Attention over the tiles of a slide (ABMIL): the weights that it learns say which tiles tell the outcome."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Self, cast

import numpy as np
import torch
from torch.nn import functional as F

from histocell._core.device import pick_device
from histocell._core.rng import as_rng, draw_seed
from histocell.models import training
from histocell.models.problem import Problem
from histocell.models.settings import limited
from histocell.models.slides.bags import Bag, finite
from histocell.models.slides.base import SlideConfig, SlideModel, check_outcome, fit_scale
from histocell.models.slides.cox import cox_loss
from histocell.models.slides.network import AttentionNet, over_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike
    from torch import Tensor

    from histocell._core.rng import RNGLike, SeedLike
    from histocell._core.types import Arrays, Bools, Floats
    from histocell.models.places import Places
    from histocell.models.slides.bags import Rows

DEFAULT_PRESET = "robust"
PRESETS: dict[str, dict[str, object]] = {
    "robust": {},
    "paper": {
        "hidden": 512,
        "attention": 256,
        "lr": 3e-4,
        "max_epochs": 20,
        "clip_norm": 0.0,
        "least_steps": 0,
        "least_events": 0,
    },
}
_FOR_SCALE, _OF_EACH = 16_384, 1024  # tiles that set the scale of the features, and at most so many of a slide


@dataclass(frozen=True)
class ABMILConfig(training.Schedule, SlideConfig):
    """Settings of `ABMIL`; those of the training are `histocell.models.training.Schedule`.

    Attributes
    ----------
    preset
        The preset that the other settings started from.
    hidden, attention
        Widths of the network.
    dropout
        Share of the numbers that are hidden while it learns.
    bag_size
        At most so many tiles of a slide, drawn anew each time, in training; a prediction looks at all.
    balanced
        Whether classes weigh the same in all.
    batch_size
        Slides whose gradients are added up before a step.
    least_steps
        Of few slides, fewer are added up, so that all epochs together take about so many steps; 0 for no such limit. Not
        for survival, whose loss compares the slides of a step.
    least_events
        For survival, a step compares as many slides as hold about so many events, if that is more than `batch_size`.
    """

    preset: str = limited(DEFAULT_PRESET, choices=tuple(PRESETS))
    lr: float = limited(1e-3, above=0)
    min_lr: float = limited(0.0, least=0)
    weight_decay: float = limited(1e-5, least=0)
    batch_size: int = limited(8, least=1)
    least_steps: int = limited(400, least=0)
    least_events: int = limited(6, least=0)
    max_epochs: int = limited(40, least=1)
    warmup: float = limited(0.0, least=0, most=1)
    hidden: int = limited(128, least=1)
    attention: int = limited(64, least=1)
    dropout: float = limited(0.25, least=0, below=1)
    bag_size: int = limited(2048, least=1)
    balanced: bool = True


class ABMIL(SlideModel):
    """Gated attention over the tiles of a slide.

    Parameters
    ----------
    preset
        ``"robust"``: narrow and with a larger learning rate, so that some dozens of slides are enough. ``"paper"``: the
        settings with which it is mostly published, for hundreds of slides.
    **config
        Settings of `ABMILConfig` that replace those of the preset: ``outcome``, ``hidden``, ``attention``, ``dropout``,
        ``bag_size``, ``balanced``, and those of the training: ``lr``, ``min_lr``, ``weight_decay``, ``batch_size``, ``least_steps``,
        ``least_events``, ``max_epochs``, ``patience``, ``warmup``, ``clip_norm``.

    References
    ----------
    Ilse, Tomczak and Welling 2018, arXiv:1802.04712.

    Examples
    --------
    >>> import numpy as np
    >>> import histocell as hc
    >>> rng = np.random.default_rng(0)
    >>> slides = [rng.normal(size=(50, 4)).astype(np.float32) for _ in range(12)]
    >>> Y = np.eye(2)[[0, 1] * 6]
    >>> model = hc.models.ABMIL(max_epochs=2).fit(np.stack([each.mean(0) for each in slides]), Y, bags=slides)
    >>> model.attention(slides[0]).sum().round(3)
    np.float64(1.0)
    """

    name = "abmil"
    summary = "Gated attention over the tiles of a slide, which says which of them tell the outcome."
    limits = "wants some dozens of slides of each class; attention is no proof of a cause"
    cost = "CPU: about five slides a second on one core, of 2,048 tiles of 1,536 numbers; a GPU helps"
    reference = "Ilse, Tomczak and Welling 2018, arXiv:1802.04712"
    config_class = ABMILConfig
    config: ABMILConfig
    needs_bags = True

    def __init__(self, preset: str | None = None, **config: object) -> None:
        preset = preset or DEFAULT_PRESET
        if not isinstance(preset, str) or preset not in PRESETS:
            msg = f"unknown preset {preset!r}; there are: {', '.join(PRESETS)}"
            raise ValueError(msg)
        super().__init__(**{**PRESETS[preset], **config, "preset": preset})

    def fit(
        self,
        X: ArrayLike,
        Y: ArrayLike,
        *,
        bags: Sequence[Bag | ArrayLike] | None = None,
        index: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        validation: ArrayLike | None = None,
        places: Places | None = None,
        weights: ArrayLike | None = None,
        rng: SeedLike | RNGLike | None = 0,
        device: str | None = None,
    ) -> Self:
        """Fit the model; see `histocell.models.base.Model.fit`.

        Parameters
        ----------
        X
            Mean of the tiles of each slide, shape ``(n, n_features)``: only whether it is finite matters here.
        Y
            Targets, shape ``(n, n_targets)``.
        bags
            Tiles of each slide, in the order of `X`.
        index, groups, places, weights, device
            As in `histocell.models.base.Model.fit`.
        validation
            Slides whose loss chooses the epoch that is kept; without any, all epochs are trained.
        rng
            Seed or generator.
        """
        every = self._bags(bags, len(np.asarray(X)))
        usable = self._begin(Problem(X, Y, index, groups=groups, validation=validation, places=places, weights=weights))
        check_outcome(usable.Y, usable.rows.train, self.config.outcome)
        try:
            self._learn([every[i] for i in usable.index], usable.Y, usable.rows.train, as_rng(rng), device)
        except BaseException:  # half a model, as after an interruption, must not be taken for one
            self.weights = {}
            raise
        self._end(usable)
        return self

    def _fit(self, X: np.ndarray, Y: Floats, rows: object, rng: np.random.Generator, device: str | None) -> None:
        raise NotImplementedError

    def predict(
        self,
        X: ArrayLike,
        *,
        bags: Sequence[Bag | ArrayLike] | None = None,
        places: Places | None = None,
        device: str | None = None,
    ) -> Floats:
        """Probability of each class, ``(n, n_classes)``, or the risk, ``(n, 1)``; NaN for slides without tiles."""
        return self._as_outputs(np.stack([each for each, _ in self._over(X, bags, device)]))

    def outputs(
        self,
        X: ArrayLike,
        *,
        bags: Sequence[Bag | ArrayLike] | None = None,
        places: Places | None = None,
        device: str | None = None,
    ) -> dict[str, Floats]:
        """The prediction, under ``""``."""
        return {"": self.predict(X, bags=bags, device=device)}

    def attention(self, bag: Bag | ArrayLike, *, device: str | None = None) -> Floats:
        """Weight of each tile of a slide, ``(n,)``, which sum to 1; NaN for tiles without finite features."""
        (found,) = self._over([0], [bag], device)
        return found[1]

    def _over(
        self, X: ArrayLike, bags: Sequence[Bag | ArrayLike] | None, device: str | None
    ) -> Iterator[tuple[Floats, Floats]]:
        """Outputs and attention of each slide."""
        self._check_fitted()
        every, chosen = self._bags(bags, len(np.asarray(X))), pick_device(device)
        net = self._build(len(self.weights["input_mean"]), self._n_out()).to(chosen).eval()
        net.load_state_dict({name: torch.tensor(self.weights[f"net.{name}"]) for name in net.state_dict()})
        for bag in every:
            self._check_width(np.empty((0, bag.dim)), net.embed.in_features)
            yield over_blocks(net, bag, *_scale(self.weights, chosen))

    def _learn(self, bags: list[Bag], Y: Floats, train: Bools, rng: np.random.Generator, device: str | None) -> None:
        chosen, draws = pick_device(device), rng.spawn(1)[0]
        fitted, held = ([bags[i] for i in np.flatnonzero(which)] for which in (train, ~train))
        self.weights = fit_scale(np.concatenate([_some(bag, len(fitted), draws) for bag in fitted]))
        self.weights["class_weight"] = self._class_weight(Y[train])
        with training.seeded(draw_seed(rng), chosen):
            net = self._build(bags[0].dim, self._n_out()).to(chosen)
            targets = torch.as_tensor(Y[train], dtype=torch.float32, device=chosen)

            def learn(active: Sequence[int], batches: Sequence[Tensor]) -> list[float]:
                del active
                return [self._step(net, [fitted[i] for i in batches[0].tolist()], targets[batches[0]], draws)]

            validate = partial(self._validate, net, held, Y[~train], chosen) if held else None
            run = training.Run(net, len(fitted), validate)
            schedule, size = self._schedule(Y[train]), self.config.bag_size
            (history,) = training.train_all([run], learn, schedule=schedule, desc="abmil", rows_per_item=size)
        self.weights |= {f"net.{name}": value.cpu().numpy() for name, value in net.state_dict().items()}
        curves = {"train_loss": history.train_loss, "val_loss": history.val_loss}
        self.history = {name: np.array([values]) for name, values in curves.items() if values}
        self.history["best_epoch"] = np.array([history.best_epoch])

    def _schedule(self, Y: Floats) -> training.Schedule:
        """The settings of the training with as many slides in a step as suits those with targets `Y`."""
        config, n = self.config, len(Y)
        if self.is_survival:
            wanted = max(config.batch_size, math.ceil(config.least_events * n / Y[:, 1].sum()))
            return replace(config, batch_size=min(wanted, n))
        if not config.least_steps:
            return config
        return replace(config, batch_size=min(config.batch_size, max(1, n * config.max_epochs // config.least_steps)))

    def _tiles(self, bag: Bag, rng: np.random.Generator, device: torch.device) -> Tensor:
        """Some tiles of a slide as the network sees them."""
        mean, scale = _scale(self.weights, device)
        return (torch.as_tensor(bag.sample(self.config.bag_size, rng), device=device) - mean) * scale

    def _step(self, net: AttentionNet, bags: list[Bag], targets: Tensor, rng: np.random.Generator) -> float:
        """Gradients of the loss of some slides, with the tiles of one slide in memory at a time.

        The risks of all are compared by a first pass; a second one, of the same tiles and the same dropout, hands each slide
        the derivative of the loss by its risk. Classes have a loss for each slide, and need one pass.
        """
        if self.is_survival:
            seeds = [draw_seed(rng) for _ in bags]
            with torch.no_grad():
                risks = torch.stack([self._outputs(net, bag, seed) for bag, seed in zip(bags, seeds, strict=True)])
            value = self._loss(risks.requires_grad_(), targets)
            (slopes,) = torch.autograd.grad(value, risks)
            for bag, seed, slope in zip(bags, seeds, slopes, strict=True):
                self._outputs(net, bag, seed).backward(slope)
            return value.item()
        total = 0.0
        for bag, target in zip(bags, targets, strict=True):
            value = self._loss(net(self._tiles(bag, rng, target.device))[None], target[None]) / len(bags)
            value.backward()
            total += value.item()
        return total

    def _outputs(self, net: AttentionNet, bag: Bag, seed: int) -> Tensor:
        """Outputs of a slide, with the tiles and the dropout of a seed."""
        device = net.head.weight.device
        with training.seeded(seed, device):
            return net(self._tiles(bag, np.random.default_rng(seed), device))

    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of slides: the weighted cross-entropy, or the partial likelihood among them."""
        if self.is_survival:
            time, event = targets.T
            return cox_loss(outputs[:, 0], time, event) / event.sum().clamp(min=1)
        weight = torch.as_tensor(self.weights["class_weight"], dtype=outputs.dtype, device=outputs.device)
        labels = targets.argmax(dim=1)
        return (F.cross_entropy(outputs, labels, reduction="none") * weight[labels]).mean()

    def _validate(self, net: AttentionNet, bags: list[Bag], Y: Floats, device: torch.device) -> float:
        """The loss of slides held out, by all their tiles."""
        net.eval()
        found = [over_blocks(net, bag, *_scale(self.weights, device))[0] for bag in bags]
        return float(self._loss(torch.as_tensor(np.stack(found)), torch.as_tensor(Y)))

    def _class_weight(self, Y: Floats) -> Floats:
        """Weights of the classes, with mean 1 over the slides; 1 for a risk."""
        count = np.ones(1) if self.is_survival else Y.sum(axis=0)
        there = count > 0
        if not self.config.balanced:
            return there.astype(np.float64)
        return np.divide(count.sum() / there.sum(), count, out=np.zeros(len(count)), where=there)

    def _n_out(self) -> int:
        return len(self.weights["class_weight"])

    def _build(self, dim: int, n_out: int) -> AttentionNet:
        config = self.config
        return AttentionNet(dim, n_out, hidden=config.hidden, attention=config.attention, dropout=config.dropout)

    def _bags(self, bags: Sequence[Bag | ArrayLike] | None, n: int) -> list[Bag]:
        if bags is None or len(bags) != n:
            msg = (
                f"ABMIL reads the tiles of each slide: bags= must hold {n}, not {'none' if bags is None else len(bags)}"
            )
            raise ValueError(msg)
        return [
            bag if isinstance(bag, Bag) else Bag(cast("Rows", bag) if hasattr(bag, "shape") else np.asarray(bag))
            for bag in bags
        ]

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes that weights must have by settings, features and targets."""
        dim = sum(feature["dim"] for feature in self.features) or self.weights["input_mean"].size
        n_out = len(self.targets) or self._n_out()
        with torch.device("meta"):
            net = self._build(dim, n_out)
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("input_mean", "input_scale"), (dim,))
        return shapes | {f"net.{name}": tuple(value.shape) for name, value in net.state_dict().items()}


def _some(bag: Bag, n_slides: int, rng: np.random.Generator) -> np.ndarray:
    """Some neighbouring tiles of a slide: what is read least."""
    n = min(_OF_EACH, max(1, _FOR_SCALE // n_slides))
    start = int(rng.integers(max(len(bag) - n, 0) + 1))
    tiles = finite(bag.read(start, start + n))
    return tiles if len(tiles) else bag.sample(n, rng)


def _scale(weights: Arrays, device: torch.device) -> tuple[Tensor, Tensor]:
    mean, scale = (torch.as_tensor(weights[f"input_{name}"], dtype=torch.float32) for name in ("mean", "scale"))
    return mean.to(device), scale.to(device)
