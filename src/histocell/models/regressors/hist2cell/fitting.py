"""Training of Hist2Cell on parts of a graph, and its predictions, part by part or section by section."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from histocell._core.settings import progress_bar
from histocell.models.settings import limited
from histocell.models.training import History, _one_thread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from histocell.models.regressors.graph import Graph


@dataclass(frozen=True)
class Steps:
    """How the network learns.

    Attributes
    ----------
    lr, min_lr
        Learning rate of the first epoch and of the last, half a cosine between them.
    weight_decay
        L2 penalty, a part of the gradient.
    batch_size
        Rows in the middle of a step; those around them come along.
    n_steps_around
        How far around, in steps from neighbour to neighbour.
    whole_sections
        Whether the rows of a step are of one section and only those in the middle are learnt from, and predictions see
        whole sections; else sections are mixed, every row of a step is learnt from, and predictions come in batches.
    max_epochs
        Most epochs.
    patience
        Epochs without a smaller error in the groups held out before the end; 0 trains all of them.
    """

    lr: float = limited(1e-4, above=0)
    min_lr: float = limited(1e-5, least=0)
    weight_decay: float = limited(1e-4, least=0)
    batch_size: int = limited(16, least=1)
    n_steps_around: int = limited(2, least=1)
    whole_sections: bool = False
    max_epochs: int = limited(20, least=1)
    patience: int = limited(0, least=0)


def train(
    net: nn.Module,
    graph: Graph,
    Y: Tensor,
    steps: Steps,
    *,
    validation: tuple[Graph, Tensor] | None = None,
    stop_after: int | None = None,
    desc: str = "train",
) -> History:
    """Train `net` in place on all nodes of a graph and their targets; see `histocell.models.training.train`.

    With `validation` and patience, the weights of the best epoch are put back.
    """
    n_epochs = steps.max_epochs if stop_after is None else min(stop_after, steps.max_epochs)
    optimizer = torch.optim.Adam(net.parameters(), lr=steps.lr, weight_decay=steps.weight_decay)
    history, best = History(), None
    with _one_thread(graph.x.device, small=True), progress_bar(total=n_epochs, desc=desc, unit="epoch") as bar:
        for epoch in range(n_epochs):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(epoch, steps)
            history.train_loss.append(_one_epoch(net, graph, Y, steps, optimizer, epoch))
            bar.update()
            if validation is not None:
                history.val_loss.append(float(F.mse_loss(predict(net, validation[0], steps), validation[1])))
            if validation is None or not steps.patience:
                history.best_epoch = epoch
            elif history.val_loss[-1] < min(history.val_loss[:-1], default=math.inf):
                history.best_epoch = epoch
                best = {name: value.detach().clone() for name, value in net.state_dict().items()}
            elif epoch - history.best_epoch >= steps.patience:
                break
    if best is not None:
        net.load_state_dict(best)
    net.eval()
    return history


def learning_rate(epoch: int, steps: Steps) -> float:
    """Half a cosine over the epochs."""
    return steps.min_lr + (steps.lr - steps.min_lr) * 0.5 * (1 + math.cos(math.pi * epoch / steps.max_epochs))


def predict(net: nn.Module, graph: Graph, steps: Steps) -> Tensor:
    """Predictions for all nodes, without dropout."""
    net.eval()
    out: list[Tensor] = []
    parts = graph.by_section() if steps.whole_sections else list(torch.arange(len(graph.x)).split(steps.batch_size))
    nodes = [part.to(graph.x.device) for part in parts]
    with torch.no_grad():
        for part in nodes:
            around = part if steps.whole_sections else graph.around(part, steps.n_steps_around)
            some = graph.take(around)
            out.append(net(some.x, some.pairs)[torch.searchsorted(around, part)])
    order = torch.cat(nodes)
    values = torch.cat(out)
    return torch.empty_like(values).index_copy(0, order, values)


def _one_epoch(
    net: nn.Module, graph: Graph, Y: Tensor, steps: Steps, optimizer: torch.optim.Optimizer, epoch: int
) -> float:
    """One pass over the nodes; the mean loss of its steps."""
    net.train()
    total, n_batches = 0.0, 0
    for middle in batches(graph, steps):
        around = graph.around(middle, steps.n_steps_around)
        some = graph.take(around)
        predicted, wanted = net(some.x, some.pairs), Y[around]
        if steps.whole_sections:
            learnt = torch.searchsorted(around, middle)
            predicted, wanted = predicted[learnt], wanted[learnt]
        loss = F.mse_loss(predicted, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total, n_batches = total + loss.item(), n_batches + 1
    if not math.isfinite(total):
        msg = (
            f"the training loss became {total / n_batches} in epoch {epoch + 1}; try a smaller lr or a target_transform"
        )
        raise ValueError(msg)
    return total / n_batches


def batches(graph: Graph, steps: Steps) -> Iterator[Tensor]:
    """The nodes in the middle of each step: random ones, of one section or of all."""
    n_nodes, device = len(graph.x), graph.x.device
    if not steps.whole_sections:
        yield from torch.randperm(n_nodes).to(device).split(steps.batch_size)
        return
    found = []
    for section in graph.by_section():
        mixed = section[torch.randperm(len(section)).to(device)]
        found += list(mixed.tensor_split(math.ceil(len(mixed) / steps.batch_size)))
    yield from (found[index] for index in torch.randperm(len(found)).tolist())
