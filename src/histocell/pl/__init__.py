"""Plots: they read slots and draw."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histocell._core.lazy import attach

if TYPE_CHECKING:
    from histocell.pl._history import history
    from histocell.pl._maps import abundance
    from histocell.pl._patches import patches
    from histocell.pl._scores import scores

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "abundance": "histocell.pl._maps",
        "history": "histocell.pl._history",
        "patches": "histocell.pl._patches",
        "scores": "histocell.pl._scores",
    },
)
