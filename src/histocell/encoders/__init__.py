"""Image encoders: networks that turn patches into embeddings, and their catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histocell._core.lazy import attach

if TYPE_CHECKING:
    from histocell.encoders.inference.nucleus_tokens import NucleusPooling
    from histocell.encoders.inference.patch_encoder import encode
    from histocell.encoders.loading import load
    from histocell.encoders.registry import get_spec, list_encoders, register
    from histocell.encoders.spec import EncoderSpec
    from histocell.images.stain.normalize import StainNormalizer, StainTarget

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "EncoderSpec": "histocell.encoders.spec",
        "NucleusPooling": "histocell.encoders.inference.nucleus_tokens",
        "StainNormalizer": "histocell.images.stain.normalize",
        "StainTarget": "histocell.images.stain.normalize",
        "encode": "histocell.encoders.inference.patch_encoder",
        "get_spec": "histocell.encoders.registry",
        "list_encoders": "histocell.encoders.registry",
        "load": "histocell.encoders.loading",
        "register": "histocell.encoders.registry",
    },
)
