"""Memory of a large contrastive batch, and trainings that are killed."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from histocell.encoders import EncoderSpec
from histocell.encoders.adapters import add_lora
from histocell.encoders.networks.build import network_of_spec
from histocell.models.finetuning.checkpoints import BEST, LAST, Checkpoints
from histocell.models.finetuning.heads import Heads
from histocell.models.finetuning.settings import FinetuneConfig
from histocell.models.finetuning.tower import ImageTower
from histocell.models.finetuning.trainer import Trainer, TrainingData

SMALL = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 48, "num_heads": 4}
RUN = "import sys; sys.path.insert(0, {here!r}); import seal_runs; seal_runs.{call}"


def trainer(folder: Path, spec: EncoderSpec, n: int, n_genes: int, **settings) -> Trainer:
    """A training on random patches and expression."""
    rng = np.random.default_rng(0)
    config = FinetuneConfig(**settings)
    backbone, spec, _ = network_of_spec(spec, "random", 0)
    torch.manual_seed(0)
    _, report = add_lora(backbone, spec)
    tower = ImageTower(backbone, spec, report.targets, device=torch.device("cpu"))
    edge = spec.input_px
    patches = rng.integers(0, 256, (n, edge, edge, 3), dtype=np.uint8)
    expression = rng.random((n, n_genes), dtype=np.float32)
    data = TrainingData(patches, expression, np.arange(n - n // 5), np.arange(n - n // 5, n))
    heads = Heads(tower.dim, torch.full((n_genes,), 0.5), torch.full((n_genes,), 0.3), config)
    return Trainer(tower, heads, data, config, seed=0, checkpoints=Checkpoints(folder, {}))


def step(micro_batch: int) -> None:
    """One step of 384 patches of 224 px by a ViT-S and 2,000 genes: seconds and memory of the process."""
    run = trainer(
        Path(tempfile.mkdtemp()),
        EncoderSpec(name="vit-s", library="timm", arch="vit_small_patch16_224", pooling="cls"),
        480,
        2000,
        micro_batch=micro_batch,
    )
    run.progress.stage = 1
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    start = time.process_time()
    run._learn(run.stages[1], run._rows(0))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"| {micro_batch} | {before:.2f} | {peak:.2f} | {time.process_time() - start:.0f} |", flush=True)


def memory() -> None:
    """Each in a process of its own."""
    print(
        "| micro_batch | GiB before | GiB at the peak of the process | s of processor time for a step |\n|---|---|---|---|",
        flush=True,
    )
    for size in (32, 64, 128, 384):
        call = RUN.format(here=str(Path(__file__).parent), call=f"step({size})")
        subprocess.run([sys.executable, "-c", call], check=False)


def train_small(folder: str, kill_at: int = 0) -> None:
    """A small training that kills its own process before a step."""
    spec = EncoderSpec(name="small-vit", library="timm", arch="vit_tiny_patch16_224", arch_kwargs=SMALL, input_px=32)
    Path(folder).mkdir(exist_ok=True)
    settings = {"batch_size": 32, "micro_batch": 12, "warmup_epochs": 1, "max_epochs": 2, "checkpoint_steps": 2}
    run = trainer(Path(folder), spec, 160, 50, **settings)
    learn, calls = run._learn, []

    def counted(*args):
        calls.append(0)
        if len(calls) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return learn(*args)

    run._learn = counted
    run.run()


def resume() -> None:
    """Kill a training of 12 steps at each of some, go on, and compare all weights at the end, bit by bit."""
    with tempfile.TemporaryDirectory() as folder:
        train_small(f"{folder}/whole")
        for at in (1, 2, 3, 5, 8, 9, 12):
            here = f"{folder}/{at}"
            call = RUN.format(here=str(Path(__file__).parent), call=f"train_small({here!r}, {at})")
            killed = subprocess.run([sys.executable, "-c", call], check=False).returncode == -signal.SIGKILL
            train_small(here)
            same = all(_equal(Path(folder) / "whole" / name, Path(here) / name) for name in (LAST, BEST))
            print(f"killed before step {at}: {killed}; the same weights: {same}", flush=True)


def _equal(first: Path, second: Path) -> bool:
    a, b = load_file(first), load_file(second)
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())
