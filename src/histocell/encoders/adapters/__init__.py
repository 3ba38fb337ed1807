"""Adapters: low-rank updates of encoders that are trained, saved and loaded apart from the weights of their base."""

from __future__ import annotations

from histocell._core.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
