"""Embeddings of cells by scGPT: batches of cells of similar length, chunks that a killed run keeps."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from histocell.encoders.genes.tokens import tokens_of
from histocell.encoders.inference.store import FeatureStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import dask.array as da
    from scipy.sparse import csr_matrix

    from histocell._core.settings import Progress
    from histocell._core.types import Ints
    from histocell.encoders.genes.scgpt import ScGPT
    from histocell.encoders.genes.tokens import Tokens

_CHUNK = 1024  # cells
_BATCH_TOKENS = {"cpu": 8192, "cuda": 131_072}


class Cells(NamedTuple):
    """Cells to embed.

    Attributes
    ----------
    counts
        Cells by genes that the vocabulary knows.
    ids
        Id of each gene.
    keys
        A number for each cell, from its name.
    """

    counts: csr_matrix
    ids: Ints
    keys: np.ndarray


class Inference(NamedTuple):
    """How to embed.

    Attributes
    ----------
    network
        On the device.
    vocabulary
        Ids of ``<pad>`` and ``<cls>``.
    max_length, seed
        Most tokens of a cell, and what random numbers follow from.
    dtype
        Precision of the products.
    """

    network: ScGPT
    vocabulary: Mapping[str, int]
    max_length: int
    seed: int
    dtype: torch.dtype

    def tokens(self, cells: Cells, row: int) -> Tokens | None:
        """The tokens of a cell."""
        cls = (self.vocabulary["<cls>"], self.network.config.pad_value)
        return tokens_of(
            cells.counts, row, cells.ids, cell=int(cells.keys[row]), seed=self.seed, max_length=self.max_length, cls=cls
        )


def embed_cells(
    inference: Inference, cells: Cells, *, store: Path | None, manifest: Mapping[str, object], progress: Progress
) -> np.ndarray | da.Array:
    """Embeddings, shape ``(n, embsize)``, float32; NaN for cells without a known gene.

    Parameters
    ----------
    inference, cells
        The model and what it sees.
    store
        A folder that keeps what is done; `None` for none.
    manifest
        What the embeddings depend on.
    progress
        Counts cells.
    """
    n, width = len(cells.keys), inference.network.config.embsize
    if store is None:
        out = np.empty((n, width), dtype=np.float32)
        for start in range(0, n, _CHUNK):
            rows = range(start, min(start + _CHUNK, n))
            out[rows.start : rows.stop] = _embed_chunk(inference, cells, rows)
            progress.update(len(rows))
        return out
    with FeatureStore.open(store, shape=(n, width), chunk_rows=_CHUNK, manifest=manifest) as opened:
        todo = list(opened.todo)
        sizes = {chunk: opened.rows(chunk).stop - opened.rows(chunk).start for chunk in todo}
        progress.update(n - sum(sizes.values()))
        for chunk in todo:
            rows = range(*opened.rows(chunk).indices(n))
            opened.write(chunk, _embed_chunk(inference, cells, rows))
            progress.update(sizes[chunk])
        return opened.lazy()


def _embed_chunk(inference: Inference, cells: Cells, rows: range) -> np.ndarray:
    device = next(inference.network.parameters()).device
    tokens = [inference.tokens(cells, row) for row in rows]
    out = np.full((len(rows), inference.network.config.embsize), np.nan, dtype=np.float32)
    half = inference.dtype is not torch.float32
    with torch.inference_mode(), torch.autocast(device.type, inference.dtype) if half else nullcontext():
        for batch in _batches(tokens, _BATCH_TOKENS.get(device.type, _BATCH_TOKENS["cpu"])):
            ids, values, padding = _padded([tokens[index] for index in batch], inference)
            mask = padding.to(device) if padding.any() else None
            out[batch] = inference.network(ids.to(device), values.to(device), mask).float().cpu().numpy()
    return out


def _batches(tokens: Sequence[Tokens | None], n_tokens: int) -> Iterator[list[int]]:
    """Cells of similar length, the longest first, of about `n_tokens` tokens in all."""
    order = sorted((index for index, each in enumerate(tokens) if each), key=lambda index: -len(tokens[index].ids))  # type: ignore[union-attr]
    while order:
        length = len(tokens[order[0]].ids)  # type: ignore[union-attr]
        size = max(1, n_tokens // length)
        yield order[:size]
        order = order[size:]


def _padded(batch: Sequence[Tokens | None], inference: Inference) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, values and which tokens are padding, each shape ``(n, length)``."""
    known = [each for each in batch if each is not None]
    shape = (len(known), max(len(each.ids) for each in known))
    ids = np.full(shape, inference.vocabulary["<pad>"], dtype=np.int64)
    values = np.full(shape, inference.network.config.pad_value, dtype=np.float32)
    padding = np.ones(shape, dtype=bool)
    for row, each in enumerate(known):
        ids[row, : len(each.ids)], values[row, : len(each.ids)], padding[row, : len(each.ids)] = (
            each.ids,
            each.values,
            False,
        )
    return torch.from_numpy(ids), torch.from_numpy(values), torch.from_numpy(padding)
