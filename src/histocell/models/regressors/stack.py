"""Perceptrons of one shape that train at once, each on rows of its own of features that all of them share."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from histocell.models import scaling, training

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor
    from torch.autograd.function import BackwardCFunction, FunctionCtx

    from histocell._core.types import Floats, Ints
    from histocell.models.folds import Fold
    from histocell.models.regressors.perceptron import Perceptron

_ROWS = 4096  # predicted at once
_AT_ONCE = 200_000_000  # parameters that are trained at once; each takes 20 bytes and more


class Shared(NamedTuple):
    """Features of all rows on the device, in float32, held once for all who learn from them.

    Attributes
    ----------
    X
        The features less `center`.
    center
        A typical row, so that float32 is precise about what differs between rows.
    """

    X: Tensor
    center: Floats

    @classmethod
    def of(cls, X: np.ndarray, center: Floats, device: torch.device) -> Shared:
        """Bring features to the device."""
        out = np.subtract(X, center, out=np.empty(X.shape, dtype=np.float32), casting="same_kind")
        return cls(torch.as_tensor(out, device=device), center)


class Source(NamedTuple):
    """Features and targets of the rows of one problem.

    Attributes
    ----------
    X
        Features of all rows, those of other problems too.
    rows
        Positions of the rows of the problem in `X`.
    Y
        Targets of the rows.
    scales
        What `histocell.models.scaling.apply_input` needs to know of the features; empty where they are scaled.
    """

    X: Tensor
    rows: Tensor
    Y: Tensor
    scales: Mapping[str, Tensor]

    @classmethod
    def of(cls, shared: Shared, index: Ints, Y: Floats, weights: Mapping[str, np.ndarray] | None = None) -> Source:
        """Rows of shared features, scaled as `weights` say when they are looked at."""
        device = shared.X.device
        scales = {name: array for name, array in (weights or {}).items() if name.startswith("input_")}
        if scales:
            scales["input_mean"] = scales["input_mean"] - shared.center
        as_tensor = partial(torch.as_tensor, dtype=torch.float32, device=device)
        tensors = {name: as_tensor(array) for name, array in scales.items()}
        return cls(shared.X, torch.as_tensor(index, device=device), as_tensor(Y), tensors)

    def features(self, rows: Tensor) -> Tensor:
        """Scaled features of rows, positions among those of the problem."""
        X = self.X[self.rows[rows]]
        return scaling.apply_input(X, self.scales) if self.scales else X

    def predict(self, net: Perceptron, rows: Tensor) -> Tensor:
        """What a net says of rows."""
        net.eval()
        with torch.no_grad():
            return torch.cat([net(self.features(part)) for part in rows.split(_ROWS)])


class Job(NamedTuple):
    """A net to train.

    Attributes
    ----------
    net
        The net, on the device.
    source, fold
        Its features and targets, and which of the rows it learns from and which ones stop it.
    order, masks
        Random numbers of this net alone, for the order of its rows (on the CPU) and for dropout (on the device).
    stop_after
        Number of epochs, where no rows stop it.
    """

    net: Perceptron
    source: Source
    fold: Fold
    order: torch.Generator
    masks: torch.Generator
    stop_after: int | None = None

    @classmethod
    def of(
        cls, build: Callable[[], Perceptron], seed: int, source: Source, fold: Fold, stop_after: int | None = None
    ) -> Job:
        """A net drawn from a seed, and the random numbers that follow."""
        device = source.X.device
        with training.seeded(seed, device):
            net = build().to(device)
            order = torch.Generator()
            order.set_state(torch.get_rng_state())
        masks = order if device.type == "cpu" else torch.Generator(device).manual_seed(seed)
        return cls(net, source, fold, order, masks, stop_after)


def train_jobs(
    jobs: Sequence[Job], loss: Callable[..., Tensor], *, schedule: training.Schedule, desc: str
) -> list[training.History]:
    """Train all nets; each ends as it would alone, up to rounding.

    Parameters
    ----------
    jobs
        The nets, all of one shape.
    loss
        Of predictions and targets of several nets, ``(n_nets, n, n_targets)``, and ``rows=``, which of them count.
    schedule
        Learning rate, batches, patience.
    desc
        Text of the progress bar.
    """
    if not jobs:
        return []
    n_parameters = sum(parameter.numel() for parameter in jobs[0].net.parameters())
    some = max(1, _AT_ONCE // n_parameters)
    return [
        history
        for start in range(0, len(jobs), some)
        for history in _Batch(jobs[start : start + some], loss).train(schedule, desc)
    ]


class Stack:
    """Weights of nets side by side: the weights of a net are views of them, so its own optimizer moves them."""

    def __init__(self, nets: Sequence[Perceptron]) -> None:
        self.nets: list[Perceptron] = []
        self.weights: dict[str, Tensor] = {}
        self.hold(nets)

    def hold(self, nets: Sequence[Perceptron]) -> None:
        """Keep these nets; nets that leave take their weights along."""
        if self.nets == list(nets):
            return
        for net in self.nets:
            for parameter in net.parameters():
                parameter.data = parameter.data.clone()
        self.nets, self.weights = list(nets), {}
        for name, _ in nets[0].named_parameters():
            stacked = torch.stack([net.get_parameter(name).detach() for net in nets])
            for net, view in zip(nets, stacked, strict=True):
                net.get_parameter(name).data = view
            self.weights[name] = stacked.requires_grad_()

    def share_gradients(self) -> None:
        """Hand the gradients to the nets."""
        for name, stacked in self.weights.items():
            if stacked.grad is not None:
                for net, view in zip(self.nets, stacked.grad, strict=True):
                    net.get_parameter(name).grad = view
            stacked.grad = None

    def forward(self, x: Tensor, sizes: Sequence[int], masks: Sequence[torch.Generator]) -> Tensor:
        """Predictions of each net in training, shape ``(n_nets, n, n_targets)``.

        Parameters
        ----------
        x
            Features, shape ``(n_nets, n, n_features)``.
        sizes
            Number of rows of each net; what follows is filling.
        masks
            Random numbers of each net for its dropout.
        """
        net = self.nets[0]
        for index, norm in enumerate(net.norms):
            x = self._linear(x, f"layers.{index}")
            if isinstance(norm, torch.nn.LayerNorm):
                name = f"norms.{index}"
                x = functional.layer_norm(x, x.shape[-1:], eps=norm.eps)
                x = x * self.weights[f"{name}.weight"].unsqueeze(1) + self.weights[f"{name}.bias"].unsqueeze(1)
            x = functional.silu(x)
            if net.dropout.p:
                x = x * _dropout(x, 1 - net.dropout.p, sizes, masks)
        return self._linear(x, "output")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return _Linear.apply(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])


class _Linear(torch.autograd.Function):
    """A linear layer of each net; unlike that of torch, its gradients lie in memory as the weights do, so none is copied."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))

    @staticmethod
    def backward(ctx: BackwardCFunction, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        saved: tuple[Tensor, ...] = ctx.saved_tensors
        x, weight = saved
        to_x = gradient @ weight if ctx.needs_input_grad[0] else None
        return to_x, gradient.transpose(1, 2) @ x, gradient.sum(dim=1)


class _Batch:
    """Jobs that are trained at once."""

    def __init__(self, jobs: Sequence[Job], loss: Callable[..., Tensor]) -> None:
        self.jobs, self.loss = jobs, loss
        device = jobs[0].source.X.device
        self.fit = [torch.as_tensor(job.fold.fit, device=device) for job in jobs]
        self.held = [torch.as_tensor(job.fold.held, device=device) for job in jobs]
        self.stack = Stack([job.net for job in jobs])

    def train(self, schedule: training.Schedule, desc: str) -> list[training.History]:
        runs = [
            training.Run(
                job.net,
                len(self.fit[index]),
                validate=partial(self.validate, index) if len(self.held[index]) else None,
                stop_after=job.stop_after,
                generator=job.order,
            )
            for index, job in enumerate(self.jobs)
        ]
        return training.train_all(runs, self.learn, schedule=schedule, desc=desc)

    def learn(self, active: Sequence[int], batches: Sequence[Tensor]) -> list[float]:
        jobs, sizes = [self.jobs[index] for index in active], [len(rows) for rows in batches]
        self.stack.hold([job.net for job in jobs])
        n_rows, source = max(sizes), jobs[0].source
        x = source.X.new_zeros((len(jobs), n_rows, source.X.shape[1]))
        y = source.Y.new_zeros((len(jobs), n_rows, source.Y.shape[1]))
        for slot, (job, index, rows) in enumerate(zip(jobs, active, batches, strict=True)):
            positions = self.fit[index][rows]
            x[slot, : len(rows)] = job.source.features(positions)
            y[slot, : len(rows)] = job.source.Y[positions]
        counting = None
        if min(sizes) < n_rows:
            counting = (torch.arange(n_rows) < torch.tensor(sizes).unsqueeze(1)).to(x)
        losses = self.loss(self.stack.forward(x, sizes, [job.masks for job in jobs]), y, rows=counting)
        losses.sum().backward()
        self.stack.share_gradients()
        return losses.tolist()

    def validate(self, index: int) -> float:
        job, rows = self.jobs[index], self.held[index]
        return float(self.loss(job.source.predict(job.net, rows), job.source.Y[rows]))


def _dropout(x: Tensor, keep: float, sizes: Sequence[int], masks: Sequence[torch.Generator]) -> Tensor:
    """Zeros and the inverse of the share that is kept; each net draws for its own rows."""
    mask = torch.zeros_like(x)
    for part, n_rows, generator in zip(mask, sizes, masks, strict=True):
        part[:n_rows].bernoulli_(keep, generator=generator)
    return mask.div_(keep)
