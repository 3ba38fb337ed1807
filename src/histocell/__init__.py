"""histocell: from an H&E image to the cells in it."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from histocell._core.lazy import attach

if TYPE_CHECKING:
    from histocell import bench, datasets, encoders, get, io, metrics, models, pl, pp, tl
    from histocell._core.settings import settings

__version__ = version("histocell")

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "bench": None,
        "datasets": None,
        "encoders": None,
        "get": None,
        "io": None,
        "metrics": None,
        "models": None,
        "pl": None,
        "pp": None,
        "settings": "histocell._core.settings",
        "tl": None,
    },
)
