"""Random flips, quarter turns and stains of a batch of patches, the same ones whenever a step is done again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from histocell.images.stain.jitter import jitter_stains

if TYPE_CHECKING:
    from numpy.typing import NDArray


def augment(patches: torch.Tensor, rng: np.random.Generator, *, stain_jitter: float) -> torch.Tensor:
    """Each patch in one of its eight orientations, with its stains multiplied by random factors.

    Parameters
    ----------
    patches
        uint8, shape ``(n, h, h, 3)``.
    rng
        Generator.
    stain_jitter
        Standard deviation of the logarithm of the factors.
    """
    flips, turns = rng.integers(0, 2, len(patches)), rng.integers(0, 4, len(patches))
    factors = np.exp(stain_jitter * rng.standard_normal((len(patches), 3)))
    out = orient(patches, flips, turns)
    return jitter_stains(out, factors) if stain_jitter else out


def orient(patches: torch.Tensor, flips: NDArray[np.int64], turns: NDArray[np.int64]) -> torch.Tensor:
    """Patches mirrored where `flips` is 1, then turned by `turns` quarters."""
    out = torch.empty_like(patches)
    for flip in (0, 1):
        for turn in range(4):
            rows = torch.from_numpy(np.flatnonzero((flips == flip) & (turns == turn))).to(patches.device)
            some = patches[rows]
            out[rows] = torch.rot90(some.flip(2) if flip else some, turn, dims=(1, 2))
    return out
