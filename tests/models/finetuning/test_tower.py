"""Gradients of a batch in parts against those of the whole batch, also over two processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from histocell.models.expression.losses import symmetric_info_nce
from histocell.models.training import seeded

N = 11


@pytest.fixture
def batch():
    with seeded(3, torch.device("cpu")):
        return torch.randint(0, 256, (N, 16, 16, 3), dtype=torch.uint8), torch.randn(N, 24)


def gradients(tower, batch, micro_batch):
    patches, genes = batch
    tower.train(mode=True)
    for value in tower.parameters.values():
        value.grad = None
    losses = tower.backward(
        patches, lambda image: {"contrast": symmetric_info_nce(image, genes)}, micro_batch=micro_batch, seed=[5]
    )
    return losses["contrast"].item(), {name: value.grad.clone() for name, value in tower.parameters.items()}


def assert_equal(found, expected):
    assert found[0] == pytest.approx(expected[0], abs=1e-6)
    assert found[1].keys() == expected[1].keys()
    for name, value in expected[1].items():
        assert (found[1][name] - value).abs().max() <= 1e-5 * value.abs().max() + 1e-9, name


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("micro_batch", [1, 4, 10])
def test_gradient_in_parts_is_that_of_the_whole_batch(make_tower, batch, blocks, micro_batch):
    tower = make_tower(blocks=blocks)
    whole = gradients(tower, batch, N)
    assert all(value.abs().max() > 0 for value in whole[1].values())
    assert_equal(gradients(tower, batch, micro_batch), whole)


@pytest.mark.parametrize("blocks", [1, 3])
def test_dropout_is_the_same_in_both_passes(make_tower, batch, blocks):
    """The truth is one graph over all parts, each drawn from its own seed."""
    tower = make_tower(blocks=blocks, dropout=0.4)
    found = gradients(tower, batch, 4)
    for value in tower.parameters.values():
        value.grad = None
    parts = [slice(0, 4), slice(4, 8), slice(8, N)]
    embeddings = []
    for part in parts:
        with tower._drawing([5], part):
            embeddings.append(tower.embed(batch[0][part]))
    loss = symmetric_info_nce(torch.cat(embeddings), batch[1])
    loss.backward()
    assert_equal(found, (loss.item(), {name: value.grad for name, value in tower.parameters.items()}))
    assert gradients(make_tower(blocks=blocks), batch, 4)[0] != pytest.approx(
        found[0], abs=1e-4
    )  # dropout does something


def test_frozen_blocks_are_passed_once(make_tower, batch):
    tower = make_tower()
    calls = []
    first, last = tower.backbone.trunk.blocks[0], tower.backbone.trunk.blocks[-1]
    forward = type(first).forward
    for name, block in (("first", first), ("last", last)):
        block.register_forward_pre_hook(lambda module, args, name=name: calls.append((name, "forward" in vars(module))))
    gradients(tower, batch, 4)
    assert [call for call in calls if call[0] == "first"] == [("first", False)] * 3 + [
        ("first", True)
    ] * 3  # True: skipped
    assert first.forward.__func__ is forward


def test_only_adapters_are_trained(make_tower):
    tower = make_tower()
    assert all("lora_" in name and ".blocks.2." in name for name in tower.parameters)
    tower.train(mode=True)
    assert not tower.backbone.trunk.training


def test_activations_can_be_computed_again(make_tower, batch):
    expected = gradients(make_tower(blocks=3, dropout=0.3), batch, 4)
    assert_equal(gradients(make_tower(blocks=3, dropout=0.3, checkpointing=True), batch, 4), expected)


_PROCESS = """
import sys
import torch
sys.path.insert(0, {folder!r})
import conftest, test_tower
from histocell.models.finetuning.processes import joined
from histocell.models.training import seeded
with joined("cpu") as (processes, device):
    with seeded(3, torch.device("cpu")):
        batch = torch.randint(0, 256, (11, 16, 16, 3), dtype=torch.uint8), torch.randn(11, 24)
    tower = conftest.tower_of()
    tower.train(mode=True)
    losses = tower.backward(batch[0], lambda z: {{"c": test_tower.symmetric_info_nce(z, batch[1])}}, micro_batch=4, seed=[5], processes=processes)
    if processes.rank == 0:
        torch.save({{name: value.grad for name, value in tower.parameters.items()}}, {out!r})
"""


def test_two_processes_share_a_batch(make_tower, batch, tmp_path):
    script, out = tmp_path / "script.py", tmp_path / "gradients.pt"
    script.write_text(_PROCESS.format(folder=str(Path(__file__).parent), out=str(out)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    facts = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script)], env={**os.environ, **facts, "RANK": str(r), "LOCAL_RANK": str(r)}
        )
        for r in range(2)
    ]
    assert [process.wait(timeout=120) for process in ranks] == [0, 0]
    found = torch.load(out, weights_only=True)
    for name, value in gradients(make_tower(), batch, N)[1].items():
        assert (found[name] - value).abs().max() <= 1e-5 * value.abs().max() + 1e-9
