"""Readers and writers: one SpatialData out of each platform."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histocell._core.lazy import attach

if TYPE_CHECKING:
    from histocell.io._anndata import from_anndata, to_anndata
    from histocell.io._hest import hest
    from histocell.io._lazyslide import lazyslide
    from histocell.io._slide import slide
    from histocell.io._st import st
    from histocell.io._visium import visium

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "from_anndata": "histocell.io._anndata",
        "to_anndata": "histocell.io._anndata",
        "hest": "histocell.io._hest",
        "lazyslide": "histocell.io._lazyslide",
        "slide": "histocell.io._slide",
        "st": "histocell.io._st",
        "visium": "histocell.io._visium",
    },
)
