from __future__ import annotations

import json

import pytest
import torch
from torch import nn

WIDTH, HEADS, HIDDEN, LAYERS = 16, 2, 24, 2


@pytest.fixture
def official(tmp_path):
    """A checkpoint folder of random weights in the official format, and torch's own encoder with the same weights."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
    parts = nn.ModuleDict(
        {
            "encoder": nn.ModuleDict({"embedding": nn.Embedding(43, WIDTH), "enc_norm": nn.LayerNorm(WIDTH)}),
            "value_encoder": nn.ModuleDict(
                {
                    "linear1": nn.Linear(1, WIDTH),
                    "linear2": nn.Linear(WIDTH, WIDTH),
                    "norm": nn.LayerNorm(WIDTH),
                }
            ),
            "transformer_encoder": encoder,
            "decoder": nn.Linear(WIDTH, 1),
        }
    ).eval()
    for parameter in parts.parameters():
        nn.init.normal_(parameter, std=0.4)
    args = {"embsize": WIDTH, "nheads": HEADS, "d_hid": HIDDEN, "nlayers": LAYERS, "pad_value": -2, "n_bins": 51}
    vocabulary = {f"G{index}": index for index in range(40)} | {"<pad>": 40, "<cls>": 41, "<eoc>": 42}
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "args.json").write_text(json.dumps(args))
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    torch.save(parts.state_dict(), folder / "best_model.pt")

    def forward(ids, values, padding):
        with torch.no_grad():
            x = parts["encoder"]["enc_norm"](parts["encoder"]["embedding"](ids))
            v = parts["value_encoder"]
            x = x + v["norm"](v["linear2"](torch.relu(v["linear1"](values.clamp(max=512)[..., None]))))
            cell = parts["transformer_encoder"](x, src_key_padding_mask=padding)[:, 0]
        return cell / cell.norm(dim=1, keepdim=True)

    return folder, forward
