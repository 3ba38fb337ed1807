"""Preparation: patches, tissue, embeddings, splits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histocell._core.lazy import attach

if TYPE_CHECKING:
    from histocell.pp._embed_cohort import embed_cohort
    from histocell.pp._embed_image import embed_image
    from histocell.pp._embed_patches import embed_patches
    from histocell.pp._normalize_stain import normalize_stain
    from histocell.pp._patches import patches
    from histocell.pp._split import split
    from histocell.pp._tiles import tiles, tiles_from_shapes
    from histocell.pp._tissue import patch_qc, tissue_mask

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "embed_cohort": "histocell.pp._embed_cohort",
        "embed_image": "histocell.pp._embed_image",
        "normalize_stain": "histocell.pp._normalize_stain",
        "embed_patches": "histocell.pp._embed_patches",
        "patches": "histocell.pp._patches",
        "patch_qc": "histocell.pp._tissue",
        "tiles": "histocell.pp._tiles",
        "tiles_from_shapes": "histocell.pp._tiles",
        "tissue_mask": "histocell.pp._tissue",
        "split": "histocell.pp._split",
    },
)
