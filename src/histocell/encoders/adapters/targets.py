"""Linear layers of attention and MLP that an adapter tunes, for each family of vision transformers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from histocell._core.arguments import check_count
from histocell._core.errors import listing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from histocell.encoders.spec import EncoderSpec

    type Names = tuple[str, ...]


class Family(NamedTuple):
    """Vision transformers whose blocks have the same names.

    Attributes
    ----------
    name
        For messages.
    block
        What the name of a block ends with, as a regular expression.
    parts
        Every block must have each of these parts, by one of several sets of linear layers.
    """

    name: str
    block: str
    parts: Mapping[str, tuple[Names, ...]]


# Networks that histocell builds have timm's names, whatever library their checkpoints come from.
FAMILIES = (
    Family(
        "timm",
        r"blocks\.\d+",
        {
            "query, key and value": (("attn.qkv",), ("attn.q_proj", "attn.k_proj", "attn.v_proj")),
            "output of the attention": (("attn.proj",),),
            "input of the MLP": (("mlp.fc1",), ("mlp.fc1_g", "mlp.fc1_x"), ("mlp.w12",)),
            "output of the MLP": (("mlp.fc2",), ("mlp.w3",)),
        },
    ),
    Family(
        "transformers",
        r"(?:encoder\.layer|layers|layer)\.\d+",
        {
            "query, key and value": (
                ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
                ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
            ),
            "output of the attention": (("attention.output.dense",), ("attention.o_proj",)),
            "input of the MLP": (
                ("intermediate.dense",),
                ("mlp.fc1",),
                ("mlp.weights_in",),
                ("mlp.gate_proj", "mlp.up_proj"),
            ),
            "output of the MLP": (("output.dense",), ("mlp.fc2",), ("mlp.weights_out",), ("mlp.down_proj",)),
        },
    ),
)


def lora_targets(network: nn.Module, spec: EncoderSpec, *, blocks: int = 1) -> list[str]:
    """Names of the linear layers of attention and MLP in the last blocks of a vision transformer.

    Attentional poolers, heads and patch embeddings are no part of a block and never among them.

    Parameters
    ----------
    network
        The network of an encoder.
    spec
        The encoder, for messages.
    blocks
        Number of blocks, counted from the last.

    Raises
    ------
    ValueError
        When the network has no blocks of a known family, fewer than `blocks`, or a block without one of the parts.
    """
    check_count(blocks, "blocks", least=1)
    linears = {name for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    for family in FAMILIES:
        pattern = re.compile(rf"(?:^|\.){family.block}$")
        prefixes = [name for name, _ in network.named_modules() if pattern.search(name)]
        if prefixes:
            break
    else:
        msg = (
            f"{spec.name!r} has no blocks of attention and MLP that histocell knows by name, so nothing is tuned by itself. "
            f"Name the layers with targets=; linear layers there: {listing(sorted(linears), 20)}"
        )
        raise ValueError(msg)
    if blocks > len(prefixes):
        msg = f"{spec.name!r} has {len(prefixes)} blocks, not {blocks}; give blocks= up to that"
        raise ValueError(msg)
    return [name for prefix in prefixes[-blocks:] for name in _block_targets(prefix, family, linears, spec)]


def _block_targets(prefix: str, family: Family, linears: set[str], spec: EncoderSpec) -> list[str]:
    found: list[str] = []
    for part, choices in family.parts.items():
        names = next((names for names in choices if all(f"{prefix}.{name}" in linears for name in names)), None)
        if names is None:
            there = sorted(name.removeprefix(f"{prefix}.") for name in linears if name.startswith(f"{prefix}."))
            msg = (
                f"block {prefix!r} of {spec.name!r} has no linear layer that is the {part} by the names of {family.name} "
                f"({listing([' + '.join(names) for names in choices])}), and a part that is missed would stay frozen without "
                f"a word. Name the layers with targets=; linear layers of this block: {listing(there, 20)}"
            )
            raise ValueError(msg)
        found += [f"{prefix}.{name}" for name in names]
    return found
