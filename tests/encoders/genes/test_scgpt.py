from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from histocell.encoders.genes.scgpt import read_checkpoint


@pytest.mark.parametrize("layout", ["torch", "flash"])
def test_outputs_of_the_original(parity_dir, layout):
    folder = parity_dir / "scgpt_tiny"
    expected = np.load(folder / "expected.npz")
    network = read_checkpoint(folder / layout).network
    for name, out in (("tok", "tok_cls_l2"), ("e2e", "e2e_X_scGPT")):
        ids, values, padding = (torch.tensor(expected[f"{name}_{part}"]) for part in ("ids", "values", "padding_mask"))
        np.testing.assert_allclose(network(ids, values, padding).numpy(), expected[out], atol=2e-6)


def tokens():
    rng = np.random.default_rng(0)
    ids, values = rng.integers(0, 40, (5, 9)), rng.integers(1, 51, (5, 9)).astype(np.float32)
    ids[:, 0], values[:, 0] = 41, -2
    padding = np.arange(9) >= np.array([9, 7, 4, 2, 1])[:, None]
    ids[padding], values[padding] = 40, -2
    return tuple(map(torch.tensor, (ids, values, padding)))


def test_is_torchs_encoder(official):
    folder, forward = official
    ids, values, padding = tokens()
    checkpoint = read_checkpoint(folder)
    torch.testing.assert_close(
        checkpoint.network(ids, values, padding), forward(ids, values, padding), atol=2e-6, rtol=0
    )
    torch.testing.assert_close(
        checkpoint.network(ids[:1], values[:1]), forward(ids[:1], values[:1], padding[:1]), atol=2e-6, rtol=0
    )
    assert checkpoint.ignored == ("decoder.weight", "decoder.bias")
    assert checkpoint.version.startswith("checkpoint-")


@pytest.mark.parametrize(
    "names",
    [
        {"in_proj_": "Wqkv."},
        {"in_proj_": "_impl.Wqkv.", "self_attn.out_proj": "self_attn._impl.out_proj"},
    ],
)
def test_names_of_flash_attention(official, names):
    folder, forward = official
    tensors = torch.load(folder / "best_model.pt", weights_only=True)
    renamed = {}
    for name, tensor in tensors.items():
        for old, new in names.items():
            name = name.replace(old, new)
        renamed[name] = tensor
    torch.save(renamed, folder / "best_model.pt")
    ids, values, padding = tokens()
    found = read_checkpoint(folder).network(ids, values, padding)
    torch.testing.assert_close(found, forward(ids, values, padding), atol=2e-6, rtol=0)


def changed(folder, change):
    tensors = torch.load(folder / "best_model.pt", weights_only=True)
    change(tensors)
    torch.save(tensors, folder / "best_model.pt")


def test_a_missing_tensor_is_an_error(official):
    folder, _ = official
    changed(folder, lambda tensors: tensors.pop("value_encoder.norm.bias"))
    with pytest.raises(ValueError, match="lacks value_encoder.norm.bias"):
        read_checkpoint(folder)


def test_another_shape_is_an_error(official):
    folder, _ = official
    changed(folder, lambda tensors: tensors.update({"encoder.enc_norm.bias": torch.zeros(17)}))
    with pytest.raises(ValueError, match=r"enc_norm.bias \(17,\) instead of \(16,\)"):
        read_checkpoint(folder)


def test_more_layers_than_said_are_an_error(official):
    folder, _ = official
    args = json.loads((folder / "args.json").read_text())
    (folder / "args.json").write_text(json.dumps(args | {"nlayers": 1}))
    with pytest.raises(ValueError, match="more layers"):
        read_checkpoint(folder)


def test_unknown_tensors_are_named(official):
    folder, _ = official
    changed(folder, lambda tensors: tensors.update({"bn.weight": torch.zeros(16)}))
    with pytest.warns(UserWarning, match=r"no part of scGPT as it is known, and are ignored: bn.weight"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("args.json", "{", "args.json.* is no valid JSON"),
        ("args.json", '{"embsize": 16}', "must give nheads, d_hid, nlayers"),
        ("args.json", '{"embsize": 16, "nheads": 3, "d_hid": 24, "nlayers": 2}', "no multiple of nheads"),
        ("args.json", '{"embsize": 16, "nheads": 2, "d_hid": 24, "nlayers": 2000000000}', "it has 2 layers, not"),
        ("args.json", '{"embsize": 2147483648, "nheads": 2, "d_hid": 24, "nlayers": 2}', "16 numbers for each token"),
        (
            "args.json",
            '{"embsize": 16, "nheads": 2, "d_hid": 24, "nlayers": 2, "pad_value": ""}',
            "pad_value=''; it must be a number",
        ),
        ("vocab.json", '{"A": 0, "B": 0}', "two tokens have one id"),
        ("vocab.json", '{"A": 99}', "not of one model"),
        ("best_model.pt", "no tensors", "best_model.pt.* holds more than tensors"),
    ],
)
def test_damaged_files(official, file, text, message):
    folder, _ = official
    (folder / file).write_text(text)
    with pytest.raises((OSError, ValueError), match=message):
        read_checkpoint(folder)


def test_weights_that_are_no_numbers(official):
    folder, _ = official
    content = torch.load(folder / "best_model.pt")
    content["value_encoder.norm.bias"][3] = torch.inf
    torch.save(content, folder / "best_model.pt")
    with pytest.raises(OSError, match="hold NaN or infinite values: value_encoder.norm.bias"):
        read_checkpoint(folder)


def test_missing_files(official, tmp_path):
    folder, _ = official
    (folder / "vocab.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks vocab.json"):
        read_checkpoint(folder)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_checkpoint(tmp_path / "elsewhere")


def test_special_tokens_that_are_missing_follow(official):
    folder, _ = official
    (folder / "vocab.json").write_text(json.dumps({f"G{index}": index for index in range(40)}))
    vocabulary = read_checkpoint(folder).vocabulary
    assert [vocabulary[token] for token in ("<pad>", "<cls>", "<eoc>")] == [40, 41, 42]


def test_code_in_a_file_is_not_run(official, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    folder, _ = official
    torch.save({"encoder.embedding.weight": Evil()}, folder / "best_model.pt")
    with pytest.raises(ValueError, match="would run code"):
        read_checkpoint(folder)
    assert not (tmp_path / "ran").exists()
