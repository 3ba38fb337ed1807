"""The training loop of small torch models: AdamW or SGD, warm-up and cosine, early stopping, best weights restored."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch

from histocell._core.settings import progress_bar
from histocell.models.settings import limited

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from typing import NoReturn

    from torch import Tensor, nn
    from tqdm import tqdm

    type Loss = Callable[[Tensor, Tensor], Tensor]
    type Learn = Callable[[Sequence[int], Sequence[Tensor]], list[float]]
    type Pair = tuple[Tensor, Tensor]  # features and targets

OPTIMIZERS = ("adamw", "sgd")
_FUSED = {"cpu", "cuda"}
_MOMENTUM = 0.9
_SMALL_STEP = 100_000_000  # parameters of a net times rows of a step


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn.

    Attributes
    ----------
    lr, min_lr
        Learning rate at the top of the warm-up and at the end of the cosine.
    weight_decay
        Decoupled, on weight matrices only.
    batch_size
        Rows per step.
    max_epochs
        Length of the cosine, and the most epochs there are.
    patience
        Epochs without a better validation loss before the end.
    warmup
        Share of all steps in which the learning rate rises.
    clip_norm
        Largest norm of the gradient; 0 for no limit.
    optimizer
        ``"adamw"``, or ``"sgd"`` with a momentum of 0.9.
    """

    lr: float = limited(1e-3, above=0)
    min_lr: float = limited(1e-6, least=0)
    weight_decay: float = limited(1e-2, least=0)
    batch_size: int = limited(128, least=1)
    max_epochs: int = limited(40, least=1)
    patience: int = limited(8, least=0)
    warmup: float = limited(0.05, least=0, most=1)
    clip_norm: float = limited(1.0, least=0)
    optimizer: str = limited("adamw", choices=OPTIMIZERS)


@dataclass
class History:
    """Losses of the epochs, and the epoch whose weights were kept (counted from 0)."""

    train_loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    best_epoch: int = -1


@contextmanager
def _one_thread(device: torch.device, *, small: bool) -> Iterator[None]:
    """Small nets on the CPU run on one thread: more of them only wait for each other. The setting is restored."""
    before = torch.get_num_threads()
    if small and device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's random numbers from `seed` inside, as they were before outside."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every accelerator as well
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


class Run(NamedTuple):
    """One of the nets that are trained.

    Attributes
    ----------
    net
        The module.
    n_rows
        Number of rows that it learns from.
    validate
        Loss of the net on rows that stop the training, if there are any; the weights of the best epoch are put back.
    stop_after
        Number of epochs to train for, on the same schedule; for training without validation rows.
    generator
        Random numbers on the CPU for the order of the rows; `None` for those of torch, see `seeded`.
    """

    net: nn.Module
    n_rows: int
    validate: Callable[[], float] | None = None
    stop_after: int | None = None
    generator: torch.Generator | None = None


def train(
    net: nn.Module,
    loss: Loss,
    data: Pair,
    *,
    schedule: Schedule,
    validation: Pair | None = None,
    stop_after: int | None = None,
    desc: str = "train",
) -> History:
    """Train any `net` in place; the order of the rows and dropout draw from torch's random numbers (see `seeded`).

    Parameters
    ----------
    net
        The module.
    loss
        Of predictions and targets.
    data
        Features ``(n, n_features)`` and targets ``(n, n_targets)``, on the device of `net`.
    schedule
        Learning rate, batches, patience.
    validation
        Features and targets that stop the training; the weights of the best epoch are put back.
    stop_after
        Number of epochs to train for, on the same schedule; for training without validation rows.
    desc
        Text of the progress bar.
    """
    X, Y = data

    def learn(active: Sequence[int], batches: Sequence[Tensor]) -> list[float]:
        del active
        (rows,) = batches
        value = loss(net(X[rows]), Y[rows])
        value.backward()
        return [value.item()]

    run = Run(net, len(X), None if validation is None else partial(evaluate, net, loss, validation), stop_after)
    return train_all([run], learn, schedule=schedule, desc=desc)[0]


