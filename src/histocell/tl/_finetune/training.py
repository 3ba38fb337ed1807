"""The training of an encoder, and what it leaves: the adapter folder, the result, and a record in the tables."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from histocell._core import keys
from histocell._core.outputs import check_outputs
from histocell.encoders.adapters import save_adapter
from histocell.encoders.adapters.files import CARD, CONFIG, RECORD, TENSORS
from histocell.models.finetuning.heads import HEADS, Heads, save_heads
from histocell.models.finetuning.trainer import Trainer
from histocell.models.training import seeded
from histocell.tl._finetune.result import FinetuneResult

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from histocell._core.types import JSON
    from histocell.models.finetuning.checkpoints import Checkpoints
    from histocell.models.finetuning.processes import Processes
    from histocell.models.finetuning.settings import FinetuneConfig
    from histocell.models.finetuning.tower import ImageTower
    from histocell.models.finetuning.trainer import Progress, TrainingData
    from histocell.tables.expression import GenePanel
    from histocell.tl._finetune.building import Tuned
    from histocell.tl._finetune.rows import Member


def check_free(folder: Path) -> None:
    """Refuse a folder whose files would be replaced and are not histocell's own."""
    check_outputs([folder / name for name in (TENSORS, CONFIG, RECORD, CARD, HEADS)])


def train(
    tower: ImageTower,
    rows: TrainingData,
    panel: GenePanel,
    config: FinetuneConfig,
    *,
    seed: int,
    checkpoints: Checkpoints,
    processes: Processes,
) -> tuple[Heads, Progress]:
    """Make the heads and train all of it."""
    mean, std = (torch.tensor(values, dtype=torch.float32) for values in (panel.mean, panel.std))
    with seeded(seed, torch.device("cpu")):
        heads = Heads(tower.dim, mean, std, config)
    heads.to(tower.device)
    trainer = Trainer(tower, heads, rows, config, seed=seed, checkpoints=checkpoints, processes=processes)
    return heads, trainer.run()


def result_of(
    folder: Path, tuned: Tuned, config: FinetuneConfig, panel: GenePanel, members: Sequence[Member], progress: Progress
) -> FinetuneResult:
    """The result of a training."""
    history = {name: np.array([values]) for name, values in progress.history.items()}
    groups = {
        part: sorted({str(name) for member in members for name in member.groups[member.rows(part)]})
        for part in (keys.TRAIN, keys.VAL)
    }
    return FinetuneResult(
        folder=folder,
        encoder=tuned.spec.name,
        method=config.method,
        parameters=str(tuned.report),
        panel=panel,
        n_train=sum(len(member.rows(keys.TRAIN)) for member in members),
        n_val=sum(len(member.rows(keys.VAL)) for member in members),
        train_groups=groups[keys.TRAIN],
        val_groups=groups[keys.VAL],
        history=history | {"best_epoch": np.array([progress.best_epoch])},
    )


def summary(result: FinetuneResult, config: FinetuneConfig) -> JSON:
    """The training in plain words and numbers."""
    return {
        **asdict(config),
        "encoder": result.encoder,
        "trained": result.parameters,
        "training rows": result.n_train,
        "training groups": result.train_groups,
        "validation rows": result.n_val,
        "validation groups": result.val_groups,
        "best epoch": result.best_epoch,
        **{name.replace("val_", "validation ", 1): value for name, value in result.validation.items()},
    }


def write(
    result: FinetuneResult,
    tuned: Tuned,
    tower: ImageTower,
    heads: Heads,
    config: FinetuneConfig,
    *,
    allow_restricted: bool,
) -> None:
    """The adapter folder, with its heads."""
    metadata = {
        "gene_panel": result.panel.to_dict(),
        "heads": HEADS,
        "pool": tower.pool,
        "training": summary(result, config),
    }
    save_heads(result.folder / HEADS, heads, dim=tower.dim)
    save_adapter(
        result.folder,
        tuned.network,
        spec=replace(tuned.spec, pooling=tower.pool),
        metadata=metadata,
        version=tuned.version,
        allow_restricted=allow_restricted,
    )


def record(members: Sequence[Member], result: FinetuneResult, config: FinetuneConfig, *, key: str) -> None:
    """The settings and curves in ``uns`` of each table."""
    text = json.dumps({**summary(result, config), "folder": str(result.folder)})
    for member in members:
        member.sections.table.uns[key] = {"config": text, "history": dict(result.history)}
