"""histocell: from an H&E image to the cells in it."""

from __future__ import annotations

from importlib.metadata import version

from histocell._core import forks  # it must be loaded before a process is forked
from histocell._core.lazy import attach

__version__ = version("histocell")

__getattr__, __dir__, __all__ = attach(__name__, __file__)
