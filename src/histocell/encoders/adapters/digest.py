"""A checksum of the weights that an adapter was trained on."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn


def base_digest(network: nn.Module) -> str:
    """The start of the SHA-256 of the parameters of a network; empty on the meta device.

    Positions are left out: they may have been resampled for the size of the input, and processors round differently.
    """
    digest = hashlib.sha256()
    for name, value in sorted(network.named_parameters()):
        if value.is_meta:
            return ""
        if name.endswith("pos_embed") or "position_embeddings" in name:
            continue
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
