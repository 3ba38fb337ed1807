"""Scores on arrays: of numbers, one value per column, and of classes, one per class."""

from __future__ import annotations

from histocell._core.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
