"""Tissue with a known answer, and published sections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histocell._core.lazy import attach

if TYPE_CHECKING:
    from histocell.datasets.download import her2st as her2st
    from histocell.datasets.synthetic import synthetic_tissue

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "her2st": "histocell.datasets.download",
        "synthetic_tissue": "histocell.datasets.synthetic",
    },
)
