"""The training loop of small torch models: AdamW, warm-up and cosine, early stopping, best weights restored."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from histocell._core.settings import progress_bar
from histocell.models.settings import limited

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

    type Loss = Callable[[Tensor, Tensor], Tensor]
    type Pair = tuple[Tensor, Tensor]  # features and targets

_FUSED = {"cpu", "cuda"}
_SMALL_STEP = 100_000_000  # parameters times rows of a step


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
    """

    lr: float = limited(1e-3, above=0)
    min_lr: float = limited(1e-6, least=0)
    weight_decay: float = limited(1e-2, least=0)
    batch_size: int = limited(128, least=1)
    max_epochs: int = limited(40, least=1)
    patience: int = limited(8, least=0)
    warmup: float = limited(0.05, least=0, most=1)
    clip_norm: float = limited(1.0, least=0)


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
    """Train `net` in place; the order of the rows and dropout draw from torch's random numbers (see `seeded`).

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
    n_epochs = schedule.max_epochs if stop_after is None else min(stop_after, schedule.max_epochs)
    vectors = [p for p in net.parameters() if p.ndim <= 1]  # biases and normalisation weights do not decay
    matrices = [p for p in net.parameters() if p.ndim > 1]
    groups = [{"params": matrices, "weight_decay": schedule.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=schedule.lr, fused=data[0].device.type in _FUSED)
    history, best = History(), None
    small = schedule.batch_size * sum(parameter.numel() for parameter in net.parameters()) < _SMALL_STEP
    with _one_thread(data[0].device, small=small), progress_bar(total=n_epochs, desc=desc, unit="epoch") as bar:
        for epoch in range(n_epochs):
            history.train_loss.append(_one_epoch(net, loss, data, schedule, optimizer, epoch))
            bar.update()
            if validation is None:
                history.best_epoch = epoch
                continue
            history.val_loss.append(evaluate(net, loss, validation))
            bar.set_postfix(val_loss=f"{history.val_loss[-1]:.4g}", refresh=False)
            if history.val_loss[-1] < min(history.val_loss[:-1], default=math.inf):
                history.best_epoch = epoch
                best = {name: value.detach().clone() for name, value in net.state_dict().items()}
            elif epoch - history.best_epoch >= schedule.patience:
                break
    if best is not None:
        net.load_state_dict(best)
    net.eval()
    return history


def _one_epoch(
    net: nn.Module, loss: Loss, data: Pair, schedule: Schedule, optimizer: torch.optim.Optimizer, epoch: int
) -> float:
    """One pass over the rows; the mean loss of its steps."""
    X, Y = data
    net.train()
    n_batches = math.ceil(len(X) / schedule.batch_size)
    order = torch.randperm(len(X)).to(X.device)
    total = 0.0
    # Batches of nearly equal size: a last batch of two rows has no correlation to speak of.
    for index, rows in enumerate(torch.tensor_split(order, n_batches)):
        rate = learning_rate(epoch * n_batches + index, schedule.max_epochs * n_batches, schedule)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        value = loss(net(X[rows]), Y[rows])
        value.backward()
        if schedule.clip_norm:
            torch.nn.utils.clip_grad_norm_(net.parameters(), schedule.clip_norm)
        optimizer.step()
        total += value.item() * len(rows)
    if not math.isfinite(total):
        msg = f"the training loss became {total / len(X)} in epoch {epoch + 1}; try a smaller lr or a target_transform"
        raise ValueError(msg)
    return total / len(X)


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
