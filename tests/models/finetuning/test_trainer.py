"""Trainings that are killed, diverge or meet a full disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from histocell.models.finetuning.checkpoints import BEST, LAST, Checkpoint, Checkpoints
from histocell.models.finetuning.heads import load_heads, save_heads
from histocell.models.finetuning.settings import LOSSES
from histocell.models.finetuning.tower import ImageTower

N_STEPS = 12  # one epoch of the autoencoder and two of all, four batches each
KILL = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {folder!r})
import conftest
from histocell.models.finetuning.trainer import Trainer
learn, calls = Trainer._learn, []
def counted(self, *args):
    calls.append(0)
    if len(calls) == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
    return learn(self, *args)
Trainer._learn = counted
conftest.trainer_of(Path({out!r}), checkpoint_steps=2).run()
"""


def weights(trainer):
    trainer.run()
    return {name: value.clone() for name, value in trainer._weights().items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def stop_at(monkeypatch, trainer, step):
    """Let a training end with an error before its `step`."""
    learn, calls = trainer._learn, []

    def counted(*args):
        calls.append(0)
        if len(calls) == step:
            raise KeyboardInterrupt
        return learn(*args)

    monkeypatch.setattr(trainer, "_learn", counted)


@pytest.mark.parametrize(
    ("method", "loss"),
    [("recon", "seal"), ("contrastive", "seal"), *(("seal", loss) for loss in LOSSES)],
)
def test_everything_of_a_method_is_trained(make_trainer, tmp_path, method, loss):
    trainer = make_trainer(tmp_path, method=method, loss=loss)
    before = {name: value.clone() for name, value in trainer._weights().items()}
    after = weights(trainer)
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert still == {"heads.mean", "heads.std"}
    curves = trainer.progress.history
    assert len(curves["train_loss"]) == len(curves["val_loss"]) == 2
    assert np.isfinite([value for curve in curves.values() for value in curve]).all()


def test_same_seed_same_weights(make_trainer, tmp_path):
    assert_same(weights(make_trainer(tmp_path / "a")), weights(make_trainer(tmp_path / "b")))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, make_trainer):
    """A training that nothing stopped, and its weights."""
    trainer = make_trainer(tmp_path_factory.mktemp("whole"), checkpoint_steps=2)
    return trainer, weights(trainer)


@pytest.mark.parametrize("step", [1, 4, 5, 8, 9, N_STEPS])
def test_resumes_to_the_same_weights(make_trainer, tmp_path, monkeypatch, whole, step):
    expected, weights_expected = whole
    trainer = make_trainer(tmp_path / "killed", checkpoint_steps=2)
    stop_at(monkeypatch, trainer, step)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    resumed = make_trainer(tmp_path / "killed", checkpoint_steps=2)
    assert_same(weights(resumed), weights_expected)
    assert resumed.progress.history == expected.progress.history


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_resumes_after_a_real_kill(make_trainer, tmp_path, whole):
    script = KILL.format(folder=str(Path(__file__).parent), out=str(tmp_path / "killed"), at=8)
    (tmp_path / "killed").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "killed" / LAST).is_file()
    assert_same(weights(make_trainer(tmp_path / "killed", checkpoint_steps=2)), whole[1])


def test_a_training_that_has_ended_is_not_repeated(make_trainer, tmp_path, monkeypatch):
    expected = weights(make_trainer(tmp_path))
    again = make_trainer(tmp_path)
    stop_at(monkeypatch, again, 1)
    assert_same(weights(again), expected)


def test_stops_where_it_is_not_finite(make_trainer, tmp_path, user_sees):
    values = np.random.default_rng(0).random((40, 6), dtype=np.float32)
    values[:30] *= 1e30  # squares overflow
    trainer = make_trainer(tmp_path, method="recon", values=values)
    trainer.checkpoints.save(Checkpoint(trainer._weights(), {"stage": 0, "step": 0}))
    before = (tmp_path / LAST).read_bytes()
    match = r"no longer finite in stage 'joint', epoch 1, step 1 .*image.*stage 1, step 0 is kept"
    with user_sees("Tuning", "a loss that is not finite", ValueError, match=match):
        trainer.run()
    assert (tmp_path / LAST).read_bytes() == before
    assert all(torch.isfinite(value).all() for value in trainer._weights().values())


def test_gradients_that_are_not_finite_stop_it_too(make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path)
    backward = ImageTower.backward

    def spoilt(tower, *args, **options):
        losses = backward(tower, *args, **options)
        next(iter(tower.parameters.values())).grad[0] = torch.nan
        return losses

    monkeypatch.setattr(ImageTower, "backward", spoilt)
    with pytest.raises(ValueError, match=r"stage 'joint', epoch 1, step 1 .*gradient nan.*stage 2, step 0 is kept"):
        trainer.run()


def test_full_disk_keeps_the_checkpoint_before(tmp_path, user_sees):
    resource = pytest.importorskip("resource")
    checkpoints = Checkpoints(tmp_path, {"lr": 1})
    checkpoints.save(Checkpoint({"a": torch.zeros(10)}, {"stage": 0, "step": 3}))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        match = r"could not be written .*stage 1, step 3 is kept"
        with user_sees("Tuning", "a disk that is full", OSError, match=match):
            checkpoints.save(Checkpoint({"a": torch.zeros(1_000_000)}, {"stage": 0, "step": 4}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    found = checkpoints.load()
    assert found.facts == {"stage": 0, "step": 3}
    assert torch.equal(found.tensors["a"], torch.zeros(10))
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


def test_other_settings_are_refused(make_trainer, tmp_path):
    make_trainer(tmp_path).run()
    with pytest.raises(ValueError, match=r"lr was 0\.0001 and is 0\.001.*overwrite=True"):
        make_trainer(tmp_path, lr=1e-3).run()
    Checkpoints(tmp_path, {"lr": 1}, overwrite=True)
    assert not (tmp_path / LAST).exists()
    assert not (tmp_path / BEST).exists()


def test_damaged_checkpoint(make_trainer, tmp_path, user_sees):
    make_trainer(tmp_path).run()
    content = (tmp_path / LAST).read_bytes()
    (tmp_path / LAST).write_bytes(content[: len(content) // 2])
    with user_sees("Tuning", "a checkpoint that ends early", OSError, match="damaged or truncated"):
        make_trainer(tmp_path).run()


def test_heads_are_read_as_they_were_written(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.run()
    save_heads(tmp_path / "heads.safetensors", trainer.heads, dim=trainer.tower.dim)
    heads, image = load_heads(tmp_path), torch.randn(3, trainer.tower.dim)
    assert torch.equal(heads.decoder(image), trainer.heads.decoder(image))
    genes = torch.rand(3, 6)
    assert torch.equal(heads.autoencoder.encode(genes), trainer.heads.autoencoder.encode(genes))
    with pytest.raises(FileNotFoundError, match="heads"):
        load_heads(tmp_path / "elsewhere")
