"""Tissue with a known answer, published sections and a slide."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histocell._core.lazy import attach

if TYPE_CHECKING:
    from histocell.datasets.download import example_slide as example_slide
    from histocell.datasets.download import her2st as her2st
    from histocell.datasets.synthetic import synthetic_tissue

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "example_slide": "histocell.datasets.download",
        "her2st": "histocell.datasets.download",
        "synthetic_tissue": "histocell.datasets.synthetic",
    },
)
