"""What turns raw input into embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histocell._core.lazy import attach

if TYPE_CHECKING:
    from histocell.encoders.inference import encode
    from histocell.encoders.loading import load
    from histocell.encoders.nucleus import NucleusPooling
    from histocell.encoders.registry import get_spec, list_encoders, register
    from histocell.encoders.spec import EncoderSpec
    from histocell.encoders.stain_normalization import StainNormalizer, StainTarget

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "EncoderSpec": "histocell.encoders.spec",
        "NucleusPooling": "histocell.encoders.nucleus",
        "StainNormalizer": "histocell.encoders.stain_normalization",
        "StainTarget": "histocell.encoders.stain_normalization",
        "encode": "histocell.encoders.inference",
        "get_spec": "histocell.encoders.registry",
        "list_encoders": "histocell.encoders.registry",
        "load": "histocell.encoders.loading",
        "register": "histocell.encoders.registry",
    },
)
