"""The two stages of a training of an encoder by expression: the autoencoder alone, then all; resumed where it was stopped."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from histocell._core.settings import progress_bar
from histocell.models.expression.losses import gene_correlation
from histocell.models.finetuning.augmentation import augment
from histocell.models.finetuning.checkpoints import BEST, Checkpoint
from histocell.models.finetuning.processes import Processes
from histocell.models.training import Schedule, learning_rate, seeded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import NoReturn

    from numpy.typing import NDArray
    from torch import Tensor
    from tqdm import tqdm

    from histocell._core.types import JSON, Ints
    from histocell.models.finetuning.checkpoints import Checkpoints
    from histocell.models.finetuning.heads import Heads
    from histocell.models.finetuning.settings import FinetuneConfig
    from histocell.models.finetuning.tower import ImageTower

_NEAR = 10  # a row is found when its image is among this many


class TrainingData(NamedTuple):
    """Rows of a training.

    Attributes
    ----------
    patches
        uint8, shape ``(n, edge, edge, 3)``, in memory or in a file.
    expression
        Shape ``(n, genes)``.
    train, val
        Positions of the rows to train on, and of those that choose the epoch.
    """

    patches: NDArray[np.uint8]
    expression: NDArray[np.float32]
    train: Ints
    val: Ints


class Stage(NamedTuple):
    """A part of the training with an optimizer and a schedule of its own.

    Attributes
    ----------
    name
        For messages.
    n_epochs
        Its length.
    joint
        Whether the encoder is trained, or the autoencoder alone.
    """

    name: str
    n_epochs: int
    joint: bool


@dataclass
class Progress:
    """Where a training stands: what a checkpoint says beside its tensors.

    Attributes
    ----------
    stage, step
        The stage, and the steps of it that are done.
    history
        Curves by epoch.
    sums
        Losses of the epoch that was begun, times rows, and the rows.
    best
        Best validation loss of the second stage.
    """

    stage: int = 0
    step: int = 0
    history: dict[str, list[float]] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)
    best: float = math.inf
    best_epoch: int = -1

    def record(self, values: Mapping[str, float]) -> None:
        """Append to the curves."""
        for name, value in values.items():
            self.history.setdefault(name, []).append(value)


class Trainer:
    """A training.

    Parameters
    ----------
    tower, heads
        What is trained, in place.
    data
        Rows.
    config
        Settings.
    seed
        Of the order of the rows, of augmentation and of dropout.
    checkpoints
        Where the training is kept.
    processes
        Those that share the work.
    """

    def __init__(
        self,
        tower: ImageTower,
        heads: Heads,
        data: TrainingData,
        config: FinetuneConfig,
        *,
        seed: int,
        checkpoints: Checkpoints,
        processes: Processes = Processes(),
    ) -> None:
        self.tower, self.heads, self.data, self.config = tower, heads, data, config
        self.seed, self.checkpoints, self.processes = seed, checkpoints, processes
        warmup = (
            [Stage("autoencoder", config.warmup_epochs, joint=False)]
            if config.contrast and config.warmup_epochs
            else []
        )
        self.stages = [*warmup, Stage("joint", config.max_epochs, joint=True)]
        self.progress = Progress()
        self.n_batches = _n_batches(len(data.train), config.batch_size)

    def run(self) -> Progress:
        """Train to the end, from the last checkpoint if there is one; the weights of the best epoch are put back.

        Raises
        ------
        ValueError
            When a loss or a gradient is not finite; the weights of the last checkpoint are kept.
        OSError
            When a checkpoint cannot be written.
        """
        found = self.checkpoints.load()
        if found is not None:
            self.progress = Progress(**found.facts)
            self._put(found.tensors)
        self.processes.barrier()  # before the first one writes
        total = self.n_batches * sum(stage.n_epochs for stage in self.stages)
        done = self.n_batches * sum(stage.n_epochs for stage in self.stages[: self.progress.stage]) + self.progress.step
        with progress_bar(total=total, desc=f"tuning ({self.config.method})", unit="step") as bar:
            bar.update(done)
            while self.progress.stage < len(self.stages):
                self._run_stage(bar, None if found is None else found.tensors)
                found = None
                self.progress.stage += 1
                self.progress.step = 0
                self._save({})
        self.processes.barrier()
        best = self.checkpoints.load(BEST)
        if best is not None:
            self._put(best.tensors)
        self.tower.train(mode=False)
        self.heads.eval()
        return self.progress

    def _run_stage(self, bar: tqdm[NoReturn], tensors: Mapping[str, Tensor] | None) -> None:
        stage = self.stages[self.progress.stage]
        optimizer, rates = self._optimizer(stage)
        if tensors is not None:
            _put_optimizer(optimizer, tensors)
        n_steps = stage.n_epochs * self.n_batches
        while self.progress.step < n_steps:
            step = self.progress.step
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = learning_rate(step, n_steps, Schedule(lr=rate, min_lr=0, warmup=0))
            optimizer.zero_grad()
            rows = self._rows(step)
            losses = self._learn(stage, rows)
            self._check(losses, optimizer, step)
            optimizer.step()
            for name, value in {**losses, "rows": 1.0}.items():
                self.progress.sums[name] = self.progress.sums.get(name, 0.0) + value * len(rows)
            self.progress.step += 1
            bar.update()
            ended = self.progress.step % self.n_batches == 0
            if ended:
                self._end_epoch(stage, bar)
            if (ended or self.progress.step % self.config.checkpoint_steps == 0) and self.progress.step < n_steps:
                self._save(_optimizer_tensors(optimizer))

    def _rows(self, step: int) -> Ints:
        """The rows of a step, in the order of its epoch."""
        epoch, index = divmod(step, self.n_batches)
        order = self._rng(1, epoch).permutation(self.data.train)
        return np.array_split(order, self.n_batches)[index]

    def _rng(self, purpose: int, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, purpose, self.progress.stage, number])

    def _learn(self, stage: Stage, rows: Ints) -> dict[str, float]:
        """Gradients of a step, and its losses."""
        expression, step = self._expression(rows), self.progress.step
        self.heads.train()
        seed = [self.seed, self.progress.stage, step]
        with seeded(int(self._rng(2, step).integers(2**31)), self.tower.device):
            if not stage.joint:
                losses = self.heads.autoencoder_losses(expression)
                torch.stack(list(losses.values())).sum().backward()
            else:
                self.tower.train(mode=True)
                losses = self.tower.backward(
                    self._patches(rows, augmented=step if self.config.augment else None),
                    lambda embeddings: self.heads.losses(embeddings, expression),
                    micro_batch=self.config.micro_batch,
                    seed=seed,
                    processes=self.processes,
                )
        return {name: value.item() for name, value in losses.items()}

    def _patches(self, rows: Ints, *, augmented: int | None = None) -> Tensor:
        patches = torch.from_numpy(self.data.patches[rows]).to(self.tower.device)
        if augmented is None:
            return patches
        return augment(patches, self._rng(3, augmented), stain_jitter=self.config.stain_jitter)

    def _expression(self, rows: Ints) -> Tensor:
        return torch.from_numpy(self.data.expression[rows]).to(self.tower.device)

    def _check(self, losses: Mapping[str, float], optimizer: torch.optim.Optimizer, step: int) -> None:
        """Stop before weights are spoilt."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = float(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
        if math.isfinite(sum(losses.values())) and math.isfinite(norm):
            return
        stage, last = self.stages[self.progress.stage], self.checkpoints.place()
        found = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
        kept = "no checkpoint was written yet" if last is None else f"the checkpoint of {last} is kept"
        msg = (
            f"the training is no longer finite in stage {stage.name!r}, epoch {step // self.n_batches + 1}, step {step + 1} "
            f"({found}; norm of the gradient {norm:.4g}); {kept} in {self.checkpoints.folder}. Try a smaller lr, or "
            'precision="fp32", in another folder'
        )
        raise ValueError(msg)

    def _end_epoch(self, stage: Stage, bar: tqdm[NoReturn]) -> None:
        sums = self.progress.sums
        n = sums.pop("rows")
        means = {name: value / n for name, value in sums.items()}
        self.progress.sums = {}
        values = self._validate(stage)
        if not stage.joint:
            self.progress.record({"autoencoder_loss": sum(means.values()), "autoencoder_val_loss": values["val_loss"]})
            return
        self.progress.record(
            {"train_loss": sum(means.values()), **{f"train_{k}": v for k, v in means.items()}, **values}
        )
        bar.set_postfix(val_loss=f"{values['val_loss']:.4g}", refresh=False)
        if values["val_loss"] < self.progress.best:
            self.progress.best = values["val_loss"]
            self.progress.best_epoch = len(self.progress.history["train_loss"]) - 1
            if self.processes.rank == 0:
                self.checkpoints.save(
                    Checkpoint(self._weights(), {"stage": self.progress.stage, "step": self.progress.step}), BEST
                )

    @torch.no_grad()
    def _validate(self, stage: Stage) -> dict[str, float]:
        """Losses on the validation rows, correlation of decoded genes, and share of rows whose image is found."""
        self.tower.train(mode=False)
        self.heads.eval()
        rows, sums = self.data.val, dict[str, float]()
        decoded: list[Tensor] = []
        ranks: list[Tensor] = []
        for part in np.array_split(rows, _n_batches(len(rows), self.config.batch_size)):
            expression = self._expression(part)
            if not stage.joint:
                losses = self.heads.autoencoder_losses(expression)
            else:
                image = self._embed(part)
                losses = self.heads.losses(image, expression)
                ranks.append(self.heads.retrieval_ranks(image, expression))
                decoded += [] if self.heads.decoder is None else [self.heads.decoder(image)]
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.item() * len(part) / len(rows)
        values = {"val_loss": sum(sums.values()), **({f"val_{k}": v for k, v in sums.items()} if stage.joint else {})}
        if decoded:
            true = self._expression(rows)
            varies = true.std(dim=0) > 0
            values["val_pcc"] = gene_correlation(torch.cat(decoded), true)[varies].mean().item()
        if ranks and self.heads.autoencoder is not None:
            values[f"val_recall_at_{_NEAR}"] = (torch.cat(ranks) < _NEAR).float().mean().item()
        return values

    def _embed(self, rows: Ints) -> Tensor:
        """Embeddings of rows as at inference."""
        own = rows[self.processes.share(len(rows))]
        size = self.config.micro_batch
        parts = [self.tower.embed(self._patches(own[start : start + size])) for start in range(0, len(own), size)]
        return self.processes.gather(torch.cat(parts), len(rows))

    def _optimizer(self, stage: Stage) -> tuple[torch.optim.Optimizer, list[float]]:
        """AdamW with the weights of the stage, and the learning rate of each of its groups; vectors do not decay."""
        config = self.config
        head_rate = config.head_lr or config.lr
        sets: list[tuple[Sequence[torch.nn.Parameter], float]] = [
            ([p for p in self.heads.parameters() if p.requires_grad], head_rate),
            (list(self.tower.parameters.values()), config.lr),
        ]
        if not stage.joint:
            autoencoder = self.heads.autoencoder
            sets = [([] if autoencoder is None else list(autoencoder.parameters()), config.autoencoder_lr)]
        groups, rates = [], []
        for parameters, rate in sets:
            for matrices in (True, False):
                chosen = [p for p in parameters if (p.ndim > 1) == matrices]
                if chosen:
                    groups.append({"params": chosen, "weight_decay": config.weight_decay if matrices else 0.0})
                    rates.append(rate)
        return torch.optim.AdamW(groups, lr=config.lr), rates

    def _weights(self) -> dict[str, Tensor]:
        """All that is trained, by name."""
        heads = {f"heads.{name}": value for name, value in self.heads.state_dict().items()}
        return heads | {f"encoder.{name}": value for name, value in self.tower.parameters.items()}

    def _put(self, tensors: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in self._weights().items():
                value.copy_(tensors[name])

    def _save(self, optimizer: Mapping[str, Tensor]) -> None:
        if self.processes.rank == 0:
            facts: JSON = vars(self.progress)
            self.checkpoints.save(Checkpoint({**self._weights(), **optimizer}, facts))


def _n_batches(n: int, batch_size: int) -> int:
    """Batches of nearly equal size, none of a single row."""
    number = math.ceil(n / batch_size)
    return number if n // number > 1 else max(1, n // batch_size)


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{index}.{name}": value for index, values in state.items() for name, value in values.items()}


def _put_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
