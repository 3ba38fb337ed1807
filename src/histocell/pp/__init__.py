"""Preparation: patches, tissue, embeddings, splits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histocell._core.lazy import attach

if TYPE_CHECKING:
    from histocell.pp._embed_image import embed_image
    from histocell.pp._patches import patches
    from histocell.pp._split import split
    from histocell.pp._tiles import tiles
    from histocell.pp._tissue import patch_qc, tissue_mask

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "embed_image": "histocell.pp._embed_image",
        "patches": "histocell.pp._patches",
        "patch_qc": "histocell.pp._tissue",
        "tiles": "histocell.pp._tiles",
        "tissue_mask": "histocell.pp._tissue",
        "split": "histocell.pp._split",
    },
)
