"""scGPT: its network for embeddings of cells, and official checkpoint folders."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from histocell._core.errors import damaged, listing, warn
from histocell._core.outputs import file_digest
from histocell.encoders.networks.weights import read_file, read_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

    from histocell._core.types import JSON

_FILES = ("args.json", "vocab.json", "best_model.pt")
_SPECIAL = ("<pad>", "<cls>", "<eoc>")
_MOST_VALUE = 512.0
_NEEDED = ("encoder.", "value_encoder.", "transformer_encoder.")
# Heads of the training that embeddings do not pass through
_HEADS = ("decoder.", "cls_decoder.", "mvc_decoder.", "flag_encoder.", "sim.", "creterion_cce.")
# Names of flash-attention, alone and wrapped, and what they are here; rows are q, k and v in each
_ATTENTION = (
    (re.compile(r"self_attn\.(_impl\.)?(Wqkv\.|in_proj_)"), "attention.qkv."),
    (re.compile(r"self_attn\.(_impl\.)?out_proj\."), "attention.out."),
)


@dataclass(frozen=True)
class ScGPTConfig:
    """Shape of the network, under the names of ``args.json``."""

    embsize: int
    nheads: int
    d_hid: int
    nlayers: int
    pad_value: float = -2.0


class _Values(nn.Module):
    """Expression values as vectors: two layers, continuous."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear1, self.linear2, self.norm = nn.Linear(1, width), nn.Linear(width, width), nn.LayerNorm(width)

    def forward(self, values: Tensor) -> Tensor:
        x = values.clamp(max=_MOST_VALUE).unsqueeze(-1).to(self.linear1.weight)
        return self.norm(self.linear2(functional.relu(self.linear1(x))))


class _Genes(nn.Module):
    """Genes as vectors: a table and its norm."""

    def __init__(self, n_tokens: int, width: int) -> None:
        super().__init__()
        self.embedding, self.enc_norm = nn.Embedding(n_tokens, width), nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        return self.enc_norm(self.embedding(ids))


class _Attention(nn.Module):
    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None, *, first_only: bool) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        q = q[:, :, :1] if first_only else q
        return self.out(functional.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2))


class _Layer(nn.Module):
    """A layer of the transformer, norms after the sums."""

    def __init__(self, config: ScGPTConfig) -> None:
        super().__init__()
        width = config.embsize
        self.attention = _Attention(width, config.nheads)
        self.linear1, self.linear2 = nn.Linear(width, config.d_hid), nn.Linear(config.d_hid, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor | None, *, first_only: bool = False) -> Tensor:
        attended = self.attention(x, mask, first_only=first_only)
        x = self.norm1((x[:, :1] if first_only else x) + attended)
        return self.norm2(x + self.linear2(functional.relu(self.linear1(x))))


class _Stack(nn.Module):
    def __init__(self, config: ScGPTConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_Layer(config) for _ in range(config.nlayers)])


