"""scGPT: cells per second beside torch's own encoder on the same cells, and how far the two agree.

    python tests/benchmarks/bench_genes.py [--cells 64] [--genes 3000] [--repeats 3]

The network has the size of whole-human (12 layers, 512 wide, 60,697 tokens) and random weights; cells express 100 to 1,500
of the genes, as single cells do. `torch`: ``nn.TransformerEncoder`` over batches of 64 cells in the order of the table, padded to
the longest of the batch, fp32. `histocell`: ``embed_cells``, in fp32 and bf16. Both get the same tokens.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import nn

from histocell.encoders.genes.embed import Cells, Inference, embed_cells
from histocell.encoders.genes.scgpt import ScGPT, ScGPTConfig

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_LENGTH, BATCH = 1200, 64
CONFIG = ScGPTConfig(embsize=512, nheads=8, d_hid=512, nlayers=12)


class Quiet:
    def update(self, n: float | None = 1, /) -> None:
        """Nothing is shown."""


def cells(n: int, n_genes: int) -> Cells:
    rng = np.random.default_rng(0)
    counts = np.zeros((n, n_genes), dtype=np.float32)
    for row in range(n):
        expressed = rng.choice(n_genes, min(n_genes, rng.integers(100, 1500)), replace=False)
        counts[row, expressed] = rng.poisson(rng.gamma(0.5, 4, len(expressed))) + 1
    return Cells(csr_matrix(counts), np.arange(n_genes), np.arange(n, dtype=np.uint64))


def straightforward(network: ScGPT) -> nn.TransformerEncoder:
    """torch's encoder with the weights of a network."""
    layer = nn.TransformerEncoderLayer(CONFIG.embsize, CONFIG.nheads, CONFIG.d_hid, batch_first=True)
    encoder = nn.TransformerEncoder(layer, CONFIG.nlayers).eval()
    names = {"attention.qkv.": "self_attn.in_proj_", "attention.out.": "self_attn.out_proj."}
    state = {}
    for name, tensor in network.transformer_encoder.state_dict().items():
        for old, new in names.items():
            name = name.replace(old, new)
        state[name] = tensor
    encoder.load_state_dict(state)
    return encoder


@torch.inference_mode()
def by_torch(network: ScGPT, encoder: nn.TransformerEncoder, inference: Inference, given: Cells) -> np.ndarray:
    out = []
    for start in range(0, len(given.keys), BATCH):
        tokens = [inference.tokens(given, row) for row in range(start, min(start + BATCH, len(given.keys)))]
        length = max(len(each.ids) for each in tokens)
        ids = torch.full((len(tokens), length), inference.vocabulary["<pad>"])
        values = torch.full((len(tokens), length), CONFIG.pad_value)
        for row, each in enumerate(tokens):
            ids[row, : len(each.ids)] = torch.from_numpy(each.ids)
            values[row, : len(each.ids)] = torch.from_numpy(each.values)
        x = network.encoder(ids) + network.value_encoder(values)
        cell = encoder(x, src_key_padding_mask=ids == inference.vocabulary["<pad>"])[:, 0]
        out.append((cell / cell.norm(dim=1, keepdim=True)).numpy())
    return np.concatenate(out)


def timed(run: Callable[[], np.ndarray], repeats: int) -> tuple[np.ndarray, float]:
    out, seconds = run(), []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return out, float(np.median(seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=64)
    parser.add_argument("--genes", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    network = ScGPT(CONFIG, 60_697).eval()
    vocabulary = {"<pad>": 60_694, "<cls>": 60_695}
    given = cells(arguments.cells, arguments.genes)
    inference = Inference(network, vocabulary, MAX_LENGTH, 0, torch.float32)
    lengths = [len(inference.tokens(given, row).ids) for row in range(arguments.cells)]
    print(
        f"{os.cpu_count()} cores, {arguments.cells} cells of {np.mean(lengths):.0f} tokens in the mean, at most {max(lengths)}"
    )
    expected, seconds = timed(lambda: by_torch(network, straightforward(network), inference, given), arguments.repeats)
    print(f"torch              {arguments.cells / seconds:6.2f} cells/s")
    for dtype in (torch.float32, torch.bfloat16):
        run = inference._replace(dtype=dtype)
        found, own = timed(
            lambda run=run: np.asarray(embed_cells(run, given, store=None, manifest={}, progress=Quiet())),
            arguments.repeats,
        )
        cosine = (found * expected).sum(axis=1).min()
        print(
            f"histocell {str(dtype)[6:]:8s} {arguments.cells / own:6.2f} cells/s, {seconds / own:.1f}x; least cosine {cosine:.6f}"
        )


if __name__ == "__main__":
    main()
