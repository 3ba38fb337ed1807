from __future__ import annotations

import numpy as np
import pytest
import torch

from histocell.encoders import EncoderSpec
from histocell.encoders.adapters import add_lora
from histocell.encoders.networks.build import network_of_spec
from histocell.models.finetuning.checkpoints import Checkpoints
from histocell.models.finetuning.heads import Heads
from histocell.models.finetuning.settings import FinetuneConfig
from histocell.models.finetuning.tower import ImageTower
from histocell.models.finetuning.trainer import Trainer, TrainingData
from histocell.models.training import seeded

CPU = torch.device("cpu")
SPEC = EncoderSpec(
    name="small-vit",
    library="timm",
    arch="vit_tiny_patch16_224",
    arch_kwargs={"img_size": 16, "patch_size": 8, "depth": 3, "embed_dim": 24, "num_heads": 2},
    input_px=16,
    pooling="cls",
)


def tower_of(*, blocks: int = 1, dropout: float = 0.0, **options) -> ImageTower:
    """A small transformer with random weights and adapters that are not 0 any more."""
    backbone, spec, _ = network_of_spec(SPEC, "random", 0)
    with seeded(1, CPU):
        _, report = add_lora(backbone, spec, blocks=blocks, dropout=dropout, rank=4, alpha=4)
        for name, value in backbone.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(value, std=0.1)
    return ImageTower(backbone, spec, report.targets, device=CPU, **options)


@pytest.fixture(scope="session")
def make_tower():
    pytest.importorskip("peft")
    return tower_of


def trainer_of(folder, *, values=None, **settings) -> Trainer:
    """A training on 40 random patches and 6 genes."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    config = FinetuneConfig(**{"batch_size": 8, "micro_batch": 3, "warmup_epochs": 1, "max_epochs": 2, **settings})
    patches = rng.integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    expression = rng.random((40, 6), dtype=np.float32) if values is None else values
    data = TrainingData(patches, expression, np.arange(30), np.arange(30, 40))
    tower = tower_of(dropout=0.2)
    with seeded(0, CPU):
        heads = Heads(tower.dim, torch.full((6,), 0.5), torch.full((6,), 0.3), config)
    checkpoints = Checkpoints(folder, {"lr": config.lr})
    return Trainer(tower, heads, data, config, seed=7, checkpoints=checkpoints)


@pytest.fixture(scope="session")
def make_trainer():
    pytest.importorskip("peft")
    return trainer_of
