"""Plots: they read slots and draw."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histocell._core.lazy import attach

if TYPE_CHECKING:
    from histocell.pl._colocalization import colocalization
    from histocell.pl._colocalization_network import colocalization_network
    from histocell.pl._colocalization_pair import colocalization_pair
    from histocell.pl._history import history
    from histocell.pl._maps import abundance
    from histocell.pl._patches import patches
    from histocell.pl._scores import scores

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "abundance": "histocell.pl._maps",
        "colocalization": "histocell.pl._colocalization",
        "colocalization_network": "histocell.pl._colocalization_network",
        "colocalization_pair": "histocell.pl._colocalization_pair",
        "history": "histocell.pl._history",
        "patches": "histocell.pl._patches",
        "scores": "histocell.pl._scores",
    },
)
