"""Patches as another laboratory might have stained them: amounts of haematoxylin and eosin changed at random."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from histocell.images.stain.estimate import REFERENCE

if TYPE_CHECKING:
    from numpy.typing import NDArray


@lru_cache(maxsize=8)
def _stains(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Colours of haematoxylin, eosin and what neither explains, shape (3, 3), and their inverse."""
    rest = np.cross(*REFERENCE)
    vectors = np.vstack([REFERENCE, rest / np.linalg.norm(rest)])
    return tuple(torch.tensor(each, dtype=torch.float32, device=device) for each in (vectors, np.linalg.inv(vectors)))  # type: ignore[return-value]


def jitter_stains(patches: torch.Tensor, factors: NDArray[np.floating]) -> torch.Tensor:
    """Multiply the amounts of the stains in each patch.

    Parameters
    ----------
    patches
        uint8, shape ``(n, h, w, 3)``.
    factors
        Shape ``(n, 3)``: of haematoxylin, of eosin, and of what neither explains.

    Returns
    -------
    Of the same shape and type. White stays white.

    References
    ----------
    Tellez et al. 2019, Med Image Anal, arXiv:1902.06543 (jitter of stains); colours of the stains: Ruifrok and Johnston
    2001.
    """
    vectors, inverse = _stains(patches.device)
    scale = torch.tensor(factors, dtype=torch.float32, device=patches.device)
    change = inverse @ (scale[:, :, None] * vectors)  # (n, 3, 3): optical density to that of the other stain
    density = -torch.log(patches.flatten(1, 2).float().clamp_(min=1) / 255)
    light = torch.exp(-(density @ change)) * 255
    return light.round_().clamp_(0, 255).to(torch.uint8).view(patches.shape)