def train_all(runs: Sequence[Run], learn: Learn, *, schedule: Schedule, desc: str = "train") -> list[History]:
    """Train nets side by side, each on its own clock: its own rows, order, epochs, learning rate and end.

    Parameters
    ----------
    runs
        The nets.
    learn
        Called with the positions in `runs` of the nets that still learn and with the next rows of each, positions among
        its own; adds the gradients of each loss to the parameters of its net and returns the losses.
    schedule
        Learning rate, batches, patience.
    desc
        Text of the progress bar.
    """
    device = next(runs[0].net.parameters()).device
    n_parameters = max(sum(parameter.numel() for parameter in run.net.parameters()) for run in runs)
    histories = [History() for _ in runs]
    n_epochs = sum(_n_epochs(run, schedule) for run in runs)
    with (
        _one_thread(device, small=schedule.batch_size * n_parameters < _SMALL_STEP),
        progress_bar(total=n_epochs, desc=desc, unit="epoch") as bar,
    ):
        courses = [_course(run, schedule, history, bar) for run, history in zip(runs, histories, strict=True)]
        batches = {index: next(course) for index, course in enumerate(courses)}
        while batches:
            losses = learn([*batches], [*batches.values()])
            for index, value in zip([*batches], losses, strict=True):
                try:
                    batches[index] = courses[index].send(value)
                except StopIteration:
                    del batches[index]
    return histories


def _course(run: Run, schedule: Schedule, history: History, bar: tqdm[NoReturn]) -> Generator[Tensor, float]:
    """The epochs of one net: yields the rows of each step, is sent their loss when the gradients are there."""
    net, n_epochs, best = run.net, _n_epochs(run, schedule), None
    optimizer = _optimizer(net, schedule)
    for epoch in range(n_epochs):
        history.train_loss.append((yield from _epoch(run, schedule, optimizer, epoch)))
        bar.update()
        if run.validate is None:
            history.best_epoch = epoch
            continue
        history.val_loss.append(run.validate())
        bar.set_postfix(val_loss=f"{history.val_loss[-1]:.4g}", refresh=False)
        if history.val_loss[-1] < min(history.val_loss[:-1], default=math.inf):
            history.best_epoch = epoch
            best = {name: value.detach().clone() for name, value in net.state_dict().items()}
        elif epoch - history.best_epoch >= schedule.patience:
            bar.update(n_epochs - epoch - 1)
            break
    if best is not None:
        net.load_state_dict(best)
    net.eval()


def _epoch(
    run: Run, schedule: Schedule, optimizer: torch.optim.Optimizer, epoch: int
) -> Generator[Tensor, float, float]:
    """One pass over the rows; the mean loss of its steps."""
    run.net.train()
    n_batches = math.ceil(run.n_rows / schedule.batch_size)
    device = next(run.net.parameters()).device
    order = torch.randperm(run.n_rows, generator=run.generator).to(device)
    total = 0.0
    # Batches of nearly equal size: a last batch of two rows has no correlation to speak of.
    for index, rows in enumerate(torch.tensor_split(order, n_batches)):
        rate = learning_rate(epoch * n_batches + index, schedule.max_epochs * n_batches, schedule)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        total += len(rows) * (yield rows)
        if schedule.clip_norm:
            torch.nn.utils.clip_grad_norm_(run.net.parameters(), schedule.clip_norm)
        optimizer.step()
    if not math.isfinite(total):
        msg = f"the training loss became {total / run.n_rows} in epoch {epoch + 1}; try a smaller lr or a target_transform"
        raise ValueError(msg)
    return total / run.n_rows


def _n_epochs(run: Run, schedule: Schedule) -> int:
    return schedule.max_epochs if run.stop_after is None else min(run.stop_after, schedule.max_epochs)


def _optimizer(net: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    vectors = [p for p in net.parameters() if p.ndim <= 1]  # biases and normalisation weights do not decay
    matrices = [p for p in net.parameters() if p.ndim > 1]
    groups = [{"params": matrices, "weight_decay": schedule.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=schedule.lr, momentum=_MOMENTUM)
    return torch.optim.AdamW(groups, lr=schedule.lr, fused=next(net.parameters()).device.type in _FUSED)


def evaluate(net: nn.Module, loss: Loss, data: Pair) -> float:
    """Loss of the net on rows that it does not learn from."""
    net.eval()
    with torch.no_grad():
        return float(loss(net(data[0]), data[1]))


def learning_rate(step: int, n_steps: int, schedule: Schedule) -> float:
    """Linear warm-up to ``lr``, then half a cosine down to ``min_lr``."""
    warm = max(1, round(schedule.warmup * n_steps))
    if step < warm:
        return schedule.lr * (step + 1) / warm
    progress = (step - warm) / max(1, n_steps - warm)
    return schedule.min_lr + (schedule.lr - schedule.min_lr) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