class ScGPT(nn.Module):
    """The part of scGPT that makes embeddings of cells: 12 layers after each other, without positions.

    References
    ----------
    Cui et al. (2024), scGPT, Nature Methods, doi:10.1038/s41592-024-02201-0.
    """

    def __init__(self, config: ScGPTConfig, n_tokens: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = _Genes(n_tokens, config.embsize)
        self.value_encoder = _Values(config.embsize)
        self.transformer_encoder = _Stack(config)

    def forward(self, ids: Tensor, values: Tensor, padding: Tensor | None = None) -> Tensor:
        """Embeddings of cells, shape ``(n, embsize)``: the output at the first token, of length 1.

        Parameters
        ----------
        ids, values
            Genes and the bins of their values, shape ``(n, length)``, ``<cls>`` first.
        padding
            Which tokens are none, shape ``(n, length)``; `None` where all are.
        """
        x = self.encoder(ids) + self.value_encoder(values)
        mask = None if padding is None else ~padding[:, None, None, :]
        *before, last = self.transformer_encoder.layers
        for layer in before:
            x = layer(x, mask)
        cell = last(x, mask, first_only=True)[:, 0].float()
        return cell / cell.norm(dim=-1, keepdim=True)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of scGPT that was read.

    Attributes
    ----------
    network
        With its weights, on the CPU, in float32, ready for inference.
    vocabulary
        Id of each token, ``<pad>``, ``<cls>`` and ``<eoc>`` among them.
    version
        Name of the folder and the start of the SHA-256 of its weights.
    ignored
        Tensors in the file that embeddings do not need.
    """

    network: ScGPT
    vocabulary: dict[str, int]
    version: str
    ignored: tuple[str, ...]


def read_checkpoint(folder: str | PathLike[str]) -> Checkpoint:
    """Read a folder with ``args.json``, ``vocab.json`` and ``best_model.pt``, as the authors publish them.

    No code in the file is run. Every tensor that embeddings need must be there in the shape that ``args.json`` says.

    Raises
    ------
    FileNotFoundError
        When the folder or a file is not there.
    OSError, ValueError
        When a file is damaged, tensors are missing or of other shapes, or settings or the vocabulary do not fit them.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir() or (absent := [name for name in _FILES if not (folder / name).is_file()]):
        lack = f"it lacks {listing(absent)}" if folder.is_dir() else "there is no such folder"
        msg = f"checkpoint={str(folder)!r} is no checkpoint of scGPT: {lack}; it wants {listing(_FILES)}"
        raise FileNotFoundError(msg)
    args, vocabulary = read_json(folder / "args.json"), _vocabulary(folder / "vocab.json")
    config = _config(args, folder)
    path = folder / "best_model.pt"
    tensors, ignored = _renamed(_tensors(path))
    if bad := [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        raise damaged(path, f"these tensors hold NaN or infinite values: {listing(bad, 4)}")
    table = tensors.get("encoder.embedding.weight")
    n_tokens = table.shape[0] if table is not None else 1 + max(vocabulary.values())
    n_layers = len({name.split(".")[2] for name in tensors if name.startswith("transformer_encoder.layers.")})
    width = config.embsize if table is None else table.shape[-1]
    for name, here, said in (("layers", n_layers, config.nlayers), ("numbers for each token", width, config.embsize)):
        if said > here:  # before so many are built
            msg = f"{path} does not fit its args.json: it has {here} {name}, not {said}"
            raise ValueError(msg)
    with torch.device("meta"):
        network = ScGPT(config, n_tokens)
    _check_shapes(network, tensors, path)
    if n_tokens <= max(vocabulary.values()):
        msg = f"vocab.json has ids up to {max(vocabulary.values())}, best_model.pt has {n_tokens} tokens: they are not of one model"
        raise ValueError(msg)
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    unknown = [name for name in ignored if not name.startswith(_HEADS)]
    if unknown:
        warn(f"{path} holds tensors that are no part of scGPT as it is known, and are ignored: {listing(unknown, 6)}")
    version = f"{folder.resolve().name}-{file_digest(path)[:8]}"
    return Checkpoint(network.eval().requires_grad_(False), vocabulary, version, tuple(ignored))  # noqa: FBT003


def _vocabulary(path: Path) -> dict[str, int]:
    """Ids of all tokens; those of special ones that are missing follow the others, as in the official reader."""
    vocabulary = read_json(path)
    if not all(type(index) is int and index >= 0 for index in vocabulary.values()):
        raise damaged(path, "its values are no ids, whole numbers from 0")
    if len(set(vocabulary.values())) < len(vocabulary):
        raise damaged(path, "two tokens have one id")
    for token in _SPECIAL:
        vocabulary.setdefault(token, max(vocabulary.values(), default=-1) + 1)
    return vocabulary


def _config(args: JSON, folder: Path) -> ScGPTConfig:
    names = ("embsize", "nheads", "d_hid", "nlayers")
    if wrong := [name for name in names if type(args.get(name)) is not int or args[name] < 1]:
        msg = f"args.json in {folder} must give {listing(wrong)} as whole numbers from 1"
        raise ValueError(msg)
    if args["embsize"] % args["nheads"]:
        msg = f"args.json in {folder}: embsize={args['embsize']} is no multiple of nheads={args['nheads']}"
        raise ValueError(msg)
    for name, expected in (("input_emb_style", "continuous"), ("pad_token", "<pad>"), ("n_bins", 51)):
        if args.get(name, expected) != expected:
            msg = f"args.json in {folder} has {name}={args[name]!r}; only {expected!r} is known, as in the published checkpoints"
            raise ValueError(msg)
    pad_value = args.get("pad_value", -2)
    if isinstance(pad_value, bool) or not isinstance(pad_value, int | float) or not math.isfinite(pad_value):
        msg = f"args.json in {folder} has pad_value={pad_value!r}; it must be a number"
        raise ValueError(msg)
    return ScGPTConfig(**{name: args[name] for name in names}, pad_value=float(pad_value))


def _tensors(path: Path) -> dict[str, Tensor]:
    content = read_file(path)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise damaged(path, "it holds no tensors by name")
    return content


def _renamed(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """What embeddings need under the names of this network, and the names of all else."""
    needed, ignored = {}, []
    for name, tensor in tensors.items():
        if not name.startswith(_NEEDED):
            ignored.append(name)
            continue
        new = name
        for pattern, replacement in _ATTENTION:
            new = pattern.sub(replacement, new)
        needed[new] = tensor
    return needed, ignored


def _check_shapes(network: ScGPT, tensors: Mapping[str, Tensor], path: Path) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    missing = [name for name in expected if name not in tensors]
    extra = [name for name in tensors if name not in expected]
    other = [
        f"{name} {tuple(tensors[name].shape)} instead of {shape}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    parts = [("lacks", missing), ("holds more layers than args.json says:", extra), ("has other shapes:", other)]
    if problems := [f"{text} {listing(names, 4)}" for text, names in parts if names]:
        msg = f"{path} does not fit its args.json: it {'; it '.join(problems)}"
        raise ValueError(msg)
